"""How objects show themselves in a notebook: small tables, every text escaped, nothing to import."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any


def html_table(head: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str = "", note: str = "", shown: int = 60) -> str:
    """Rows under a head; of long tables the first `shown` rows."""
    cells = "".join(
        "<tr>" + "".join(f'<td style="text-align:{_side(c)}">{_text(c)}</td>' for c in row) + "</tr>" for row in rows[:shown]
    )
    names = "".join(f'<th style="text-align:left">{_text(h)}</th>' for h in head)
    more = f"… and {len(rows) - shown:,} more rows" if len(rows) > shown else ""
    said = "".join(f"<div>{_text(t)}</div>" for t in (more, note) if t)
    named = f"<div><b>{_text(title)}</b></div>" if title else ""
    return f"{named}<table><thead><tr>{names}</tr></thead><tbody>{cells}</tbody></table>{said}"


def html_facts(title: str, facts: Mapping[str, Any]) -> str:
    """Names with one value each."""
    rows = "".join(
        f'<tr><th style="text-align:left">{_text(k)}</th><td style="text-align:left">{_text(v)}</td></tr>'
        for k, v in facts.items()
    )
    return f"<div><b>{_text(title)}</b></div><table><tbody>{rows}</tbody></table>"


def _text(value: Any) -> str:
    return html.escape(f"{value:.4g}" if isinstance(value, float) else str(value))


def _side(value: Any) -> str:
    return "right" if isinstance(value, (int, float)) else "left"
