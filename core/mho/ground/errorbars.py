"""Mean and standard error over repetitions, and how numbers are written."""

import math
from collections.abc import Sequence

NONE = "–"  # where there is no value


def spread(rows: Sequence[Sequence[float]]) -> dict[str, list[float]]:
    """Mean over rows of each column, and its standard error: std / sqrt(n), n - 1 in the variance; nan for one row."""
    n, columns = len(rows), list(zip(*rows))
    mean = [sum(column) / n for column in columns]
    if n < 2:
        return {"mean": mean, "sem": [math.nan for _ in mean]}
    square = (sum((v - m) ** 2 for v in column) / (n - 1) for column, m in zip(columns, mean))
    return {"mean": mean, "sem": [math.sqrt(s / n) for s in square]}


def number(value: float | None, places: int = 3, *, sign: bool = False) -> str:
    """A number to so many places, with a minus that is one; "–" for None and nan. `sign`: also "+".

    >>> number(-0.12345), number(0.5, 1, sign=True), number(-1e-9, 2), number(math.nan)
    ('−0.123', '+0.5', '0.00', '–')
    """
    if value is None or math.isnan(value):
        return NONE
    return f"{value:{'+' if sign else ''}z.{places}f}".replace("-", "−")


def percent(value: float | None, places: int = 1, *, sign: bool = False) -> str:
    """A fraction in percent, without the sign of it.

    >>> percent(0.9712), percent(-0.0125, 2, sign=True)
    ('97.1', '−1.25')
    """
    return number(None if value is None else 100 * value, places, sign=sign)
