"""Figures of a report as inline SVG: text stays text, colours come from the page's style sheet."""

from __future__ import annotations

import html
import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mho.ground import needed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

WIDTH = 4.5  # inches: 324 user units, so that a font size of 10 is about 10 px on a phone
SERIES = 5  # colours in the style sheet
MARKERS = ("o", "s", "^", "D", "v")
GLYPHS = ("●", "■", "▲", "◆", "▼")
HOLLOW = ("○", "□", "△", "◇", "▽")  # the second time round
TILES_DRAWN = 144  # of one layer; larger ones are drawn as one area
CARDS = 40  # layers that are drawn each on its own; of more, equal ones are drawn once

# matplotlib takes no CSS colour, so it draws with placeholders that `finish` replaces by variables of the style sheet.
INK, MUTED, GRID, PANEL = "#00fe01", "#00fe02", "#00fe03", "#00fe04"
CSS = {INK: "currentColor", MUTED: "var(--muted)", GRID: "var(--line)", PANEL: "var(--panel)"} | {
    f"#00ff{i:02x}": f"var(--c{i})" for i in range(SERIES)
}
DASHES: Any = ("solid", (0, (5, 2)), (0, (1, 1)), (0, (4, 1, 1, 1)), (0, (7, 1)))


def style(ink: str, muted: str, line: str, **more: Any) -> dict[str, Any]:
    """matplotlib's settings for figures of text, muted axes and faint lines in these colours."""
    return {
        "svg.fonttype": "none",
        "text.parse_math": False,  # a `$` in a name is a `$`
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.grid": True,
        "grid.linewidth": 0.8,
        "grid.color": line,
        **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), muted),
        **dict.fromkeys(("axes.labelcolor", "text.color", "xtick.labelcolor", "ytick.labelcolor"), ink),
        **more,
    }


STYLE = style(INK, MUTED, GRID, **{"axes.grid.axis": "y"})


@dataclass(frozen=True)
class Series:
    """One curve; None where there is no value."""

    name: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    sem: tuple[float | None, ...]


@dataclass(frozen=True)
class Drawing:
    """Axes of a figure: what they are called, which are logarithmic, levels to compare with, named settings."""

    x: str
    y: str
    log: tuple[str, ...] = ()
    percent: bool = False
    levels: dict[str, float] = field(default_factory=dict)
    settings: tuple[tuple[float, str], ...] = ()


def curves(drawing: Drawing, series: Sequence[Series], name: str, label: str) -> str:
    """Lines with markers and error bars."""
    with canvas(3.0) as figure:
        ax = figure.add_subplot()
        for i, s in enumerate(series):
            curve(ax, i, s.x, s.y, s.sem)
        for level in drawing.levels.values():
            ax.axhline(level, color=INK, linewidth=1.1, linestyle=(0, (5, 3)))
        _axes(ax, drawing)
        return finish(figure, name, label)


