"""What time does to a PCM chip: drift and long-term read noise, against closed forms."""

import math

import pytest
import torch

Z = 4.42  # two-sided 1e-5 quantile of the normal distribution
N = 512 * 512
T_READ, YEAR = 250e-9, 31_536_000.0


def drift_statistics(r):
    """Mean and standard deviation of nu (R003 Eq. 9), with the normal censored at 0."""
    mean = min(max(-0.0155 * math.log(r) + 0.0244, 0.049), 0.1)
    std = min(max(-0.0125 * math.log(r) - 0.0059, 0.008), 0.045)
    u = mean / std
    cdf, pdf = 0.5 * (1 + math.erf(u / math.sqrt(2))), math.exp(-u * u / 2) / math.sqrt(2 * math.pi)
    first = mean * cdf + std * pdf
    return first, math.sqrt((mean**2 + std**2) * cdf + mean * std * pdf - first**2)


def exponents(t, time):
    """nu of every device, from the slope of log g against log (t + t0)."""
    start = t.age(0).tiles.chip.weights.double()
    later = t.age(time).tiles.chip.weights.double()
    return -(later.log() - start.log()) / math.log((time + 20) / 20)


def test_drift_is_the_identity_at_0_s(tile):
    """R003-18"""
    t = tile(torch.full((64, 64), 0.4), "pcm.programming_noise", "pcm.drift").program(seed=0)
    assert torch.equal(t.tiles.chip.weights, t.tiles.chip.programmed[0] / 25)


def test_every_device_drifts_along_a_straight_line_in_log_log(tile):
    """R003-18, R003-19: the same nu at every time"""
    t = tile(torch.full((64, 64), 0.4), "pcm.drift").double().program(seed=0)
    nus = [exponents(t, time) for time in (1.0, 3600.0, 86_400.0, YEAR)]
    for nu in nus[:-1]:
        assert torch.allclose(nu, nus[-1], atol=1e-5)  # float32 conductances: 1e-7/ln(21/20)


@pytest.mark.parametrize("r", [1.0, 0.5, 0.15, 0.1, 0.05, 0.02, 1e-3])
def test_drift_coefficients_have_the_mean_and_spread_of_eq_9(tile, r):
    """R003-19: n = 262,144; r = 1 gives (0.049, 0.008), r -> 0 gives (0.1, 0.045) before nu >= 0"""
    nu = exponents(tile(torch.full((512, 512), r), "pcm.drift").program(seed=0), YEAR)
    mean, std = drift_statistics(r)
    assert abs(float(nu.mean()) - mean) < Z * std / math.sqrt(N) + 1e-6
    assert float(nu.std()) == pytest.approx(std, rel=Z / math.sqrt(2 * N) * 1.5)  # 1.5: the kurtosis of a censored normal
    assert nu.min() > -1e-6


def test_the_limits_of_eq_9():
    """R003-19"""
    assert drift_statistics(1.0) == pytest.approx((0.049, 0.008), rel=1e-6)
    assert -0.0155 * math.log(1e-9) + 0.0244 > 0.1 and -0.0125 * math.log(1e-9) - 0.0059 > 0.045


def test_the_target_conductance_decides_on_the_drift(tile):
    """R003-19: programming noise changes no nu"""
    w = torch.full((64, 64), 0.1)
    noisy = tile(w, "pcm.programming_noise", "pcm.drift").program(seed=0)
    kept = noisy.tiles.chip.programmed > 0
    clean = tile(w, "pcm.drift").program(seed=0)
    assert torch.allclose(exponents(noisy, YEAR)[kept[0]], exponents(clean, YEAR)[kept[0]], atol=1e-6)


def test_the_strength_of_drift_multiplies_nu(tile):
    w = torch.full((64, 64), 0.3)
    nus = [exponents(tile(w, f"{{kind: pcm.drift, scale: {s}}}").program(seed=0), YEAR) for s in (1, 3)]
    assert torch.allclose(nus[1], 3 * nus[0], atol=1e-6)


def relative_noise(t, time, q):
    """Standard deviation of (g - g_D)/(g_D q) over the devices."""
    clean = t.tiles.chip.programmed[0].double() / 25
    return float(((t.age(time).tiles.chip.weights.double() / clean - 1) / q).std())


