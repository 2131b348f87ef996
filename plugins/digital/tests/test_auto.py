"""The choice of remedies: never worse than the start, exact on ideal tiles, within its budget, saved and loaded."""

import pytest
import torch
from mho_digital import auto
from mho_kit import CalibrationContract
from torch import nn

import mho


class TestColumns(CalibrationContract):
    method = auto.columns
    argument = "columns"


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(96, 48), nn.ReLU(), nn.Linear(48, 10))


def batches(channel=5, factor=60.0):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(4, 64, 96, generator=g)
    x[..., channel] *= factor
    return list(x)


def error(net, model, data):
    y, exact = net(data), model(data)
    return float(((y - exact).norm(dim=1) / exact.norm(dim=1)).mean())


def over_chips(net, model, data, chips=4):
    scores = mho.evaluate(net, lambda n: error(n, model, data), ["1 h"], chips).scores
    return sum(s[0] for s in scores) / chips


@pytest.mark.parametrize(("changes", "share"), [((), 0.75), (("tiles.pcm.dac.range=dynamic",), 0.92)])
def test_outlier_channels_are_survived_without_training(changes, share):
    model, data = network().eval(), batches()
    hw = mho.load("pcm.standard", set=changes)
    plain = mho.to_analog(model, hw).eval()
    mho.calibrate(plain, data)
    net = mho.to_analog(model, hw).eval()
    done = mho.calibrate(net, data, method="auto")
    assert [r.name for r in done] == ["0", "2"] and done.share == 0
    assert all(r.after <= r.before for r in done) and done[0].scaling
    held = torch.cat(batches())
    assert over_chips(net, model, held) < share * over_chips(plain, model, held)


def test_digital_channels_stay_within_the_budget():
    model, data = network().eval(), batches()
    net = mho.to_analog(model, "pcm.standard").eval()
    done = mho.calibrate(net, data, method="auto", budget=0.02)
    report = mho.conversion_report(net)
    scalings = sum(inputs for inputs, r in zip((96, 48), done) if r.scaling)
    total = 96 * 48 + 48 * 10
    assert 0 < done.share <= 0.02
    assert sum(e.operations for e in report.analog) == pytest.approx(done.share * total + scalings)
    assert done[0].channels >= 1 and "channels" in str(done)


def test_ideal_tiles_compute_the_same_afterwards():
    model, data = network().eval(), batches()
    net = mho.to_analog(model, "ideal.exact").eval()
    mho.calibrate(net, data, method="auto", budget=0.5)
    exact = model(data[0])
    assert (net(data[0]) - exact).abs().max() < 1e-5 * exact.abs().max()


def test_what_was_chosen_is_saved_with_its_hardware(tmp_path):
    model, data = network().eval(), batches()
    net = mho.to_analog(model, "pcm.standard").eval()
    mho.calibrate(net, data, method="auto", budget=0.02)
    mho.save_model(net, tmp_path / "net.safetensors")
    from mho.use import session_of

    again = mho.to_analog(network(), mho.Hardware.from_yaml(session_of(net).hardware.to_yaml())).eval()
    mho.load_model(again, tmp_path / "net.safetensors")
    for n in (net, again):
        mho.program(n, seed=4)
    assert torch.equal(net(data[0]), again(data[0]))


def test_a_network_with_a_chip_and_a_strange_budget_are_refused():
    net = mho.to_analog(network(), "pcm.standard").eval()
    with pytest.raises(mho.MhoError, match="budget is a share"):
        mho.calibrate(net, batches(), method="auto", budget=3)
    mho.program(net, seed=0)
    with pytest.raises(mho.MhoError, match="take the chip off"):
        mho.calibrate(net, batches(), method="auto")
    with pytest.raises(mho.MhoError, match="method cannot be 'auro'; did you mean 'auto'"):
        mho.calibrate(net, batches(), method="auro")


def test_convolutions_and_recurrent_layers_take_part():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.lstm = nn.Conv2d(3, 8, 3, groups=1), nn.LSTM(8, 6, batch_first=True)

        def forward(self, x):
            return self.lstm(self.conv(x).flatten(2).mT)[0]

    torch.manual_seed(0)
    model = Both().eval()
    data = [torch.randn(4, 3, 6, 6)]
    data[0][:, 1] *= 40
    net = mho.to_analog(model, "pcm.standard").eval()
    done = mho.calibrate(net, data, method="auto", budget=0.4)
    assert {r.name for r in done} == {a.name for a in mho.tile.tile_arrays(net)}
    assert all(r.after <= r.before for r in done)
    exact = mho.to_analog(model, "ideal.exact").eval()
    mho.calibrate(exact, data, method="auto", budget=0.4)
    assert torch.allclose(exact(data[0]), model(data[0]), atol=1e-5)


