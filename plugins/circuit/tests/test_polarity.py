"""Polarity asymmetry and two-phase reads."""

import math

import pytest
import torch

import mho

Z = 4.42  # two-sided 1e-5 quantile of the normal distribution
ASYMMETRY = "{kind: circuit.polarity_asymmetry, std: 0.1}"
ANALOG, DIGITAL = "circuit.two_phase", "{kind: circuit.two_phase, sum: digital}"


def uniform(*shape, seed=0):
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) - 1


def test_polarity_asymmetry_leaves_positive_inputs_alone(tile):
    """R003-29"""
    w, x = uniform(16, 100), uniform(5, 100, seed=1).abs()
    assert torch.equal(tile(w, ASYMMETRY).program(seed=0)(x), tile(w).program(seed=0)(x))


def test_negative_inputs_see_weights_that_differ_by_a_normal_factor(tile):
    """R003-29: -w_ij (1 + a_ij), read cell by cell; n = 40,000"""
    w = torch.full((200, 200), 0.5)
    y = tile(w, ASYMMETRY).program(seed=0)(-torch.eye(200)).double()
    a = y / -0.5 - 1
    n = a.numel()
    assert abs(float(a.mean())) < Z * 0.1 / math.sqrt(n)
    assert float(a.std()) == pytest.approx(0.1, rel=Z / math.sqrt(2 * n))


def test_the_asymmetry_is_fixed_for_a_chip_and_another_one_on_the_next(tile):
    """R003-29"""
    w, x = uniform(16, 100), uniform(1, 100, seed=1).expand(3, -1)
    t = tile(w, ASYMMETRY).program(seed=0)
    y = t(x)
    torch.testing.assert_close(y[0], y[1])  # the order of sums in a product depends on the row
    assert torch.equal(t.age("1 h")(x), y) and (t.program(seed=1)(x) - y).abs().max() > 1e-3


def test_signs_of_the_input_add_up(tile):
    """R003-29: y(x) = y(x+) + y(x-)"""
    w, x = uniform(16, 100), uniform(5, 100, seed=1)
    t = tile(w, ASYMMETRY).program(seed=0)
    assert torch.allclose(t(x), t(x.clamp(min=0)) + t(x.clamp(max=0)), atol=1e-5)


@pytest.mark.parametrize("two_phase", [ANALOG, DIGITAL])
def test_two_phases_without_noise_give_the_one_pass_result(tile, two_phase):
    """R003-30"""
    w, x = uniform(16, 300), uniform(5, 300, seed=1)
    assert torch.allclose(tile(w, two_phase, rows=128)(x), tile(w, rows=128)(x), atol=2e-5)


def test_an_analog_sum_is_converted_once_and_a_digital_sum_twice(tile):
    """R003-30, R003-05: phases of +8 and -6 cancel in analog; digitally, each saturates an ADC with bound 5"""
    w, adc = torch.ones(1, 16), "{bits: none, bound: 5}"
    x = torch.tensor([[1.0] * 8 + [-0.75] * 8])
    assert tile(w, ANALOG, adc=adc)(x).item() == 2
    assert tile(w, DIGITAL, adc=adc)(x).item() == 5 - 5


@pytest.mark.parametrize(("two_phase", "conversions"), [(ANALOG, 1), (DIGITAL, 2)])
def test_output_noise_comes_once_per_conversion(tile, two_phase, conversions):
    """R003-30, R003-10: n = 100,000 outputs"""
    y = tile(torch.zeros(100, 4), two_phase, "circuit.output_noise").program(seed=0)(torch.zeros(1000, 4)).double()
    assert float(y.std()) == pytest.approx(0.04 * math.sqrt(conversions), rel=Z / math.sqrt(2 * y.numel()))


@pytest.mark.parametrize("two_phase", [ANALOG, DIGITAL])
@pytest.mark.parametrize("drop", ["circuit.ir_drop", "circuit.ir_drop_ladder"])
def test_ir_drop_happens_in_each_phase(tile, drop, two_phase):
    """R003-30: every phase is loaded by its own rows only"""
    w, x = uniform(16, 300), uniform(5, 300, seed=1)
    one = tile(w, drop, rows=300)
    phases = one(x.clamp(min=0)) + one(x.clamp(max=0))
    assert torch.allclose(tile(w, two_phase, drop, rows=300)(x), phases, atol=2e-5)
    assert not torch.allclose(one(x), phases, atol=1e-3)


def test_the_noise_of_two_phases_is_independent(tile):
    """R003-30: read noise of a row at +x and a row at -x adds in variance; n = 50,000"""
    w = torch.ones(50, 2)
    x = torch.tensor([[1.0, -1.0]]).expand(1000, -1)
    y = tile(w, DIGITAL, "circuit.output_noise").program(seed=0)(x).double()
    one = tile(w, "circuit.output_noise").program(seed=0)(x).double()
    assert float(y.var() / one.var()) == pytest.approx(2.0, rel=2 * Z * math.sqrt(2 / y.numel()))


def test_a_chip_in_two_phases_does_not_depend_on_batch_splits(tile):
    w, x = uniform(16, 100), uniform(6, 100, seed=1)
    t = tile(w, DIGITAL, "circuit.output_noise")
    whole = t.program(seed=0)(x)
    assert torch.allclose(whole, torch.cat([t.program(seed=0)(x[:2]), t(x[2:])]), atol=1e-5)


def test_a_tile_is_read_in_one_way_only(tile):
    with pytest.raises(mho.MhoError, match="in which passes"):
        tile(torch.ones(2, 2), ANALOG, DIGITAL)


@pytest.mark.parametrize("w", [0.0, 0.5, -0.5])
def test_both_devices_of_a_pair_are_asymmetric(tile, w):
    """g+ a+ - g- a- with 5 and 5 + 20 |w| uS, in units of 20 uS: std sigma_a sqrt((|w| + 1/4)^2 + 1/16), n = 40,000."""
    device = "{g_min: 5 uS, g_max: 25 uS, pair: both}"
    t = tile(torch.full((40_000, 1), w), "circuit.polarity_asymmetry", device=device, columns=40_000).program(seed=0)
    assert torch.allclose(t(torch.ones(1, 1)), torch.tensor(w), atol=1e-6)
    change = (t(-torch.ones(1, 1)) + w).double()
    std = 0.05 * ((abs(w) + 0.25) ** 2 + 0.0625) ** 0.5
    assert float(change.std()) == pytest.approx(std, rel=4.42 / (2 * 40_000) ** 0.5)
