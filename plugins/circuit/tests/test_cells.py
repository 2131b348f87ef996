"""Cells that are no ohmic resistors: each law at its voltages, and where it changes nothing; complex matrices on real arrays."""

import math

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from mho_circuit.cells import CellCurve, ThermalNoise
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


class TestThermalNoise(NonidealityContract):
    spec = ThermalNoise(bandwidth=1e14)  # to be seen beside codes


@pytest.mark.parametrize("precision", ["auto", "reference"])
def test_a_cell_of_100_us_has_thermal_and_shot_noise(tile, precision):
    """100 uS at 0.2 V, 300 K and 10 MHz: 0.0449 % of the current, as published with the law; half of 0.2 V: thermal noise stays.
    200,000 reads: the standard error of a standard deviation is 0.16 %."""
    noise = "{kind: circuit.thermal_noise, temperature: %s, bandwidth: 10 MHz}"
    variances = {}
    for kelvin in (300, 600):
        device, dac = "{g_max: 100 uS}", "{bits: 8, range: 1}"
        t = tile(torch.eye(2), noise % f"{kelvin} K", device=device, dac=dac, precision=precision).program(seed=0)
        variances[kelvin] = t(torch.tensor([[1.0, 0.0]]).expand(200_000, -1)).double().var(0)
    thermal, shot = 4 * 1.380649e-23 * 300, 2 * 1.602176634e-19 * 0.2
    unit = 1e7 / (0.2**2 * 100e-6)
    assert math.sqrt(unit * (thermal + shot)) == pytest.approx(0.000449, abs=5e-7)
    expected = {300: [thermal + shot, thermal], 600: [2 * thermal + shot, 2 * thermal]}
    for kelvin, values in expected.items():
        assert (variances[kelvin] / unit).tolist() == pytest.approx(values, rel=0.02)


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


def test_columns_of_sliced_blocks_lie_side_by_side(tile):
    """5 outputs of 2 columns on tiles of 6, one of which is the reference: 4, 4 and 2 columns beside it, each by Kirchhoff."""
    w, x = uniform(5, 10).double(), uniform(3, 10, seed=1).double()
    device, mapping = "{g_max: 25 uS, pair: single}", "{kind: circuit.equal_shares, devices: 2, sign: reference}"
    wires = "{kind: circuit.ir_drop_nodal, r_word: 500, r_bit: 500}"
    t = tile(w, wires, columns=6, device=device, mapping=mapping).program(seed=0)
    view, g = t.tiles.view, t.tiles.chip.target[0]
    assert view.layout.block.tolist() == [0] * 4 + [1] * 4 + [2] * 2 + [0, 1, 2]
    for b in range(3):
        mine = view.layout.block == b
        expected = array_currents(g[mine].numpy(), x.numpy(), 500 * 5e-6)
        assert np.abs((x @ t.tiles.chip.weights[0, mine].double().T).numpy() - expected).max() < 1e-6


def dense_currents(w, x, r):
    """The same with dense matrices: row after row from the far end, with S the conductances that bit line nodes see of the rows
    behind them and c the currents that flow in; word lines, which only their own cells load, are solved on the way."""
    columns, rows = w.shape
    one, g = np.eye(columns), 1 / r
    line = g * (2 * one - np.eye(columns, k=1) - np.eye(columns, k=-1))
    line[-1, -1] = g  # its open end; the driver is one wire away from cell 0
    S, c = np.zeros((columns, columns)), np.zeros((columns, len(x)))
    for j in reversed(range(rows)):
        wire = np.linalg.inv(one + r * S)  # from the node to the next row
        S, c = S @ wire, wire.T @ c
        for sign in (1, -1):
            d = np.clip(sign * w[:, j], 0, None)
            at = np.linalg.solve(line + np.diag(d), np.column_stack([np.diag(d), g * one[:, 0]]))
            S = S + np.diag(d) - d[:, None] * at[:, :-1]
            c = c + np.outer(d * at[:, -1], sign * x[:, j])
    return np.linalg.solve(one + r * S, c).T  # through the last wire to ground


def test_both_solutions_of_kirchhoffs_laws_agree():
    w, x = uniform(7, 12).double().numpy(), uniform(3, 12, seed=1).double().numpy()
    assert np.abs(array_currents(w, x, 0.01) - dense_currents(w, x, 0.01)).max() < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("real", [True, False])
def test_a_fourier_transform_of_256_on_wires(tile, real):
    """All 256 x 256 cosines and sines of real vectors, and 512 x 512 cells for complex ones, on one array with wires of 5 ohm at
    5 uS, whose largest error is above 5 % of the largest output: the same as by dense elimination."""
    matrix = fourier(256).to(torch.complex128)
    half = matrix.real[:129], -matrix.imag[1:128]
    w = torch.cat(half) if real else real_matrix(matrix)
    x = uniform(3, w.shape[1]).double()
    wires = "{kind: circuit.ir_drop_nodal, r_word: 5, r_bit: 5, g_line: 5 uS}"
    t = tile(w, wires, rows=512, columns=512).program(seed=0)
    found, ideal = t(x).detach().numpy(), ideal_outputs(w, x)
    expected = dense_currents(t.tiles.chip.target[0].numpy(), x.numpy(), 5 * 5e-6)
    print(np.abs(found - expected).max(), np.abs(found - ideal).max(), np.abs(ideal).max())
    assert np.abs(found - expected).max() < 1e-9 * np.abs(ideal).max()
    assert np.abs(found - ideal).max() > 0.05 * np.abs(ideal).max()


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


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: real_matrix(torch.ones(2, 2)), "complex matrix"),
        (lambda: real_vectors(torch.ones(2)), "complex vectors"),
        (lambda: complex_vectors(torch.ones(3)), "imaginary"),
        (lambda: fourier(2.5), "number of samples"),
    ],
)
def test_what_is_not_complex_is_said(ask, said):
    with pytest.raises(mho.MhoError, match=said):
        ask()


def ideal_outputs(w, x):
    return (x @ w.T).numpy()


@pytest.mark.parametrize("sign", ["columns", "offset", "reference"])
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
    currents = array_currents(g.numpy(), x.numpy(), 500 * 5e-6)
    currents = (currents[:, : 4 * view.slices] - view.reference * currents[:, -1:]).reshape(3, 4, view.slices)
    expected = currents @ np.array(view.factors) + view.offset * x.sum(1, keepdim=True).numpy()
    assert np.abs(t(x).detach().numpy() - expected).max() < 1e-9
    assert np.abs(expected - (x @ w.T).numpy()).max() > 0.01 and math.isfinite(expected.sum())
