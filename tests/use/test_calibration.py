"""Calibration: input ranges by statistics, and by methods of plugins."""

import numpy as np
import pytest
import torch
from torch import nn

import mho
from mho.config import registry

LEARNED = "rows: 8\ndac: {bits: 8, range: learned}\nadc: {bits: 8, bound: 10}"


@pytest.fixture
def net():
    torch.manual_seed(0)
    return mho.to_analog(nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)), "pcm.standard")


def inputs(n=64):
    return torch.randn(n, 16, generator=torch.Generator().manual_seed(1))


def test_calibration_by_max_is_the_mean_over_batches(hardware):
    """R003-62, however large the inputs are; the cap of 10 of the paper is one argument, and what it cuts is named."""
    net = mho.to_analog(nn.Linear(16, 3), hardware(LEARNED))
    batches = [torch.full((4, 16), 1.0), torch.full((2, 16), -4.0)]
    batches[0][:, 8:] = 200.0
    mho.calibrate(net, batches)
    assert net.tiles.input_range.flatten().tolist() == [2.5, 102.0]
    mho.calibrate(net, batches, cap=10)
    assert "inputs beyond 10.0 are cut" in mho.conversion_report(net)[0].remarks[0]
    assert net.tiles.input_range.flatten().tolist() == [2.5, 10.0]


@pytest.mark.parametrize("method", ["max", "quantile", "moving_std"])
def test_inputs_of_any_size_are_converted_as_well(hardware, method):
    """Pixels of 0 to 255 have the error of pixels of 0 to 1."""
    torch.manual_seed(0)
    model, x = nn.Linear(64, 32), 255 * torch.rand(128, 64)
    net = mho.to_analog(model, "ideal.quantised").eval()
    mho.calibrate(net, [x], method)
    assert mho.mvm_error(model(x), net(x)) < 0.06


class Experts(nn.Module):
    """The sign of the first input chooses."""

    def __init__(self):
        super().__init__()
        self.up, self.down, self.head = nn.Linear(16, 8), nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x):
        up = x[:, 0] > 0
        y = x.new_zeros(len(x), 8)
        y[up], y[~up] = self.up(x[up]), self.down(x[~up])
        return self.head(y)


def test_layers_that_calibration_never_saw_are_named(hardware):
    net = mho.to_analog(Experts(), hardware(LEARNED))
    with pytest.warns(UserWarning, match="no batch of calibration reached down: their ranges stay"):
        mho.calibrate(net, [inputs().abs()])
    told = {e.name: e.remarks for e in mho.conversion_report(net)}
    assert told == {"up": (), "down": ("no batch of calibration reached it",), "head": ()}
    assert "default; no batch of calibration reached it" in str(mho.conversion_report(net))
    mho.calibrate(net, [inputs()])
    assert not any(e.remarks for e in mho.conversion_report(net))


