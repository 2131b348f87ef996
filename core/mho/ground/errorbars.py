"""Error bars: mean and standard error over repetitions, and the factor that makes an interval of it."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence


def spread(rows: Sequence[Sequence[float]]) -> dict[str, list[float]]:
    """Mean over rows of each column, and its standard error: std / sqrt(n), n - 1 in the variance; nan for one row."""
    n, columns = len(rows), list(zip(*rows))
    mean = [sum(column) / n for column in columns]
    if n < 2:
        return {"mean": mean, "sem": [math.nan for _ in mean]}
    square = (sum((v - m) ** 2 for v in column) / (n - 1) for column, m in zip(columns, mean))
    return {"mean": mean, "sem": [math.sqrt(s / n) for s in square]}


@functools.cache
def t_quantile(p: float, dof: int) -> float:
    """The p-quantile of Student's t, by integrating its density; right to 1e-4 for p up to 0.9999.

    >>> round(t_quantile(0.975, 9), 3)
    2.262
    """
    import numpy as np  # only here: nobody else who prints error bars waits for it

    x = np.sinh(np.linspace(0.0, 20.0, 40_001))
    density = (1 + x * x / dof) ** (-(dof + 1) / 2)
    area = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(x))])
    return float(math.copysign(np.interp(abs(2 * p - 1), area / area[-1], x), p - 0.5))


def t95(freedom: int) -> float:
    """What turns a standard error into half of a two-sided 95 % interval."""
    return t_quantile(0.975, max(freedom, 1))
