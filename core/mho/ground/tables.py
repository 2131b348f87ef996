"""Tables for people: as text for the terminal, as HTML for notebooks (every text escaped); and the same numbers as JSON."""

import html
import json
import math
import shutil
import textwrap
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple


def width(text: str) -> int:
    """Columns that a text takes on a terminal."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def table(
    head: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Iterable[int] = (), wrap: int | None = None, indent: int = 0
) -> str:
    """Aligned columns under a line; empty columns are left out.

    `right`: columns to align to the right; `wrap`: the column that is broken into lines where the terminal is narrow.

    >>> print(table(["kind", "n"], [["pcm.drift", 3]], right=[1]))
    kind       n
    ────────────
    pcm.drift  3
    """
    cells = [[str(c) for c in row] for row in rows]
    kept = [i for i in range(len(head)) if not cells or any(row[i] for row in cells)]
    lines = [[head[i] for i in kept], *([row[i] for i in kept] for row in cells)]
    if wrap in kept:
        lines = _wrapped(lines, kept.index(wrap), shutil.get_terminal_size((120, 24)).columns - indent)
    widths = _widths(lines)
    to_right = {kept.index(i) for i in right if i in kept}
    text = ["  ".join(_padded(c, w, j in to_right) for j, (c, w) in enumerate(zip(line, widths))) for line in lines]
    text.insert(1, "─" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(" " * indent + line.rstrip() for line in text)


class Table(NamedTuple):
    """A table for the terminal and for notebooks: columns `right` are aligned to the right on the terminal, a notebook has the
    `title` above."""

    head: Sequence[str]
    rows: Sequence[Sequence[Any]]
    right: Iterable[int] = ()
    title: str = ""
    note: str = ""


class Tabular:
    """Results that people see as a table: they say which one."""

    def as_table(self) -> Table:
        """What `print` and a notebook show."""
        raise NotImplementedError

    def __str__(self) -> str:
        t = self.as_table()
        return "\n".join(filter(None, (table(t.head, t.rows, right=t.right), t.note)))

    def _repr_html_(self) -> str:
        t = self.as_table()
        return html_table(t.head, t.rows, title=t.title, note=t.note)


def _widths(lines: list[list[str]]) -> list[int]:
    return [max(width(line[j]) for line in lines) for j in range(len(lines[0]))]


def _wrapped(lines: list[list[str]], column: int, to: int) -> list[list[str]]:
    """The same lines with one column broken so that all fit; continuation lines are empty elsewhere."""
    widths = _widths(lines)
    room = max(24, to - sum(widths) + widths[column] - 2 * (len(widths) - 1))
    result = []
    for line in lines:
        first, *more = textwrap.wrap(line[column], room) or [""]
        result.append([*line[:column], first, *line[column + 1 :]])
        result += [[part if j == column else "" for j in range(len(line))] for part in more]
    return result


def _padded(cell: str, to: int, right: bool) -> str:
    space = " " * (to - width(cell))
    return space + cell if right else cell + space


def html_table(head: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str = "", note: str = "", shown: int = 60) -> str:
    """Rows under a head; of long tables the first `shown` rows."""
    names = "".join(f'<th style="text-align:left">{_text(h)}</th>' for h in head)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows[:shown])
    more = f"… and {len(rows) - shown:,} more rows" if len(rows) > shown else ""
    said = "".join(f"<div>{_text(t)}</div>" for t in (more, note) if t)
    named = f"<div><b>{_text(title)}</b></div>" if title else ""
    return f"{named}<table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>{said}"


def html_facts(title: str, facts: Mapping[str, Any]) -> str:
    """Names with one value each."""
    return html_table((), [(name, str(value)) for name, value in facts.items()], title=title)


def _cell(value: Any) -> str:
    side = "right" if isinstance(value, (int, float)) else "left"
    return f'<td style="text-align:{side}">{_text(value)}</td>'


def _text(value: Any) -> str:
    return html.escape(f"{value:.4g}" if isinstance(value, float) else str(value))


def json_text(value: Any) -> str:
    """Standard JSON: numbers that are not finite (the SEM of one chip) are null.

    >>> json_text({"sem": [0.5, math.nan]})
    '{"sem": [0.5, null]}'
    """
    return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
