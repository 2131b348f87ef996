"""Conversion: every layer is accounted for, and plain checkpoints load before and after."""

import copy

import mho
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
        self.head = nn.Linear(4 * 16, 10)

    def forward(self, x):
        return self.head(self.blocks(F.relu(self.norm(self.stem(x)))).flatten(1))


RULES = "layers:\n  - {match: head, tile: digital}\n  - {match: 'blocks.*', tile: u}\n"
TWO = "mho: 1\ndefault: t\ntiles:\n  t: {rows: 512}\n  u: {rows: 64}\n"


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Net().eval()


def x():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_an_exact_conversion_computes_the_same(model):
    net = mho.to_analog(model, "ideal.exact")
    assert torch.allclose(net(x()), model(x()), atol=1e-5)


def test_the_original_model_is_not_changed(model):
    before = copy.deepcopy(model.state_dict())
    net = mho.to_analog(model, "pcm.standard")
    assert type(model.stem) is nn.Conv2d
    with torch.no_grad():
        net.stem.weight.zero_()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_the_report_accounts_for_every_parameter(model):
    report = mho.conversion_report(mho.to_analog(model, mho.Hardware.from_yaml(TWO + RULES)))
    where = {e.name: (e.where, e.tile) for e in report}
    assert where == {
        "stem": ("analog", "t"),
        "norm": ("digital", ""),
        "blocks.0": ("analog", "u"),
        "blocks.2": ("analog", "u"),
        "head": ("digital", ""),
    }
    assert sum(e.parameters for e in report) == sum(p.numel() for p in model.parameters())
    text = str(report)
    assert "rule 'head'" in text and "by design" in text and "8x72" in text


def test_a_rule_that_matches_nothing_is_an_error_with_its_place(model):
    hw = mho.Hardware.from_yaml(TWO + "layers:\n  - {match: hed, tile: digital}\n", name="hw.yaml")
    with pytest.raises(mho.ConfigError, match=r"hw\.yaml:7:5[\s\S]*no layer is called 'hed'; did you mean 'head'"):
        mho.to_analog(model, hw)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 8)
        self.m = nn.MultiheadAttention(8, 2)
        self.r = nn.LSTM(8, 8)
        self.t = nn.TransformerEncoderLayer(8, 2)
        self.g = nn.Conv2d(8, 8, 3, groups=4)
        self.e = nn.Embedding(4, 8)


def test_nothing_is_silently_left_digital():
    with pytest.warns(UserWarning, match="left digital") as caught:
        net = mho.to_analog(Attention(), "pcm.standard")
    report = mho.conversion_report(net)
    assert [e.name for e in report.left_digital] == ["m", "r", "t", "g"]
    assert [e.name for e in report.analog] == ["a"]
    assert "groups=4" in str(caught[0].message)
    assert type(net.m.out_proj) is not mho.AnalogLinear and type(net.t.linear1) is nn.Linear


def test_strict_conversion_fails_where_a_layer_would_stay_digital():
    with pytest.raises(mho.MhoError, match="left digital: m "):
        mho.to_analog(Attention(), "pcm.standard", strict=True)


class SamePadConv(nn.Conv2d):
    def forward(self, input):
        return super().forward(F.pad(input, (1, 1, 1, 1)))


def test_a_subclass_with_a_forward_of_its_own_is_refused_by_name():
    model = nn.Sequential(nn.Linear(3, 3), SamePadConv(1, 1, 3))
    with pytest.warns(UserWarning, match="SamePadConv: its class overrides forward"):
        mho.to_analog(model, "ideal.exact")


def test_a_parametrized_layer_is_refused_by_name():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    with pytest.warns(UserWarning, match="remove_parametrizations first"):
        mho.to_analog(nn.Sequential(nn.Linear(3, 3), layer), "ideal.exact")


def test_a_lazy_layer_is_refused_by_name():
    with pytest.warns(UserWarning, match="run one batch"):
        mho.to_analog(nn.Sequential(nn.Linear(3, 3), nn.LazyLinear(3)), "ideal.exact")


def test_a_model_without_analog_layers_is_an_error():
    with pytest.raises(mho.MhoError, match="nothing in this ReLU went on analog tiles"):
        mho.to_analog(nn.ReLU(), "ideal.exact")


def test_converting_twice_is_an_error(model):
    with pytest.raises(mho.MhoError, match="analog already"):
        mho.to_analog(mho.to_analog(model, "ideal.exact"), "ideal.exact")


def test_a_shared_module_stays_shared_and_a_tied_weight_tied():
    shared = nn.Linear(4, 4)
    net = mho.to_analog(nn.Sequential(shared, nn.ReLU(), shared), "ideal.exact")
    assert net[0] is net[2] and len(mho.conversion_report(net)) == 1
    tied = nn.ModuleDict({"e": nn.Embedding(7, 4), "d": nn.Linear(4, 7, bias=False)})
    tied["d"].weight = tied["e"].weight
    net = mho.to_analog(tied, "ideal.exact")
    assert net["d"].weight is net["e"].weight


