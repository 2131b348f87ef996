"""State dicts of aihwkit and aihwkit-lightning, in the names and shapes of their sources, and configurations of both and of
CrossSim. Where aihwkit is installed its own models are read; the formula of its layer is written out here either way."""

import json
from enum import Enum
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import nn

import mho
from mho import exchange
from mho.cli import main

D = SimpleNamespace  # nested fields, as dataclasses have them
HARDWARE = "mho: 1\ndefault: t\ntiles:\n  t: {rows: 10, columns: 4, dac: {bits: none}, adc: none}\n"


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 6), nn.Conv1d(1, 3, 2), nn.BatchNorm1d(3))
    return mho.to_analog(model, mho.Hardware.from_yaml(HARDWARE)).eval()


def tiles_of(prefix, out, rows, g):
    """Tiles as aihwkit 1.2 saves them, and what the layer computes: Σ scale γ w clamp(x, -r, r) (its joint_forward)."""
    splits = [out] if out <= 4 else [out - out // 2, out // 2]
    state, parts = {}, []
    for i, n in enumerate(rows):
        row, limit = [], torch.rand(1, generator=g) + 0.5
        for j, m in enumerate(splits):
            tile = {
                "analog_tile_state": {"analog_tile_weights": (torch.rand(m, n, generator=g) * 2 - 1).numpy(), "analog_lr": 0.1},
                "mapping_scales": torch.rand(m, generator=g) + 0.5,
                "out_scaling_alpha": torch.rand(m, generator=g) + 0.5,
                "input_range": limit,
                "analog_ctx": torch.zeros(1),
            }
            state |= {f"{prefix}.analog_module.array.{i}.{j}.{k}": v for k, v in tile.items()}
            scale = tile["mapping_scales"] * tile["out_scaling_alpha"]
            row.append(torch.as_tensor(tile["analog_tile_state"]["analog_tile_weights"]) * scale[:, None])
        parts.append((torch.cat(row), float(limit)))
    state[f"{prefix}.analog_module.bias"] = torch.rand(out, generator=g)

    def forward(x):
        pieces = x.split(rows, -1)
        return sum(p.clamp(-r, r) @ w.T for p, (w, r) in zip(pieces, parts)) + state[f"{prefix}.analog_module.bias"]

    return state, forward


def plain(state):
    """As the message tells people of aihwkit to save it."""
    return {
        k + (".analog_tile_weights" if isinstance(v, dict) else ""): torch.as_tensor(
            v["analog_tile_weights"] if isinstance(v, dict) else v
        ).clone()
        for k, v in state.items()
    }


@pytest.mark.parametrize("form", ["state", "safetensors", "torch"])
def test_a_model_of_aihwkit_computes_the_same(form, tmp_path):
    """To 1e-5, with input ranges and scales kept where they were"""
    g = torch.Generator().manual_seed(1)
    first, forward = tiles_of("0", 6, (8, 8), g)
    conv, convolve = tiles_of("1", 3, (2,), g)
    norm = {"2.weight": torch.rand(3), "2.bias": torch.rand(3), "2.running_mean": torch.rand(3), "2.running_var": torch.rand(3)}
    state = {**first, **conv, **norm, "extra": torch.zeros(2)}
    if form == "safetensors":
        save_file(plain(state), tmp_path / "m.safetensors")
    elif form == "torch":
        torch.save(plain(state), tmp_path / "m.pt")
    source = {"state": state, "safetensors": tmp_path / "m.safetensors", "torch": tmp_path / "m.pt"}[form]
    net = network()
    assert exchange.load_aihwkit(net, source) == ["extra"]
    x = 2 * torch.randn(32, 16)
    assert torch.allclose(net[0](x), forward(x), atol=1e-5)
    seq = torch.randn(4, 1, 9)
    assert torch.allclose(net[1](seq), convolve(seq.unfold(-1, 2, 1)[:, 0]).mT, atol=1e-5)
    array = net[0].tiles
    assert array.input_range.flatten().tolist() == [float(first[f"0.analog_module.array.{i}.0.input_range"]) for i in (0, 1)]
    scales = [torch.cat([first[f"0.analog_module.array.{i}.{j}.mapping_scales"] for j in (0, 1)]) for i in (0, 1)]
    assert torch.equal(array.gamma, torch.stack(scales)) and torch.equal(net[2].running_var, norm["2.running_var"])
    assert torch.allclose(mho.to_digital(net)[0].weight[:3, :8], net[0].weight[:3, :8] * array.out_scale[0, :3, None])


def test_a_model_of_lightning_computes_the_same():
    net, x = network(), 2 * torch.randn(32, 16)
    state = {"0.weight": torch.randn(6, 16), "0.bias": torch.randn(6), "0.input_range": torch.tensor([0.7, 1.3])}
    state |= {"0.input_range_update_idx": torch.zeros(2), "0.x_min": torch.zeros(2), "0.x_max": torch.zeros(2)}
    state |= {"1.weight": torch.randn(3, 1, 2), "1.bias": torch.randn(3), "1.input_range": torch.tensor([0.9])}
    assert exchange.load_aihwkit(net, state) == []
    ranges = torch.tensor([0.7] * 8 + [1.3] * 8)
    assert torch.allclose(net[0](x), x.clamp(-ranges, ranges) @ state["0.weight"].T + state["0.bias"], atol=1e-5)


class Evil:
    def __reduce__(self):
        return print, ("code ran",)


def test_no_code_is_unpickled_and_misfits_are_named(tmp_path, capsys):
    torch.save({"0.weight": torch.zeros(1), "config": Evil()}, tmp_path / "m.pt")
    with pytest.raises(mho.MhoError, match=r"without running code.*in aihwkit save plain tensors"):
        exchange.load_aihwkit(network(), tmp_path / "m.pt")
    assert "code ran" not in capsys.readouterr().out
    good = {"0.weight": torch.zeros(6, 16), "0.bias": torch.zeros(6), "1.weight": torch.zeros(3, 1, 2), "1.bias": torch.zeros(3)}
    for change, message in (
        ({"0.weight": torch.zeros(6, 15)}, r"layer '0': a matrix of \(6, 15\) there, of \(6, 16\) here"),
        ({"0.weight": torch.zeros(6, 17)}, "is the bias on the tiles there"),
        ({"0.input_range": torch.ones(3)}, "its inputs lie on 3 tiles there, on 2 here"),
        ({"0.bias": None}, "a bias here only"),
        ({"0.weight": None, "0.bias": None}, "has no layer '0'; it has 1"),
        ({"2.running_mean": torch.zeros(4)}, r"2.running_mean: \(4,\) there, \(3,\) here"),
    ):
        with pytest.raises(mho.MhoError, match=message):
            exchange.load_aihwkit(network(), {k: v for k, v in {**good, **change}.items() if v is not None})


def test_an_installed_lightning_and_mho_agree():
    """Its own layers, its own state dict: outputs to 1e-5, inputs beyond their ranges included"""
    conversion = pytest.importorskip("aihwkit_lightning.nn.conversion")
    from aihwkit_lightning.simulator.configs import TorchInferenceRPUConfig

    config = TorchInferenceRPUConfig()
    config.mapping.max_input_size, config.pre_post.input_range.enable = 10, True
    torch.manual_seed(0)
    theirs = conversion.convert_to_analog(nn.Sequential(nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 4)), config).eval()
    with torch.no_grad():
        theirs[0].input_range.copy_(torch.tensor([0.7, 1.3]))
    hw = mho.Hardware.from_yaml(exchange.translated(config).yaml)
    assert hw.tiles["tile"].rows == 10 and hw.tiles["tile"].dac.range == "learned"
    net = mho.to_analog(nn.Sequential(nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 4)), hw).eval()
    x = 2 * torch.randn(64, 16)
    assert exchange.load_aihwkit(net, theirs.state_dict()) == []
    assert torch.allclose(net(x), theirs(x), atol=1e-5) and not torch.allclose(net(x), mho.to_digital(net)(x), atol=1e-2)


