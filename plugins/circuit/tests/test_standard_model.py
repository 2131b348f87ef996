"""Output noise, IR-drop and ADC S-curve of the standard crossbar model, against closed forms."""

import itertools
import math

import pytest
import torch
from mho_circuit import AdcSCurve, IRDrop

import mho
from mho.effects.draws import Key
from mho.effects.site import Site, Stream
from mho.tile.plan import resolve

Z = 4.42  # two-sided 1e-5 quantile of the normal distribution


def uniform(*shape, seed=0):
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) - 1


def test_zero_input_outputs_have_a_standard_deviation_of_0_04_before_the_adc(tile):
    """R003-10: n = 2e5, standard error 6.3e-5"""
    y = tile(torch.zeros(400, 8), "circuit.output_noise").program(seed=1)(torch.zeros(500, 8))
    assert y.numel() == 200_000
    assert float(y.double().std()) == pytest.approx(0.04, abs=0.0003)
    assert abs(float(y.double().mean())) < Z * 0.04 / math.sqrt(y.numel())


def test_output_noise_is_fresh_for_every_vector_and_output(tile):
    """R003-10: the correlation of n independent pairs has a standard error of 1/sqrt(n)"""
    y = tile(torch.zeros(400, 8), "circuit.output_noise").program(seed=2)(torch.zeros(500, 8)).double() / 0.04
    for a, b in ((y[1:], y[:-1]), (y[:, 1:], y[:, :-1])):
        assert abs(float((a * b).mean())) < Z / math.sqrt(a.numel())


def test_ir_drop_is_the_polynomial_of_eqs_16_to_18(tile):
    """R003-12: written out per column in float64"""
    w, x = uniform(24, 100), uniform(6, 100, seed=1)
    t = tile(w, "circuit.ir_drop").double().program(seed=0)
    y = t(x.double())
    n, gamma_w = 100, 0.35 * 5e-6
    position = [1 - (1 - j / n) ** 2 for j in range(n)]
    for k in range(len(x)):
        for i in range(len(w)):
            products = [float(w[i, j]) * float(x[k, j]) for j in range(n)]
            a = gamma_w * n * sum(abs(p) for p in products)
            c = 0.05 * a**3 - 0.2 * a**2 + 0.5 * a
            expected = sum(products) - c * sum(p * f for p, f in zip(products, position))
            assert float(y[k, i]) == pytest.approx(expected, abs=1e-6)  # conductances are kept in float32


def test_a_uniform_column_keeps_one_minus_two_thirds_c_of_its_current(tile):
    """R003-12: the mean of 1 - (1 - j/n)^2 is 2/3 up to 1/n"""
    n = 512
    a = 0.35 * 5e-6 * n * n
    c = 0.05 * a**3 - 0.2 * a**2 + 0.5 * a
    y = tile(torch.ones(1, n), "circuit.ir_drop").program(seed=0)(torch.ones(1, n))
    assert float(y / n) == pytest.approx(1 - 2 / 3 * c, abs=1 / n)


def test_the_polynomial_follows_the_exact_uniform_line_up_to_a_of_0_46():
    """R003-12, E7: a uniform column at x = 1 keeps exactly tanh(sqrt(a))/sqrt(a)"""
    for a in (0.01, 0.1, 0.2, 0.3, 0.46):
        c = 0.05 * a**3 - 0.2 * a**2 + 0.5 * a
        assert 1 - 2 / 3 * c == pytest.approx(math.tanh(math.sqrt(a)) / math.sqrt(a), abs=0.002)


def test_the_scale_of_ir_drop_multiplies_the_drop_and_not_the_load(tile):
    """R003-12"""
    w, x = uniform(16, 512), uniform(4, 512, seed=1)
    ideal = tile(w).program(seed=0)(x)
    drops = [tile(w, f"{{kind: circuit.ir_drop, scale: {s}}}").program(seed=0)(x) - ideal for s in (1, 7)]
    assert torch.allclose(drops[1], 7 * drops[0], atol=2e-5)


def test_ir_drop_vanishes_without_input_and_without_wire_resistance(tile):
    """R003-12"""
    w, x = uniform(16, 512), uniform(4, 512, seed=1)
    assert not tile(w, "circuit.ir_drop").program(seed=0)(0 * x).any()
    assert torch.equal(tile(w, "{kind: circuit.ir_drop, r_wire: 0}").program(seed=0)(x), tile(w).program(seed=0)(x))


@pytest.mark.parametrize("effect", ["circuit.ir_drop"])
def test_a_short_column_gives_the_same_output_in_a_tall_and_in_a_short_tile(tile, effect):
    """R003-13"""
    w, x = uniform(16, 128), uniform(4, 128, seed=1)
    outputs = [tile(w, effect, rows=rows).program(seed=0)(x) for rows in (512, 128)]
    assert torch.equal(*outputs)