def test_hooks_and_training_flags_come_along():
    seen = []
    model = nn.Sequential(nn.Linear(2, 2)).eval()
    model[0].register_forward_hook(lambda *a: seen.append(1))
    net = mho.to_analog(model, "ideal.exact")
    net(torch.ones(1, 2))
    assert seen == [1] and not net[0].training and not net[0].tiles.training


def test_a_plain_checkpoint_loads_strictly_and_is_mapped_anew(model):
    torch.manual_seed(1)
    other = Net().eval()
    net = mho.to_analog(model, "ideal.quantised")
    net.load_state_dict(other.state_dict())
    fresh = mho.to_analog(other, "ideal.quantised")
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), fresh.state_dict().values()))


def test_an_incomplete_checkpoint_is_still_refused(model):
    state = model.state_dict()
    del state["head.weight"]
    with pytest.raises(RuntimeError, match=r"head\.weight"):
        mho.to_analog(model, "ideal.exact").load_state_dict(state)


def test_the_state_is_tensors_only_and_loads_with_torchs_defaults(model, tmp_path):
    net = mho.to_analog(model, "pcm.standard")
    torch.save(net.state_dict(), tmp_path / "m.pt")
    again = mho.to_analog(Net().eval(), "pcm.standard")
    again.load_state_dict(torch.load(tmp_path / "m.pt"))
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values()))
    assert all(p.dim() >= 1 for p in net.parameters())


def test_models_are_saved_and_loaded_as_safetensors(model, tmp_path):
    net = mho.to_analog(model, "pcm.standard")
    with torch.no_grad():
        net.head.tiles.input_range.fill_(2.5)
    mho.save_model(net, tmp_path / "net.safetensors")
    again = mho.load_model(mho.to_analog(Net().eval(), "pcm.standard"), tmp_path / "net.safetensors")
    assert again.head.tiles.input_range.tolist() == [[2.5]]
    assert set(load_file(tmp_path / "net.safetensors")) == set(net.state_dict())
    with pytest.raises(mho.MhoError, match="does not fit"):
        mho.load_model(nn.Linear(2, 2), tmp_path / "net.safetensors")
    (tmp_path / "broken").write_bytes(b"no")
    with pytest.raises(mho.MhoError, match="cannot read"):
        mho.load_model(net, tmp_path / "broken")


def test_to_digital_gives_the_torch_model_back_with_learned_scales_folded(model):
    net = mho.to_analog(model, "ideal.exact")
    with torch.no_grad():
        net.head.tiles.out_scale.fill_(1.5)
        expected = net(x())
    back = mho.to_digital(net)
    assert type(back.head) is nn.Linear and type(back.stem) is nn.Conv2d
    assert set(back.state_dict()) == set(model.state_dict())
    assert torch.allclose(back(x()), expected, atol=1e-5)
    back.load_state_dict(model.state_dict())
    assert torch.allclose(back(x()), model(x()))


def test_folding_the_scales_leaves_the_function(model):
    """R003-74: folded and unfolded agree to 1e-6."""
    net = mho.to_analog(model, "ideal.quantised")
    with torch.no_grad():
        net.head.tiles.out_scale.uniform_(0.5, 2.0)
        before = net(x())
        net.head.fold_scales()
        assert torch.allclose(net(x()), before, atol=1e-6)
    assert (net.head.tiles.out_scale == 1).all()


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3},
        {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0)},
        {"kernel_size": 3, "dilation": 2, "padding": 2},
        {"kernel_size": 3, "padding": "same"},
        {"kernel_size": 4, "padding": "same", "dilation": (1, 2)},
        {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
        {"kernel_size": 3, "padding": 2, "padding_mode": "circular", "bias": False},
        {"kernel_size": 3, "padding": "valid", "stride": 3},
    ],
)
def test_analog_convolutions_have_torchs_shapes_values_and_gradients(options):
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 7, **options)
    analog = mho.to_analog(
        conv, mho.Hardware.from_yaml("mho: 1\ndefault: t\ntiles: {t: {rows: 30}}\ntraining: {inject: none}")
    )
    a, b = (torch.randn(2, 5, 9, 8, generator=torch.Generator().manual_seed(0)).requires_grad_() for _ in range(2))
    ya, yb = analog(a), conv(b)
    assert ya.shape == yb.shape and torch.allclose(ya, yb, atol=1e-5)
    g = torch.randn_like(yb)
    ya.backward(g)
    yb.backward(g)
    assert torch.allclose(a.grad, b.grad, atol=1e-5) and torch.allclose(analog.weight.grad, conv.weight.grad, atol=1e-4)
    assert analog(a[0]).shape == conv(b[0]).shape


def test_layers_can_be_built_by_hand():
    hw = mho.load("pcm.standard")
    layer = mho.AnalogLinear(12, 3, hw=hw).eval()
    assert layer(torch.randn(4, 12)).shape == (4, 3)
    assert mho.AnalogConv2d(2, 3, 3, hw=hw).eval()(torch.randn(1, 2, 6, 6)).shape == (1, 3, 4, 4)
    with pytest.raises(mho.MhoError, match="groups=2"):
        mho.AnalogConv2d(2, 2, 3, groups=2, hw=hw)
    with pytest.raises(mho.MhoError, match="no tile 'x'"):
        mho.AnalogLinear(2, 2, hw=hw, tile="x")