class Keywords(nn.Module):
    """As models of Hugging Face are called."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 3)

    def forward(self, values=None, scale=None):
        return self.layer(values * scale)


def test_batches_that_are_mappings_are_keywords(hardware):
    net = mho.to_analog(Keywords(), hardware("rows: 16\ndac: {bits: 8}"))
    assert mho.calibrate(net, [{"values": torch.ones(2, 16), "scale": 3.0}]) == {"layer": [3.0]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dac": "maxx"}, "dac cannot be 'maxx'; did you mean 'max'?"),
        ({"dac": 3}, "dac cannot be 3; known: max, quantile, moving_std, mse, None"),
        ({"dac": "grid"}, "dac cannot be 'grid'; known: max, quantile, moving_std, mse, None"),
        ({"columns": "greed"}, "columns cannot be 'greed'; did you mean 'grid'?"),
        ({"quantile": 1.5}, "quantile must be a number above 0 and at most 1, got 1.5"),
        ({"quantile": float("nan")}, "quantile must be a number above 0 and at most 1, got nan"),
        ({"cap": 0}, "cap must be a number above 0, got 0"),
        ({"cap": "10"}, "cap must be a number above 0, got '10'"),
    ],
)
def test_arguments_that_mean_nothing_are_refused_by_name(net, arguments, message):
    with pytest.raises(mho.MhoError, match=message):
        mho.calibrate(net, [inputs()], **arguments)


def test_one_batch_in_place_of_a_list_is_refused(net):
    with pytest.raises(mho.MhoError, match="batches must be a list"):
        mho.calibrate(net, inputs())


def test_scalars_of_numpy_and_torch_are_welcome(net):
    mho.calibrate(net, [inputs()], "quantile", quantile=np.float32(0.9), cap=torch.tensor(20))


def test_calibration_sees_exact_inputs_and_leaves_everything_else(hardware):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).train()
    net = mho.to_analog(model, hardware(LEARNED))
    before = {k: v.clone() for k, v in net.state_dict().items() if "input_range" not in k}
    x = inputs() * 5
    mho.calibrate(net, [(x, None)])
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items()) and net.training and net[1].training
    hidden = model.eval()[:2](x)
    assert net[2].tiles.input_range.item() == pytest.approx(hidden.detach().abs().max().item(), rel=1e-5)


def test_a_quantile_ignores_the_padding(hardware):
    net = mho.to_analog(nn.Linear(12, 3), hardware("rows: 8\ndac: {bits: 8}"))  # tiles of 6 and 6
    odd = mho.to_analog(nn.Linear(11, 3), hardware("rows: 8\ndac: {bits: 8}"))  # 6 and 5
    for model, n in ((net, 12), (odd, 11)):
        x = torch.arange(1.0, 1001)[:, None].expand(1000, n) / 100
        mho.calibrate(model, [x], "quantile", quantile=0.9)
        assert model.tiles.input_range.flatten().tolist() == pytest.approx([9.0, 9.0], rel=0.01)


def test_calibration_without_data_is_an_error(net):
    with pytest.raises(mho.MhoError, match="saw no data"):
        mho.calibrate(net, [])


def test_calibration_by_moving_std_is_3_standard_deviations_about_0_of_each_batch_averaged(hardware):
    """R003-62; the 5 inputs of the second tile are not padded with zeros for it."""
    net = mho.to_analog(nn.Linear(11, 3), hardware("rows: 8\ndac: {bits: 8}"))  # tiles of 6 and 5
    batches = [torch.randn(40, 11, generator=torch.Generator().manual_seed(k)) * (1 + k) / 3 + 0.1 for k in range(2)]
    mho.calibrate(net, batches, "moving_std")
    expected = [torch.stack([3 * b[:, part].square().mean().sqrt() for b in batches]).mean() for part in (slice(6), slice(6, 11))]
    assert torch.allclose(net.tiles.input_range.flatten(), torch.stack(expected))


def test_the_inputs_that_ranges_are_compared_on_are_of_all_positions(hardware):
    """A stride would have picked the first tokens only, which are special in transformers."""
    from mho.use.calibration import VECTORS, Seen

    net = mho.to_analog(nn.Linear(4, 3), hardware(LEARNED))
    seen = Seen(net.tiles, "max", 1.0, keep=True)
    tokens = torch.arange(32.0)[None, :, None].expand(64, 32, 4)
    for _ in range(40):
        seen.note(tokens)
    positions = seen.some()[:, 0, 0]
    counts = torch.bincount(positions.long(), minlength=32)
    assert len(positions) == VECTORS and counts.min() > 0 and counts.max() < 3 * VECTORS / 32


def test_every_batch_has_its_share_of_the_inputs_that_are_kept(hardware):
    """No more than VECTORS at any time: 20 batches of 600, about 26 of each (n = 512, alpha = 1e-5: 4.4 sigma of 4.9)."""
    from mho.use.calibration import VECTORS, Seen

    seen = Seen(mho.to_analog(nn.Linear(4, 3), hardware(LEARNED)).tiles, "max", 1.0, keep=True)
    for k in range(20):
        seen.note(torch.full((600, 4), float(k)))
        assert sum(map(len, seen.inputs)) == VECTORS
    counts = torch.bincount(seen.some()[:, 0, 0].long(), minlength=20)
    assert (counts - VECTORS / 20).abs().max() < 4.4 * 4.9 + 1


STRANGER = """
import torch
import mho

def loudest(array, weight, x, before):
    array.program(weight, mho.effects.draws.key("mine", 0))
    return torch.maximum(x.abs().transpose(0, 1).flatten(1).quantile(0.5, dim=1, keepdim=True), before)

def halved(array, weight, x, before):
    return before / 2

@mho.hookimpl
def mho_calibrations():
    return {"dac.loudest": loudest, "columns.halved": halved, "dac.halved": lambda array, weight, x, before: before[0]}
"""


@pytest.fixture
def stranger(tmp_path):
    """The registry of a session with a file of a stranger's methods."""
    (tmp_path / "methods.py").write_text(STRANGER)
    with registry.using(registry.Registry()) as plugins:
        plugins.load_file(tmp_path / "methods.py")
        yield plugins


def test_a_method_of_a_stranger_chooses_ranges(hardware, stranger):
    net = mho.to_analog(nn.Linear(16, 3), hardware(LEARNED)).eval()
    x = torch.ones(4, 16)
    x[:, 8:] = 0.25
    chip, gamma = mho.program(net, seed=1), net.tiles.gamma.clone()
    on = net.tiles.chip
    assert mho.calibrate(net, [5 * x], "loudest", columns="halved") == {"": [5.0, 1.25]}
    assert torch.equal(net.tiles.gamma, gamma / 2)
    assert mho.chip_on(net) is chip and net.tiles.chip is on


def test_a_method_that_gives_other_ranges_is_refused(hardware, stranger):
    net = mho.to_analog(nn.Linear(16, 3), hardware(LEARNED))
    with pytest.raises(mho.MhoError, match=r"must return ranges \[2, 1\], not \[1\]"):
        mho.calibrate(net, [inputs()], "halved")


def test_searches_say_what_to_install(net):
    with registry.using(registry.Registry(allowed="pcm")):
        with pytest.raises(mho.MhoError, match="dac='mse' comes with mho-lab: pip install mho-lab"):
            mho.calibrate(net, [inputs()], "mse")
        with pytest.raises(mho.MhoError, match="columns='grid' comes with mho-lab: pip install mho-lab"):
            mho.calibrate(net, [inputs()], columns="grid")
