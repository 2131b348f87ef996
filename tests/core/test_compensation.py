"""How far drift compensation is from the best gain there is."""

import mho
import pytest
import torch

YEAR = 31_536_000.0
HW = """
rows: 512
mapping: mho.direct
dac: {bits: 8, range: 1.0}
adc: {bits: 8, bound: 10}
nonidealities: [pcm.programming_noise, pcm.drift, pcm.read_noise_1f, circuit.ir_drop, pcm.read_noise, circuit.output_noise]
compensation: KIND
"""


def bias(hardware, kind, sigma):
    """gain/alpha_LS - 1, with alpha_LS = <w_0, w_t>/<w_t, w_t> of the noise-free chip: the least-squares optimum for
    white inputs."""
    w = sigma * torch.randn(512, 512, generator=torch.Generator().manual_seed(1))
    tile = mho.Tile(w, hardware(HW.replace("KIND", kind))).program(seed=0).tiles
    start = tile.aged.clone()
    tile.age(YEAR)
    best = (start * tile.aged).sum() / (tile.aged**2).sum()
    return float(tile.gain.mean() / best - 1)


@pytest.mark.parametrize("sigma", [0.02, 0.05, 0.1, 0.246])
def test_least_squares_compensation_is_unbiased_even_for_small_weights(hardware, sigma):
    """abs(alpha/alpha_LS - 1) <= 2 % for sigma_w >= 0.02 at 1 year."""
    assert abs(bias(hardware, "mho.least_squares_drift", sigma)) < 0.02


def test_ratios_of_magnitudes_are_far_off_for_small_weights(hardware):
    """The bias that the least-squares gain is there to avoid: 30 % at sigma_w = 0.02."""
    assert 0.2 < bias(hardware, "mho.global_drift", 0.02) < 0.4


def test_bound_management_halves_the_inputs_of_vectors_that_saturate(hardware):
    """R003-06: with noise management alone the output stops at the bound; halving brings it back, at a coarser step."""
    w = torch.ones(1, 64)
    x = torch.stack([torch.ones(64), torch.full((64,), 0.1)])
    x[1, 1:] = 0
    body = "rows: 64\ndac: {bits: 8, range: dynamic, halvings: %d}\nadc: {bits: 8, bound: 10}"
    plain, managed = (mho.Tile(w, hardware(body % n))(x).flatten().tolist() for n in (0, 4))
    assert plain[0] == 10.0 and managed[0] == pytest.approx(64, rel=0.02)
    assert managed[1] == plain[1] == pytest.approx(0.1, rel=0.05)
    assert mho.Tile(w, hardware(body % 2))(x)[0].item() == 40.0  # two halvings reach four times the bound