@pytest.mark.parametrize("effect", ["circuit.ir_drop"])
def test_each_row_tile_counts_only_its_own_occupied_rows(tile, effect):
    """R003-13, R003-23: 260 rows on tiles of 128 are 87 + 87 + 86, padded to the same height"""
    w, x = uniform(16, 260), uniform(4, 260, seed=1)
    split = tile(w, effect, rows=128).program(seed=0)(x)
    edges = (0, 87, 174, 260)
    alone = [tile(w[:, a:b], effect, rows=128).program(seed=0)(x[:, a:b]) for a, b in itertools.pairwise(edges)]
    assert torch.allclose(split, sum(alone), atol=1e-5)


def test_ordered_weights_turn_a_zero_output_into_most_of_the_full_scale(tile):
    """R003-15, Fig. 3C: the error falls to nothing as the share of ordered weights goes from 1 to 0"""
    ordered = torch.linspace(-1, 1, 512)
    order = torch.randperm(512, generator=torch.Generator().manual_seed(0))

    def error(share):
        w = ordered.clone()
        moved = torch.randperm(512, generator=torch.Generator().manual_seed(1))[: round(512 * (1 - share))].sort().values
        w[moved] = w[moved[order[order < len(moved)]]]
        return abs(float(tile(w[None], "circuit.ir_drop").program(seed=0)(torch.ones(1, 512))))

    errors = [error(share) for share in (1.0, 0.75, 0.5, 0.25, 0.0)]
    assert 7 < errors[0] < 10
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1.0


def curve(tile, effect, y, adc="{bits: none, bound: 10}"):
    """The value that one column of weight 1 makes of y (the ADC of these tests clips at its bound)."""
    return tile(torch.ones(1, 1), effect, adc=adc).program(seed=0)(y[:, None])[:, 0]


def test_the_s_curve_is_an_odd_function(tile):
    """R003-28"""
    z = torch.linspace(0, 8, 200)
    assert torch.equal(curve(tile, "circuit.adc_s_curve", -z), -curve(tile, "circuit.adc_s_curve", z))


def test_the_s_curve_has_slope_1_at_half_the_output_bound_and_reaches_the_bound(tile):
    """R003-28, E8: f(z) = (1 + mu/2)^2 z/(1 + mu |z|/b): slope 1 at b/2, f(b) = 1.0125 b at mu = 1/4"""
    h = 1e-2
    for sign in (-1, 1):
        z = sign * 5 + torch.tensor([-h, h])
        low, high = curve(tile, "circuit.adc_s_curve", z).double()
        assert float((high - low) / (2 * h)) == pytest.approx(1.0, abs=1e-3)
    top = curve(tile, "{kind: circuit.adc_s_curve, mean: 0.25}", torch.tensor([9.7, 10.0])).double()
    assert float(top[0]) == pytest.approx(1.125**2 * 9.7 / (1 + 0.25 * 0.97), rel=1e-6)
    assert float(top[1]) == 10


def test_a_curvature_of_0_is_the_identity(tile):
    """R003-28"""
    z = torch.linspace(-9, 9, 50)
    assert torch.equal(curve(tile, "{kind: circuit.adc_s_curve, mean: 0, std: 1}", z), z)


def test_every_column_keeps_a_curvature_of_its_own_for_the_life_of_the_chip(tile):
    """R003-28: zeta_i = mu (1 + sigma xi_i), n = 2000 columns"""
    n, mean, std = 2000, 0.25, 0.2
    t = tile(
        torch.ones(n, 1), f"{{kind: circuit.adc_s_curve, mean: {mean}, std: {std}}}", columns=n, adc="{bits: none, bound: 10}"
    )
    t.program(seed=3)
    y = t(torch.full((2, 1), 4.0))
    assert torch.equal(y[0], y[1])
    zeta = t.tiles.chip.constants[0]["zeta"][0].double()
    assert abs(float(zeta.mean()) - mean) < Z * mean * std / math.sqrt(n)
    assert abs(float(zeta.std()) / (mean * std) - 1) < Z / math.sqrt(2 * n)
    gain = (1 + zeta.abs().mean() / 2) ** 2
    assert torch.allclose(y[0].double(), gain * 4 / (1 + zeta.abs() * 0.4), rtol=1e-5)
    assert not torch.equal(t.program(seed=4)(torch.full((1, 1), 4.0))[0], y[0])


def test_the_curvature_is_averaged_over_the_columns_of_each_physical_tile(tile):
    """R003-24, R003-28: an outlier in one column block leaves the gain of the other one alone"""
    t = tile(torch.ones(8, 1), "{kind: circuit.adc_s_curve, std: 0.5}", columns=4, adc="{bits: none, bound: 10}").program(seed=0)
    zeta = t.tiles.chip.constants[0]["zeta"][0]
    gain = t(torch.full((1, 1), 1e-3))[0] / 1e-3 * (1 + (zeta * 1e-4).abs())
    for block in (slice(0, 4), slice(4, 8)):
        assert torch.allclose(gain[block], (1 + zeta[block].abs().mean() / 2) ** 2, rtol=1e-5)


