"""rram.relaxation: the distribution it draws is the one it documents. n = 524,288 devices, alpha = 1e-5."""

import math

import pytest
import torch
from mho_rram.relaxation import Relaxation, student
from scipy import stats

import mho

N = 512 * 1024
KOLMOGOROV = math.sqrt(-0.5 * math.log(0.5e-5) / N)
WIDE = {"largest": (1e6,) * 4, "since": 0.01}  # no bound on the move, and all that was fitted


def law(x, t, effect=None):
    """Location, scale and degrees of freedom from the documented formulas, at a measured time."""
    e = effect or Relaxation()
    k = e.times.index(t)
    location = sum(c * x ** (i / 2) for i, c in enumerate(e.location[k]))
    scale = math.exp(sum(c * math.log(x + 0.02) ** i for i, c in enumerate(e.spread[k])))
    return location, scale, math.exp(sum(c * x**i for i, c in enumerate(e.nu[k])))


def distance(values, distribution):
    u = torch.as_tensor(distribution.cdf(values.flatten().sort().values.numpy()))
    return float((u - (torch.arange(N) + 0.5) / N).abs().max())


@pytest.mark.parametrize("nu", [0.8, 1.7, 4.3, 30.0])
def test_the_construction_from_two_normals_is_exactly_student_t(nu):
    """Kolmogorov-Smirnov against scipy's Student-t, whole and non-integer degrees of freedom alike."""
    g = torch.Generator().manual_seed(5)
    z, h = torch.randn(2, N, generator=g, dtype=torch.float64)
    assert distance(student(z, h, torch.full_like(z, nu)), stats.t(nu)) < KOLMOGOROV


@pytest.mark.parametrize("t", [0.01, 0.1, 1.0, 1e5])
@pytest.mark.parametrize("x", [0.1, 0.5, 0.95])
def test_moves_at_a_measured_time_follow_the_documented_student_t(x, t, device):
    devices = device(Relaxation(**WIDE), 40.0 * x)
    move = devices.age(devices.target, t) - devices.target
    location, scale, nu = law(x, t)
    assert distance(move, stats.t(nu, location, scale)) < KOLMOGOROV


def test_between_measured_times_the_coefficients_are_linear_in_the_logarithm_of_time(device):
    e, t = Relaxation(**WIDE), 10.0**2.5  # halfway between 1 s and 1e5 s
    devices = device(e, 20.0)
    (ma, sa, na), (mb, sb, nb) = law(0.5, 1.0), law(0.5, 1e5)
    halfway = stats.t(math.sqrt(na * nb), 0.5 * (ma + mb), math.sqrt(sa * sb))
    assert distance(devices.age(devices.target, t) - devices.target, halfway) < KOLMOGOROV


@pytest.mark.parametrize("pair", [(0.01, 0.1, 0.4155), (0.1, 1.0, 0.5644), (1.0, 1e5, 0.3149)])
def test_successive_times_are_correlated_as_measured(pair, device):
    """Kendall's tau is (2/pi) asin rho; its standard error is at most that of independent numbers, 2/(3 sqrt n)."""
    first, second, rho = pair
    devices = device(Relaxation(**WIDE), 20.0)
    a, b = (devices.age(devices.target, t).flatten()[:50_000].numpy() for t in (first, second))
    tau = stats.kendalltau(a, b).statistic
    assert abs(tau - 2 / math.pi * math.asin(rho)) < 4.42 * 2 / (3 * math.sqrt(50_000)) + 0.005  # h is shared: 0.005


def test_ageing_has_no_memory_of_the_route(device):
    devices = device(Relaxation(), 20.0)
    late = devices.age(devices.target, 3600.0)
    for t in (0.0, 10.0, 1e5):
        devices.age(devices.target, t)
    assert torch.equal(devices.age(devices.target, 3600.0), late)


def test_a_device_moves_smoothly_in_time(device):
    devices = device(Relaxation(), 20.0)
    before, after = (devices.age(devices.target, t) for t in (99.9999, 100.0001))
    assert ((before - after).abs() < 0.01).double().mean() > 0.999


def test_right_after_programming_nothing_has_moved(device):
    devices = device(Relaxation(), 20.0)
    assert torch.equal(devices.age(devices.target, 0.0), devices.target)


@pytest.mark.parametrize("t", [1e-9, 0.01, 0.1, 0.999])
def test_times_before_the_law_describes_the_cells_are_refused(t, device):
    devices = device(Relaxation(), 20.0)
    with pytest.raises(mho.MhoError, match=f"from 1 s after programming on, asked for {t:g} s"):
        devices.age(devices.target, t)
    tile = mho.Tile(torch.ones(2, 2), "rram.relaxation_hfo2").program(seed=0)
    with pytest.raises(mho.MhoError, match="from 1 s after programming on"):
        tile.age(t)