@pytest.mark.parametrize(("time", "factor"), [(0.0, 4.184), (YEAR, 5.637)])
def test_long_term_read_noise_grows_with_the_logarithm_of_time(tile, time, factor):
    """R003-20, E4: sqrt(ln((t + t0 + T)/(2 T))), T = 250 ns; n = 262,144"""
    assert math.sqrt(math.log((time + 20 + T_READ) / (2 * T_READ))) == pytest.approx(factor, abs=5e-4)
    t = tile(torch.ones(512, 512), "pcm.read_noise_1f").program(seed=0)
    assert relative_noise(t, time, 0.0088) == pytest.approx(factor, rel=Z / math.sqrt(2 * N))


@pytest.mark.parametrize("r", [0.8, 0.3, 0.05, 0.02, 0.001])
def test_long_term_read_noise_depends_on_the_programmed_conductance(tile, r):
    """R003-20: min(0.0088 r^-0.65, 0.2), while the floor at 0 plays no part"""
    q = min(0.0088 * r**-0.65, 0.2)
    t = tile(torch.full((512, 512), r), "{kind: pcm.read_noise_1f, t_read: 8 s}").program(seed=0)
    factor = math.sqrt(math.log((20 + 8) / 16))
    assert relative_noise(t, 0.0, q) == pytest.approx(factor, rel=Z / math.sqrt(2 * N))


def test_long_term_read_noise_multiplies_the_drifted_conductance(tile):
    """R003-20, E3: the printed form multiplies the target, whatever is left of it"""
    w = torch.full((512, 512), 0.8)
    spread = math.sqrt(math.log((YEAR + 20 + T_READ) / (2 * T_READ)))
    drift = "{kind: pcm.drift, nu_std: 0}"
    left = (YEAR / 20 + 1) ** -0.049
    for option, base in (("drifted", left), ("target", 1.0)):
        t = tile(w, drift, f"{{kind: pcm.read_noise_1f, conductance: {option}}}").program(seed=0)
        deviation = t.age(YEAR).tiles.chip.weights.double() - 0.8 * left
        expected = 0.8 * base * 0.0088 * 0.8**-0.65 * spread
        assert float(deviation.std()) == pytest.approx(expected, rel=Z / math.sqrt(2 * N))


def test_the_two_readings_of_eq_10_agree_without_drift(tile):
    """R003-20, E3"""
    w = torch.full((64, 64), 0.8)
    aged = [
        tile(w, f"{{kind: pcm.read_noise_1f, conductance: {option}}}").program(seed=0).age("1 day").tiles.chip.weights
        for option in ("drifted", "target")
    ]
    assert torch.allclose(*aged, atol=1e-7)


def test_long_term_read_noise_is_redrawn_at_every_time_and_constant_within_one(tile):
    """R003-20: the noises of two times are uncorrelated, n = 262,144"""
    t = tile(torch.ones(512, 512), "pcm.read_noise_1f").program(seed=0)
    first, again, other = (t.age(time).tiles.chip.weights.double() - 1 for time in (10.0, 10.0, 11.0))
    assert torch.equal(first, again)
    correlation = float((first * other).mean() / (first.std() * other.std()))
    assert abs(correlation) < Z / math.sqrt(N)
    x = torch.ones(2, 512)
    torch.testing.assert_close(t(x)[0], t(x)[1])


def test_ageing_has_no_memory_of_the_route(tile):
    """R003-18, R003-20"""
    t = tile(torch.full((64, 64), 0.4), "pcm.programming_noise", "pcm.drift", "pcm.read_noise_1f").program(seed=0)
    direct = t.age("1 year").tiles.chip.weights.clone()
    for time in ("1 h", "2 days", "1 s"):
        t.age(time)
    assert torch.equal(t.age("1 year").tiles.chip.weights, direct)


def test_read_noise_acts_on_what_drift_has_left_wherever_it_is_listed(tile):
    """R003-20: the noise of Eq. 10 as printed belongs to the target conductance and does not drift"""
    w = torch.linspace(-1, 1, 64)[None]
    effects = ["pcm.drift", "{kind: pcm.read_noise_1f, conductance: target}"]
    drifted, swapped = (tile(w, *e).program(seed=0).age("1 year").tiles.chip.weights for e in (effects, effects[::-1]))
    assert torch.equal(drifted, swapped)
