"""Text tables for the terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any


def width(text: str) -> int:
    """Columns that a text takes on a terminal."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Iterable[int] = (), indent: int = 0) -> str:
    """Aligned columns under a line; columns in `right` are right-aligned, empty columns are left out.

    >>> print(table(["kind", "n"], [["pcm.drift", 3]], right=[1]))
    kind       n
    ────────────
    pcm.drift  3
    """
    cells = [[str(c) for c in row] for row in rows]
    kept = [i for i in range(len(head)) if not cells or any(row[i] for row in cells)]
    lines = [[head[i] for i in kept], *([row[i] for i in kept] for row in cells)]
    widths = [max(width(line[j]) for line in lines) for j in range(len(kept))]
    to_right = {kept.index(i) for i in right if i in kept}
    text = [_line(line, widths, to_right) for line in lines]
    text.insert(1, "─" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(" " * indent + line for line in text)


def _line(cells: list[str], widths: list[int], to_right: set[int]) -> str:
    padded = [_pad(cell, w, j in to_right) for j, (cell, w) in enumerate(zip(cells, widths))]
    return "  ".join(padded).rstrip()


def _pad(cell: str, to: int, right: bool) -> str:
    space = " " * (to - width(cell))
    return space + cell if right else cell + space