def test_an_installed_aihwkit_and_mho_agree():
    """The same digital function to 1e-5, and the error of one product within 3 %"""
    conversion = pytest.importorskip("aihwkit.nn.conversion")
    from aihwkit.simulator.configs import TorchInferenceRPUConfig

    config = TorchInferenceRPUConfig()
    config.mapping.max_input_size, config.mapping.weight_scaling_omega, config.mapping.weight_scaling_columnwise = 512, 1.0, True
    config.forward.inp_res, config.forward.out_res, config.forward.out_bound, config.forward.out_noise = 254, 254, 10, 0.04
    config.pre_post.input_range.enable, config.pre_post.input_range.init_value = True, 1.0
    model = nn.Sequential(nn.Linear(512, 512))
    theirs = conversion.convert_to_analog(model, config).eval()
    net = mho.to_analog(model, mho.Hardware.from_yaml(exchange.translated(config).yaml)).eval()
    exchange.load_aihwkit(net, theirs.state_dict())
    x = 2 * torch.rand(256, 512) - 1
    exact = mho.to_digital(net)(x)
    assert torch.allclose(exact, conversion.convert_to_digital(theirs)(x), atol=1e-5)
    ours, other = ((n(x) - exact).abs().mean() / exact.abs().mean() for n in (net, theirs))
    assert float(ours) == pytest.approx(float(other), rel=0.03)


