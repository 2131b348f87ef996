"""The figures of a run: scores over time, scores of single chips, causes of the error of one product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mho_lab.report import figures
from mho_lab.run.results import Product, RunResults, VariantScores

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def drift_curve(run: RunResults, label: str) -> str:
    """Score over the logarithm of time: single chips faint, means with standard errors, references as lines."""
    x = figures.log_positions(run.times)
    with figures.canvas(3.0) as figure:
        ax = figure.add_subplot()
        for i, curve in enumerate(run.curves):
            _chip_lines(ax, x, curve, figures.colour(i))
        for i, curve in enumerate(run.curves):
            figures.curve(ax, i, x, curve.mean, curve.sem)
        _reference_lines(ax, run, ax.axhline, ax.get_ylim)
        _time_axis(ax, x, run)
        ax.set_ylabel("score")
        ax.yaxis.set_major_formatter(figures.as_percent)
        return figures.finish(figure, "drift", label)


def chip_spread(run: RunResults, label: str) -> str:
    """Every chip at the last time: points, and a box of quartiles and median for each variant."""
    with figures.canvas(0.9 + 0.55 * max(len(run.curves), 1)) as figure:
        ax = figure.add_subplot()
        for i, curve in enumerate(run.curves):
            _strip(ax, -i, curve, i)
        _reference_lines(ax, run, ax.axvline, ax.get_xlim)
        figures.names_axis(ax, [c.name for c in run.curves], 16)
        ax.set_xlabel("score")
        ax.xaxis.set_major_formatter(figures.as_percent)
        ax.locator_params(axis="x", nbins=5)
        return figures.finish(figure, "chips", label)


def effect_bars(product: Product, label: str) -> str:
    """MVM error of each cause alone, and of all together, at each time."""
    count, height = max(len(product.times), 1), 0.8 / max(len(product.times), 1)
    with figures.canvas(0.7 + 0.24 * count * len(product.causes)) as figure:
        ax = figure.add_subplot()
        for k in range(len(product.times)):
            at = [-i + 0.4 - (k + 0.5) * height for i in range(len(product.causes))]
            ax.barh(at, [c.alone[k] or 0.0 for c in product.causes], height=0.9 * height, color=figures.colour(k))
        figures.names_axis(ax, [c.name for c in product.causes])
        ax.set_xlabel("MVM error")
        ax.xaxis.set_major_formatter(figures.as_percent)
        ax.locator_params(axis="x", nbins=5)
        return figures.finish(figure, "product", label)


def _known(x: Sequence[float], y: Sequence[float | None]) -> tuple[list[float], list[float]]:
    pairs = [(a, b) for a, b in zip(x, y) if b is not None]
    return [a for a, _ in pairs], [b for _, b in pairs]


def _chip_lines(ax: Axes, x: Sequence[float], curve: VariantScores, colour: str) -> None:
    alpha = max(0.12, min(0.5, 4 / max(len(curve.chips), 1)))
    for row in curve.chips:
        ax.plot(*_known(x, row), color=colour, alpha=alpha, linewidth=0.7, marker="." if len(x) == 1 else None)


def _reference_lines(ax: Axes, run: RunResults, draw: Any, limits: Any) -> None:
    """Digital score dashed; chance dotted, only where the data reach it."""
    if run.reference is not None:
        draw(run.reference, color=figures.INK, linewidth=1.1, linestyle=(0, (5, 3)))
    low, high = limits()
    if run.chance is not None and low <= run.chance <= high:
        draw(run.chance, color=figures.MUTED, linewidth=1.1, linestyle=(0, (1, 2)))


def _time_axis(ax: Axes, x: list[float], run: RunResults) -> None:
    """Ticks at the times that were measured, as far as their names have room."""
    span = max(x) - min(x) if x else 0.0
    pad = 0.06 * span or 0.5
    ax.set_xlim(min(x, default=0) - pad, max(x, default=0) + pad)
    kept = figures.apart(x, log=False)
    ax.set_xticks([x[i] for i in kept], [run.time_names[i] for i in kept])
    ax.set_xlabel("time after programming (logarithmic)")


def _strip(ax: Axes, y: float, curve: VariantScores, i: int) -> None:
    colour, box = figures.colour(i), curve.spread()
    if box is None:
        return
    jitter = [0.17 * (2 * (k * 0.618034 % 1) - 1) for k in range(len(curve.last))]
    dots: Any = {"linestyle": "", "marker": figures.MARKERS[i % len(figures.MARKERS)], "markersize": 3.5, "alpha": 0.55}
    ax.plot(curve.last, [y + j for j in jitter], color=colour, **dots)
    _, lower, median, upper, _ = box
    if len(curve.last) > 1:
        ax.plot(
            [lower, upper, upper, lower, lower],
            [y - 0.28, y - 0.28, y + 0.28, y + 0.28, y - 0.28],
            color=figures.INK,
            linewidth=1,
        )
    ax.plot([median, median], [y - 0.28, y + 0.28], color=figures.INK, linewidth=2)
