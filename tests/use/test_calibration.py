"""Calibration: input ranges by statistics or by MVM error, and conductance ranges of columns."""

import numpy as np
import pytest
import torch
from torch import nn

import mho
from mho.tile.array import tile_arrays

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


@pytest.mark.parametrize("method", ["max", "quantile", "moving_std", "mse"])
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
        ({"dac": "maxx"}, "dac must be one of 'max', 'quantile', 'moving_std', 'mse', None, got 'maxx'"),
        ({"columns": "greed"}, "columns must be one of 'grid', None, got 'greed'"),
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


def test_calibration_by_mvm_error_is_never_worse_than_its_start(hardware):
    """Lammie et al. 2024: all-positive inputs and weights that saturate the ADC want a larger range."""
    torch.manual_seed(0)
    model = nn.Linear(256, 64, bias=False)
    with torch.no_grad():
        model.weight.abs_()
    x = torch.rand(512, 256)
    errors = {}
    hw = hardware("rows: 256\ndac: {bits: 8, range: learned}\nadc: {bits: 8, bound: 10}\nnonidealities: [circuit.output_noise]")
    for method in ("max", "mse"):
        net = mho.to_analog(model, hw)
        mho.calibrate(net, [x], method)
        net.eval()
        torch.manual_seed(1)
        errors[method] = mho.mvm_error(model(x), net(x))
    assert errors["mse"] < 0.95 * errors["max"]


def test_calibration_without_data_is_an_error(net):
    with pytest.raises(mho.MhoError, match="saw no data"):
        mho.calibrate(net, [])


def test_calibration_by_moving_std_is_3_standard_deviations_of_each_batch_averaged(hardware):
    """R003-62; the 5 inputs of the second tile are not padded with zeros for it."""
    net = mho.to_analog(nn.Linear(11, 3), hardware("rows: 8\ndac: {bits: 8}"))  # tiles of 6 and 5
    batches = [torch.randn(40, 11, generator=torch.Generator().manual_seed(k)) * (1 + k) / 3 + 0.1 for k in range(2)]
    mho.calibrate(net, batches, "moving_std")
    expected = [torch.stack([3 * b[:, part].std(correction=0) for b in batches]).mean() for part in (slice(6), slice(6, 11))]
    assert torch.allclose(net.tiles.input_range.flatten(), torch.stack(expected))


@pytest.mark.parametrize("rho", [0.05, pytest.param(0.0, marks=pytest.mark.slow)])
def test_the_range_found_by_mvm_error_is_the_optimum_of_the_sweep(rho):
    """PHYSICS 5.1: on the inputs of R003 Fig. 3E (R003-53) within 10 % of the best of a sweep in steps of 4 % on another
    chip."""
    hw = mho.load("pcm.standard", set=["tiles.pcm.mapping.kind=mho.tile_max", "tiles.pcm.compensation=none"])
    e = mho.MvmExperiment(vectors=64)
    w, _ = e.draw(0)
    x = torch.randn(e.vectors, e.size, generator=torch.Generator().manual_seed(0))
    x = rho * w[torch.arange(e.vectors) % e.size] / e.sigma + (1 - rho) * x
    tile = mho.Tile(w, hw)
    mho.calibrate(tile, [x], "mse")
    found = tile.tiles.input_range.item()
    tile.program(seed=1)
    errors = {}
    for alpha in [5 * 1.04**k for k in range(36)]:  # 5 to 20
        with torch.no_grad():
            tile.tiles.input_range.fill_(alpha)
            errors[alpha] = mho.mvm_error(x @ w.T, tile(x))
    assert found == pytest.approx(min(errors, key=errors.get), rel=0.1)
    assert 5.5 < found < 18  # inside the sweep


def error_on_seen(net, model, x, seed):
    mho.program(net.eval(), seed=seed)
    with torch.no_grad():
        return mho.mvm_error(model(x), net(x))


