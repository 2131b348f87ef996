"""The results of a sweep folder as one flat table, for the terminal, files and pandas."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mho.ground import MhoError, html_table, needed, table
from mho_lab.measure.state import Record, State, need_plans

SHOWN = 20  # rows that are printed


@dataclass(frozen=True)
class Table:
    """Rows of plain values; nested parts of items and values have dotted names (`grid.bits`)."""

    rows: tuple[dict[str, Any], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """All names, in the order in which they come up."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row))

    def to_jsonl(self) -> str:
        """One JSON object per row."""
        return "".join(json.dumps(row) + "\n" for row in self.rows)

    def to_csv(self) -> str:
        """Comma-separated values with a head; what a row lacks is empty, a list is written as JSON."""
        out = io.StringIO()
        writer = csv.DictWriter(out, self.columns, lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            writer.writerow({k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()})
        return out.getvalue()

    def to_pandas(self) -> Any:
        """A pandas DataFrame."""
        return needed("pandas", "this needs pandas", "'mho-lab[tables]'").DataFrame(list(self.rows), columns=list(self.columns))

    def _repr_html_(self) -> str:
        return html_table(self.columns, [[_short(row.get(c, "")) for c in self.columns] for row in self.rows])

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        cells = [[_short(row.get(c, "")) for c in self.columns] for row in self.rows[:SHOWN]]
        more = f"\n… and {len(self.rows) - SHOWN} more rows" if len(self.rows) > SHOWN else ""
        return table(self.columns, cells) + more


def read(folder: str | Path, measure: str | None = None) -> Table:
    """All results of a folder, in the order of the plan: one row for each item, or for each of `rows` where a measure
    function returned a list under this name. `measure` ("module:function") chooses where a folder holds several."""
    plans = need_plans(folder)
    names = [p["measure"]["name"] for p in plans]
    if measure is None and len(plans) > 1:
        measure = names[-1]  # what the others were for
    if measure is not None and measure not in names:
        raise MhoError(f"{folder} holds no results of {measure!r}; it holds: {', '.join(names)}")
    state = State(Path(folder))
    keys = [k for p in plans if p["measure"]["name"] == (measure or names[0]) for k in p["items"]]
    return Table(tuple(row for k in keys if (r := state.record(k)) and r["status"] == "done" for row in rows_of(r)))


def rows_of(record: Record) -> Iterator[dict[str, Any]]:
    """The rows of one result: its item beside its value, or beside each entry of the value's `rows`."""
    value = dict(record["value"])
    several = value.pop("rows", [{}])
    common = {**flat(record["item"]), **flat(value)}
    for row in several:
        yield {**common, **flat(row)}


def flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts on one level; lists stay lists.

    >>> flat({"a": {"b": 1}, "c": [2, 3]})
    {'a.b': 1, 'c': [2, 3]}
    """
    found: dict[str, Any] = {}
    for name, value in data.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else text[:39] + "…"