def test_a_law_of_later_times_is_refused_before_the_first_of_them(device):
    one = {n: getattr(Relaxation(), n)[-1:] for n in ("location", "spread", "nu", "largest")}
    devices = device(Relaxation(times=(1e5,), correlation=(), **one), 20.0)
    with pytest.raises(mho.MhoError, match="from 100000 s"):
        devices.age(devices.target, 9e4)


def test_no_cell_moves_farther_than_any_measured_one(device):
    devices = device(Relaxation(since=0.01), 20.0)
    for t, largest in zip(Relaxation(since=0.01).times, Relaxation(since=0.01).largest):
        assert (devices.age(devices.target, t) - devices.target).abs().max() <= largest + 1e-12


def test_moves_depend_on_the_programmed_conductance_and_not_on_the_target(device):
    devices = device(Relaxation(), 20.0)
    other = device(Relaxation(), 5.0)
    programmed = torch.full_like(devices.target, 30.0)
    assert torch.equal(devices.age(programmed, 1.0), other.age(programmed, 1.0))


def test_moves_scale_with_g_max(device):
    small, large = device(Relaxation(), 10.0, g_max=20.0), device(Relaxation(), 20.0, g_max=40.0)
    assert torch.allclose(2 * small.age(small.target, 100.0), large.age(large.target, 100.0))


def test_times_beyond_the_measurement_are_refused(device):
    devices = device(Relaxation(), 20.0)
    with pytest.raises(mho.MhoError, match="up to 100000 s"):
        devices.age(devices.target, 2e5)


def test_single_precision_stays_finite_at_the_heaviest_tails(device):
    g = torch.full((1, 1, 512, 1024), 0.1, dtype=torch.float32)
    aged = device(Relaxation(since=0.01), g).age(g, 0.01)
    assert aged.dtype == torch.float32 and aged.isfinite().all()


# --- the hardware file ---


def problems(nonidealities, times="[1 s, 1 h]"):
    tile = f"device: {{g_max: 40 uS}}\n    nonidealities: {nonidealities}"
    text = f"mho: 1\ndefault: t\ntimes: {times}\ntiles:\n  t:\n    {tile}\n"
    with pytest.raises(mho.ConfigError) as caught:
        mho.Hardware.from_yaml(text, "hw.yaml")
    return [(p.path, p.message) for p in caught.value.problems]


def test_relaxation_beside_a_law_that_contains_it_is_an_error():
    ((path, message),) = problems("[rram.programming_noise, rram.relaxation]")
    assert path == "tiles.t.nonidealities[0]" and "contains relaxation already; remove rram.relaxation" in message


def test_relaxation_of_strength_0_is_absent_and_so_may_stand_beside_any_law():
    effects = "[rram.programming_noise, {kind: rram.relaxation, scale: 0}]"
    text = f"mho: 1\ndefault: t\ntimes: [1 s]\ntiles:\n  t:\n    nonidealities: {effects}\n"
    assert len(mho.Hardware.from_yaml(text).tiles["t"].nonidealities) == 2


def test_times_beyond_the_measurement_are_an_error_of_the_hardware_file():
    ((path, message),) = problems("[rram.relaxation]", "[1 s, 1 year]")
    assert path == "tiles.t.nonidealities[0]" and "set `times:`" in message


def test_times_before_the_law_are_an_error_of_the_hardware_file():
    ((path, message),) = problems("[rram.relaxation]", "[0 s, 0.5 s, 1 h]")
    assert path == "tiles.t.nonidealities[0]" and "asked for 0.5 s" in message


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ("since: 1 year", "since"),
        ("times: [1 s, 0.1 s, 1 h, 2 h]", "times"),
        ("nu: [[1.0], [1.0]]", "nu"),
        ("spread: [[1.0], [1.0, 2.0], [1.0], [1.0]]", "spread"),
        ("correlation: [0.5]", "correlation"),
        ("largest: [10.0]", "largest"),
    ],
)
def test_tables_that_do_not_fit_the_times_are_errors(change, path):
    assert [p for p, _ in problems(f"[{{kind: rram.relaxation, {change}}}]")] == [f"tiles.t.nonidealities[0].{path}"]


def test_the_preset_loads_and_reads_back():
    hardware = mho.load("rram.relaxation_hfo2")
    assert mho.Hardware.from_yaml(hardware.to_yaml()) == hardware
