"""Word and bit lines: the block elimination against sparse nodal analysis and against ngspice."""

import os
import shutil
import subprocess

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from mho_circuit import IRDropLadder, IRDropNodal

import mho
from mho.effects.site import Site, Stream

UNIT = 5e-6  # siemens that stand for w = 1
BARE = {"r_word": 0.35, "r_bit": 0.35, "r_driver": 0.0, "r_sense": 0.0}
SIGN = {"p": 1, "m": -1}  # the word lines at +x and at -x
LOSSY = {"r_word": 300.0, "r_bit": 500.0, "r_driver": 2000.0, "r_sense": 1000.0}


def uniform(*shape, seed=0):
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1


@pytest.fixture
def folded(tile):
    """folded(effect, W, ...) -> what `fold` makes of W [out, row], tile by tile [tile, out, row] in W's dtype."""

    def make(effect, w, **settings):
        t = tile(torch.zeros_like(w), **settings).program(seed=0)
        site = Site(t.tiles.view.geometry, Stream(t.tiles.chip.key, t.tiles.chip.key), (0, 0), "fold")
        return effect.fold(t.tiles.layout.cut_weight(w), site)

    return make


def network(w, idle=0.0):
    """The resistors of an array for w [column, row]: (node, node, conductance, or the names of wires in series).

    Nodes are ("w", sign, row, column) and ("b", row, column) at the cells, ("drive", sign, row), ("sense", column).
    """
    columns, rows = w.shape
    for j in range(rows):
        for sign, value in SIGN.items():
            yield ("drive", sign, j), ("w", sign, j, 0), ("r_driver", "r_word")
            for i in range(columns):
                if i:
                    yield ("w", sign, j, i - 1), ("w", sign, j, i), ("r_word",)
                yield ("w", sign, j, i), ("b", j, i), UNIT * (max(value * float(w[i, j]), 0.0) + idle)
        for i in range(columns):
            below = ("b", j - 1, i) if j else ("sense", i)
            yield below, ("b", j, i), ("r_bit",) if j else ("r_sense", "r_bit")


def kirchhoff(w, x, resistances, idle=0.0):
    """Sensed currents [vector, column] in units of UNIT for row voltages x [vector, row]: every node's currents add up
    to 0, one sparse system in float64."""
    edges = [(a, b, g if isinstance(g, float) else 1 / sum(resistances[r] for r in g)) for a, b, g in network(w, idle)]
    free = {node: k for k, node in enumerate({n for a, b, _ in edges for n in (a, b) if n[0] in "wb"})}
    entries, sources = [], np.zeros((len(free), len(x)))
    for a, b, g in edges:
        for here, there in ((a, b), (b, a)):
            if here not in free:
                continue
            entries.append((free[here], free[here], g))
            if there in free:
                entries.append((free[here], free[there], -g))
            elif there[0] == "drive":
                sources[free[here]] += g * SIGN[there[1]] * x[:, there[2]]
    i, j, g = map(np.array, zip(*entries))
    v = scipy.sparse.linalg.spsolve(scipy.sparse.csc_matrix((g, (i, j)), shape=(len(free),) * 2), sources)
    sensed = {a[1]: g * v[free[b]] for a, b, g in edges if a[0] == "sense"}
    return np.stack([sensed[k] for k in range(len(w))], 1) / UNIT


@pytest.mark.parametrize("resistances", [BARE, LOSSY])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_folded_matrix_agrees_with_sparse_nodal_analysis(folded, resistances, seed):
    """R003-14: 64 x 48 arrays, 1e-10 of the largest current"""
    w, x = uniform(48, 64, seed=seed), uniform(5, 64, seed=seed + 10)
    y = x @ folded(IRDropNodal(**resistances), w)[0].T
    reference = kirchhoff(w.numpy(), x.numpy(), resistances)
    assert np.abs(y.numpy() - reference).max() <= 1e-10 * np.abs(reference).max()
    if resistances is LOSSY:
        assert np.abs(reference).max() < 0.8 * float((x @ w.T).abs().max())  # the wires matter here


def test_row_tiles_and_column_blocks_are_arrays_of_their_own(folded):
    """R003-23, R003-24: 29 x 41 weights on arrays of 16 rows and 12 columns, of unequal sizes"""
    w, x = uniform(29, 41), uniform(3, 41, seed=1)
    effective = folded(IRDropNodal(**LOSSY), w, rows=16, columns=12)
    for tile_number, (a, b) in enumerate(((0, 14), (14, 28), (28, 41))):
        assert not effective[tile_number, :, b - a :].any()
        for c, d in ((0, 10), (10, 20), (20, 29)):
            reference = kirchhoff(w[c:d, a:b].numpy(), x[:, a:b].numpy(), LOSSY)
            y = x[:, a:b] @ effective[tile_number, c:d, : b - a].T
            assert np.abs(y.numpy() - reference).max() <= 1e-10 * np.abs(reference).max()


def test_idle_devices_above_0_load_the_lines(folded):
    """A pair at g_min > 0: both word lines carry a device in every cell"""
    w, x = uniform(12, 20), uniform(3, 20, seed=1)
    y = x @ folded(IRDropNodal(**LOSSY), w, device="{g_min: 5 uS, g_max: 25 uS, pair: both}")[0].T
    reference = kirchhoff(w.numpy(), x.numpy(), LOSSY, idle=5 / 20)
    assert np.abs(y.numpy() - reference).max() <= 1e-10 * np.abs(reference).max()