def curve(ax: Axes, i: int, x: Sequence[float], y: Sequence[float | None], sem: Sequence[float | None]) -> None:
    """The i-th curve: its points with their error bars, and lines between them."""
    points = [(a, b, e or 0.0) for a, b, e in zip(x, y, sem) if b is not None]
    at, value, error = zip(*points) if points else ((), (), ())
    style = {"linewidth": 1.8, "capsize": 3, "elinewidth": 1.2, "markersize": 5, "markevery": 1 + len(at) // 20, **_mark(i)}
    ax.errorbar(at, value, error, color=colour(i), **style)


def scatter(drawing: Drawing, spots: Sequence[tuple[Any, ...]], front: int, name: str, label: str) -> str:
    """Points (name, x, low, high, y, standard error); the first `front` are numbered and joined, and have their band."""
    with canvas(3.2) as figure:
        ax = figure.add_subplot()
        for i, (_, x, low, high, y, sem) in enumerate(spots):
            shade: dict[str, Any] = {"color": colour(int(i >= front)), "alpha": 1.0 if i < front else 0.35}
            ax.errorbar(x, y, sem if math.isfinite(sem) else 0.0, marker="o", markersize=5, elinewidth=1.2, capsize=2, **shade)
            if i < front:
                ax.plot([low, high], [y, y], color=colour(0), alpha=0.35, linewidth=0.8)
                ax.annotate(str(i + 1), (x, y), (-11, 1), textcoords="offset points", color=INK)
        ax.plot(*zip(*[(s[1], s[4]) for s in spots[:front]]), color=colour(0), linewidth=1.4, drawstyle="steps-post")
        _axes(ax, drawing)
        return finish(figure, name, label)


def bars(drawing: Drawing, values: dict[str, tuple[float | None, float | None]], name: str, label: str) -> str:
    """Horizontal bars with error bars."""
    with canvas(0.7 + 0.28 * max(len(values), 1)) as figure:
        ax = figure.add_subplot()
        for i, (value, sem) in enumerate(values.values()):
            if value is not None:
                ax.barh(-i, value, height=0.7, color=colour(1), xerr=sem, ecolor=INK, capsize=2)
        names_axis(ax, list(values))
        if "x" in drawing.log:
            ax.set_xscale("log")
            plain_numbers(ax.xaxis)
        ax.set_xlabel(short(drawing.y, 60))
        if drawing.percent:
            ax.xaxis.set_major_formatter(as_percent)
        if not drawing.log:
            ax.locator_params(axis="x", nbins=5)
        return finish(figure, name, label)


def steps(edges: Sequence[float], shares: dict[str, list[float]], x: str, name: str, label: str) -> str:
    """Histograms as outlines over common bins."""
    with canvas(2.6) as figure:
        ax = figure.add_subplot()
        for i, values in enumerate(shares.values()):
            ax.stairs(values, edges, color=colour(i), linewidth=1.6, linestyle=DASHES[i % len(DASHES)])
        ax.set_ylim(bottom=0)
        ax.set_xlabel(short(x, 60))
        ax.set_ylabel("share")
        ax.yaxis.set_major_formatter(as_percent)
        return finish(figure, name, label)


def glyph(i: int) -> str:
    """The marker of the i-th curve as a character."""
    return (GLYPHS if i // SERIES % 2 == 0 else HOLLOW)[i % SERIES]


@dataclass(frozen=True)
class TileGrid:
    """How the matrix of one layer lies on its tiles."""

    name: str
    matrix: str
    down: int  # tiles one below the other: the rows (inputs) of the matrix are cut into as many parts
    across: int  # tiles side by side: its columns (outputs), and the groups of a grouped convolution
    rows: float  # share of the rows of each tile that hold weights
    columns: float  # share of its columns

    @classmethod
    def of(cls, name: str, groups: int, outputs: int, inputs: int, down: int, across: int, rows: int, columns: int) -> TileGrid:
        """`groups` matrices [outputs, inputs] on `down` x `across` tiles of `rows` x `columns` cells."""
        matrix = f"{outputs}x{inputs}" if groups == 1 else f"{groups} of {outputs}x{inputs}"
        return cls(name, matrix, down, across, inputs / down / rows, groups * outputs / across / columns)

    @property
    def used(self) -> float:
        """Share of the cells that hold weights."""
        return self.rows * self.columns


@dataclass(frozen=True)
class TileCard:
    """The drawing of one layer, or of several equal ones, and what stands below it."""

    svg: Any
    name: str
    about: str


def tile_cards(grids: Sequence[TileGrid]) -> list[TileCard]:
    """Every layer's tiles to one scale; in a network of many layers equal ones share a card."""
    alike: dict[Any, list[TileGrid]] = {}
    for i, g in enumerate(grids):
        alike.setdefault(i if len(grids) <= CARDS else (g.matrix, g.down, g.across, g.rows, g.columns), []).append(g)
    longest = max((max(g.down, g.across) for g in grids), default=1)
    pitch = min(26.0, max(280.0 / longest, min(7.0, 640.0 / longest)))  # pixels
    return [TileCard(markup(_tiles_svg(same[0], pitch)), *_tiles_text(same)) for same in alike.values()]


def _tiles_svg(g: TileGrid, pitch: float) -> str:
    """Frames and what is used of them. Row 0 is at the bottom, next to the sense node."""
    w, h = max(g.across * pitch, 4.0), max(g.down * pitch, 4.0)
    size = f'width="{w + 2:.1f}" height="{h + 2:.1f}" viewBox="-1 -1 {w + 2:.1f} {h + 2:.1f}"'
    parts = [f'<rect width="{w:.1f}" height="{h:.1f}" fill="var(--line)" fill-opacity=".45"/>']
    if g.down * g.across <= TILES_DRAWN:
        used_w, used_h = max(g.columns * pitch, 0.6), max(g.rows * pitch, 0.6)
        path = "".join(
            f"M{i * pitch:.2f} {(j + 1) * pitch - used_h:.2f}h{used_w:.2f}v{used_h:.2f}h-{used_w:.2f}z"
            for j in range(g.down)
            for i in range(g.across)
        )
        parts.append(f'<path d="{path}" fill="var(--c1)"/>')
    else:  # one area whose strength is the utilisation
        parts.append(f'<rect width="{w:.1f}" height="{h:.1f}" fill="var(--c1)" fill-opacity="{g.used:.3f}"/>')
    if pitch >= 3:
        across = "".join(f"M{i * pitch:.2f} 0v{h:.1f}" for i in range(1, g.across))
        down = "".join(f"M0 {j * pitch:.2f}h{w:.1f}" for j in range(1, g.down))
        parts.append(f'<path d="{across}{down}" stroke="var(--panel)" stroke-width="1" fill="none"/>')
    parts.append(f'<rect width="{w:.1f}" height="{h:.1f}" fill="none" stroke="var(--muted)" stroke-width="1"/>')
    return f'<svg {size} aria-hidden="true">{"".join(parts)}</svg>'


def _tiles_text(same: Sequence[TileGrid]) -> tuple[str, str]:
    g, n = same[0], len(same)
    name = short(g.name, 40) if n == 1 else f"{n} × {short(g.name, 24)} … {short(same[-1].name, 24)}"
    count = g.down * g.across
    tiles = f"{count:,} tile" + ("s" if count > 1 else "") + (f" ({g.down} × {g.across})" if count > 1 else "")
    return name, f"{g.matrix.replace('x', ' × ')}, {tiles}, {100 * g.used:.0f} % used"


def log_positions(times: Sequence[float]) -> list[float]:
    """log10 of each time; 0 s, which has no logarithm, stands one decade before the first other time.

    >>> log_positions([0, 10, 1000])
    [0.0, 1.0, 3.0]
    """
    logs = [math.log10(t) if t > 0 else None for t in times]
    start = min((v for v in logs if v is not None), default=1.0) - 1
    return [start if v is None else v for v in logs]


def short(name: str, length: int) -> str:
    """A name cut in the middle; the tables show it in full.

    >>> short("encoder.layers.11.feed_forward", 15)
    'encoder…forward'
    """
    if len(name) <= length:
        return name
    half = (length - 1) // 2
    return f"{name[: length - 1 - half]}…{name[-half:]}"


# -- parts ------------------------------------------------------------------------------------------------------------
def colour(i: int) -> str:
    return f"#00ff{i % SERIES:02x}"


def _mark(i: int) -> dict[str, Any]:
    """Marker of the i-th curve; the second time round it is hollow and the line dashed."""
    hollow = i // SERIES % 2 == 1
    return {
        "marker": MARKERS[i % len(MARKERS)],
        "markerfacecolor": "none" if hollow else colour(i),
        "linestyle": (0, (4, 2)) if hollow else "solid",
    }


def _axes(ax: Axes, drawing: Drawing) -> None:
    """Names, logarithms, the settings themselves as ticks where they are few, percentages."""
    ax.set_xlabel(short(drawing.x, 60))
    ax.set_ylabel(short(drawing.y, 40))
    for axis in drawing.log:
        (ax.set_xscale if axis == "x" else ax.set_yscale)("log", nonpositive="mask")
    if "x" in drawing.log and drawing.settings and drawing.settings[0][0] <= 0:
        ax.set_xscale("symlog", linthresh=min((v for v, _ in drawing.settings if v > 0), default=1.0))
    kept = apart([v for v, _ in drawing.settings], "x" in drawing.log)
    if kept and len(drawing.settings) <= 12:
        ax.set_xticks([drawing.settings[i][0] for i in kept], [drawing.settings[i][1] for i in kept])
        ax.set_xticks([], minor=True)
    elif "x" in drawing.log:
        plain_numbers(ax.xaxis)
    if "y" in drawing.log:
        plain_numbers(ax.yaxis)
    if drawing.percent:
        ax.yaxis.set_major_formatter(as_percent)


def plain_numbers(axis: Axis) -> None:
    """1, 10, 100 on a logarithmic axis, and no numbers between them."""
    from matplotlib.ticker import NullFormatter

    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def apart(values: Sequence[float], log: bool) -> list[int]:
    """Which of these ascending settings have room for their name."""
    x = log_positions(values) if log and min(values, default=1) >= 0 else list(values)
    span = max(x) - min(x) if x else 0.0
    kept: list[int] = []
    for i in sorted(range(len(x)), key=lambda i: (i not in (0, len(x) - 1), i)):  # both ends, then the others
        if all(abs(x[i] - x[k]) > 0.13 * span for k in kept):
            kept.append(i)
    return kept


def names_axis(ax: Axes, names: Sequence[str], length: int = 24) -> None:
    """Names from top to bottom beside horizontal bars."""
    ax.set_yticks([-i for i in range(len(names))], [short(n, length) for n in names])
    ax.set_ylim(0.6 - max(len(names), 1), 0.6)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")
    ax.grid(visible=False, axis="y")


def as_percent(value: float, _position: float) -> str:
    return f"{round(100 * value, 6):g} %".replace("-", "−")


def need_extras() -> None:
    """Raise `MhoError` where the extra `report` is not installed."""
    for module in ("jinja2", "matplotlib"):
        needed(module, "reports and plots need matplotlib and jinja2", "'mho-lab[report]'")


def markup(svg: str) -> Any:
    """A finished figure, whose texts are escaped already, for use in a template."""
    need_extras()
    from markupsafe import Markup

    return Markup(svg)  # noqa: S704


# -- matplotlib to SVG ------------------------------------------------------------------------------------------------
@contextmanager
def canvas(height: float, width: float = WIDTH, settings: dict[str, Any] = STYLE) -> Iterator[Figure]:
    """An empty figure, in inches; matplotlib's settings are these inside and as before outside."""
    need_extras()
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's browser has the glyphs
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        yield Figure((width, height), layout="constrained")


def finish(figure: Figure, name: str, label: str) -> str:
    """The figure as an <svg> element for inline use, with ids of its own, page colours and a text alternative."""
    import matplotlib

    matplotlib.rcParams["svg.hashsalt"] = name  # the same report from the same numbers
    figure.patch.set_visible(False)
    for ax in figure.axes:
        ax.patch.set_visible(False)
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = re.sub(r"<style.*?</style>", "", file.getvalue(), flags=re.DOTALL)
    svg = re.sub(r"<[^>]+>", lambda tag: _tag(tag[0], name), svg[svg.index("<svg") :])  # `>` is escaped in texts and values
    label = html.escape(label)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1).strip()


LIGHT = {"currentColor": "#1b1f26", "var(--muted)": "#5b6472", "var(--line)": "#dde1e7", "var(--panel)": "#ffffff"} | {
    f"var(--c{i})": c for i, c in enumerate(("#c2570c", "#1f5fbf", "#1a7f4b", "#a8327a", "#7a6a00"))
}


def alone(svg: str) -> str:
    """A figure of the page as a file of its own: with a name space, and the colours of the light style sheet."""
    coloured = re.sub("|".join(map(re.escape, LIGHT)), lambda m: LIGHT[m[0]], str(svg))
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" font-family="sans-serif"'
    return coloured.replace("<svg ", f"<svg {names} ", 1)


def _tag(tag: str, name: str) -> str:
    """One tag: comments go, ids get a prefix, placeholders become CSS colours, fonts become the page's."""
    if tag.startswith("<!"):
        return ""
    if tag.startswith("<svg"):
        return re.sub(r' (width|height|xmlns(:\w+)?|version)="[^"]*"', "", tag)
    tag = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", tag)
    tag = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", tag)
    return re.sub("|".join(CSS), lambda m: CSS[m[0]], tag)
