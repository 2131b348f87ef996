"""Cells that are no ohmic resistors: each law at its voltages, and where it changes nothing; complex matrices on real arrays."""

import math

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from mho_circuit.cells import CellCurve
from mho_circuit.complex import complex_vectors, fourier, real_matrix, real_vectors
from mho_kit import NonidealityContract

import mho


@pytest.mark.slow
class TestCellCurve(NonidealityContract):
    spec = CellCurve(v_read=0.5)


def uniform(*shape, seed=0):
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) - 1


@pytest.mark.parametrize(
    ("law", "current"),
    [("cubic, v_read: 1, c3: 0.25", lambda v: v - v**3 / 4), ("sinh, v_read: 0.5, v_0: 0.25", lambda v: np.sinh(v / 0.25))],
)
def test_currents_are_those_of_the_law(tile, law, current):
    """Sums of single cells, I = w f(v_read x), in units of what one draws at v_read."""
    w, x = uniform(5, 20), uniform(7, 20, seed=1)
    v = 1.0 if "cubic" in law else 0.5
    t = tile(w, f"{{kind: circuit.cell_curve, law: {law}}}")
    expected = current(v * x.double().numpy()) / current(v) @ w.double().numpy().T
    assert np.abs(t(x).detach().numpy() - expected).max() < 1e-5


def test_times_and_single_bits_see_no_curve(tile):
    w, x = uniform(5, 20), uniform(7, 20, seed=1)
    plain = tile(w, dac="{bits: 8, range: 1}")(x)
    times = tile(w, "{kind: circuit.cell_curve, encoding: pulse_width}", dac="{bits: 8, range: 1}")(x)
    bits = tile(w, "circuit.cell_curve", dac="{kind: circuit.serial_dac, range: 1}")(x)
    amplitudes = tile(w, "circuit.cell_curve", dac="{bits: 8, range: 1}")(x)
    assert torch.allclose(times, plain, atol=1e-3) and torch.allclose(bits, plain, atol=1e-3)
    assert float((amplitudes - plain).detach().abs().max()) > 0.01


def test_a_law_that_falls_is_refused():
    with pytest.raises(mho.MhoError, match=r"falls above 1\.15 V"):
        mho.Hardware.from_yaml(
            "mho: 1\ndefault: t\ntiles: {t: {nonidealities: [{kind: circuit.cell_curve, law: cubic, v_read: 1.2}]}}"
        )


def array_currents(w, x, r):
    """Kirchhoff on one crossbar of pairs, sparse, fp64: [vector, column] in units of the line conductance; wires of r between all
    nodes in these units, drivers at column 0, sense nodes below row 0."""
    columns, rows = w.shape
    count = rows * columns
    j, i = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    at, g = (j * columns + i).ravel(), 1 / r
    cells = [np.clip(sign * w, 0, None).T.ravel() for sign in (1, -1)]
    a, b, value = [], [], []
    sources = np.zeros((3 * count, len(x)))
    diagonal = np.zeros(3 * count)

    def join(p, q, conductance):
        a.extend((p, q))
        b.extend((q, p))
        value.extend((-conductance, -conductance))
        np.add.at(diagonal, p, conductance)
        np.add.at(diagonal, q, conductance)

    for k, cell in enumerate(cells):
        join(at + k * count, at + 2 * count, cell)
        along = at[i.ravel() > 0]
        join(along + k * count, along - 1 + k * count, np.full(len(along), g))
        first = at[i.ravel() == 0] + k * count
        diagonal[first] += g
        sources[first] += g * (1 - 2 * k) * x.T
    up = at[j.ravel() > 0] + 2 * count
    join(up, up - columns, np.full(len(up), g))
    sense = at[j.ravel() == 0] + 2 * count
    diagonal[sense] += g
    entries = (
        np.concatenate([*value, diagonal]),
        (np.concatenate([*a, np.arange(3 * count)]), np.concatenate([*b, np.arange(3 * count)])),
    )
    v = scipy.sparse.linalg.spsolve(scipy.sparse.csc_matrix(entries, shape=(3 * count,) * 2), sources)
    return g * v.reshape(3 * count, -1)[sense].T


@pytest.mark.parametrize("n", [8, pytest.param(128, marks=pytest.mark.slow)])
def test_a_fourier_transform_on_wires_is_what_kirchhoff_says(tile, n):
    """The transform of complex vectors, and the same with wires of 20 ohm at 5 uS, against a solution of all nodes."""
    matrix = fourier(n).to(torch.complex128)
    x = torch.complex(uniform(3, n), uniform(3, n, seed=1)).to(torch.complex128)
    w, real = real_matrix(matrix), real_vectors(x)
    ideal = complex_vectors(tile(w, rows=2 * n, columns=2 * n)(real)).detach()
    assert torch.allclose(ideal, torch.fft.fft(x), atol=1e-9)
    wires = "{kind: circuit.ir_drop_nodal, r_word: 20, r_bit: 20, g_line: 5 uS}"
    t = tile(w, wires, rows=2 * n, columns=2 * n).program(seed=0)
    expected = array_currents(t.tiles.chip.target[0].numpy(), real.numpy(), 20 * 5e-6)
    found = t(real).detach().numpy()
    assert np.abs(found - expected).max() < 1e-9 * n
    assert np.abs(found - ideal_outputs(w, real)).max() > 0.01


def ideal_outputs(w, x):
    return (x @ w.T).numpy()


@pytest.mark.parametrize("sign", ["columns", "offset"])
def test_wires_see_every_array_of_slices_as_it_is(tile, sign):
    """Positive and negative parts, or cells at an offset, on columns of their own: each current by Kirchhoff, added digitally."""
    w, x = uniform(4, 10).double(), uniform(3, 10, seed=1).double()
    w[:, 0] = 1.0
    t = tile(
        w, "{kind: circuit.ir_drop_nodal, r_word: 500, r_bit: 500}", device="{g_max: 25 uS, g_min: 1 uS, pair: single}",
        mapping=f"{{kind: circuit.equal_shares, devices: 2, sign: {sign}}}",
    ).program(seed=0)  # fmt: skip
    view = t.tiles.view
    g = view.weights(t.tiles.chip.programmed, t.tiles.chip.target)[0]  # what each cell conducts
    currents = array_currents(g.numpy(), x.numpy(), 500 * 5e-6).reshape(3, 4, view.slices)
    expected = currents @ np.array(view.factors) + view.offset * x.sum(1, keepdim=True).numpy()
    assert np.abs(t(x).detach().numpy() - expected).max() < 1e-9
    assert np.abs(expected - (x @ w.T).numpy()).max() > 0.01 and math.isfinite(expected.sum())