def test_output_noise_keeps_its_width_behind_a_bent_curve(tile):
    """R003-09: n = 2e5; the curve has slope 0.735 here, so noise in front of it would come out at 0.0294"""
    bent, adc = "{kind: circuit.adc_s_curve, mean: 1}", "{bits: none, bound: 10}"
    w, x = torch.ones(400, 1), torch.full((500, 1), 7.5)
    clean = tile(w, bent, adc=adc).program(seed=0)(x)
    noisy = tile(w, bent, "circuit.output_noise", adc=adc).program(seed=0)(x)
    assert float((noisy - clean).double().std()) == pytest.approx(0.04, abs=0.0003)


def test_ir_drop_comes_before_the_nonlinearity_wherever_it_is_listed(tile):
    """R003-09: the stage decides, and only inside a stage the order of the list"""
    w, x = uniform(16, 512), uniform(4, 512, seed=1)
    effects = ("circuit.ir_drop", "circuit.adc_s_curve", "circuit.output_noise")
    lists = (effects, (effects[1], effects[0], effects[2]), (*effects[1:], effects[0]))
    outputs = [tile(w, *e, adc="{bits: none, bound: 50}").program(seed=0)(x) for e in lists]
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])


def bent(tile, y, **fields):
    """f(y) of one column with b_out = 10, in front of the ADC that would clip it."""
    geometry = tile(torch.ones(1, 1), adc="{bits: none, bound: 10}").tiles.view.geometry
    site = Site(geometry, Stream(Key(0, 0), Key(0, 0)), (0, 0), "prepare")
    effect = AdcSCurve(**fields)
    effect.prepare(site)
    return effect.transfer(torch.full((1, 1, 1), float(y)), site).item()


def test_the_printed_s_curve_misses_or_exceeds_the_full_scale(tile):
    """R003-28, E8: at mu = 1/4, by 36 % with zeta on y, by 80 % with zeta on y/b_out"""
    assert bent(tile, 10, form="corrected") == pytest.approx(10.125, rel=1e-6)
    assert bent(tile, 10, form="printed", argument="raw") == pytest.approx(6.43, abs=0.005)
    assert bent(tile, 10, form="printed", argument="relative") == pytest.approx(18.0, rel=1e-6)


def test_the_printed_prefactor_is_1_plus_two_mean_zeta_squared(tile):
    """R003-28, Eq. 19 as printed: f(z) = (1 + 2 mu)^2 z/(1 + mu |z|)"""
    assert bent(tile, 3, form="printed", argument="raw", mean=0.1) == pytest.approx(1.2**2 * 3 / 1.3, rel=1e-6)


def test_a_relative_s_curve_needs_an_output_bound(tile):
    """R003-28: zeta on y itself does not"""
    with pytest.raises(mho.MhoError, match="adc with a bound"):
        tile(torch.ones(1, 1), "circuit.adc_s_curve").program(seed=0)
    raw = tile(torch.ones(1, 1), "{kind: circuit.adc_s_curve, argument: raw}").program(seed=0)
    assert raw(torch.ones(1, 1)).isfinite().all()


@pytest.mark.parametrize("precision", ["auto", "reference"])
def test_output_noise_is_behind_the_curve_wherever_it_is_listed(tile, precision):
    """R003-09: sigma stays 0.04 in every order of three effects, though the slope of the curve is 0.735 there"""
    bent = "{kind: circuit.adc_s_curve, mean: 1}"
    around = {"precision": precision, "dac": "{bits: 8, range: 1.0}", "adc": "{bits: none, bound: 10}"}
    w, x = torch.ones(400, 8), torch.full((500, 8), 0.9375)
    lists = itertools.permutations(("circuit.output_noise", bent, "circuit.ir_drop"))
    outputs = [tile(w, *e, **around).program(seed=0)(x) for e in lists]
    assert all(torch.equal(y, outputs[0]) for y in outputs)
    clean = tile(w, bent, "circuit.ir_drop", **around).program(seed=0)(x)
    assert float((outputs[0] - clean).double().std()) == pytest.approx(0.04, abs=0.0003)


class Squeezed(mho.Nonideality, kind="squeezing.curve"):
    """A curve where currents add up."""

    sides = {"m": mho.Side(mho.magnitude, mho.absolute)}

    def transfer(self, y, site):
        return y / (1 + y.abs() / 100)


class Noisy(mho.Nonideality, kind="squeezing.noise"):
    """Noise of the currents."""

    sides = {"m": mho.Side(mho.magnitude, mho.square)}

    def variance(self, site, m):
        return m


def test_a_nonlinearity_of_the_accumulation_bends_ir_drop_and_read_noise_too():
    """R003-09: sum, IR-drop, short-term noise, nonlinearity"""
    for listed in itertools.permutations((Squeezed(), Noisy(), IRDrop())):
        found = [type(p.effect) for p in resolve(listed, "layer").accumulate]
        assert found[-1] is Squeezed and set(found[:2]) == {Noisy, IRDrop}