def test_column_ranges_lower_the_error_of_columns_with_an_outlier(hardware):
    """One weight in 300 that is 10 times larger sets its column's range; clipping it costs less than the noise it brings.
    Lower on the inputs seen, also on chips that calibration has not used; and other columns keep what is right for them."""
    torch.manual_seed(0)
    model = nn.Linear(300, 24, bias=False)
    with torch.no_grad():
        model.weight.normal_(std=0.1)
        model.weight[:12, 0] = 1.0
    x = torch.randn(256, 300)
    x[:, 0] *= 0.1  # the input of the outliers hardly moves
    hw = hardware(
        "rows: 512\ndac: {bits: 8}\nadc: {bits: 8, bound: 10}\n"
        "nonidealities: [pcm.programming_noise, pcm.read_noise, circuit.output_noise]"
    )
    plain, ranged = mho.to_analog(model, hw), mho.to_analog(model, hw)
    mho.calibrate(plain, [x], "mse")
    mho.calibrate(ranged, [x], "mse", columns="grid")
    for seed in range(3):
        assert error_on_seen(ranged, model, x, seed) < 0.8 * error_on_seen(plain, model, x, seed)
    factor = (ranged.tiles.gamma / plain.tiles.gamma).flatten()
    assert (factor[:12] < 0.6).all() and torch.equal(model.weight, ranged.weight)


@pytest.mark.parametrize("kind", ["Linear", "Conv2d", "LSTM"])
def test_no_calibration_by_mvm_error_is_worse_on_its_inputs_than_its_start(kind):
    """PHYSICS 5.1, on the chips and inputs that it compares on, for every tile."""
    from mho.use.calibration import Seen, Trial, watching

    torch.manual_seed(0)
    model, x = {
        "Linear": (nn.Linear(600, 20), torch.rand(64, 600)),
        "Conv2d": (nn.Conv2d(4, 6, 3, groups=2), torch.randn(4, 4, 9, 9)),
        "LSTM": (nn.LSTM(12, 6), torch.randn(7, 5, 12)),
    }[kind]
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(10 * p**3)  # long tails
    net = mho.to_analog(model, "pcm.standard").eval()
    mho.calibrate(net, [x], "quantile", quantile=0.9)
    seen = {a: Seen(a, "max", 1.0, keep=True) for a in tile_arrays(net)}
    with watching(net, seen), torch.no_grad():
        net(x)

    @torch.no_grad()
    def errors():
        found = []
        for array, weight in mho.use.chip.matrices(net):
            trial = Trial(array, weight.detach(), seen[array].sample())
            found.append(trial.over_chips(array.gamma.clone())[0])
            array.clear()
        return torch.cat(found)

    before = errors()
    mho.calibrate(net, [x], None, columns="grid")
    columns = errors()
    assert (columns <= before).all()
    assert kind != "Linear" or (columns < before).any()  # the few rows of the others leave little to gain
    state = {k: v.clone() for k, v in net.state_dict().items()}
    mho.calibrate(net, [x], "mse")
    assert any(not torch.equal(v, net.state_dict()[k]) for k, v in state.items())
    assert (errors() <= 1.02 * columns).all()  # ranges are compared on the first of the four chips


def test_the_inputs_that_ranges_are_compared_on_are_of_all_positions(hardware):
    """A stride would have picked the first tokens only, which are special in transformers."""
    from mho.use.calibration import VECTORS, Seen

    net = mho.to_analog(nn.Linear(4, 3), hardware(LEARNED))
    seen = Seen(net.tiles, "max", 1.0, keep=True)
    tokens = torch.arange(32.0)[None, :, None].expand(64, 32, 4)
    for _ in range(40):
        seen.note(tokens)
    positions = seen.sample()[:, 0, 0]
    counts = torch.bincount(positions.long(), minlength=32)
    assert len(positions) == VECTORS and counts.min() > 0 and counts.max() < 3 * VECTORS / 32


def test_calibration_leaves_the_chip_that_is_on(net):
    """Trials happen on chips of their own."""
    chip = mho.program(net.eval(), seed=3)
    chip.age("1 h")
    aged = [a.chip.weights.clone() for a in tile_arrays(net)]
    mho.calibrate(net, [inputs()], "mse")
    assert mho.chip_on(net) is chip and all(torch.equal(a.chip.weights, b) for a, b in zip(tile_arrays(net), aged))
    assert all(a.chip.time == 3600 for a in tile_arrays(net))


def test_calibration_by_mvm_error_keeps_a_range_that_is_better_than_what_it_tries(hardware):
    """The range before is a candidate too: here it lies beyond the grid."""
    torch.manual_seed(0)
    model = nn.Linear(256, 16, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    hw = hardware("rows: 256\ndac: {bits: none}\nadc: {bits: none, bound: 10}")
    net = mho.to_analog(model, hw)
    with torch.no_grad():
        net.tiles.input_range.fill_(40.0)
    mho.calibrate(net, [torch.ones(32, 256)], "mse")
    assert net.tiles.input_range.item() > 25.6  # what sums of 256 need; the grid around 1 ends at 11
