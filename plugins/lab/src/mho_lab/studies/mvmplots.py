"""Draw the studies of one MVM into a file: curves where the setting is a number, bars where it is a name."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mho.config import format_seconds
from mho.ground import writing
from mho_lab.report.figures import MARKERS, canvas, plain_numbers, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mho_lab.studies.mvmtables import StudyTable

COLOURS = ("#1f5fbf", "#c2570c", "#1a7f4b", "#a8327a", "#7a6a00")  # those of the report's light style
INK, MUTED, LINE = "#1b1f26", "#5b6472", "#dde1e7"
LIGHT = style(
    INK,
    MUTED,
    LINE,
    **{
        "svg.hashsalt": "mho",  # the same file from the same numbers
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "legend.frameon": False,
        "figure.facecolor": "white",
    },
)


def save(tables: Sequence[StudyTable], file: Path) -> None:
    """One panel below the other, written to an .svg or .png."""
    bars = [len(t.rows) if _named(t) else 0 for t in tables]
    heights = [1.0 + 0.22 * n if n else 3.2 for n in bars]  # inches: room for every bar, or a panel of curves
    with figure(6.2, sum(heights)) as f:
        panels = f.subplots(len(tables), 1, squeeze=False, height_ratios=heights)[:, 0]
        for ax, table in zip(panels, tables):
            draw(ax, table)
        write(f, file)


def draw(ax: Axes, table: StudyTable) -> None:
    """One study on one panel."""
    (_bars if _named(table) else _curves)(ax, table)
    bars = "; bars: standard errors" if any(math.isfinite(r.sem) for r in table.rows) else ""
    ax.set_title(textwrap.fill(table.title + bars, 62))


def figure(width: float, height: float) -> AbstractContextManager[Figure]:
    """An empty figure in mho's style; matplotlib's own settings are as before afterwards."""
    return canvas(height, width, LIGHT)


def write(f: Figure, file: Path) -> None:
    """As the suffix says, without a date."""
    metadata: Any = {"Date": None} if file.suffix == ".svg" else None
    with writing(file):
        f.savefig(file, metadata=metadata, dpi=150)


def _named(table: StudyTable) -> bool:
    """Whether its settings are names, to be drawn as bars."""
    return any(isinstance(r.x, str) for r in table.rows)


def _curves(ax: Axes, table: StudyTable) -> None:
    scale = 100 if table.percent else 1
    for i, series in enumerate(dict.fromkeys(r.series for r in table.rows)):
        rows = [r for r in table.rows if r.series == series and r.value is not None]
        at, value = [float(r.x) for r in rows], [scale * (r.value or 0.0) for r in rows]
        error = [scale * r.sem if math.isfinite(r.sem) else 0.0 for r in rows]
        c = i % len(COLOURS)
        ax.errorbar(at, value, error, label=series, color=COLOURS[c], marker=MARKERS[c], markersize=4.5, capsize=3)
    if table.reference is not None:
        name, level = table.reference
        ax.axhline(scale * level, color=INK, linewidth=1.1, linestyle=(0, (5, 3)), label=name)
    for axis in table.log:
        (ax.set_xscale if axis == "x" else ax.set_yscale)("log")
    _ticks(ax, table)
    if any(r.series for r in table.rows):
        ax.legend()
    ax.set_xlabel(table.x)
    ax.set_ylabel(f"{table.y} (%)" if table.percent else table.y)


def _ticks(ax: Axes, table: StudyTable) -> None:
    """The settings themselves where they are few or times; plain numbers instead of powers of ten."""
    settings = sorted({float(r.x) for r in table.rows})
    if table.x == "time":
        ax.set_xticks(settings, [format_seconds(t) for t in settings])
        ax.minorticks_off()
    elif len(settings) <= 8:
        ax.set_xticks(settings, [f"{x:g}" for x in settings])
        ax.set_xticks([], minor=True)
    if "x" in table.log and len(settings) > 8:
        plain_numbers(ax.xaxis)
    if "y" in table.log:
        plain_numbers(ax.yaxis)


def _bars(ax: Axes, table: StudyTable) -> None:
    scale = 100 if table.percent else 1
    several = len({r.series for r in table.rows}) > 1
    for i, row in enumerate(table.rows):
        if row.value is None:
            ax.annotate(" does not reach it", (0, -i), xycoords=("axes fraction", "data"), va="center", color=MUTED)
            continue
        error = scale * row.sem if math.isfinite(row.sem) else None
        bar = ax.barh(-i, scale * row.value, height=0.65, color=COLOURS[0], xerr=error, ecolor=INK)
        ax.bar_label(bar, [f"{round(scale * row.value, 3):.3g}"], padding=3, fontsize=8, color=MUTED)
    names = [f"{r.x}, {r.series}" if several else str(r.x) for r in table.rows]
    ax.set_yticks([-i for i in range(len(names))], names)
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    if "x" in table.log:
        ax.set_xscale("log")
        plain_numbers(ax.xaxis)
    ax.set_ylim(0.5 - len(names), 0.5)
    ax.margins(x=0.12)
    ax.set_xlabel(f"{table.y} (%)" if table.percent else table.y)
