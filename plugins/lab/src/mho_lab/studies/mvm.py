"""The paper's studies of a single matrix-vector product: what its error depends on (R003 Figs. 3, 4 and 6)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from mho.config import load
from mho.effects import Dac
from mho.ground import MhoError
from mho.use import Tile, Time, calibrate, mvm_error
from mho_lab.devices import moved
from mho_lab.measure.statistics import standard_error
from mho_lab.run.product import MvmExperiment, standard_mvm_error

if TYPE_CHECKING:
    from mho.config import Hardware


class ErrorAt(NamedTuple):
    """One point of a study: the setting, the error there, its standard error."""

    x: float
    error: float
    sem: float = math.nan

    @classmethod
    def of(cls, x: float, errors: Sequence[float]) -> ErrorAt:
        return cls(x, fmean(errors), standard_error(errors))


Tick = Callable[[], object]  # told after every matrix, for a progress bar


def with_tile(hw: Hardware, **changes: Any) -> Hardware:
    """`hw` with changes of its default tile."""
    return hw.model_copy(update={"tiles": {**hw.tiles, hw.default: hw.tile(hw.default).model_copy(update=changes)}})


def equal_error_boost(
    hw: Hardware,
    what: str | Iterable[str],
    target: float = 0.20,
    *,
    t: Time | None = None,
    experiment: MvmExperiment | None = None,
    highest: float = 1e4,
    tick: Tick = lambda: None,
) -> float:
    """The factor on one effect, or on several together, that brings the standard MVM error to `target` (R003-44, Fig. 4), by
    bisection to 1 %.

    Every factor is measured on the same matrices and chips, so the error is a smooth function of it.
    """

    names = [what] if isinstance(what, str) else list(what)
    said = " and ".join(names)

    def error(factor: float) -> float:
        return standard_mvm_error(hw.varied(dict.fromkeys(names, factor), tiles=hw.default), t, experiment, tick).mean

    low, high = 1.0, 2.0
    if (now := error(low)) >= target:
        raise MhoError(f"the MVM error is {now:.1%} already, not below the target of {target:.1%}")
    if error(high) == now:
        raise MhoError(f"{said} makes no difference to the MVM error at this time")
    while error(high) < target:
        low, high = high, 2 * high
        if high > highest:
            raise MhoError(f"{said} does not bring the MVM error to {target:.1%}, not even {highest:g} times as strong")
    while high / low > 1.01:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if error(middle) < target else (low, middle)
    return math.sqrt(low * high)


def _curve(xs: Iterable[float], error: Callable[[float, int], float], e: MvmExperiment, tick: Tick) -> list[ErrorAt]:
    """The error at every setting: `error(x, k)` is that of the k-th matrix."""
    return [ErrorAt.of(x, e.each(functools.partial(error, x), tick)) for x in xs]


def fixed_point_error(bits: int, *, weights: bool, experiment: MvmExperiment | None = None) -> float:
    """MVM error of b-bit weights (or inputs) with max scaling and everything else exact (R003-52, Fig. 3D)."""
    e = experiment or MvmExperiment()

    def rounded(v: Tensor) -> Tensor:
        step = v.abs().max() / (2 ** (bits - 1) - 1)
        return (v / step).round() * step

    drawn = map(e.draw, range(e.matrices))
    return fmean(mvm_error(x @ w.T, x @ rounded(w).T if weights else rounded(x) @ w.T) for w, x in drawn)


def input_range_study(
    hw: Hardware, alphas: Iterable[float], rho: float = 0.0, experiment: MvmExperiment | None = None, tick: Tick = lambda: None
) -> list[ErrorAt]:
    """MVM error against the input range alpha for x ~ N(0, 1), correlated with the weights as training makes them:
    x' = rho w_k + (1 - rho) x (R003-53, Fig. 3E)."""
    e = experiment or MvmExperiment()
    dac = hw.tile(hw.default).dac
    if not isinstance(dac, Dac):
        raise MhoError(f"tile {hw.default!r} has no DAC, so there is no input range to study")

    def error(alpha: float, k: int) -> float:
        w, _ = e.draw(k)
        x = moved(torch.randn(e.vectors, e.size, generator=torch.Generator().manual_seed(10_000 + k)))
        x = rho * w[torch.arange(e.vectors) % e.size] + (1 - rho) * x
        return mvm_error(x @ w.T, Tile(w, with_tile(hw, dac=dac.model_copy(update={"range": float(alpha)}))).program(seed=k)(x))

    return _curve(alphas, error, e, tick)


def dynamic_range_study(
    hw: Hardware, spreads: Iterable[float], experiment: MvmExperiment | None = None, tick: Tick = lambda: None
) -> list[tuple[ErrorAt, ErrorAt]]:
    """What noise and bound management add to a static input range (R003-54, sec. A.1): MVM errors without and with both,
    for vectors exp(spread N) U(-1, 1) whose sizes differ as those of tokens do. x of a point is the spread.

    A learned range is first calibrated by MVM error on these inputs; a number is taken as it is. Both deployments use
    the same range, matrices and chips. With output noise alone, and no input beyond the range alpha, the error falls by
    the factor mean_k max_j |x_kj| / alpha.
    """
    e = experiment or MvmExperiment()
    dac = hw.tile(hw.default).dac
    if not isinstance(dac, Dac) or dac.range == "dynamic":
        raise MhoError(f"tile {hw.default!r} needs a DAC with a learned or fixed range to study what dynamic ones add")
    managed = {"noise_management": True, "halvings": max(3, dac.halvings)}
    plain = {"noise_management": False, "halvings": 0}
    both = [with_tile(hw, dac=dac.model_copy(update=changes)) for changes in (plain, managed)]
    points = []
    for spread in spreads:
        static, dynamic = zip(*e.each(lambda k, s=spread: _managed_errors(both, *sized_vectors(e, k, s), k), tick))
        points.append((ErrorAt.of(spread, static), ErrorAt.of(spread, dynamic)))
    return points


