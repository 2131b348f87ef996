"""The exact device and its presets: the yardsticks."""

import pytest
import torch

import mho


def uniform(*shape, seed=0):
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) - 1


def test_the_exact_preset_is_the_matrix_product():
    """R003-01: to 1e-6 of the largest output, also 1 year later"""
    w, x = uniform(300, 700), uniform(20, 700, seed=1)
    exact = x @ w.T
    t = mho.Tile(w, "ideal.exact").program(seed=0)
    for time in (0, "1 year"):
        assert float((t.age(time)(x) - exact).abs().max() / exact.abs().max()) < 1e-6


def test_levels_are_equally_spaced_from_0_to_g_max(tile):
    """R003-52"""
    w = torch.linspace(-1, 1, 201)[None]
    g = tile(w, "{kind: ideal.device, levels: 5}").program(seed=0).tiles.chip.programmed
    assert g.unique().tolist() == pytest.approx([0, 6.25, 12.5, 18.75, 25])
    assert (g[0, 0] / 25 - w.abs()).abs().max() <= 0.125 + 1e-6


@pytest.mark.parametrize("levels", [2, 3, 16])
def test_levels_of_a_pair_span_its_range_and_keep_zero_and_full_weights(tile, levels):
    """An idle device is at g_min, which is a level; weights are k/(levels - 1)."""
    w = torch.cat([torch.linspace(-1, 1, 200), torch.tensor([0.0])])[None]  # no ties
    t = tile(w, f"{{kind: ideal.device, levels: {levels}}}", device="{g_min: 2.5 uS, g_max: 25 uS, pair: both}")
    g = t.program(seed=0).tiles.chip.programmed
    assert g.unique().tolist() == pytest.approx([2.5 + 22.5 * k / (levels - 1) for k in range(levels)])
    read = t(torch.eye(201))[:, 0]
    rounded = (w[0].abs() * (levels - 1)).round() / (levels - 1) * w[0].sign()
    assert (read - rounded).abs().max() < 1e-6


def test_a_device_without_levels_holds_what_it_was_given(tile):
    w = uniform(8, 8)
    t = tile(w, "ideal.device").program(seed=0)
    assert torch.equal(t.tiles.chip.programmed[0, 0], w.abs() * 25)


def test_the_quantised_preset_rounds_and_saturates_and_nothing_else():
    """R003-02, R003-05: 255 output codes, bound 10"""
    t = mho.Tile(torch.ones(1, 512), "ideal.quantised").program(seed=0)
    x = torch.linspace(-1, 1, 4001)[:, None] * torch.ones(1, 512)
    codes = (t(x)[:, 0] / (10 / 127)).round()
    assert torch.allclose(t(x)[:, 0], codes * 10 / 127, atol=1e-5)
    assert codes.min() == -127 and codes.max() == 127
    assert torch.equal(t(x), t.age("1 year")(x))