def power(x, w, s, of_inputs):
    """(sum_j max_k (s_k w_jk)^2) (mean_t a_t^2) of one tile, with vectors weighted by 1/max(|y|, median |y|)^2, and about their
    mean where their energy counts"""
    size = (x @ w.T).norm(dim=1)
    weight = 1 / size.clamp(min=size.median()) ** 2
    if of_inputs == "energy":
        x = x - weight @ x / weight.sum()
    inputs = (x / s).square().amax(1) if of_inputs == "range" else (x / s).square().sum(1)
    return float((w * s).square().amax(1).sum() * (inputs * weight).mean())


@pytest.mark.parametrize("of_inputs", ["range", "energy"])
def test_balanced_scales_leave_less_noise_than_nora_and_no_less_than_the_bound(of_inputs):
    """One output: max_k (s_k w_k)^2 sum_k (x_k/s_k)^2 >= sum_k (w_k x_k)^2, with equality for s_k = 1/|w_k|"""
    for outputs in (1, 24):
        layer, x = nn.Linear(96, outputs, bias=False), torch.cat(batches())
        w = layer.weight.detach()
        net = mho.to_analog(layer, mho.load("ideal.exact", set=["tiles.exact.corrections=[digital.channel_scaling]"]))
        array = net.tiles
        s = auto.balanced(array, x, w, of_inputs)
        assert float(s.log().mean()) == pytest.approx(0, abs=1e-5)
        others = [torch.ones(96), *(array.corrections[0].scales(x, w, m) for m in (0.0, 0.5))]
        found = power(x, w, s, of_inputs)
        assert found <= 1.0001 * min(power(x, w, o, of_inputs) for o in others)
        if outputs == 1 and of_inputs == "energy":
            assert found == pytest.approx(power(x, w, 1 / w[0].abs(), "energy"), rel=0.1)


def test_ranges_of_columns_hold_four_sigma_of_their_outputs():
    """Inputs of equal sign drive a column of equal weights to n = 40 units, beyond the bound of 10: gamma grows by 4"""
    layer = nn.Linear(40, 2, bias=False)
    with torch.no_grad():
        layer.weight.fill_(0.1)
        layer.weight[1] *= torch.tensor([1.0, -1.0]).repeat(20)
    net = mho.to_analog(layer, "ideal.quantised").eval()
    bound = net.tiles.view.geometry.bound
    mho.calibrate(net, [torch.ones(8, 40)], columns="statistics")
    assert torch.allclose(net.tiles.gamma[0], torch.tensor([0.1 * 40 / bound, 0.1]).clamp(min=0.1), rtol=1e-4)


def test_directions_are_bought_where_the_inputs_have_few():
    """Inputs of rank 6 and the noise of cells: 8 directions hold all of its error, for 8 (64 + 32) of 64 x 32 multiply-adds"""
    generator = torch.Generator().manual_seed(0)
    layer, x = (
        nn.Linear(64, 32).requires_grad_(False),
        torch.randn(400, 6, generator=generator) @ torch.randn(6, 64, generator=generator),
    )
    changes = ["tiles.afm.dac=none", "tiles.afm.adc=none"]
    errors = {}
    for budget in (0.0, 0.1, 0.5):
        net = mho.to_analog(nn.Sequential(layer), mho.load("pcm.afm2025", set=changes)).eval()
        (done,) = mho.calibrate(net, [x], method="auto", budget=budget)
        assert done.share <= budget and done.share == done.rank * (64 + 32) / (64 * 32)
        mho.program(net, seed=3)
        errors[done.rank] = error(net, layer, x)
    hw = mho.load("pcm.afm2025", set=[*changes, "tiles.afm.corrections=[{kind: digital.affine, rank: 8}]"])
    for budget, rank in ((0.0, 0), (0.2, 4)):  # what the file lists is no gift
        (done,) = mho.calibrate(mho.to_analog(nn.Sequential(layer), hw).eval(), [x], method="auto", budget=budget)
        assert done.rank == rank and done.share <= budget
    assert set(errors) == {0, 8} and errors[0] > 0.02 > 0.002 > errors[8]
