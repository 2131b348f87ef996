"""How objects show themselves in a notebook: small tables, every text escaped, nothing to import."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any


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