def sized_vectors(e: MvmExperiment, k: int, spread: float) -> tuple[Tensor, Tensor]:
    """The k-th matrix of the experiment, and its vectors with sizes exp(spread N), the largest entry of all on 1."""
    w, x = e.draw(k)
    x = x * moved(spread * torch.randn(e.vectors, 1, generator=torch.Generator().manual_seed(30_000 + k))).exp()
    return w, x / x.abs().max()


def _managed_errors(both: list[Hardware], w: Tensor, x: Tensor, seed: int) -> tuple[float, ...]:
    """MVM errors with the first hardware, and with the second at the input range found for the first."""
    tiles = [Tile(w, hw) for hw in both]
    if tiles[0].tiles.input_range.requires_grad:  # learned
        calibrate(tiles[0], [x], "mse")
        tiles[1].tiles.input_range.data.copy_(tiles[0].tiles.input_range)
    with torch.no_grad():
        return tuple(mvm_error(x @ w.T, t.program(seed=seed)(x)) for t in tiles)


def generalised_normal(shape: tuple[int, ...], beta: float, generator: torch.Generator) -> Tensor:
    """Draws of the density exp(-|w|^beta) (scale 1): beta = 1: Laplace, 2: normal, large: uniform (R003-48).

    The distribution function of |w| is the incomplete gamma function P(1/beta, |w|^beta); it is tabulated and inverted on
    uniform numbers. The table ends where exp(-|w|^beta) is 1e-15, and is densest near 0.
    """
    grid = 34 ** (1 / beta) * torch.linspace(0, 1, 1 << 16, dtype=torch.float64) ** 2
    below = torch.special.gammainc(torch.full_like(grid, 1 / beta), grid**beta)
    u = torch.rand(math.prod(shape), generator=generator, dtype=torch.float64)
    i = torch.searchsorted(below, u).clamp(1, len(grid) - 1)
    share = (u - below[i - 1]) / (below[i] - below[i - 1]).clamp(min=1e-300)
    magnitude = grid[i - 1] + share.clamp(0, 1) * (grid[i] - grid[i - 1])
    return (magnitude * torch.where(torch.rand(len(u), generator=generator) < 0.5, -1.0, 1.0)).float().view(shape)


def theoretical_kurtosis(beta: float) -> float:
    """Of the generalised normal: Gamma(5/beta) Gamma(1/beta) / Gamma(3/beta)^2 - 3 (R003-48)."""
    return math.exp(math.lgamma(5 / beta) + math.lgamma(1 / beta) - 2 * math.lgamma(3 / beta)) - 3


def weight_shape_study(
    hw: Hardware, betas: Iterable[float], t: Time = "1 h", experiment: MvmExperiment | None = None, tick: Tick = lambda: None
) -> list[ErrorAt]:
    """MVM error against the shape of the weight distribution, from long tails (beta = 0.5) to uniform, the largest weight
    on g_max (R003-48, Fig. 6A). x of a point is beta."""
    e = experiment or MvmExperiment()
    hw = load(hw, set=[f"tiles.{hw.default}.mapping.kind=mho.tile_max"])

    def error(beta: float, k: int) -> float:
        g = torch.Generator().manual_seed(20_000 + k)
        w = generalised_normal((e.size, e.size), beta, g)
        w, x = moved((w, 2 * torch.rand(e.vectors, e.size, generator=g) - 1))
        return mvm_error(x @ w.T, Tile(w, hw).program(seed=k).age(t)(x))

    return _curve(betas, error, e, tick)


@torch.no_grad()
def graded_column(hw: Hardware, fractions: Iterable[float], rows: int = 512, level: float = 1.0) -> list[ErrorAt]:
    """Fig. 3C (R003-15): one column whose weights run from -1 to 1 in order, read with a constant input; the ideal output
    is 0. Returns the mean absolute output for each ordered fraction of the column (the rest is shuffled)."""
    drops = tuple(e for e in hw.tile(hw.default).nonidealities if e.kind.startswith("circuit.ir_drop"))
    if not drops:
        raise MhoError("the graded column shows IR-drop, and this tile has none; add circuit.ir_drop")
    only = with_tile(hw, rows=rows, dac=None, adc=None, nonidealities=drops)
    points = []
    for fraction in fractions:
        outputs = []
        for k in range(16):
            g = torch.Generator().manual_seed(k)
            w = torch.linspace(-1, 1, rows)
            others = torch.randperm(rows, generator=g)[: round((1 - fraction) * rows)]
            w[others] = w[others[torch.randperm(len(others), generator=g)]]
            column, x = moved((w[None], torch.full((1, rows), level)))
            outputs.append(float(Tile(column, only)(x).abs()))
        points.append(ErrorAt.of(fraction, outputs))
    return points
