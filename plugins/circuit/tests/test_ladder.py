"""The exact bit line against banded and dense float64 solves, and the fast approximation against the exact line."""

import math
import warnings

import numpy as np
import pytest
import torch
from mho_circuit import IRDropLadder
from scipy.linalg import solve_banded

from mho.effects.site import Site, Stream

R = 0.35 * 5e-6  # R_wire g_line
DRIVEN = "{kind: circuit.ir_drop_ladder, input_encoding: driven}"
GATED = "circuit.ir_drop_ladder"


def uniform(*shape, seed=0):
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1


def site_of(t):
    """A site as the programmed tile `t` makes it for its effects."""
    key = t.tiles.chip.key
    return Site(t.tiles.view.geometry, Stream(key, key), (0, 0), "fold")


@pytest.fixture
def driven(tile):
    """driven(W, **fields) -> folded weights [out, row] in float64, the conductances of W being exact in float64."""

    def make(w, **fields):
        t = tile(torch.zeros(w.shape, dtype=torch.float64)).program(seed=0)
        return IRDropLadder(input_encoding="driven", **fields).fold(w[None], site_of(t))[0]

    return make


def banded(w, x, load, r):
    """Sensed current of one line, row 0 next to the sense node: Kirchhoff's law at every node, a banded system."""
    n = len(w)
    matrix = np.zeros((3, n))
    matrix[0, 1:] = matrix[2, :-1] = -1.0
    matrix[1] = 2.0 + r * load
    matrix[1, -1] -= 1.0
    return solve_banded((1, 1), matrix, r * w * x)[0] / r


@pytest.mark.parametrize("g_line", [5.0, 25.0, 2000.0])
def test_driven_rows_agree_with_banded_solves(driven, g_line):
    """R003-14: 1e-10 of the largest output, up to lines that lose nearly everything"""
    w, x = uniform(20, 200), uniform(3, 200, seed=1)
    y = (x @ driven(w, g_line=g_line).T).numpy()
    r = 0.35 * g_line * 1e-6
    reference = np.array([[banded(w_i.numpy(), x_k.numpy(), w_i.abs().numpy(), r) for w_i in w] for x_k in x])
    assert np.abs(y - reference).max() <= 1e-10 * np.abs(reference).max()


def dense(w, x, r):
    """Sensed current of one gated line by a dense solve in currents: unknown are the wire currents i_j (from node j to
    node j - 1), v_j = r sum_{k <= j} i_k, and i_j - i_{j+1} = w_j x_j - |w_j x_j| v_j."""
    n = len(w)
    below = np.tril(np.ones((n, n)))
    balance = np.eye(n) - np.eye(n, k=1)
    return np.linalg.solve(balance + np.diag(np.abs(w * x)) @ (r * below), w * x)[0]


@pytest.mark.parametrize("g_line", [5.0, 25.0, 2000.0])
def test_gated_rows_agree_with_dense_solves(tile, g_line):
    """R003-14: two tiles of rows, 5 vectors, 12 columns"""
    w, x = uniform(12, 120), uniform(5, 120, seed=1)
    effect = IRDropLadder(g_line=g_line)
    t = tile(torch.zeros(12, 120, dtype=torch.float64), rows=60).program(seed=0)
    ws, xs = w.unflatten(1, (2, 60)).transpose(0, 1), x.unflatten(1, (2, 60))
    ideal = torch.einsum("vtr,tor->vto", xs, ws)
    y = effect.accumulate(ideal, xs, ws, site_of(t)).numpy()
    r = 0.35 * g_line * 1e-6
    for v, tile_number, i in np.ndindex(y.shape):
        reference = dense(ws[tile_number, i].numpy(), xs[v, tile_number].numpy(), r)
        assert y[v, tile_number, i] == pytest.approx(reference, abs=1e-10 * np.abs(y).max())


