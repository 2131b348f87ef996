"""Tiles: periphery, converters, splitting, and the order of the stages."""

import math

import pytest
import torch
from torch.nn import functional as F

import mho
from mho.config import registry
from mho.effects.encoding import quantise
from mho.tile.layout import split_evenly

STANDARD = """
rows: 512
dac: {bits: 8, range: 1.0}
adc: {bits: 8, bound: 10}
nonidealities: [pcm.programming_noise, pcm.drift, pcm.read_noise_1f, circuit.ir_drop, pcm.read_noise, circuit.output_noise]
compensation: mho.global_drift
"""


def data(out, rows, vectors=32, seed=0, device="cpu"):
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(out, rows, generator=g) * 0.25
    x = torch.rand(vectors, rows, generator=g) * 2 - 1
    return w.to(device), x.to(device)


def relative(a, b):
    return float((a - b).detach().norm() / b.detach().norm())


@pytest.mark.parametrize("rows", [512, 7, 1300])
def test_an_exact_tile_equals_the_digital_product(rows, device):
    """R003-01: with everything off, y = x W^T to 1e-6 in fp32."""
    w, x = data(64, rows, device=device)
    tile = mho.Tile(w, mho.load("ideal.exact")).program(seed=0)
    assert relative(tile(x), F.linear(x, w)) < 1e-6


