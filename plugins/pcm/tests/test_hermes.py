"""The HERMES chip: programming error, drift and long-term read noise against the fits, one and two devices."""

import math

import pytest
import torch
from mho_pcm.hermes import CELLS

import mho

Z = 4.42  # two-sided 1e-5 quantile of the normal distribution
N = 512 * 512
G_MAX = {1: 10.35, 2: 20.7}
SIGMA = {1: (0.15782, 2.32444, -2.16311, 0.68842), 2: (0.16603, 4.71806, -8.48101, 4.68961)}  # Le Gallo et al. 2023
T0 = {1: 200.0, 2: 300.0}
YEAR = 31_536_000.0


@pytest.fixture
def chip(tile):
    """chip(r, devices, effect, ...) -> a programmed tile of 512 x 512 targets r g_max."""

    def make(r, devices, effect, size=512, **settings):
        given = {"device": f"{{g_max: {G_MAX[devices]} uS}}", **settings}
        text = f"{{kind: pcm.hermes_{effect}, devices: {devices}}}"
        return tile(torch.full((size, size), r), text, **given).program(seed=0)

    return make


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("r", [0.1, 0.3, 0.5, 0.75, 1.0])
def test_the_programming_error_is_the_polynomial(chip, devices, r):
    """Le Gallo et al. 2023: n = 262,144, standard error 0.14 %"""
    g = chip(r, devices, "programming_noise").tiles.chip.programmed.double()
    sigma = sum(c * r**k for k, c in enumerate(SIGMA[devices]))
    assert float(g.std()) == pytest.approx(sigma, rel=0.01)
    assert float(g.mean()) == pytest.approx(G_MAX[devices] * r, abs=Z * sigma / 512 + 0.001 * sigma)


def test_two_devices_are_programmed_better_than_one(chip):
    """Relative to g_max, at every level above a tenth"""
    for r in (0.2, 0.5, 0.9):
        one, two = (chip(r, d, "programming_noise").tiles.chip.programmed.std() / G_MAX[d] for d in (1, 2))
        assert two < one


def test_the_programming_error_scales_with_g_max(chip):
    chips = {g: chip(0.5, 2, "programming_noise", size=64, device=f"{{g_max: {g} uS}}") for g in (20.7, 9)}
    assert torch.allclose(*(t.tiles.chip.programmed / g for g, t in chips.items()), atol=1e-6)


def exponents(t, devices, time=YEAR):
    start, later = (t.age(s).tiles.chip.weights.double().log() for s in (0, time))
    return -(later - start) / math.log((time + T0[devices]) / T0[devices])


@pytest.mark.parametrize(
    ("devices", "r", "mean", "std"),
    [
        (1, 1.0, 0.0736 - 0.0126 - 0.0436, 0.0104 + 0.0116 - 0.0165),
        (2, 1.0, 0.0736 - 0.0126 - 0.0436, 0.0073 + 0.0093 - 0.0118),
        (2, 0.5, 0.0736 - 0.0063 - 0.0109, 0.0073 + 0.00465 - 0.00295),
        (1, 0.2, 0.0736 - 0.00252 - 0.001744, 0.0120 * math.log(5) - 0.0023),
        (2, 0.2, 0.0736 - 0.00252 - 0.001744, 0.0117 * math.log(5) - 0.0057),
    ],
)
def test_drift_coefficients_follow_the_fits(chip, devices, r, mean, std):
    """n = 262,144; |nu| is nu here, the mean being more than three standard deviations above 0"""
    nu = exponents(chip(r, devices, "drift"), devices)
    folded = std * 2e-3  # what taking the absolute value may change
    assert abs(float(nu.mean()) - mean) < Z * std / math.sqrt(N) + folded
    assert float(nu.std()) == pytest.approx(std, rel=0.012)


@pytest.mark.parametrize("devices", [1, 2])
def test_a_cell_keeps_its_drift_coefficient(chip, devices):
    t = chip(0.4, devices, "drift", size=64)
    assert torch.allclose(exponents(t, devices, 3600.0), exponents(t, devices), atol=1e-5)
    assert torch.equal(t.age(0).tiles.chip.weights, t.tiles.chip.programmed[0] / G_MAX[devices])


@pytest.mark.parametrize(
    ("devices", "r", "q"),
    [
        (1, 1.0, 0.0664 - 0.1352 + 0.0768 + 0.0088),
        (2, 1.0, 0.0069 - 0.0280 + 0.0211 + 0.0123),
        (1, 0.1, 0.0078 * math.log(10) + 0.0038),
        (2, 0.1, 0.0117 * math.log(10) - 0.0069),
        (2, 0.001, 0.04),
    ],
)
def test_long_term_read_noise_follows_the_fits(chip, devices, r, q):
    """sqrt(ln((t + t0 + T)/(2 T))), T = 512 ns; n = 262,144"""
    t = chip(r, devices, "read_noise_1f")
    for time in (0.0, YEAR):
        factor = math.sqrt(math.log((time + T0[devices] + 512e-9) / (2 * 512e-9)))
        relative = t.age(time).tiles.chip.weights.double() / r - 1
        assert float(relative.std()) == pytest.approx(q * factor, rel=Z / math.sqrt(2 * N))


def test_the_fits_join_at_their_edges():
    """A jump would be a misread coefficient: the branches meet to 6 % of their value"""
    for cell in CELLS.values():
        for fit in (cell.nu_mean, cell.nu_std, cell.q):
            below, above = fit(torch.tensor([fit.edge - 1e-6, fit.edge + 1e-6], dtype=torch.float64))
            assert float(below / above) == pytest.approx(1, abs=0.06)


def test_the_preset_is_a_core_of_the_chip_with_two_devices():
    """256 x 256 cells (Le Gallo et al. 2023) at the g_max of the fit"""
    tile = mho.load("pcm.hermes").tiles["hermes"]
    assert (tile.rows, tile.columns, tile.device.g_max) == (256, 256, G_MAX[2])
    assert {e.devices for e in tile.nonidealities if e.kind.startswith("pcm.hermes")} == {2}


def test_the_mvm_error_of_programming_alone_follows_from_the_polynomial(tile):
    """sqrt(E sigma(|w|)^2 / E w^2) / g_max for w ~ U(0.1, 1) and random signs; n = 16,384 outputs"""
    generator = torch.Generator().manual_seed(0)
    w = 0.1 + 0.9 * torch.rand(256, 256, generator=generator)
    w *= torch.randint(0, 2, w.shape, generator=generator) * 2 - 1
    x = 2 * torch.rand(64, 256, generator=generator) - 1
    t = tile(w, "pcm.hermes_programming_noise", device="{g_max: 20.7 uS}").program(seed=0)
    error = float((t(x) - x @ w.T).norm() / (x @ w.T).norm())
    sigma = sum(c * w.abs().double() ** k for k, c in enumerate(SIGMA[2]))
    closed = math.sqrt(float((sigma**2).mean() / (w.double() ** 2).mean())) / 20.7
    assert error == pytest.approx(closed, rel=0.05)
