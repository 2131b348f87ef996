"""What a study shows: a headline, and parts that are a table on the terminal and a section of a report page."""

import math
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from mho.config import Hardware
from mho.ground import NONE, table
from mho_lab import report
from mho_lab.errorbars import with_error
from mho_lab.measure.statistics import Interval


class Part(NamedTuple):
    """A table; on the page it stands behind `figures`, on the terminal alone."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    note: str = ""
    figures: tuple[report.Block, ...] = ()
    printed: bool = True  # on the terminal

    def __str__(self) -> str:
        right = [j for j in range(1, len(self.head)) if any(_numeric(r[j]) for r in self.rows)]
        return f"{self.title}\n{table(self.head, self.rows, right=right)}" + (f"\n{self.note}" if self.note else "")


class Page(NamedTuple):
    """A headline and its parts."""

    title: str
    headline: str
    parts: list[Part]

    def __str__(self) -> str:
        return "\n\n".join([self.headline, *(str(p) for p in self.parts if p.printed)])

    def blocks(self) -> list[report.Block]:
        """The sections of the report page."""
        found: list[report.Block] = []
        for p in self.parts:
            found += p.figures
            found.append(report.table(p.title, p.head, p.rows, note=p.note))
        return found


def _numeric(cell: Any) -> bool:
    return isinstance(cell, int | float) or str(cell)[:1].isdigit()


def points(i: Interval, places: int = 2) -> str:
    """A share with half of its interval, in percent."""
    return with_error(i.mean, i.half, places, in_percent=True)


def short(value: float | None, unit: str = "") -> str:
    """Three digits, or a dash."""
    return NONE if value is None or math.isnan(value) else f"{value:.3g}{unit}"


def plain(value: Any) -> Any:
    """What a study found as data for JSON: named tuples and dataclasses become dicts, hardware what its file says; nan and
    infinity are null."""
    if isinstance(value, Hardware):
        return value.to_data()
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    elif is_dataclass(value):
        value = {f.name: getattr(value, f.name) for f in fields(value)}
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
