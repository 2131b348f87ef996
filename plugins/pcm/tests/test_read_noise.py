"""Short-term read noise: fresh for every MVM, referred to the output (R003 Eq. 14)."""

import math

import pytest
import torch

Z = 4.42  # two-sided 1e-5 quantile of the normal distribution
NOISE = "pcm.read_noise"


def uniform(*shape, seed=0):
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) - 1


def test_the_variance_of_an_output_is_sigma_squared_sum_of_abs_w_times_x_squared(tile):
    """R003-11, E11: n = 4000 vectors for each of 32 outputs"""
    n = 4000
    w, x = uniform(32, 300), uniform(1, 300, seed=1)
    y = tile(w, NOISE).program(seed=0)(x.expand(n, -1)).double()
    expected = 0.0175**2 * (w.abs().double() @ x[0].double() ** 2)
    assert ((y.var(0) / expected - 1).abs() < Z * math.sqrt(2 / n)).all()
    ideal = w.double() @ x[0].double()
    assert ((y.mean(0) - ideal).abs() < Z * (expected / n).sqrt() + 1e-5).all()


def test_the_relative_error_is_the_closed_form(tile):
    """R003-11: sigma sqrt(E|w| / E w^2), 0.02143 for w ~ U(-1, 1); n = 65,536 outputs"""
    w, x = uniform(512, 512), uniform(128, 512, seed=1)
    y = tile(w, NOISE).program(seed=0)(x)
    error = float((y - x @ w.T).norm() / (x @ w.T).norm())
    closed = 0.0175 * math.sqrt(float(w.abs().mean() / (w**2).mean()))
    assert closed == pytest.approx(0.0175 * math.sqrt(1.5), rel=0.01)
    assert error == pytest.approx(closed, rel=2 * Z / math.sqrt(2 * y.numel()))


def test_a_zero_input_has_no_read_noise(tile):
    """R003-11"""
    assert not tile(uniform(32, 300), NOISE).program(seed=0)(torch.zeros(10, 300)).any()


def test_read_noise_is_linear_in_the_input(tile):
    """R003-11: the same chip draws the same numbers for its first vectors"""
    w, x = uniform(32, 300), uniform(10, 300, seed=1)
    t = tile(w, NOISE)
    noises = [t.program(seed=0)(s * x) - s * x @ w.T for s in (1.0, 0.25)]
    assert torch.allclose(noises[1], 0.25 * noises[0], atol=1e-5)


def test_read_noise_is_fresh_for_every_mvm(tile):
    """R003-11: n = 40,000 pairs"""
    x = torch.full((2000, 64), 0.5)
    y = tile(torch.full((20, 64), 0.5), NOISE).program(seed=0)(x).double()
    z = (y - y.mean()) / y.std()
    for a, b in ((z[1:], z[:-1]), (z[:, 1:], z[:, :-1])):
        assert abs(float((a * b).mean())) < Z / math.sqrt(a.numel())


def test_a_reset_sample_counter_repeats_the_numbers_and_the_next_vectors_get_others(tile):
    """R003-11"""
    t = tile(uniform(8, 64), NOISE)
    x = uniform(6, 64, seed=1)
    whole = t.program(seed=0)(x)
    halves = t.program(seed=0)(x[:3]), t(x[3:])
    torch.testing.assert_close(whole, torch.cat(halves))


@pytest.mark.parametrize("dac", ["none", "{bits: 8, range: 1.0}"])  # reference path, fast path
def test_both_devices_of_a_pair_are_noisy(tile, dac):
    """R003-11 with g_min: variance sigma^2 sum_j (|w_ij| + 2 g_min/(g_max - g_min)) x_j^2, n = 4000 vectors, 32 outputs"""
    n, device = 4000, "{g_min: 5 uS, g_max: 25 uS, pair: both}"
    w, x = uniform(32, 300), (uniform(1, 300, seed=1) * 127).round() / 127
    y = tile(w, NOISE, device=device, dac=dac).program(seed=0)(x.expand(n, -1)).double()
    expected = 0.0175**2 * ((w.abs().double() + 0.5) @ x[0].double() ** 2)
    assert ((y.var(0) / expected - 1).abs() < Z * math.sqrt(2 / n) + 0.01).all()  # the fast path rounds: 1 %
