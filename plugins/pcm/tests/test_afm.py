"""The law of the analog foundation models: its widths, its zeros, its signs, and the error of products that follows."""

import math

import pytest
import torch
from mho_kit import NonidealityContract
from mho_pcm.afm import AfmProgrammingNoise

import mho

# standard deviation in % of the largest weight, computed by hand from the published coefficients (Büchel et al. 2025)
WIDTHS = {0.004: 1.52, 0.05: 2.40, 0.1: 3.10, 0.25: 4.35, 0.5: 4.69, 0.75: 5.50, 1.0: 10.67}
N = 512 * 512


class TestLaw(NonidealityContract):
    spec = AfmProgrammingNoise()


@pytest.mark.parametrize(("r", "percent"), WIDTHS.items())
def test_widths_are_those_of_the_fits(r, percent):
    """n = 262,144: the standard error of a width is 0.14 %, so 1 % is more than seven of them"""
    law = AfmProgrammingNoise()
    assert float(law.sigma(torch.tensor(180 * r, dtype=torch.float64))) / 1.8 == pytest.approx(percent, rel=0.004)
    hw = mho.load(
        "pcm.afm2025", set=["tiles.afm.dac=none", "tiles.afm.adc=none", "tiles.afm.mapping={kind: mho.direct, full: 1}"]
    )
    t = mho.Tile(torch.full((512, 512), r), hw).program(seed=0)
    assert float((t.tiles.chip.weights.double() - r).std()) == pytest.approx(percent / 100, rel=0.01)


def test_weights_below_six_tenths_of_a_level_are_zero():
    w = torch.tensor([[0.59 / 180, 0.61 / 180, 1.0]])
    now = mho.Tile(w, "pcm.afm2025").program(seed=0).tiles.chip.weights[0, 0]
    assert now[0] == 0 and now[1] != 0


def test_small_weights_may_change_their_sign():
    """P(w + sigma xi < 0) = Phi(-v/sigma(v)), 3 levels: Phi(-0.945); n = 262,143"""
    w = torch.full((512, 512), 3 / 180)
    w[:, 0] = 1
    now = mho.Tile(w, "pcm.afm2025").program(seed=0).tiles.chip.weights[:, :, 1:]
    sigma = 2.5797410660159494 + 3 * 0.22419685954327148 - 9 * 0.00371581208142707 + 27 * 2.939751381126213e-5
    p = 0.5 * math.erfc(3 / sigma / math.sqrt(2))
    assert abs(float((now < 0).double().mean()) - p) < 4.42 * math.sqrt(p * (1 - p) / N)


ROWS = {  # error of a product in %, W ~ N(0, 0.246) clipped at so many sigma: one range per tile, one per column
    None: (16.9, 12.97),
    3.0: (12.25, 12.17),
    2.5: (11.13, 11.13),
    2.0: (10.41, 10.41),
}


@pytest.mark.parametrize("clip", ROWS)
@pytest.mark.parametrize("k", [0, 1], ids=["tile_max", "per_column"])
def test_the_error_of_a_product_follows_from_the_widths(clip, k):
    mapping = ("mho.tile_max", "mho.per_column")[k]
    hw = mho.load("pcm.afm2025", set=["tiles.afm.dac=none", "tiles.afm.adc=none", f"tiles.afm.mapping={mapping}"])
    found, closed = [], []
    for seed in range(4):
        g = torch.Generator().manual_seed(seed)
        w = 0.246 * torch.randn(512, 512, generator=g)
        w = w if clip is None else w.clamp(-clip * 0.246, clip * 0.246)
        x = 2 * torch.rand(64, 512, generator=g) - 1
        t = mho.Tile(w, hw).program(seed=seed)
        found.append(mho.mvm_error(x @ w.T, t(x)))
        top = w.abs().amax() if k == 0 else w.abs().amax(1, keepdim=True)
        v = (180 * w.abs() / top).double()
        low = 2.5797410660159494 + v * (0.22419685954327148 + v * (-0.00371581208142707 + v * 2.939751381126213e-5))
        high = 2.110295720240385 + v * (0.2453487119885723 + v * (-0.003054993405157235 + v * 1.2329755395573392e-5))
        error = torch.where(v < 0.6, v, torch.where(v <= 52.5, low, high)) * top / 180
        closed.append(float((error.square().sum() / w.double().square().sum()).sqrt()))
    mean = sum(found) / 4
    assert mean == pytest.approx(sum(closed) / 4, rel=0.02)
    assert 100 * mean == pytest.approx(ROWS[clip][k], rel=0.03)
