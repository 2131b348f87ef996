"""The laws of rram.programming_noise against the tables and formulas of their papers. n = 524,288 devices."""

import math

import pytest
import torch
from mho_rram.programming import ProgrammingNoise

import mho

DAY = 86_400.0
# CrossSim's cubic for Wan et al. 2022, worked out: G in uS -> sigma in uS at 1 s
TABLE = {0: 1.053, 5: 1.967, 10: 2.414, 15: 2.507, 20: 2.362, 30: 1.819, 39: 1.673}
# Wan et al. 2022: sum c_k x^k at g_max = 40 uS
POLYNOMIALS = {
    1.0: [0.348, 16.030, -43.853, 45.393, -16.815],
    DAY: [0.701, 22.086, -50.773, 47.095, -16.458],
    2 * DAY: [0.782, 20.274, -43.507, 37.062, -11.934],
}


def total(x, t):
    return sum(c * x**k for k, c in enumerate(POLYNOMIALS[t]))


@pytest.mark.parametrize("g", TABLE)
def test_wan2022_at_one_second_has_the_spread_of_the_table(g, device, stats):
    devices = device(ProgrammingNoise(), float(g))
    deviation = devices.program() - devices.target
    stats.has_mean(deviation, 0.0)
    # the table has three decimals
    assert abs(deviation.std() - TABLE[g]) < 5e-4 + 4.42 * TABLE[g] / math.sqrt(2 * deviation.numel())


@pytest.mark.parametrize("t", POLYNOMIALS)
@pytest.mark.parametrize("x", [0.05, 0.3, 0.5, 0.9])
def test_wan2022_total_spread_at_a_measured_time_is_the_polynomial(x, t, device, stats):
    devices = device(ProgrammingNoise(one_second="polynomial"), 40.0 * x)
    stats.has_std(devices.age(devices.program(), t) - devices.target, total(x, t))


def test_wan2022_interpolates_the_coefficients_in_the_logarithm_of_time(device, stats):
    halfway = math.exp(0.5 * (math.log(DAY) + math.log(2 * DAY)))
    devices = device(ProgrammingNoise(one_second="polynomial"), 12.0)
    aged = devices.age(devices.program(), halfway)
    stats.has_std(aged - devices.target, 0.5 * (total(0.3, DAY) + total(0.3, 2 * DAY)))


def test_wan2022_grows_by_the_same_ratio_from_either_reading_at_one_second(device, stats):
    devices = device(ProgrammingNoise(one_second="cubic"), 20.0)
    at_one_second = 1.053 + 0.2374 * 20 - 1.167e-2 * 20**2 + 1.536e-4 * 20**3
    expected = at_one_second * total(0.5, DAY) / total(0.5, 1.0)
    stats.has_std(devices.age(devices.program(), DAY) - devices.target, expected)


def test_wan2022_scales_with_g_max(device):
    small, large = device(ProgrammingNoise(), 10.0, g_max=20.0), device(ProgrammingNoise(), 20.0, g_max=40.0)
    assert torch.allclose(2 * small.program(), large.program())
    assert torch.allclose(2 * small.age(small.program(), DAY), large.age(large.program(), DAY))


def test_wan2022_before_one_second_is_as_at_one_second(device):
    devices = device(ProgrammingNoise(), 20.0)
    g = devices.program()
    assert torch.equal(devices.age(g, 0.0), g) and torch.equal(devices.age(g, 1.0), g)


def test_wan2022_has_one_relaxation_draw_per_device_for_all_times(device):
    devices = device(ProgrammingNoise(one_second="polynomial"), 12.0)
    g = devices.program()
    per_growth = [(devices.age(g, t) - g) / math.sqrt(total(0.3, t) ** 2 - total(0.3, 1.0) ** 2) for t in (DAY, 2 * DAY)]
    assert torch.allclose(*per_growth)


def test_wan2022_ages_from_the_programmed_state_so_that_the_route_does_not_matter(device):
    devices = device(ProgrammingNoise(), 12.0)
    g = devices.program()
    devices.age(g, 3600.0)
    late = devices.age(g, DAY)
    assert torch.equal(late, devices.age(g, DAY))


def test_wan2022_relaxation_is_independent_of_the_programming_error(device, stats):
    devices = device(ProgrammingNoise(), 12.0)
    g = devices.program()
    stats.uncorrelated(devices.age(g, DAY) - g, g - devices.target)


def test_wan2022_refuses_times_beyond_two_days(device):
    devices = device(ProgrammingNoise(), 12.0)
    g = devices.program()
    devices.age(g, 2 * DAY)
    with pytest.raises(mho.MhoError, match=r"up to 2 days .* asked for 3 days; set `times:`"):
        devices.age(g, 3 * DAY)


@pytest.mark.parametrize(("g", "sigma"), [(50.0, 4.327), (100.0, 3.872), (225.0, 2.733)])
def test_milo2021_has_the_spread_of_the_table(g, sigma, device):
    """CrossSim's line for Milo et al. 2021, worked out (three decimals)."""
    devices = device(ProgrammingNoise(law="milo2021"), g, g_min=50.0, g_max=225.0)
    deviation = devices.program() - devices.target
    assert abs(deviation.std() - sigma) < 5e-4 + 4.42 * sigma / math.sqrt(2 * deviation.numel())


