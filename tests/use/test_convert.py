"""Conversion: every layer is accounted for, and plain checkpoints load before and after."""

import copy
import json
import math
import pickle
import warnings
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

import mho


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


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 8)
        self.b = nn.Bilinear(8, 8, 8)
        self.w = nn.Parameter(torch.ones(2, 2))
        self.n = nn.Parameter(torch.ones(2))
        self.e = nn.Embedding(4, 8)


def test_nothing_is_silently_left_digital():
    with pytest.warns(UserWarning, match="left digital") as caught:
        net = mho.to_analog(Mixed(), "pcm.standard")
    report = mho.conversion_report(net)
    assert [e.name for e in report.left_digital] == ["", "b"]
    assert [e.name for e in report.analog] == ["a"]
    assert "b (nn.Bilinear: a bilinear form multiplies two inputs" in str(caught[0].message)


def test_strict_conversion_fails_where_a_layer_would_stay_digital():
    with pytest.raises(mho.MhoError, match=r"b .nn\.Bilinear"):
        mho.to_analog(Mixed(), "pcm.standard", strict=True)


class SamePadConv(nn.Conv2d):
    """Does its own padding, then what a convolution does."""

    def forward(self, input):
        return super().forward(F.pad(input, (1, 1, 1, 1)))


class Scaled(nn.Linear):
    """Has a parameter, a helper and a forward of its own."""

    def __init__(self, *args):
        super().__init__(*args)
        self.factor = nn.Parameter(torch.tensor([2.0]))

    def scale(self, y):
        return self.factor * y

    def forward(self, input):
        return self.scale(super().forward(input))


class StaticPadConv(nn.Conv2d):
    """As in common EfficientNet code: reads its weight itself."""

    def forward(self, input):
        return F.conv2d(F.pad(input, (1, 1, 1, 1)), self.weight, self.bias)


class RoundTrip(nn.Linear):
    def forward(self, input):
        return nn.Linear.forward(self, input)


class Helper(nn.Linear):
    def product(self, input):
        return F.linear(input, self.weight)

    def forward(self, input):
        return self.product(input) + super().forward(input)


class OwnConvForward(nn.Conv2d):
    def _conv_forward(self, input, weight, bias):
        return super()._conv_forward(input, 2 * weight, bias)


@pytest.mark.parametrize("layer, shape", [(SamePadConv(2, 3, 3), (1, 2, 5, 5)), (Scaled(4, 3), (2, 4))])
def test_a_subclass_whose_forward_only_wraps_the_product_keeps_it(layer, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    net = mho.to_analog(nn.Sequential(layer), "ideal.exact", strict=True)
    assert isinstance(net[0], type(layer)) and torch.allclose(net(x), layer(x), atol=1e-5)
    again = copy.deepcopy(net)
    assert type(again[0]) is type(net[0]) and torch.allclose(again(x), layer(x), atol=1e-5)
    back = mho.to_digital(net)
    assert type(back[0]) is type(layer) and torch.equal(back(x), layer(x))


@pytest.mark.parametrize("layer", [StaticPadConv(1, 1, 3), RoundTrip(3, 3), Helper(3, 3), OwnConvForward(1, 1, 3)])
def test_a_subclass_that_would_go_round_the_tiles_is_refused_by_name(layer):
    with pytest.warns(UserWarning, match=rf"1 \({type(layer).__name__}: its class overrides \w+"):
        mho.to_analog(nn.Sequential(nn.Linear(3, 3), layer), "ideal.exact")


def test_a_forward_replaced_on_the_instance_is_refused():
    layer = nn.Linear(3, 3)
    layer.forward = lambda x: F.linear(x, layer.weight)
    with pytest.warns(UserWarning, match="its forward was replaced on the instance"):
        mho.to_analog(nn.Sequential(nn.Linear(3, 3), layer), "ideal.exact")


def test_subclasses_without_a_forward_of_their_own_keep_their_class_through_copies_and_pickles():
    out = nn.MultiheadAttention(4, 2).out_proj
    net = mho.to_analog(nn.Sequential(out), "ideal.exact")
    for again in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert isinstance(again[0], type(out)) and isinstance(again[0], mho.AnalogLinear)
    assert type(mho.to_digital(net)[0]) is type(out)


PRUNED = {
    "weight": nn.Linear(3, 3),
    "weight_hh_l0": nn.LSTM(3, 3),
    "in_proj_weight": nn.MultiheadAttention(4, 2),
    "weight_hh": nn.GRUCell(3, 3),
}


@pytest.mark.parametrize("name", PRUNED)
def test_a_weight_computed_from_other_parameters_is_refused(name):
    with torch.no_grad():
        layer = prune.l1_unstructured(copy.deepcopy(PRUNED[name]), name, 2)
    setattr(layer, name, getattr(layer, name).detach())
    with pytest.warns(UserWarning, match="computed from other parameters"):
        net = mho.to_analog(nn.ModuleList([nn.Linear(3, 3), layer]), "ideal.exact")
    assert not hasattr(net[1], "tiles") and not hasattr(getattr(net[1], "out_proj", None), "tiles")


def test_what_torch_cannot_copy_is_named():
    model = nn.ModuleList([nn.Linear(3, 3), prune.l1_unstructured(nn.Linear(3, 3), "weight", 2)])
    with pytest.raises(mho.MhoError, match="weights of 1 are computed from other parameters"):
        mho.to_analog(model, "ideal.exact")


def test_complex_weights_are_refused():
    with pytest.warns(UserWarning, match="tiles hold real numbers"):
        mho.to_analog(nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3, dtype=torch.complex64)]), "ideal.exact")


