"""Loops of programming: outcome and number of writes in closed form, products that get better; a published check of errors."""

import math

import pytest
import torch
from mho_circuit.complex import fourier, real_matrix
from mho_circuit.programming import GradientDescent, ProgrammingError, WriteVerify, writes
from mho_kit import NonidealityContract

import mho


@pytest.mark.slow
class TestProgrammingError(NonidealityContract):
    spec = ProgrammingError(proportional=0.1, independent=0.02)


@pytest.mark.slow
class TestWriteVerify(NonidealityContract):
    spec = WriteVerify(share=0.5, iterations=4)


@pytest.mark.slow
class TestGradientDescent(NonidealityContract):
    spec = GradientDescent(iterations=3)


def cut_normal(a):
    """Standard deviation of a standard normal cut at +-a, and the share inside."""
    inside = math.erf(a / math.sqrt(2))
    density = math.exp(-(a**2) / 2) / math.sqrt(2 * math.pi)
    return math.sqrt(1 - 2 * a * density / inside), inside


@pytest.mark.parametrize("tolerance", [0.2, 0.5, 1.0])
def test_write_verify_cuts_the_normal_and_takes_one_over_its_share(tile, tolerance):
    """90,000 cells far from 0; write_std 0.5 uS."""
    w = torch.full((300, 300), 0.5)
    loop = f"{{kind: circuit.write_verify, tolerance: {tolerance}, write_std: 0.5, read_std: 0, rate: 1, iterations: 200}}"
    t = tile(w, loop).program(seed=0)
    spread, inside = cut_normal(tolerance / 0.5)
    off, count = t.tiles.chip.programmed - 12.5, writes(t)
    assert float(off.abs().max()) <= tolerance * (1 + 1e-5)
    assert float(off.std()) == pytest.approx(0.5 * spread, rel=0.01)
    assert float(count.mean()) == pytest.approx(1 / inside, rel=0.01)


def test_only_the_cells_that_matter_are_verified(tile):
    """A tenth of the cells, those with the largest targets, ends within the tolerance; all others are written once."""
    w = torch.linspace(0.3, 1, 4000)[torch.randperm(4000, generator=torch.Generator().manual_seed(0))].view(50, 80)
    loop = "{kind: circuit.write_verify, share: 0.1, write_std: 2, tolerance: 0.1, read_std: 0, iterations: 300}"
    t = tile(w, loop).program(seed=0)
    off, count = (t.tiles.chip.programmed[0, 0] - 25 * w).abs(), writes(t)[0, 0]
    most = w >= w.flatten().sort(descending=True).values[399]
    assert float(off[most].max()) <= 0.1 + 1e-5 and float(off[~most].std()) > 1
    assert bool((count[~most] == 1).all()) and int((count[most] > 1).sum()) > 300


@pytest.mark.parametrize("pair", ["active", "both"])
def test_descent_on_products_beats_one_write_and_noisy_reads(tile, pair):
    """Single cells are read with 1 uS of noise; write-verify stops there, products average it."""
    w = 2 * torch.rand(60, 40, generator=torch.Generator().manual_seed(0)) - 1

    def error(loop):
        made = tile(w, loop, device=f"{{g_max: 25 uS, pair: {pair}}}").program(seed=0)
        return float((made(torch.eye(40)).detach().T - w).std())

    once = error("{kind: circuit.programming_error, proportional: 0, independent: 0.04}")
    verified = error("{kind: circuit.write_verify, write_std: 1, read_std: 1, tolerance: 0.1, rate: 1}")
    descent = error("{kind: circuit.gradient_programming, write_std: 1, read_std: 1, iterations: 150, vectors: 64, rate: 0.1}")
    assert descent < 0.6 * min(once, verified)


DFT = """\
mho: 1
default: t
tiles:
  t:
    rows: 128
    columns: 128
    device: {g_max: 100 uS, g_min: 0.1 uS, pair: %s}
    mapping: {kind: circuit.digits, bits: 8, digit: %d, range: tile, sign: %s}
    nonidealities: [{kind: circuit.programming_error, proportional: 0.25}]
"""


@pytest.mark.parametrize(
    ("pair", "digit", "sign", "published", "spread"),
    [("both", 7, "pair", 0.2121, 0.0015), ("single", 8, "offset", 0.3425, 0.0036)],
)
def test_errors_of_a_fourier_matrix_are_those_published(pair, digit, sign, published, spread):
    """Mean |error| of the complex elements of the DFT of 64, held as a real matrix on 8-bit cells with an on/off ratio of 1000
    and an error of 25 % of the conductance: CrossSim's figures, over 30 draws."""
    w = real_matrix(fourier(64))
    t = mho.Tile(w, mho.Hardware.from_yaml(DFT % (pair, digit, sign)))
    found = []
    for seed in range(30):
        with torch.no_grad():
            off = t.program(seed=seed)(torch.eye(128)).T - w
        found.append(float(torch.complex(off[:64, :64], off[64:, :64]).abs().mean()))
    assert torch.tensor(found).mean() == pytest.approx(published, abs=spread)


def test_writes_need_the_loop_and_a_chip(tile):
    loop = "{kind: circuit.write_verify, tolerance: 1 uS}"
    for t in (tile(torch.ones(2, 3), "circuit.programming_error").program(seed=0), tile(torch.ones(2, 3), loop)):
        with pytest.raises(mho.MhoError, match=r"circuit\.write_verify: list it"):
            writes(t)
