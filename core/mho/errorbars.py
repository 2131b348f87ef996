"""Error bars: mean and standard error over repetitions, and the factor that makes an interval of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

# Two-sided 95 % points of Student's t distribution for 1, 2, ... degrees of freedom.
T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)


def spread(rows: Sequence[Sequence[float]]) -> dict[str, list[float]]:
    """Mean over rows of each column, and its standard error: std / sqrt(n), n - 1 in the variance; nan for one row."""
    n, columns = len(rows), list(zip(*rows))
    mean = [sum(column) / n for column in columns]
    if n < 2:
        return {"mean": mean, "sem": [math.nan for _ in mean]}
    square = (sum((v - m) ** 2 for v in column) / (n - 1) for column, m in zip(columns, mean))
    return {"mean": mean, "sem": [math.sqrt(s / n) for s in square]}


def t95(freedom: int) -> float:
    """The 95 % point of Student's t; above the table 1.96 + 2.4/freedom, which is right to 0.02."""
    return T95[max(freedom, 1) - 1] if freedom <= len(T95) else 1.96 + 2.4 / freedom
