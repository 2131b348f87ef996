"""Figures of a report as inline SVG: text stays text, colours come from the page's style sheet."""

from __future__ import annotations

import html
import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from mho.errors import MhoError
from mho.report.study import Curve, Layer, Product, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.5  # inches: 324 user units, so that a font size of 10 is about 10 px on a phone
SERIES = 5  # colours in the style sheet
MARKERS = ("o", "s", "^", "D", "v")
GLYPHS = ("●", "■", "▲", "◆", "▼")
TILES_DRAWN, LAYERS_DRAWN = 12, 24

# matplotlib takes no CSS colour, so it draws with placeholders that `_finish` replaces by variables of the style sheet.
INK, MUTED, GRID, PANEL = "#00fe01", "#00fe02", "#00fe03", "#00fe04"
CSS = {INK: "currentColor", MUTED: "var(--muted)", GRID: "var(--line)", PANEL: "var(--panel)"} | {
    f"#00ff{i:02x}": f"var(--c{i})" for i in range(SERIES)
}
STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a `$` in a name is a `$`
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


def drift_curve(study: Study, label: str) -> str:
    """Score over the logarithm of time: single chips faint, means with standard errors, references as lines."""
    x = log_positions(study.times)
    with _figure(3.0) as figure:
        ax = figure.add_subplot()
        for i, curve in enumerate(study.curves):
            _chip_lines(ax, x, curve, _colour(i))
        for i, curve in enumerate(study.curves):
            _mean_line(ax, x, curve, i)
        _reference_lines(ax, study, ax.axhline, ax.get_ylim)
        _time_axis(ax, x, study)
        ax.set_ylabel("score")
        ax.yaxis.set_major_formatter(_as_percent)
        return _finish(figure, "drift", label)


def chip_spread(study: Study, label: str) -> str:
    """Every chip at the last time: points, and a box of quartiles and median for each variant."""
    with _figure(0.9 + 0.55 * max(len(study.curves), 1)) as figure:
        ax = figure.add_subplot()
        for i, curve in enumerate(study.curves):
            _strip(ax, -i, curve, i)
        _reference_lines(ax, study, ax.axvline, ax.get_xlim)
        ax.set_yticks([-i for i in range(len(study.curves))], [short(c.name, 16) for c in study.curves])
        ax.set_ylim(0.6 - max(len(study.curves), 1), 0.6)
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x")
        ax.grid(visible=False, axis="y")
        ax.set_xlabel("score")
        ax.xaxis.set_major_formatter(_as_percent)
        ax.locator_params(axis="x", nbins=5)
        return _finish(figure, "chips", label)


def tile_map(layers: Sequence[Layer], label: str) -> str:
    """The tiles of every layer, each a frame of which the used rows and columns are filled."""
    shown = [x for x in layers if x.occupied][:LAYERS_DRAWN]
    left = 0.34 * max((min(len(x.name), 18) for x in shown), default=0) + 0.8  # room for the names, in tiles
    widest = max((min(len(x.occupied), TILES_DRAWN + 2) for x in shown), default=0)
    pitch = WIDTH / max(left + widest, 14)  # inches
    with _figure(pitch * max(len(shown), 1), layout=None) as figure:
        ax = figure.add_axes((0, 0, 1, 1))
        ax.set_axis_off()
        for i, layer in enumerate(shown):
            _tile_row(ax, -i, layer)
        ax.set_xlim(-left, WIDTH / pitch - left)
        ax.set_ylim(0.5 - max(len(shown), 1), 0.5)
        return _finish(figure, "tiles", label)


def effect_bars(product: Product, label: str) -> str:
    """MVM error of each cause alone, and of all together, at each time."""
    count, height = max(len(product.times), 1), 0.8 / max(len(product.times), 1)
    with _figure(0.7 + 0.24 * count * len(product.causes)) as figure:
        ax = figure.add_subplot()
        for k in range(len(product.times)):
            at = [-i + 0.4 - (k + 0.5) * height for i in range(len(product.causes))]
            ax.barh(at, [c.alone[k] or 0.0 for c in product.causes], height=0.9 * height, color=_colour(k))
        names = [short(c.name, 24) for c in product.causes]
        ax.set_yticks([-i for i in range(len(names))], names)
        ax.set_ylim(0.6 - max(len(names), 1), 0.6)
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x")
        ax.grid(visible=False, axis="y")
        ax.set_xlabel("MVM error")
        ax.xaxis.set_major_formatter(_as_percent)
        ax.locator_params(axis="x", nbins=5)
        return _finish(figure, "product", label)


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
def _colour(i: int) -> str:
    return f"#00ff{i % SERIES:02x}"


def _known(x: Sequence[float], y: Sequence[float | None]) -> tuple[list[float], list[float]]:
    pairs = [(a, b) for a, b in zip(x, y) if b is not None]
    return [a for a, _ in pairs], [b for _, b in pairs]


def _chip_lines(ax: Axes, x: Sequence[float], curve: Curve, colour: str) -> None:
    alpha = max(0.12, min(0.5, 4 / max(len(curve.chips), 1)))
    for row in curve.chips:
        ax.plot(*_known(x, row), color=colour, alpha=alpha, linewidth=0.7, marker="." if len(x) == 1 else None)