def test_a_digital_attention_keeps_its_projection_digital():
    rules = "layers:\n  - {match: '1', tile: digital}\n"
    net = mho.to_analog(nn.ModuleList([nn.Linear(4, 4), nn.MultiheadAttention(4, 2)]), mho.Hardware.from_yaml(TWO + rules))
    assert not isinstance(net[1].out_proj, mho.AnalogLayer)
    entry = mho.conversion_report(net)[1]
    assert entry.where == "digital" and entry.parameters == sum(p.numel() for p in net[1].parameters())


def test_an_attention_and_its_projection_have_entries_and_rules_of_their_own():
    rules = "layers:\n  - {match: out_proj, tile: u}\n"
    net = mho.to_analog(nn.MultiheadAttention(4, 2), mho.Hardware.from_yaml(TWO + rules))
    assert [(e.name, e.tile, e.matrix) for e in mho.conversion_report(net)] == [
        ("", "t", "4x4 4x4 4x4"),
        ("out_proj", "u", "4x4"),
    ]


def test_the_fast_paths_of_transformers_come_back_with_to_digital():
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 1)
    net = mho.to_analog(model, "ideal.exact")
    assert not net.use_nested_tensor and not net.layers[0].activation_relu_or_gelu
    back = mho.to_digital(net)
    assert back.use_nested_tensor and back.layers[0].activation_relu_or_gelu == 1
    assert model.use_nested_tensor and model.layers[0].activation_relu_or_gelu == 1


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