# -- configurations ---------------------------------------------------------------------------------------------------
def rpu_config():
    """The fields of aihwkit's StandardHWATrainingPreset, by name, as its dataclasses hold them."""
    noise, compensation = type("PCMLikeNoiseModel", (), {})(), type("GlobalDriftCompensation", (), {})()
    noise.g_max = 25.0
    enum = Enum("Choice", "PCM_READ NONE PROG_NOISE LAYER_GAUSSIAN CHANNELWISE_SYMMETRIC")
    forward = D(
        inp_res=254.0, out_res=254.0, out_bound=10.0, out_noise=0.04, w_noise=0.0175, w_noise_type=enum["PCM_READ"],
        ir_drop=1.0, ir_drop_g_ratio=1 / 0.35 / 5e-6, noise_management=enum["NONE"], bound_management=enum["NONE"],
        out_sto_round=True, r_series=0.0,
    )  # fmt: skip
    mapping = D(
        max_input_size=512, max_output_size=0, weight_scaling_omega=1.0, weight_scaling_columnwise=True,
        learn_out_scaling=True, out_scaling_columnwise=True, digital_bias=True,
    )  # fmt: skip
    return D(
        forward=forward, mapping=mapping, modifier=D(type=enum["PROG_NOISE"], std_dev=2.0, pdrop=0.01),
        clip=D(type=enum["LAYER_GAUSSIAN"], sigma=2.5, fixed_value=-1.0), remap=D(type=enum["CHANNELWISE_SYMMETRIC"]),
        pre_post=D(input_range=D(enable=True, decay=0.001, init_value=3.0)),
        noise_model=noise, drift_compensation=compensation, tile_class=type,
    )  # fmt: skip


def test_an_rpu_config_becomes_hardware():
    made = exchange.translated(rpu_config())
    hw = mho.Hardware.from_yaml(made.yaml)
    t = hw.tiles["tile"]
    assert (t.rows, t.columns, t.dac.bits, t.dac.range, t.adc.bits, t.adc.bound) == (512, 65536, 8, "learned", 8, 10.0)
    effects = {e.kind: e for e in t.nonidealities}
    assert list(effects) == [
        "circuit.output_noise", "pcm.read_noise", "circuit.ir_drop", "pcm.programming_noise", "pcm.drift", "pcm.read_noise_1f"
    ]  # fmt: skip
    assert effects["circuit.ir_drop"].g_line == pytest.approx(5.0) and effects["pcm.read_noise"].sigma == 0.0175
    assert (t.mapping.kind, t.compensation.kind, t.device.g_max) == ("mho.per_column", "mho.global_drift", 25.0)
    training = hw.training
    assert (training.out_scale, training.inject.scale, training.drop_connect, str(training.clip)) == (
        "column",
        2.0,
        0.01,
        "2.5 sigma",
    )
    lost = dict(made.lost)
    assert set(lost) == {
        "forward.out_sto_round",
        "mapping.digital_bias",
        "pre_post.input_range.decay",
        "pre_post.input_range.init_value",
    }
    assert "forward.out_sto_round" in str(made) and "no counterpart" in str(made)