@pytest.mark.parametrize("g_line", [5.0, 2000.0])
def test_ideal_word_lines_leave_the_driven_ladder(folded, g_line):
    """R003-14"""
    w = uniform(30, 50)
    nodal = folded(IRDropNodal(r_word=0.0, g_line=g_line), w)
    ladder = folded(IRDropLadder(input_encoding="driven", g_line=g_line), w)
    assert (nodal - ladder).abs().max() <= 1e-12


def test_a_single_cell_is_a_series_of_resistors(folded):
    """y = x / (1/g + r_driver + r_word + r_bit + r_sense)"""
    w = torch.tensor([[0.4]], dtype=torch.float64)
    expected = 1 / (1 / (0.4 * UNIT) + sum(LOSSY.values())) / UNIT
    assert float(folded(IRDropNodal(**LOSSY), w)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("resistances", [BARE, {**LOSSY, "r_bit": 0.0}, {**LOSSY, "r_word": 0.0, "r_driver": 0.0}])
def test_the_dtype_of_the_weights_is_restored(folded, resistances):
    """float32 weights give the float64 result, rounded once"""
    w = uniform(16, 24).float()
    single, double = folded(IRDropNodal(**resistances), w), folded(IRDropNodal(**resistances), w.double())
    assert single.dtype == torch.float32
    assert torch.equal(single, double.float())


def test_lines_that_lose_everything_stay_finite(folded):
    w = uniform(40, 40)
    assert folded(IRDropNodal(r_word=1e9, r_bit=1e9, r_driver=1e9, r_sense=1e9), w).isfinite().all()


def test_the_first_column_is_next_to_the_driver_and_the_first_row_next_to_the_sense_node(folded):
    effective = folded(IRDropNodal(**LOSSY), torch.ones(20, 30, dtype=torch.float64))[0]
    assert (effective.diff(dim=0) < 0).all() and (effective.diff(dim=1) < 0).all()


def test_gradients_reach_the_weights(folded):
    """Exact, against finite differences"""
    w = uniform(3, 4).requires_grad_()
    effect = IRDropNodal(**{**LOSSY, "g_line": 200.0})
    assert torch.autograd.gradcheck(lambda w: folded(effect, w), (w,))


def test_a_programmed_tile_computes_with_the_folded_matrix(tile):
    """Through the tile, with 8-bit converters off; `scale` multiplies the drop"""
    w, x = uniform(20, 30), uniform(4, 30, seed=1)
    reference = kirchhoff(w.numpy(), x.numpy(), LOSSY)
    ideal = (x @ w.T).numpy()
    fields = ", ".join(f"{k}: {v}" for k, v in LOSSY.items())
    for scale in (1, 0.5):
        t = tile(w.float(), f"{{kind: circuit.ir_drop_nodal, {fields}, scale: {scale}}}").program(seed=0)
        expected = ideal + scale * (reference - ideal)
        assert np.abs(t(x.float()).numpy() - expected).max() < 1e-5


def netlist(w, x, resistances):
    """The array as a SPICE circuit: row drivers are voltage sources, sense nodes 0 V sources that measure current."""
    lines = ["array", ".options reltol=1e-10 abstol=1e-20 gmin=1e-30"]
    for k, (a, b, g) in enumerate(network(w)):
        if g:  # a device at 0 is an open circuit
            ohms = 1 / g if isinstance(g, float) else sum(resistances[r] for r in g)
            lines.append(f"R{k} {'_'.join(map(str, a))} {'_'.join(map(str, b))} {ohms:.17g}")
    for sign, value in SIGN.items():
        lines += [f"V{sign}{j} drive_{sign}_{j} 0 {value * float(v):.17g}" for j, v in enumerate(x)]
    lines += [f"VS{i} sense_{i} 0 0" for i in range(len(w))]
    lines += [".control", "set numdgt=14", "op", *(f"print i(vs{i})" for i in range(len(w))), "quit", ".endc", ".end"]
    return "\n".join(lines) + "\n"


def test_the_folded_matrix_agrees_with_ngspice(folded, tmp_path):
    """R003-14: 16 x 16, 1e-6 of the largest current"""
    if shutil.which("ngspice") is None:
        if os.environ.get("CI"):
            pytest.fail("ngspice is required in continuous integration: apt-get install ngspice")
        pytest.skip("ngspice is not installed (make system-deps)")
    w, x = uniform(16, 16), uniform(16, seed=1)
    circuit = tmp_path / "array.cir"
    circuit.write_text(netlist(w.numpy(), x.numpy(), LOSSY))
    run = subprocess.run(["ngspice", "-b", circuit], capture_output=True, text=True, check=True, cwd=tmp_path)
    currents = {a: float(b) for a, b in (line.split(" = ") for line in run.stdout.splitlines() if line.startswith("i(vs"))}
    reference = np.array([currents[f"i(vs{i})"] for i in range(16)]) / UNIT
    y = (x @ folded(IRDropNodal(**LOSSY), w)[0].T).numpy()
    assert np.abs(y - reference).max() <= 1e-6 * np.abs(reference).max()


def test_resistances_come_with_units():
    effect = IRDropNodal(r_word="0.5 kohm", g_line="25 uS")
    assert (effect.r_word, effect.g_line) == (500.0, 25.0)
    with pytest.raises(mho.ConfigError):
        mho.Hardware.from_yaml(
            "mho: 1\ndefault: t\ntiles: {t: {device: {g_max: 25 uS}, "
            "nonidealities: [{kind: circuit.ir_drop_nodal, r_word: 1 uS}]}}"
        )