def test_milo2021_does_not_age(device):
    devices = device(ProgrammingNoise(law="milo2021"), 100.0, g_min=50.0, g_max=225.0)
    g = devices.program()
    assert torch.equal(devices.age(g, DAY), g)


@pytest.mark.parametrize(("acceptance", "sigma"), [("0.2 %", 0.05425057), ("2 %", 0.57573204)])
def test_cmo_has_the_spread_of_its_acceptance_window(acceptance, sigma, device, stats):
    """CMO/HfOx law: 0.00106879 g + 0.00081107 and 0.01129027 g + 0.01121854, worked out at g = 50 uS."""
    devices = device(ProgrammingNoise(law="cmo", acceptance=acceptance), 50.0, g_min=9.0, g_max=88.2)
    stats.has_std(devices.program() - devices.target, sigma)


@pytest.mark.parametrize("t", [1.0, 3600.0, 31_536_000.0])
def test_cmo_drifts_in_the_logarithm_of_time(t, device, stats):
    """CMO/HfOx law: mean -0.089 ln t, variance (0.042 ln t + 0.4118)^2 plus that of the read (at g = 50 uS)."""
    devices = device(ProgrammingNoise(law="cmo"), 50.0, g_min=9.0, g_max=88.2)
    change = devices.age(devices.target, t) - devices.target
    read = 0.02773 * math.log10(50.0) * math.sqrt(math.log((t + 1e-6) / 2e-6))
    stats.has_mean(change, -0.089 * math.log(t))
    # log10(g) varies with the drift by 1 % of the read noise, far below the tolerance
    stats.has_std(change, math.hypot(0.042 * math.log(t) + 0.4118, read))


def test_cmo_before_one_second_is_as_at_one_second(device):
    devices = device(ProgrammingNoise(law="cmo"), 50.0, g_min=9.0, g_max=88.2)
    changes = [devices.age(devices.target, t) - devices.target for t in (0.0, 0.5)]
    assert all(abs(c.mean()) < 0.01 for c in changes)


def test_cmo_keeps_the_drift_draw_and_redraws_the_read_noise_at_every_time(device):
    devices = device(ProgrammingNoise(law="cmo"), 50.0, g_min=9.0, g_max=88.2)
    early, late = (devices.age(devices.target, t) - devices.target for t in (1.0, 2.0))
    drift, read = 0.4118, 0.02773 * math.log10(50.0) * math.sqrt(math.log(1 / 2e-6))
    r = torch.corrcoef(torch.stack([early.flatten(), late.flatten()]))[0, 1]
    assert abs(r - drift**2 / (drift**2 + read**2)) < 0.01


def test_cmo_has_no_read_noise_at_or_below_one_microsiemens(device):
    devices = device(ProgrammingNoise(law="cmo"), 0.2, g_min=0.1, g_max=88.2)
    first, second = (devices.age(devices.target, t).clamp(min=0) for t in (0.1, 0.2))
    low = (first <= 1) & (second <= 1)
    assert low.float().mean() > 0.9 and torch.equal(first[low], second[low])


@pytest.mark.parametrize("law", ["wan2022", "milo2021", "cmo"])
def test_every_law_keeps_the_dtype(law, device):
    g = torch.full((1, 1, 4, 8), 60.0, dtype=torch.float32)
    devices = device(ProgrammingNoise(law=law), g, g_max=88.2)
    assert devices.age(devices.program(), 1000.0).dtype == torch.float32


# --- what the schema refuses ---

FILE = """
mho: 1
default: t
times: [1 s, 1 h]
tiles:
  t:
    device: {device}
    nonidealities:
      - {effect}
      - {beside}
"""


def complaints(effect, device="{g_max: 40 uS}", beside="circuit.output_noise", times="[1 s, 1 h]"):
    text = FILE.replace("{device}", device).replace("{effect}", effect).replace("{beside}", beside)
    with pytest.raises(mho.ConfigError) as caught:
        mho.Hardware.from_yaml(text.replace("[1 s, 1 h]", times), "hw.yaml")
    return [(p.path, p.message) for p in caught.value.problems]


def test_an_option_of_another_law_is_an_error():
    ((path, message),) = complaints("{kind: rram.programming_noise, acceptance: 2 %}")
    assert path == "tiles.t.nonidealities[0].acceptance" and "only with 'law: cmo'" in message


@pytest.mark.parametrize(("law", "window"), [("milo2021", "50 and 225 uS"), ("cmo", "9 and 88.2 uS")])
def test_a_device_range_outside_the_measured_window_is_an_error_that_says_what_to_write(law, window):
    ((path, message),) = complaints(f"{{kind: rram.programming_noise, law: {law}}}")
    assert path == "tiles.t.nonidealities[0]"
    assert window in message and "pair: both" in message


def test_times_beyond_two_days_are_an_error_of_the_hardware_file():
    ((path, message),) = complaints("rram.programming_noise", times="[1 s, 1 year]")
    assert path == "tiles.t.nonidealities[0]" and "up to 2 days" in message


@pytest.mark.parametrize("preset", ["rram.wan2022", "rram.milo2021", "rram.cmo"])
def test_every_preset_loads_and_reads_back(preset):
    hardware = mho.load(preset)
    assert mho.Hardware.from_yaml(hardware.to_yaml()) == hardware