CROSSSIM = {
    "core": {"style": 1, "rows_max": 1152, "cols_max": 256, "weight_bits": 8, "mapping": {"weights": {"percentile": 0.99}}},
    "simulation": {"useGPU": False},
    "xbar": {
        "device": {
            "cell_bits": 4, "Rmin": 1e4, "Rmax": 1e6, "infinite_on_off_ratio": False,
            "programming_error": {"enable": True, "model": "NormalProportionalDevice", "magnitude": 0.05},
            "read_noise": {"enable": False, "model": "NormalProportionalDevice", "magnitude": 0.1},
        },
        "array": {"Icol_max": 0, "parasitics": {"enable": True, "Rp_row": 1.5, "Rp_col": 2.5}},
        "adc": {"mvm": {"model": "QuantizerADC", "bits": 7}},
        "dac": {"mvm": {"model": "QuantizerDAC", "bits": 8, "input_bitslicing": True}},
    },
}  # fmt: skip


def test_parameters_of_crosssim_become_hardware(tmp_path):
    (tmp_path / "cs.json").write_text(json.dumps(CROSSSIM))
    run = CliRunner().invoke(main, ["translate", str(tmp_path / "cs.json"), "--out", str(tmp_path / "hw.yaml")])
    assert run.exit_code == 0, run.output
    t = mho.load(tmp_path / "hw.yaml").tiles["tile"]
    assert (t.rows, t.columns, t.dac.bits, t.adc.bits, t.device.pair) == (1152, 256, 8, 7, "both")
    assert (t.device.g_max, t.device.g_min) == pytest.approx((100.0, 1.0))
    levels, wires = t.nonidealities
    assert (levels.kind, levels.levels, wires.kind, wires.r_word, wires.r_bit) == (
        "ideal.device",
        16,
        "circuit.ir_drop_nodal",
        1.5,
        2.5,
    )
    for name in ("programming_error.magnitude", "percentile", "input_bitslicing", "weight_bits"):
        assert any(name in line and "no counterpart" in line for line in run.output.splitlines()), name
    assert "read_noise" not in run.output and "useGPU" not in run.output  # off, or about the simulation


def test_what_is_no_configuration_is_refused(tmp_path):
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text("{}")
    for name, message in (("a", "is not JSON"), ("b", "neither an rpu_config of aihwkit")):
        run = CliRunner().invoke(main, ["translate", str(tmp_path / f"{name}.json")])
        assert run.exit_code and message in str(run.output) + str(run.exception)


@pytest.mark.parametrize(
    "learned", [[], ["training.out_scale=column"], ["training.out_scale=column", "training.auto_scale=true"]]
)
def test_scales_of_aihwkit_are_whole_whatever_is_learned_here(learned):
    torch.manual_seed(0)
    linear, x = nn.Linear(6, 4), torch.randn(5, 6)
    gamma = linear.weight.detach().abs().amax(1)
    tile = {"analog_tile_weights": (linear.weight / gamma[:, None]).detach()}
    there = {"0.analog_module.analog_tile_state": tile, "0.analog_module.mapping_scales": gamma, "0.bias": linear.bias.detach()}
    net = mho.to_analog(nn.Sequential(nn.Linear(6, 4)), mho.load("ideal.exact", set=learned)).eval()
    exchange.load_aihwkit(net, there)
    assert torch.allclose(net(x), linear(x), atol=1e-6)


def test_an_input_range_that_the_hardware_fixes_stays():
    net = mho.to_analog(nn.Sequential(nn.Linear(6, 4)), mho.load("ideal.quantised", set=["tiles.quantised.dac.range=1.0"]))
    there = {"0.weight": torch.ones(4, 6), "0.bias": torch.zeros(4), "0.input_range": torch.tensor([2.5])}
    with pytest.warns(UserWarning, match="keeps the input range of the hardware file"):
        exchange.load_aihwkit(net, there)
    assert float(net[0].tiles.input_range) == 1.0
