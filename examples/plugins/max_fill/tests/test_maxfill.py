"""Max-fill: the sum is the target, at most one device is between, and the error follows from the noise law."""

import pytest
import torch
from mho_kit import MappingContract
from mho_maxfill import MaxFill

import mho

HW = """\
mho: 1
default: t
tiles:
  t:
    device: {{g_max: 25 uS, pair: {pair}}}
    mapping: {{kind: maxfill.max_fill, devices: {k}, equal: {equal}}}
    nonidealities: {effects}
"""


class TestMaxFill(MappingContract):
    spec = MaxFill(devices=3)


class TestEqualShares(MappingContract):
    spec = MaxFill(devices=2, equal=True)


def tile(w, k, equal="false", effects="[]", pair="active"):
    mho.register(MaxFill)
    return mho.Tile(w, mho.Hardware.from_yaml(HW.format(k=k, equal=equal, effects=effects, pair=pair)))


@pytest.mark.parametrize("pair", ["active", "both"])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_sum_is_the_target_and_at_most_one_device_is_between(k, pair):
    w = torch.randn(40, 60, generator=torch.Generator().manual_seed(0))
    t = tile(w, k, pair=pair).program(seed=0)
    g = t.tiles.chip.programmed
    between = ((g > 1e-4) & (g < 25 - 1e-4)).sum(0)
    assert len(g) == k * (2 if pair == "both" else 1) and int(between.max()) <= 1
    assert torch.allclose(t(torch.eye(60)), w.T, atol=1e-5)


def sigma(r):
    """R003 Eq. 7, uS."""
    return 0.26348 + 1.9650 * r - 1.1731 * r**2


@pytest.mark.parametrize("equal", ["true", "false"])
def test_the_error_follows_from_the_noise_law(equal):
    """Variances of the devices add: K sigma(w)^2 if split equally; full, empty and one between with max-fill.
    40,000 cells, compared within 2 %, at a weight where no conductance is clipped at zero."""
    k, level = 4, 0.9
    w = torch.full((200, 200), level)
    w[:, 0] = 1.0
    g = tile(w, k, equal, "[pcm.programming_noise]").program(seed=0).tiles.chip.weights[0, :, 1:]
    shares = [level] * k if equal == "true" else [min(max(k * level - i, 0), 1) for i in range(k)]
    expected = sum(sigma(r) ** 2 for r in shares) ** 0.5 / (25 * k)
    assert float(g.std()) == pytest.approx(expected, rel=0.02)


def test_max_fill_is_better_than_an_equal_split():
    w = torch.randn(100, 100, generator=torch.Generator().manual_seed(0))
    errors = [
        float((tile(w, 4, equal, "[pcm.programming_noise]").program(seed=0)(torch.eye(100)) - w.T).norm())
        for equal in ("true", "false")
    ]
    assert errors[1] < errors[0]
