"""How far drift compensation is from the best gain there is."""

import copy

import pytest
import torch
from torch import nn

import mho
from mho import Nonideality

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
    start = tile.chip.weights.clone()
    tile.age(YEAR)
    best = (start * tile.chip.weights).sum() / (tile.chip.weights**2).sum()
    return float(tile.chip.gain.mean() / best - 1)


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


QUIET = ["tiles.pcm.rows=32", "tiles.pcm.nonidealities=[pcm.drift, circuit.ir_drop]", "tiles.pcm.adc.bits=none"]


def arrays(layer, *changes):
    """The tiles of a layer on a chip after a day: fused, and on the reference path."""
    nets = [
        mho.to_analog(copy.deepcopy(layer), mho.load("pcm.standard", set=[*changes, f"precision={precision}"]))
        for precision in ("auto", "reference")
    ]
    for net in nets:
        mho.program(net, seed=0).age("1 day")
    return [net.tiles for net in nets]


@pytest.mark.parametrize("layer", [nn.Linear(70, 20), nn.Conv2d(6, 8, 3, groups=2), nn.Conv2d(5, 4, 3)])
@pytest.mark.parametrize(
    "change",
    [
        "compensation=mho.column_drift",
        "compensation={kind: mho.column_drift, inputs: one_hot}",
        "compensation=mho.least_squares_drift",
        "dac.range=dynamic",
    ],
)
def test_fused_read_outs_without_noise_are_those_of_the_reference_path(layer, change):
    """Uneven tiles, groups, rows in the order of the codes of an image: 15 bits of weights, 7 of side products."""
    fused, reference = arrays(layer, *QUIET, f"tiles.pcm.{change}")
    assert fused.backend.route.fused and "planes" in fused.chip.coded and not reference.backend.route.fused
    assert fused.chip.reference.shape == reference.chip.reference.shape
    torch.testing.assert_close(fused.chip.reference, reference.chip.reference, atol=3e-3, rtol=3e-3)
    torch.testing.assert_close(fused.chip.gain, reference.chip.gain, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", ["mho.global_drift", "mho.least_squares_drift"])
def test_gains_of_fused_read_outs_have_the_mean_and_the_spread_of_the_reference_path(kind):
    """60 chips, each with the same cells on both paths and other read noise; alpha = 1e-5."""
    w = 0.3 * torch.randn(48, 64, generator=torch.Generator().manual_seed(0))
    changes, gains = ["tiles.pcm.rows=32", f"tiles.pcm.compensation={kind}"], []
    for precision in ("auto", "reference"):
        tile = mho.Tile(w, mho.load("pcm.standard", set=[*changes, f"precision={precision}"]))
        gains.append(torch.stack([tile.program(seed).age("1 day").tiles.chip.gain[:, 0] for seed in range(60)]).double())
    difference = gains[0] - gains[1]
    assert (difference.mean(0).abs() < 4.42 * difference.std(0) / 60**0.5 + 1e-4).all()
    ratio = gains[0].std(0) / gains[1].std(0)  # ln of a ratio of two standard deviations: variance 1/n at most
    assert (ratio.log().abs() < 4.42 / 60**0.5).all()


def test_plain_inputs_are_read_out_on_the_reference_path():
    """An `input` method takes no part in a read-out, and on the fused path it would."""

    class Half(Nonideality, kind="half.input"):
        """Halves every input."""

        source = "test"

        def input(self, x, site):
            return 0.5 * x

    tile = {"dac": {"bits": 8, "range": 1.0}, "adc": {"bits": 8}, "nonidealities": (Half(),)}
    hw = mho.Hardware.model_validate({"mho": 1, "default": "t", "tiles": {"t": {**tile, "compensation": "mho.column_drift"}}})
    made = mho.Tile(torch.eye(8), hw).program(seed=0)
    assert made.tiles.backend.route.fused and not made.tiles.chip.coded
    assert torch.allclose(made.age("1 h").tiles.chip.gain, torch.ones(1, 8))
