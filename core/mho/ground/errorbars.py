"""Mean and standard error over repetitions."""

from __future__ import annotations

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