def test_the_bias_is_digital_and_untouched_by_all_noise():
    """R003-08: with every effect of the standard model on, a layer with bias gives exactly its bias more than the same
    chip without; nothing of it is programmed."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(40, 8))
    bias, x = model[0].bias.detach().clone(), torch.rand(5, 40)
    with_bias, without = (mho.to_analog(model, "pcm.standard").eval() for _ in range(2))
    with torch.no_grad():
        without[0].bias.zero_()
    for t in (0, "1 year"):
        y, y0 = (mho.program(net, seed=4).age(t) and net(x) for net in (with_bias, without))
        assert torch.equal(y, y0 + bias)
    assert torch.equal(with_bias[0].tiles.chip.programmed, without[0].tiles.chip.programmed)


def test_the_quantiser_has_an_odd_number_of_levels_with_zero_among_them():
    """R003-02: 8 bits are 255 levels, 2 bits are -1, 0, 1."""
    z = torch.linspace(-1.2, 1.2, 100_001)
    assert len(quantise(z, 1.0, 127).unique()) == 255
    assert quantise(z, 1.0, 1).unique().tolist() == [-1.0, 0.0, 1.0]
    assert 0.0 in quantise(z, 1.0, 127)


def test_values_beyond_the_bound_give_exactly_the_bound():
    """R003-03."""
    assert quantise(torch.tensor([-30.0, 10.1]), 10.0, 127).tolist() == [-10.0, 10.0]


def test_the_quantisation_error_of_uniform_inputs_is_step_over_root_12():
    """R003-04: 0.00227 for 8 bits; the standard deviation of n = 2e6 squared errors gives 0.05 %."""
    x = torch.rand(2_000_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    rms = (quantise(x, 1.0, 127) - x).pow(2).mean().sqrt()
    assert abs(rms / (1 / 127 / math.sqrt(12)) - 1) < 3e-3


def test_ten_full_rows_reach_the_output_bound_and_the_eleventh_changes_nothing(hardware):
    """R003-05."""
    hw = hardware("rows: 16\ndac: {bits: 8, range: 1.0}\nadc: {bits: 8, bound: 10}")
    tile = mho.Tile(torch.ones(1, 16), hw)
    on = torch.tril(torch.ones(16, 16))  # vector k has k + 1 rows on
    assert torch.allclose(tile(on).flatten(), torch.arange(1.0, 17).clamp(max=10), atol=10 / 254)
    assert tile(on)[9].item() == 10.0 == tile(on)[10].item()


def test_rows_are_split_into_parts_as_equal_as_they_go():
    """R003-23: 1300 rows make three tiles of 433 and 434."""
    assert split_evenly(1300, 512) == [434, 433, 433]
    assert split_evenly(512, 512) == [512]
    assert split_evenly(512 * 9, 512, unit=9) == [468] * 2 + [459] * 8 or sum(split_evenly(512 * 9, 512, unit=9)) == 4608


def test_convolutions_are_split_by_whole_input_channels():
    """R003 Table 1: 512 channels of 3x3 take 10 tiles, not 9."""
    parts = split_evenly(512 * 9, 512, unit=9)
    assert len(parts) == 10 and sum(parts) == 4608 and all(p % 9 == 0 and p <= 512 for p in parts)


@pytest.mark.parametrize("rows", [1300, 1024, 513])
def test_split_and_unsplit_exact_tiles_agree(rows, hardware):
    """R003-23: the sum of exact tiles is the exact layer."""
    w, x = data(33, rows)
    split = mho.Tile(w, hardware("rows: 512"))(x)
    whole = mho.Tile(w, hardware("rows: 4096"))(x)
    assert relative(split, whole) < 1e-6


def test_the_column_split_changes_nothing_where_nothing_is_defined_per_tile(hardware):
    """R003-24: per-column mapping, no noise: the same bits with 512 and with 20 columns a tile."""
    w, x = data(100, 64)
    body = "rows: 64\ndac: {bits: 8, range: 1.0}\nadc: {bits: 8, bound: 10}\nnonidealities: [circuit.ir_drop]\ncolumns: "
    a, b = (mho.Tile(w, hardware(body + c))(x) for c in ("512", "20"))
    assert torch.equal(a, b)


def test_with_tile_max_an_outlier_leaves_the_other_column_blocks_alone(hardware):
    """R003-24."""
    w, _ = data(40, 16)
    hot = w.clone()
    hot[3, 5] = 50.0
    hw = hardware("rows: 16\ncolumns: 20\nmapping: mho.tile_max")
    a, b = (mho.Tile(m, hw).tiles.gamma for m in (w, hot))
    assert torch.equal(a[:, 20:], b[:, 20:]) and not torch.equal(a[:, :20], b[:, :20])
    assert (b[:, :20] == 50.0).all()


def test_padding_of_uneven_tiles_never_reaches_an_output(hardware):
    """A 128-row column gives the same on a 128-row and on a 512-row tile (R003-13), and depth counts occupied rows."""
    w, x = data(9, 128)
    body = "dac: {bits: 8, range: 1.0}\nadc: {bits: 8, bound: 10}\nnonidealities: [circuit.ir_drop]\nrows: "
    a, b = (mho.Tile(w, hardware(body + r))(x) for r in ("128", "512"))
    assert torch.equal(a, b)
    uneven = mho.Tile(torch.ones(2, 11), hardware("rows: 4")).tiles
    assert uneven.layout.sizes == [4, 4, 3] and uneven.layout.cut(torch.ones(11)).tolist()[2] == [1, 1, 1, 0]
    assert torch.equal(
        uneven.layout.spread(torch.tensor([[1.0, 4], [2, 5], [3, 6]]))[0], torch.tensor([1.0] * 4 + [2] * 4 + [3] * 3)
    )


def test_per_column_mapping_fills_every_column_and_restores_the_weights():
    """R003-07: gamma w_norm = w exactly, max |w_norm| = 1 in every column of every tile."""
    w, _ = data(30, 700)
    tiles = mho.Tile(w, mho.load("pcm.standard")).tiles
    n = tiles.normalised(w)
    assert torch.allclose(n.abs().amax(-1), torch.ones(2, 30))
    assert torch.allclose(n * tiles.gamma[..., None], tiles.layout.cut_weight(w), atol=1e-7)


def test_the_sigma_clip_changes_the_share_of_weights_that_a_gaussian_has_out_there(hardware):
    """R003-25: 2.5 sigma clips 1.24 % of Gaussian weights; n = 1e6, binomial bound for alpha = 1e-5."""
    w = torch.randn(1000, 1000, generator=torch.Generator().manual_seed(1))
    tiles = mho.Tile(w, hardware("rows: 1000\ncolumns: 1000\nmapping: {kind: mho.tile_max, clip: 2.5 sigma}")).tiles
    share = (tiles.normalised(w).abs() >= 1).double().mean()
    p = math.erfc(2.5 / math.sqrt(2))
    assert abs(share - p) < 4.42 * math.sqrt(p / 1e6)


def test_direct_mapping_saturates_at_its_full_weight(hardware):
    """R003-25."""
    tiles = mho.Tile(torch.tensor([[0.5, 2.0]]), hardware("rows: 2\nmapping: {kind: mho.direct, full: 1.0}")).tiles
    assert tiles.normalised(torch.tensor([[0.5, 2.0]])).flatten().tolist() == [0.5, 1.0]


def test_both_devices_of_a_pair_span_the_range_from_g_min(hardware):
    """docs/physics.md E14: |w| maps to g_min + |w| (g_max - g_min), the idle device sits at g_min."""
    w, x = data(5, 12)
    tile = mho.Tile(w, hardware("rows: 12\ndevice: {g_min: 9 uS, g_max: 88 uS, pair: both}")).program(seed=0)
    g = tile.tiles.chip.programmed
    assert g.shape[0] == 2 and float(g.min()) == 9.0 and abs(float(g.max()) - 88.0) < 1e-4
    assert ((g[0] == 9) | (g[1] == 9)).all()
    assert relative(tile(x), F.linear(x, w)) < 1e-5


def test_a_dynamic_range_follows_every_vector(hardware):
    """R003-06: scaling one vector by 7 scales its output by 7; a zero vector gives zero."""
    w, x = data(5, 12)
    x[2] = 0
    tile = mho.Tile(w, hardware("rows: 12\ndac: {bits: 8, range: dynamic}"))
    big = x.clone()
    big[1] *= 7
    y, z = tile(x), tile(big)
    assert torch.allclose(z[1], 7 * y[1], rtol=1e-5) and torch.equal(y[0], z[0]) and torch.equal(y[2], torch.zeros(5))


def test_noise_management_gives_small_vectors_a_range_of_their_own_and_no_vector_a_larger_one(hardware):
    """R003-54: the range used is min(alpha, max|x|) of each vector and row tile; exactly alpha where a vector is clipped."""
    w, x = data(5, 24)
    body = "rows: 12\ndac: {bits: 4, range: 0.5, noise_management: %s}"
    on, off = (mho.Tile(w, hardware(body % flag, "precision: reference")) for flag in ("true", "false"))
    dynamic = mho.Tile(w, hardware("rows: 12\ndac: {bits: 4, range: dynamic}", "precision: reference"))
    large, small = 3 * x / x.abs().amax(-1, keepdim=True), 0.4 * x / x.abs().amax(-1, keepdim=True)
    assert torch.allclose(on(large), off(large), atol=1e-6)  # both halves of these vectors exceed 0.5
    assert torch.allclose(on(small), dynamic(small), atol=1e-6) and not torch.allclose(on(small), off(small), atol=1e-3)
    mixed = torch.cat([small[:, :12], large[:, 12:]], 1)  # the second tile is clipped, the first has a range of its own
    zero = torch.zeros(len(x), 12)
    first, second = torch.cat([mixed[:, :12], zero], 1), torch.cat([zero, mixed[:, 12:]], 1)
    assert torch.allclose(on(mixed), dynamic(first) + off(second), atol=1e-6)
    assert torch.equal(on(torch.zeros(2, 24)), torch.zeros(2, 5))


def test_noise_management_under_a_dynamic_range_is_a_mistake_of_the_file(hardware):
    with pytest.raises(mho.ConfigError, match="takes the largest input of every vector already"):
        hardware("dac: {range: dynamic, noise_management: true}")


def test_a_static_range_is_the_same_for_every_batch(hardware):
    """R003-06: a frozen range does not look at the batch."""
    w, x = data(5, 12)
    tile = mho.Tile(w, hardware("rows: 12\ndac: {bits: 8, range: 0.5}"))
    assert torch.equal(tile(x[:4]), tile(torch.cat([x[:4], 100 * x[4:]]))[:4])


def test_output_noise_behind_the_curve_keeps_its_width(hardware):
    """R003-09: f_NL acts before the output noise, whose std stays 0.04, whatever the order of the list; behind the noise the
    curve's slope of 2.4 would widen it. n = 20,000 vectors, alpha = 1e-5: 4.42/sqrt(2 n) = 2.2 %."""
    body = "rows: 20\nadc: {bits: none, bound: 10}\nnonidealities: "
    curve, noise = "{kind: circuit.adc_s_curve, mean: 3.0}", "circuit.output_noise"
    x = torch.full((20_000, 20), 0.1)
    spread = []
    for order in (f"[{curve}, {noise}]", f"[{noise}, {curve}]"):
        torch.manual_seed(0)
        spread.append(float(mho.Tile(torch.ones(1, 20), hardware(body + order))(x).detach().std()))
    assert abs(spread[0] / 0.04 - 1) < 0.022
    assert spread[1] == spread[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_outputs_have_the_type_of_the_inputs(dtype):
    w, x = data(8, 40)
    tile = mho.Tile(w, mho.load("pcm.standard"))
    assert tile(x.to(dtype)).dtype == dtype


def test_extra_leading_axes_and_single_vectors_work():
    w, x = data(8, 40, vectors=6)
    tile = mho.Tile(w, mho.load("ideal.quantised"))
    assert torch.allclose(tile(x.view(2, 3, 40)), tile(x).view(2, 3, 8))
    assert torch.allclose(tile(x[0]), tile(x)[0])


def test_an_effect_of_strength_0_is_bit_identical_to_an_absent_one(hardware):
    """Dropping an effect leaves the numbers of all others unchanged."""
    w, x = data(8, 40)
    rest = "{kind: pcm.programming_noise}, {kind: pcm.read_noise_1f}"
    a = hardware(f"rows: 40\nnonidealities: [{{kind: pcm.drift, scale: 0}}, {{kind: circuit.output_noise, std: 0}}, {rest}]")
    b = hardware(f"rows: 40\nnonidealities: [{rest}]")
    ya, yb = (mho.Tile(w, hw).program(seed=3).age("1 h")(x) for hw in (a, b))
    assert torch.equal(ya, yb)


def test_the_scale_of_a_declared_effect_multiplies_its_shift(hardware):
    """R003-12: scale s multiplies the drop, not the load a."""
    w, x = data(8, 40)
    full, half, none = (
        mho.Tile(w, hardware(f"rows: 40\nnonidealities: [{{kind: circuit.ir_drop, g_line: 500 uS, scale: {s}}}]"))(x)
        for s in (1, 0.5, 0)
    )
    assert torch.allclose(half, (full + none) / 2, atol=1e-6) and not torch.equal(full, none)


def test_two_effects_that_replace_the_product_are_refused(hardware):
    class First(mho.Nonideality, kind="twice.first"):
        """Replaces the product."""

        strength = None

        def mvm(self, x, w, site):
            return mho.product(x, w)

    class Second(First, kind="twice.second"):
        """So does this."""

    mho.register(First)
    mho.register(Second)
    hw = hardware("rows: 4\nnonidealities: [twice.first, twice.second]")
    with pytest.raises(mho.MhoError, match=r"twice\.first and twice\.second both replace the product"):
        mho.Tile(torch.ones(2, 4), hw)


@pytest.mark.parametrize("w", [torch.ones(3), torch.ones(2, 2, 2)])
def test_a_tile_wants_a_matrix(w):
    with pytest.raises(mho.MhoError, match=r"needs a matrix \[out, in\]"):
        mho.Tile(w, "ideal.exact")


def test_the_mvm_error_does_not_depend_on_the_scale_of_the_weights():
    """R003-40."""
    w, x = data(64, 512)
    hw = mho.load("pcm.standard")
    small, large = (mho.mvm_error(x @ m.T, mho.Tile(m, hw).program(seed=0)(x)) for m in (w, 4 * w))
    assert abs(small - large) < 1e-6


def test_a_family_is_scaled_by_one_field(hardware):
    """R003-45, R003-50: the total PCM noise. The factor of a family multiplies that of a kind; 0 removes."""
    w, x = data(8, 40)
    kinds = "pcm.programming_noise, {kind: pcm.read_noise, sigma: 0.02}, {kind: circuit.output_noise, std: 0.1}"
    effects = f"nonidealities: [{kinds}]"
    scaled = hardware(f"rows: 40\n{effects}\nscale: {{pcm: 3, pcm.read_noise: 0.5}}")
    plan = {p.effect.kind: p.effect for p in mho.Tile(w, scaled).tiles.view.plan.effects}
    assert plan["pcm.programming_noise"].scale == 3 and plan["pcm.read_noise"].sigma == pytest.approx(0.03)
    assert plan["circuit.output_noise"].std == 0.1
    none = mho.Tile(w, hardware(f"rows: 40\n{effects}\nscale: {{pcm: 0, circuit: 0}}"))
    assert not none.tiles.view.plan.effects and relative(none.program(0)(x), F.linear(x, w)) < 1e-6
    assert mho.Hardware.from_yaml(scaled.to_yaml()) == scaled


def test_a_factor_that_fits_no_effect_is_an_error_with_its_place(hardware):
    with pytest.raises(mho.ConfigError, match=r"5:18  tiles\.t\.scale\.pmc[\s\S]*did you mean 'pcm'"):
        mho.Hardware.from_yaml(
            "mho: 1\ndefault: t\ntiles:\n  t:\n    scale: {pmc: 3}\n    nonidealities: [pcm.programming_noise]\n"
        )
    with pytest.raises(mho.ConfigError, match="-1"):
        hardware("scale: {pcm: -1}\nnonidealities: [pcm.programming_noise]")


@pytest.mark.parametrize("preset", registry.presets())
def test_many_input_ranges_in_one_call_give_what_each_gives_alone(preset):
    """The same chip and the same noise of every vector for every setting."""
    w, x = data(6, 40, vectors=5)
    tile = mho.Tile(w, mho.load(preset)).program(seed=0).age("1 h")
    array = tile.tiles
    settings = torch.tensor([0.3, 1.0, 4.0])[:, None, None].expand(-1, array.layout.row_tiles, -1)
    together = array.trace(x, None, "trial", settings)
    for name in ("converted", "digital", "outputs"):
        apart = torch.cat([array.trace(x, None, "trial", one)[name] for one in settings])
        assert torch.allclose(together[name], apart, rtol=1e-4, atol=1e-5 * float(apart.abs().max())), name