def _mean_line(ax: Axes, x: Sequence[float], curve: Curve, i: int) -> None:
    colour, marker = _colour(i), MARKERS[i % len(MARKERS)]
    ax.plot(*_known(x, curve.mean), color=colour, linewidth=1.8, marker=marker, markersize=5)
    bars = [(a, m, s) for a, m, s in zip(x, curve.mean, curve.sem) if m is not None and s is not None]
    if bars:
        at, mean, sem = zip(*bars)
        ax.errorbar(at, mean, yerr=sem, fmt="none", ecolor=colour, elinewidth=1.4, capsize=4)


def _reference_lines(ax: Axes, study: Study, draw: Any, limits: Any) -> None:
    """Digital score dashed; chance dotted, only where the data reach it."""
    if study.reference is not None:
        draw(study.reference, color=INK, linewidth=1.1, linestyle=(0, (5, 3)))
    low, high = limits()
    if study.chance is not None and low <= study.chance <= high:
        draw(study.chance, color=MUTED, linewidth=1.1, linestyle=(0, (1, 2)))


def _time_axis(ax: Axes, x: list[float], study: Study) -> None:
    """Ticks at the times that were measured, as far as their names have room."""
    span = max(x) - min(x) if x else 0.0
    pad = 0.06 * span or 0.5
    ax.set_xlim(min(x, default=0) - pad, max(x, default=0) + pad)
    kept: list[int] = []
    for i in sorted(range(len(x)), key=lambda i: (i not in (0, len(x) - 1), i)):  # both ends, then the others
        if all(abs(x[i] - x[k]) > 0.13 * span for k in kept):
            kept.append(i)
    ax.set_xticks([x[i] for i in kept], [study.time_names[i] for i in kept])
    ax.set_xlabel("time after programming (logarithmic)")


def _strip(ax: Axes, y: float, curve: Curve, i: int) -> None:
    colour, box = _colour(i), curve.spread()
    if box is None:
        return
    jitter = [0.17 * (2 * (k * 0.618034 % 1) - 1) for k in range(len(curve.last))]
    dots: Any = {"linestyle": "", "marker": MARKERS[i % len(MARKERS)], "markersize": 3.5, "alpha": 0.55}
    ax.plot(curve.last, [y + j for j in jitter], color=colour, **dots)
    _, lower, median, upper, _ = box
    if len(curve.last) > 1:
        ax.plot(
            [lower, upper, upper, lower, lower],
            [y - 0.28, y - 0.28, y + 0.28, y + 0.28, y - 0.28],
            color=INK,
            linewidth=1,
        )
    ax.plot([median, median], [y - 0.28, y + 0.28], color=INK, linewidth=2)


def _tile_row(ax: Axes, y: float, layer: Layer) -> None:
    from matplotlib.patches import Rectangle

    ax.text(-0.4, y, short(layer.name, 18), ha="right", va="center")
    drawn = layer.occupied[:TILES_DRAWN]
    for k, (width, height) in enumerate(drawn):
        low, size = y - 0.4, 0.8
        ax.add_patch(Rectangle((k, low), size, size, facecolor=PANEL, edgecolor=MUTED, linewidth=0.8))
        # Row 0 is next to the sense node; a used share is never thinner than a hair.
        used = max(height, 0.02) * size
        ax.add_patch(
            Rectangle((k, low + size - used), max(width, 0.02) * size, used, facecolor=_colour(1), linewidth=0)
        )
    if more := len(layer.occupied) - len(drawn):
        ax.text(TILES_DRAWN, y, f"+{more:,}", ha="left", va="center")


def _as_percent(value: float, _position: float) -> str:
    return f"{round(100 * value, 6):g} %".replace("-", "−")


# -- matplotlib to SVG ------------------------------------------------------------------------------------------------
@contextmanager
def _figure(height: float, layout: Literal["constrained"] | None = "constrained") -> Iterator[Figure]:
    """An empty figure; matplotlib's settings are those of the report inside and as before outside."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise MhoError("the report needs matplotlib and jinja2: pip install 'mho[report]'") from None
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's browser has the glyphs
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield Figure((WIDTH, height), layout=layout)


def _finish(figure: Figure, name: str, label: str) -> str:
    """The figure as an <svg> element for inline use, with ids of its own, page colours and a text alternative."""
    import matplotlib

    matplotlib.rcParams["svg.hashsalt"] = name  # the same report from the same numbers
    figure.patch.set_visible(False)
    for ax in figure.axes:
        ax.patch.set_visible(False)
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = re.sub(r"<style.*?</style>", "", file.getvalue(), flags=re.DOTALL)
    svg = re.sub(
        r"<[^>]+>", lambda tag: _tag(tag[0], name), svg[svg.index("<svg") :]
    )  # `>` is escaped in texts and values
    label = html.escape(label)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1).strip()


def _tag(tag: str, name: str) -> str:
    """One tag: comments go, ids get a prefix, placeholders become CSS colours, fonts become the page's."""
    if tag.startswith("<!"):
        return ""
    if tag.startswith("<svg"):
        return re.sub(r' (width|height|xmlns(:\w+)?|version)="[^"]*"', "", tag)
    tag = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", tag)
    tag = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", tag)
    return re.sub("|".join(CSS), lambda m: CSS[m[0]], tag)