def test_a_parameter_of_two_layers_is_on_tiles_once(hardware):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x))

    net = mho.to_analog(Twice(), hardware("rows: 512", "training: {inject: none, remap: 1 steps}"))
    assert net.a.tiles is net.b.tiles and sum(e.tiles for e in mho.conversion_report(net)) == 1
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    mho.attach(optimizer, net)
    net(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    assert net.a.tiles.step.item() == 1  # one step, though two layers use the tiles
    back = mho.to_digital(net)
    assert back.a.weight is back.b.weight
    mho.to_analog(Twice(), "ideal.exact").load_state_dict(back.state_dict())


def test_a_channels_last_layout_does_not_detach_the_matrix_from_the_weight(hardware):
    model = nn.Sequential(nn.Conv2d(4, 4, 3)).to(memory_format=torch.channels_last)
    for net in (
        mho.to_analog(model, hardware("rows: 512")),
        mho.to_analog(nn.Sequential(nn.Conv2d(4, 4, 3)), hardware("rows: 512")).to(memory_format=torch.channels_last),
    ):
        with torch.no_grad():
            net[0].matrix.zero_()
        assert not net[0].weight.any()


def fresh(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(600, 300), nn.Conv2d(8, 16, 3), nn.LSTM(64, 64))


@pytest.mark.parametrize("mapping", ["mho.per_column", "mho.tile_max"])
def test_layers_with_outlier_weights_are_named(hardware, mapping):
    """One weight in a thousand that is 50 times larger: it sets the range of its tile, or of its column."""
    hw, model = hardware(f"mapping: {mapping}"), fresh()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # fresh networks are not complained about
        mho.to_analog(model, hw)
        for p in model.parameters():
            nn.init.normal_(p, std=0.1)
        mho.to_analog(model, hw)
    with torch.no_grad():
        model[0].weight[:, 7] *= 50  # an input that all outputs listen to
    with pytest.warns(UserWarning, match=r"outlier weights set the conductance range.*: 0 \(\d+\.\d times\)\."):
        net = mho.to_analog(model, hw)
    assert [e.name for e in mho.conversion_report(net).outliers] == ["0"]


def test_a_mapping_that_clips_outliers_is_not_complained_about(hardware):
    model = fresh()
    with torch.no_grad():
        model[0].weight[0, 0] = 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mho.to_analog(model, hardware("mapping: {kind: mho.tile_max, clip: 2.5 sigma}"))


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
    analog = mho.to_analog(conv, mho.Hardware.from_yaml("mho: 1\ndefault: t\ntiles: {t: {rows: 30}}\ntraining: {inject: none}"))
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
    lstm = mho.AnalogLSTM(4, 3, num_layers=2, hw=hw).eval()
    assert lstm(torch.randn(5, 2, 4))[0].shape == (5, 2, 3)
    attention = mho.AnalogMultiheadAttention(4, 2, hw=hw).eval()
    assert attention(*[torch.randn(5, 2, 4)] * 3)[0].shape == (5, 2, 4)
    assert len({id(m.session) for m in attention.modules() if hasattr(m, "session")}) == 1
    with pytest.raises(mho.MhoError, match="no tile 'x'"):
        mho.AnalogLinear(2, 2, hw=hw, tile="x")


def test_the_report_is_data(hardware):
    """Numbers, and one text made of them."""
    model = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.Flatten(), nn.LSTM(6, 5))
    report = mho.conversion_report(mho.to_analog(model, hardware("rows: 10\ncolumns: 20")))
    conv, lstm = report
    numbers = {"groups": 2, "outputs": 3, "inputs": 18, "down": 2, "across": 2, "rows": 10, "columns": 20}
    assert [asdict(m) for m in conv.matrices] == [numbers]
    assert (conv.matrix, conv.tiles, lstm.matrix, lstm.tiles) == ("2 of 3x18", 4, "20x6 20x5", 2)
    data = json.loads(report.to_json())
    assert data[0]["matrices"] == [numbers] and data[0]["matrix"] == "2 of 3x18"


def test_the_report_is_about_the_network_as_it_is(model, hardware):
    """A head exchanged and embeddings resized since the conversion are not on tiles."""
    model = nn.Sequential(nn.Embedding(7, 16), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    text = "mho: 1\ndefault: t\ntiles: {t: {}}\nlayers: [{match: '1', tile: digital}]"
    net = mho.to_analog(model, mho.Hardware.from_yaml(text))
    assert [(e.where, e.why) for e in mho.conversion_report(net)] == [
        ("digital", "by design"),
        ("digital", "rule '1'"),
        ("digital", "by design"),
        ("analog", "default"),
    ]
    net[0] = nn.Embedding(9, 16)
    net.append(net[3])
    net[3] = nn.Linear(8, 30)
    found = mho.conversion_report(net)
    assert [(e.where, e.parameters) for e in found] == [
        ("digital", 144),
        ("digital", 136),
        ("digital", 16),
        ("left digital", 270),
        ("analog", 27),
    ]
    assert found[3].why == "put there after the conversion"
    with pytest.raises(mho.MhoError, match="no analog layers"):
        mho.conversion_report(model)


def test_layers_built_by_hand_have_a_report(hardware):
    net = nn.Sequential(mho.AnalogLinear(4, 3, hw=hardware("rows: 8")), nn.ReLU(), nn.Linear(3, 2))
    first, second = mho.conversion_report(net)
    assert (first.where, first.tile, first.why, second.where) == ("analog", "t", "by hand", "left digital")


@pytest.mark.parametrize("hw", [None, 3, nn.Linear(2, 2)])
def test_a_hardware_that_is_none_is_refused_by_name(model, hw):
    with pytest.raises(mho.MhoError, match="hw must be a Hardware, a file or the name of a preset"):
        mho.to_analog(model, hw)
    with pytest.raises(mho.MhoError, match=r"model must be a torch module, got 'pcm\.standard'"):
        mho.to_analog("pcm.standard", model)


def test_weights_that_are_no_numbers_are_refused_by_name(model, hardware):
    with torch.no_grad():
        model.head.weight[0, 0] = math.nan
    with pytest.raises(mho.MhoError, match="layer head of this model has weights that are NaN or infinite"):
        mho.to_analog(model, hardware("rows: 8"))
