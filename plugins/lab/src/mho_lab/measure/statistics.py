"""Decisions from repeated measurements: confidence intervals, sequential tests, and thresholds found by bisection."""

import itertools
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mho.ground import spread
from mho_lab.errorbars import t_quantile


class Interval(NamedTuple):
    """A mean with its confidence interval."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half(self) -> float:
        """Half of its width; nan for a single value."""
        return (self.high - self.low) / 2 if math.isfinite(self.high) else math.nan

    @property
    def clear(self) -> bool:
        """Whether the mean differs from 0 at this confidence."""
        return self.low > 0 or self.high < 0


def interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Student's t interval of the mean; infinitely wide for a single value."""
    n, mean = len(values), math.fsum(values) / len(values)
    if n < 2:
        return Interval(mean, -math.inf, math.inf, n)
    half = t_quantile((1 + confidence) / 2, n - 1) * standard_error(values)
    return Interval(mean, mean - half, mean + half, n)


def standard_error(values: Sequence[float]) -> float:
    """std / sqrt(n) with n - 1 in the variance; nan for a single value."""
    return spread([[v] for v in values])["sem"][0]


# --- sequential decisions ---


class Ask(NamedTuple):
    """What a search wants measured next: the margins of repetitions first ... last - 1 at setting x."""

    x: float
    first: int
    last: int


class Decision(NamedTuple):
    """Whether the margin at x is positive: the mean, and 1 (yes), -1 (no) or 0 (not decided with all repetitions)."""

    x: float
    mean: float
    n: int
    sign: int


@dataclass(frozen=True)
class Effort:
    """How much is measured for a decision: after `looks` repetitions the interval is looked at, and work stops when it
    excludes 0. The error of all looks together is at most 1 - confidence (Bonferroni)."""

    looks: tuple[int, ...] = (3, 6, 12)
    confidence: float = 0.95

    def sign(self, margins: Sequence[float]) -> int:
        """1 or -1 where the mean of the margins is decided, else 0."""
        i = interval(margins, 1 - (1 - self.confidence) / len(self.looks))
        return (i.low > 0) - (i.high < 0) if i.high > i.low else (i.mean > 0) - (i.mean < 0)


Search = Generator[Ask, Sequence[float], Decision]


def decide(x: float, effort: Effort) -> Search:
    """Ask for repetitions at x until it is decided whether their mean is positive, or all have been used."""
    margins: list[float] = []
    sign = 0
    for n in effort.looks:
        margins += yield Ask(x, len(margins), n)
        if sign := effort.sign(margins):
            break
    return Decision(x, math.fsum(margins) / len(margins), len(margins), sign)


@dataclass(frozen=True)
class Threshold:
    """Where a margin that falls with x changes sign.

    low     the largest x at which it was decided to be positive
    high    the smallest x at which it was decided to be negative; None: not even at the largest x allowed
    x       linear interpolation at 0 between the means measured (R003-46); None where there is no crossing
    points  every setting that was measured, in order of x
    """

    low: float
    high: float | None
    x: float | None
    points: tuple[Decision, ...]


def threshold(
    effort: Effort, highest: float, step: float = 2.0, tolerance: float = 0.3, start: float | None = None
) -> Generator[Ask, Sequence[float], Threshold]:
    """Search 0 < x <= highest for the sign change of a margin that is positive at 0: steps up until it is negative, then
    bisection until the interval is at most `tolerance` wide, but for settings that stay undecided. `start` is the margin
    at 0, where it is known; a tolerance of 1 or more means that only whole numbers are settings."""
    low, failed = 0.0, False
    points = [Decision(0.0, start or 0.0, effort.looks[-1] if start else 0, 1)]
    while not failed and low < highest:
        points.append((yield from decide(min(low + step, highest), effort)))
        low, failed = points[-1].x, points[-1].sign < 0
    while failed and (x := _widest(points, tolerance)) is not None:
        points.append((yield from decide(x, effort)))
    measured = sorted((p for p in points if p.n), key=lambda p: p.x)
    x = crossing([(p.x, p.mean, p.n) for p in measured]) if failed else None
    return Threshold(_decided(points), _failed(points) if failed else None, x, tuple(p for p in measured if p.x))


def _decided(points: list[Decision]) -> float:
    """The largest x decided positive below the smallest decided negative."""
    return max(p.x for p in points if p.sign > 0 and p.x < _failed(points))


def _failed(points: list[Decision]) -> float:
    return min((p.x for p in points if p.sign < 0), default=math.inf)


def _widest(points: list[Decision], tolerance: float) -> float | None:
    """The middle of the wider gap next to the two ends of the interval; None when no gap is wider than the tolerance."""
    low, high = _decided(points), _failed(points)
    inside = sorted(p.x for p in points if low < p.x < high)
    a, b = max([(low, inside[0]), (inside[-1], high)] if inside else [(low, high)], key=lambda g: g[1] - g[0])
    whole = tolerance >= 1  # settings are whole numbers
    if b - a <= tolerance:
        return None
    return float(math.floor((a + b) / 2)) if whole else (a + b) / 2


def crossing(points: Sequence[tuple[float, float, float]]) -> float | None:
    """Where a falling curve through (x, mean, weight) is 0, by linear interpolation after the points have been made to fall
    (R003-46): neighbours in the wrong order are pooled. None where it does not cross.

    >>> crossing([(1, 2.0, 1), (2, 1.0, 1), (4, -1.0, 1)])
    3.0
    """
    blocks: list[list[tuple[float, float, float]]] = []
    for p in sorted(points):
        blocks.append([p])
        while len(blocks) > 1 and _mean(blocks[-1]) > _mean(blocks[-2]):
            pooled = blocks.pop()
            blocks[-1] += pooled
    level = [(x, _mean(b)) for b in blocks for x, _, _ in b]
    for (xa, ya), (xb, yb) in itertools.pairwise(level):
        if ya >= 0 > yb:
            return xa + (xb - xa) * ya / (ya - yb)
    return None


def _mean(block: list[tuple[float, float, float]]) -> float:
    return math.fsum(y * w for _, y, w in block) / math.fsum(w for _, _, w in block)
