"""Reports: one HTML file each that needs nothing else, no script and no network.

`write_report(folder)` makes the page of a result folder. Pages of your own are put together from blocks:

    from mho_lab import report

    report.write_page("page.html", "What costs accuracy", [report.lines(...), report.heatmap(...), report.table(...)])
"""

from __future__ import annotations

from pathlib import Path

from mho.ground import MhoError, write_atomically
from mho_lab.report.blocks import (
    PAGE,
    Block,
    bars,
    code,
    facts,
    heatmap,
    histogram,
    kept_page,
    lines,
    page,
    table,
    text,
    tiles,
    write_page,
)
from mho_lab.report.figures import TileGrid
from mho_lab.run.page import run_page

__all__ = [
    "Block",
    "TileGrid",
    "bars",
    "code",
    "facts",
    "heatmap",
    "histogram",
    "lines",
    "page",
    "table",
    "text",
    "tiles",
    "write_page",
    "write_report",
]


def write_report(folder: str | Path) -> Path:
    """Write report.html into the folder of a run, a sweep or a study, from what is in it; its path."""
    return write_atomically(Path(folder) / "report.html", report_of(Path(folder)))


def report_of(folder: Path) -> str:
    """The page of a result folder."""
    from mho_lab.sweep.page import sweep_page

    if (folder / PAGE).exists():
        return kept_page(folder / PAGE)
    if (folder / "summary.json").exists():
        return run_page(folder)
    if (folder / "plans").is_dir():
        return sweep_page(folder)
    raise MhoError(
        f"no finished run in {folder}, nor a sweep: expected summary.json (of `mho run`) or plans/ (of `mho sweep run`)"
    )
