"""The searches of calibration: input ranges by MVM error, and conductance ranges of columns."""

import pytest
import torch
from mho_lab.run.search import Trial
from torch import nn

import mho
from mho.tile import Patches, tile_arrays
from mho.use import matrices


@pytest.fixture
def net():
    torch.manual_seed(0)
    return mho.to_analog(nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)), "pcm.standard")


def inputs(n=64):
    return torch.randn(n, 16, generator=torch.Generator().manual_seed(1))


def test_inputs_of_any_size_are_converted_as_well():
    """Pixels of 0 to 255 have the error of pixels of 0 to 1."""
    torch.manual_seed(0)
    model, x = nn.Linear(64, 32), 255 * torch.rand(128, 64)
    net = mho.to_analog(model, "ideal.quantised").eval()
    mho.calibrate(net, [x], "mse")
    assert mho.mvm_error(model(x), net(x)) < 0.06


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


@torch.no_grad()
def exact_inputs(net, x):
    """What calibration sees of every array, [vector, tile, row]."""
    rows = {a: [] for a in tile_arrays(net)}

    def note(array, args):
        given = args[0] if isinstance(args[0], Patches) else Patches(args[0])
        rows[array].append(given.rows())

    hooks = [a.register_forward_pre_hook(note) for a in rows]
    for a in rows:
        a.exact = True
    net(x)
    for a, hook in zip(rows, hooks):
        a.exact = False
        hook.remove()
    return {a: a.layout.cut(torch.cat(r)) for a, r in rows.items()}


@pytest.mark.parametrize("kind", ["Linear", "Conv2d", "LSTM"])
def test_no_calibration_by_mvm_error_is_worse_on_its_inputs_than_its_start(kind):
    """PHYSICS 5.1, on the chips and inputs that it compares on, for every tile."""
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
    seen = exact_inputs(net, x)

    @torch.no_grad()
    def errors():
        found = []
        for array, weight in matrices(net):
            trial = Trial(array, weight.detach(), seen[array])
            found.append(trial.over_chips(array.gamma.clone())[0])
            array.chip = None
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
