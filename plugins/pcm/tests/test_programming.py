"""What is written on a PCM chip: programming noise and stuck cells, against closed forms."""

import math

import pytest
import torch

Z = 4.42  # two-sided 1e-5 quantile of the normal distribution
N = 512 * 512  # devices per level; the standard error of a standard deviation is 0.14 %
LEVELS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0)


def sigma(r):
    """R003 Eq. 7, µS at g_max = 25 µS"""
    return 0.26348 + 1.9650 * r - 1.1731 * r**2


def censored(mean, std):
    """Mean and standard deviation of max(N(mean, std), 0)."""
    u = mean / std
    cdf, pdf = 0.5 * (1 + math.erf(u / math.sqrt(2))), math.exp(-u * u / 2) / math.sqrt(2 * math.pi)
    first = mean * cdf + std * pdf
    second = (mean**2 + std**2) * cdf + mean * std * pdf
    return first, math.sqrt(second - first**2)


@pytest.fixture
def programmed(tile):
    """programmed(r, ...) -> conductances in µS of 512 x 512 devices with the target r g_max."""

    def make(r, *effects, seed=0, **settings):
        return tile(torch.full((512, 512), r), *effects, **settings).program(seed=seed).tiles.chip.programmed.double()

    return make


@pytest.mark.parametrize("r", LEVELS)
def test_the_spread_after_programming_is_eq_7(programmed, r):
    """R003-16: within 1 % (the standard error is 0.14 %)"""
    g = programmed(r, "pcm.programming_noise")
    assert float(g.std()) == pytest.approx(sigma(r), rel=0.01)
    assert abs(float(g.mean()) - 25 * r) < Z * sigma(r) / math.sqrt(N) + 1e-3  # 1e-3: the floor at 0 where r = 0.05


@pytest.mark.parametrize("r", [0.005, 0.01, 0.02, 0.04])
def test_small_targets_are_a_censored_normal(programmed, r):
    """R003-16, R003-17: conductances below 0 become 0"""
    g = programmed(r, "pcm.programming_noise")
    mean, std = censored(25 * r, sigma(r))
    assert float(g.std()) == pytest.approx(std, rel=0.01)
    assert abs(float(g.mean()) - mean) < Z * std / math.sqrt(N)


def test_the_spread_is_largest_at_0_8375(programmed):
    """R003-16: 1.9650/(2 * 1.1731); 1.0863 µS there"""
    assert pytest.approx(0.8375, abs=1e-4) == 1.9650 / (2 * 1.1731)
    spread = {r: float(programmed(r, "pcm.programming_noise").std()) for r in (0.65, 0.8375, 1.0)}
    assert max(spread, key=spread.get) == 0.8375
    assert spread[0.8375] == pytest.approx(1.0863, rel=0.01)


def test_programming_noise_relative_to_g_max_does_not_depend_on_g_max(programmed):
    """R003-16: the law is in r"""
    noises = [programmed(0.6, "pcm.programming_noise", device=f"{{g_max: {g} uS}}") / g - 0.6 for g in (25, 5, 60)]
    assert torch.allclose(noises[0], noises[1], atol=1e-6) and torch.allclose(noises[0], noises[2], atol=1e-6)


def test_conductances_have_a_floor_and_no_ceiling(tile):
    """R003-17: at programming and at evaluation"""
    w = torch.full((256, 512), 0.02)
    w[:128] = 1.0
    t = tile(w, "pcm.programming_noise", "pcm.drift", "pcm.read_noise_1f").program(seed=0)
    for conductances in (t.tiles.chip.programmed, t.tiles.chip.weights * 25, t.age("1 h").tiles.chip.weights * 25):
        assert conductances.min() >= 0
        assert conductances.max() > 25


def test_no_weight_changes_its_sign(tile):
    """R003-21"""
    w = 2 * torch.rand(256, 512, generator=torch.Generator().manual_seed(0)) - 1
    t = tile(w, "pcm.programming_noise", "pcm.drift", "pcm.read_noise_1f").program(seed=0)
    for time in (0, "1 year"):
        assert (t.age(time).tiles.chip.weights[0] * w).min() >= 0


def test_a_chip_is_programmed_once_and_serves_all_times(tile):
    """R003-31"""
    t = tile(torch.full((64, 64), 0.5), "pcm.programming_noise", "pcm.drift", "pcm.read_noise_1f").program(seed=0)
    before = t.tiles.chip.programmed.clone()
    for time in ("1 s", "1 h", "1 day", "1 year"):
        assert torch.equal(t.age(time).tiles.chip.programmed, before)


def test_the_share_of_stuck_cells_is_what_was_asked_for(tile):
    """R003-27: binomial, 4.5 sigma, n = 262,144"""
    t = tile(torch.full((512, 512), 0.5), "{kind: pcm.stuck_at, off: 0.01, on: 0.02, random: 0.05}").program(seed=0)
    g = t.tiles.chip.programmed
    between = (g > 0) & (g < 25) & (g != 12.5)
    for cells, share in ((g == 0, 0.01), (g == 25, 0.02), (between, 0.05)):
        assert abs(int(cells.sum()) - share * N) < 4.5 * math.sqrt(N * share * (1 - share))
    levels = (g[between].double() / 25).sort().values  # uniform between 0 and g_max: Kolmogorov's test
    empirical = (torch.arange(len(levels), dtype=torch.float64) + 0.5) / len(levels)
    assert (levels - empirical).abs().max() < math.sqrt(-0.5 * math.log(1e-5 / 2) / len(levels))


def test_stuck_cells_lie_elsewhere_on_another_chip(tile):
    """R003-27: random locations, two chips agree on a share f^2"""
    f = 0.1
    t = tile(torch.full((512, 512), 0.3), f"{{kind: pcm.stuck_at, off: {f}}}")
    a, b = (t.program(seed=s).tiles.chip.programmed == 0 for s in (0, 1))
    assert abs(int((a & b).sum()) - f * f * N) < 4.5 * math.sqrt(N * f * f)


def test_a_cell_stuck_at_0_stays_at_0(tile):
    """R003-27: after drift and read noise, at every time"""
    effects = ("pcm.programming_noise", "{kind: pcm.stuck_at, off: 0.1}", "pcm.drift", "pcm.read_noise_1f")
    t = tile(torch.full((256, 256), 0.7), *effects).program(seed=0)
    stuck = t.tiles.chip.programmed[0] == 0
    assert stuck.any()
    for time in (0, "1 s", "1 h", "1 year"):
        assert not t.age(time).tiles.chip.weights[stuck].any()