def test_a_tile_with_a_gated_ladder_runs_it_on_its_inputs(tile):
    """R003-14: through the whole tile, to float32"""
    w, x = uniform(12, 120).float(), uniform(5, 120, seed=1).float()
    y = tile(w, "{kind: circuit.ir_drop_ladder, g_line: 500 uS}").program(seed=0)(x)
    for v, i in np.ndindex(*y.shape):
        reference = dense(w[i].double().numpy(), x[v].double().numpy(), 0.35 * 500e-6)
        assert float(y[v, i]) == pytest.approx(reference, abs=1e-5)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_full_tile_in_single_precision_is_right_to_a_ten_thousandth(tile, compiled):
    """PERFORMANCE.md goal 8: 512 rows, 130 vectors (more than one block); an ADC step is 0.08. Also on lines that lose nearly
    everything, and with devices at g_min."""
    w = (0.246 * torch.randn(512, 512, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)
    x = uniform(130, 512, seed=1).float()
    for r, pair in ((0.35, ""), (140, ""), (3e5, ""), (0.35, "both")):
        effect = f"{{kind: circuit.ir_drop_ladder, r_wire: {r} ohm}}"
        device = {"device": "{g_min: 1 uS, g_max: 25 uS, pair: both}"} if pair else {}
        t = tile(w, effect, compiled=compiled, **device).program(seed=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of torch, by torch
            warnings.filterwarnings("error", "layer.*cannot be compiled")
            y = t(x)
        load = w.abs().double() + (2 / 24 if pair else 0)
        for v, i in ((0, 0), (0, 511), (64, 7), (128, 300), (129, 1)):
            reference = banded(w[i].double().numpy(), x[v].double().numpy(), (load[i] * x[v].abs()).numpy(), r * 5e-6)
            assert float(y[v, i]) == pytest.approx(reference, abs=1e-4)


def test_gradients_are_those_of_dense_solves(tile):
    """R003-14: finite differences of exact solutions; 30 rows are two chunks, and the second is not full"""
    w, x = uniform(2, 30), uniform(3, 30, seed=1)
    effect, t = IRDropLadder(g_line=2000.0), tile(torch.zeros(2, 30, dtype=torch.float64)).program(seed=0)

    def outputs(w, x):
        w, x = w[None], x[:, None]
        return effect.accumulate(torch.einsum("vtr,tor->vto", x, w), x, w, site_of(t))

    assert torch.autograd.gradcheck(outputs, (w.requires_grad_(), x.requires_grad_()))
    watched, plain = outputs(w, x), outputs(w.detach(), x.detach())
    assert torch.allclose(watched, plain, rtol=1e-12)


@pytest.mark.parametrize("a", [0.01, 0.2, 1.0, 10.0])
def test_a_uniform_line_keeps_tanh_of_root_a_over_root_a(tile, a):
    """R003-12, E7: a continuous line with a = R g n^2, up to 1/n"""
    n = 512
    effect = f"{{kind: circuit.ir_drop_ladder, g_line: {a / (0.35 * n * n) * 1e6} uS}}"
    y = tile(torch.ones(1, n), effect).program(seed=0)(torch.ones(1, n))
    assert float(y) / n == pytest.approx(math.tanh(math.sqrt(a)) / math.sqrt(a), abs=1 / n)


@pytest.mark.parametrize(
    "effect",
    [
        "{{kind: circuit.ir_drop_ladder, r_wire: {0}, input_encoding: gated}}",
        "{{kind: circuit.ir_drop_ladder, r_wire: {0}, input_encoding: driven}}",
        "{{kind: circuit.ir_drop_nodal, r_word: {0}, r_bit: {0}}}",
    ],
)
def test_the_exact_solutions_converge_to_the_ideal_product_as_the_wires_become_ideal(tile, effect):
    """R003-14: the error is proportional to the wire resistance, and gone at 0"""
    w, x = uniform(8, 64).float(), uniform(4, 64, seed=1).float()
    ideal = x @ w.T
    errors = [float((tile(w, effect.format(r)).program(seed=0)(x) - ideal).norm()) for r in (5, 0.5, 0)]
    assert errors[0] > 0.05
    assert errors[1] == pytest.approx(0.1 * errors[0], rel=0.1)
    assert errors[2] < 1e-5


@pytest.mark.parametrize("slots", [1, 3, 127])
def test_pulses_are_integrated_slot_by_slot(tile, slots):
    """R003-14: a row conducts in the slots its pulse covers; each slot is an exact line of fully-on rows"""
    w = uniform(3, 40).float()
    x = (uniform(2, 40, seed=1) * 127).round().float() / 127
    y = tile(w, f"{{kind: circuit.ir_drop_ladder, g_line: 2000 uS, slots: {slots}}}").program(seed=0)(x)
    for v, i in np.ndindex(*y.shape):
        w_i, x_v = w[i].double().numpy(), x[v].double().numpy()
        drop = 0.0
        for k in range(slots):
            on = np.sign(x_v) * (np.abs(x_v) * slots > k + 0.5)
            drop += (w_i @ on - dense(w_i, on, 0.35 * 2000e-6)) / slots
        assert float(y[v, i]) == pytest.approx(w_i @ x_v - drop, abs=2e-5)


def test_small_inputs_lose_more_in_pulses_than_on_average(tile):
    """R003 Methods: averaged currents underestimate the drop, by about 5 for correlated inputs; here 3 to 10"""
    generator = torch.Generator().manual_seed(0)
    w = (0.246 * torch.randn(64, 512, generator=generator)).clamp(-1, 1)
    x = (torch.randn(4, 512, generator=generator) * 0.1).clamp(min=0).mul(127).round() / 127
    ideal = tile(w).program(seed=0)(x)
    drops = [
        float((tile(w, text).program(seed=0)(x) - ideal).norm()) for text in (GATED, "{kind: circuit.ir_drop_ladder, slots: 127}")
    ]
    assert 3 < drops[1] / drops[0] < 10


@pytest.mark.parametrize("g_line", [5, 15, 40])
def test_the_fast_drop_follows_the_gated_line(tile, g_line):
    """R003-14: 512 random columns, 32 vectors: measured 2.2 % of the rms drop, 0.04 to 0.28 % of the rms output"""
    generator = torch.Generator().manual_seed(g_line)
    w = (0.246 * torch.randn(512, 512, generator=generator)).clamp(-1, 1)
    x = 2 * torch.rand(32, 512, generator=generator) - 1
    a = 0.35 * g_line * 1e-6 * 512 * (x.abs() @ w.abs().T)
    assert a.max() < 0.5
    kinds = (None, "circuit.ir_drop_ladder", "circuit.ir_drop")
    effects = [[f"{{kind: {kind}, g_line: {g_line} uS}}"] if kind else [] for kind in kinds]
    ideal, exact, fast = (tile(w, *e).program(seed=0)(x).double() for e in effects)
    rms = float((fast - exact).square().mean().sqrt())
    assert rms <= 0.03 * float((exact - ideal).square().mean().sqrt())
    assert rms <= 0.003 * float(exact.square().mean().sqrt())


@pytest.mark.parametrize("g_min", [0, 5, 50, 110])
@pytest.mark.parametrize("precision", ["reference", "auto"])
def test_the_fast_drop_counts_both_devices_of_a_pair(tile, g_min, precision):
    """R003-12, R003-14 for pairs between g_min and 225 uS, a up to 0.4: measured 1.1 to 2.6 % of the rms drop of the line;
    without the idle devices 18 % (5 uS), 72 % (50 uS), 89 % (110 uS)."""
    generator = torch.Generator().manual_seed(512 + g_min)
    w = (0.246 * torch.randn(64, 512, generator=generator)).clamp(-1, 1)
    x = (2 * torch.rand(32, 512, generator=generator) - 1).mul(127).round() / 127
    load = w.abs() + 2 * g_min / (225 - g_min)
    g_line = 0.4 / (0.35e-6 * 512 * float((x.abs() @ load.T).max()))
    around = {"device": f"{{g_min: {g_min} uS, g_max: 225 uS, pair: both}}", "dac": "{bits: 8, range: 1.0}"}
    exact, fast = (
        tile(w, f"{{kind: {kind}, g_line: {g_line} uS}}", precision=precision, **around).program(seed=0)(x).double()
        for kind in (GATED, "circuit.ir_drop")
    )
    drop = exact - x.double() @ w.double().T
    assert float((fast - exact).norm() / drop.norm()) < 0.03


def test_driven_lines_lose_more_than_gated_ones(tile):
    """docs/physics.md E6: first order in the load, which is |w| instead of |w| |x|, so twice the drop for x ~ U(-1, 1)"""
    w, x = uniform(64, 512).float(), uniform(16, 512, seed=1).float()
    ideal = tile(w).program(seed=0)(x)
    drops = [float((tile(w, e).program(seed=0)(x) - ideal).norm()) for e in (DRIVEN, GATED)]
    assert drops[0] / drops[1] == pytest.approx(2.0, rel=0.2)


@pytest.mark.parametrize("effect", [GATED, DRIVEN, "circuit.ir_drop_nodal"])
def test_a_short_column_gives_the_same_output_in_a_tall_and_in_a_short_tile(tile, effect):
    """R003-13"""
    w, x = uniform(16, 128).float(), uniform(4, 128, seed=1).float()
    outputs = [tile(w, effect, rows=rows).program(seed=0)(x) for rows in (512, 128)]
    assert torch.equal(*outputs)


@pytest.mark.parametrize("effect", [GATED, DRIVEN, "circuit.ir_drop_nodal"])
def test_each_row_tile_is_a_line_of_its_own(tile, effect):
    """R003-13, R003-23: 65 rows on tiles of 32 are 22 + 22 + 21, padded to the same height"""
    w, x = uniform(16, 65).float(), uniform(4, 65, seed=1).float()
    split = tile(w, effect, rows=32).program(seed=0)(x)
    cuts = ((0, 22), (22, 44), (44, 65))
    alone = [tile(w[:, a:b], effect, rows=32).program(seed=0)(x[:, a:b]) for a, b in cuts]
    assert torch.allclose(split, sum(alone), atol=1e-5)


@pytest.mark.parametrize("encoding", ["gated", "driven"])
def test_idle_devices_above_0_load_the_line(tile, encoding):
    """A pair at g_min > 0: y = (ladder of both devices' currents), load g+ + g-"""
    w, x = uniform(6, 50), uniform(3, 50, seed=1)
    device = "{g_min: 5 uS, g_max: 25 uS, pair: both}"
    effect = f"{{kind: circuit.ir_drop_ladder, g_line: 2000 uS, input_encoding: {encoding}}}"
    y = tile(w.float(), effect, device=device).program(seed=0)(x.float())
    for v, i in np.ndindex(*y.shape):
        w_i, x_v = w[i].numpy(), x[v].numpy()
        share = np.abs(x_v) if encoding == "gated" else 1.0
        reference = banded(w_i, x_v, (np.abs(w_i) + 2 * 5 / 20) * share, 0.35 * 2000e-6)
        assert float(y[v, i]) == pytest.approx(reference, abs=1e-5)


def test_the_scale_multiplies_the_exact_drop(tile):
    """R003-12, R003-45"""
    w, x = uniform(16, 256).float(), uniform(4, 256, seed=1).float()
    ideal = tile(w).program(seed=0)(x)
    for encoding in ("gated", "driven"):
        texts = [f"{{kind: circuit.ir_drop_ladder, input_encoding: {encoding}, scale: {s}}}" for s in (1, 10)]
        drops = [tile(w, text).program(seed=0)(x) - ideal for text in texts]
        assert torch.allclose(drops[1], 10 * drops[0], atol=3e-4)


def test_slots_of_driven_rows_are_refused(tile):
    with pytest.raises(Exception, match="slots needs input_encoding: gated"):
        tile(torch.ones(2, 2), "{kind: circuit.ir_drop_ladder, input_encoding: driven, slots: 4}")


@pytest.mark.parametrize("effect", [GATED, "{kind: circuit.ir_drop_ladder, slots: 2}"])
def test_gradients_go_through_the_gated_line(tile, effect):
    """The derivative of the exact solution, against finite differences in float64"""
    w = uniform(2, 5)
    field = IRDropLadder(g_line=20000.0) if effect == GATED else IRDropLadder(g_line=20000.0, slots=2)
    site = site_of(tile(torch.zeros(2, 5, dtype=torch.float64)).program(seed=0))
    x = uniform(3, 1, 5, seed=1).requires_grad_()
    weight = w[None].clone().requires_grad_()

    def f(x, weight):
        return field.accumulate(torch.einsum("vtr,tor->vto", x, weight), x, weight, site)

    assert torch.autograd.gradcheck(f, (x, weight))
