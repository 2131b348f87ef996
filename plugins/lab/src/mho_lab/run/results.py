"""What a result folder holds, read once and put in order: the numbers behind a report."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import quantiles
from typing import Any

from mho.config import format_seconds
from mho.ground import MhoError
from mho_lab.report.blocks import number
from mho_lab.report.figures import TileGrid
from mho_lab.report.words import printable as plain


@dataclass(frozen=True)
class Figures:
    """Further figures beside the score, over time."""

    name: str
    digital: float | None
    mean: tuple[float | None, ...]
    sem: tuple[float | None, ...]


@dataclass(frozen=True)
class VariantScores:
    """Scores of one variant over time; None where there is no number."""

    name: str
    about: str
    mean: tuple[float | None, ...]
    sem: tuple[float | None, ...]
    normalised: tuple[float | None, ...]
    chips: tuple[tuple[float | None, ...], ...]  # [chip][time]
    extra: tuple[Figures, ...] = ()

    @property
    def last(self) -> tuple[float, ...]:
        """The scores of the chips at the last time."""
        return tuple(row[-1] for row in self.chips if row and row[-1] is not None)

    def spread(self) -> tuple[float, ...] | None:
        """(lowest, lower quartile, median, upper quartile, highest) of `last`, or None without chips."""
        if not self.last:
            return None
        inner = quantiles(self.last, n=4, method="inclusive") if len(self.last) > 1 else [self.last[0]] * 3
        return (min(self.last), *inner, max(self.last))


@dataclass(frozen=True)
class Layer:
    """What became of one layer, and how it lies on its tiles."""

    name: str
    type: str
    where: str
    why: str
    tile: str
    matrix: str
    tiles: int
    parameters: int
    grids: tuple[TileGrid, ...]  # how each of its matrices lies on tiles; empty if not known

    @property
    def utilisation(self) -> float | None:
        """The share of the cells of its tiles that hold a weight."""
        counts = [g.down * g.across for g in self.grids]
        return sum(n * g.used for n, g in zip(counts, self.grids)) / sum(counts) if counts else None


@dataclass(frozen=True)
class Cause:
    """One cause of the error of a matrix-vector product at each time: its error alone, and the error without it."""

    name: str
    alone: tuple[float | None, ...]
    without: tuple[float | None, ...]


@dataclass(frozen=True)
class Product:
    """The error of one matrix-vector product on the default tile, and what causes it; `all` comes first."""

    size: int
    matrices: int
    mapping: str
    times: tuple[str, ...]
    causes: tuple[Cause, ...]
    skipped: str = ""


@dataclass(frozen=True)
class RunResults:
    """One run: task, hardware, curves, layers."""

    task: str
    hardware: str
    times: tuple[float, ...]  # seconds, ascending
    reference: float | None
    chance: float | None
    curves: tuple[VariantScores, ...]
    layers: tuple[Layer, ...]
    product: Product | None
    kurtosis: tuple[tuple[str, float | None, float | None], ...]  # layer, of its weights, of its conductances
    inside: dict[str, Any] | None  # see `Inspection.to_data`
    hardware_text: str
    summary: dict[str, Any]
    seeds: tuple[int, ...] = ()  # of several trainings
    # hwa - direct of the same training: mean, half of a 95 % interval
    gain: tuple[tuple[float, float], ...] | None = None

    @cached_property
    def time_names(self) -> tuple[str, ...]:
        return tuple(format_seconds(t) for t in self.times)

    @property
    def analog(self) -> tuple[Layer, ...]:
        return tuple(x for x in self.layers if x.where == "analog")

    @property
    def left_digital(self) -> tuple[Layer, ...]:
        """Layers with weights that could not be put on tiles although no rule kept them digital."""
        return tuple(x for x in self.layers if x.where == "left digital")


def read_results(folder: Path) -> RunResults:
    """The run in `folder`. Raises `MhoError` where there is no finished one, or none that mho wrote."""
    file, text = folder / "summary.json", _text(folder / "hardware.yaml")
    try:
        return _results(dict(json.loads(_text(file))), folder / "results.jsonl", text)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as e:
        raise MhoError(f"{file} is not a summary that mho wrote: {type(e).__name__}: {e}") from e


def _results(summary: dict[str, Any], chips: Path, text: str) -> RunResults:
    order = sorted(range(len(summary["times"])), key=lambda i: summary["times"][i])
    gain, digital = summary.get("difference"), summary.get("reference_extra") or {}
    kurtosis = [(plain(k["layer"]) or "(root)", k["weights"], k["conductances"]) for k in summary.get("kurtosis", ())]
    return RunResults(
        task=plain(summary.get("task") or "this task"),
        hardware=plain(summary.get("hardware") or ""),
        times=tuple(float(summary["times"][i]) for i in order),
        reference=number(summary.get("reference")),
        chance=number(summary.get("chance")),
        curves=tuple(_scores(v, chips, order, digital) for v in summary["variants"]),
        layers=tuple(_layer(x) for x in summary.get("layers", ())),
        product=_product(summary["mvm"]) if summary.get("mvm") else None,
        kurtosis=tuple((name, number(w), number(g)) for name, w, g in kurtosis),
        inside=summary.get("inside"),
        hardware_text=text,
        summary=summary,
        seeds=tuple(summary.get("seeds") or ()),
        gain=gain and tuple((float(gain["mean"][i]), float(gain["half"][i])) for i in order),
    )


def _scores(variant: dict[str, Any], chips: Path, order: list[int], digital: dict[str, float]) -> VariantScores:
    """A curve with its times in order. Single chips are in the summary, else in results.jsonl."""

    def numbers(values: Sequence[Any] | None) -> tuple[float | None, ...]:
        return tuple(number(values[i]) if values is not None else None for i in order)

    scores = variant.get("scores") or [x["scores"] for x in complete_lines(chips) if x.get("variant") == variant["name"]]
    extra = (variant.get("extra") or {}).items()
    return VariantScores(
        name=plain(variant["name"]),
        about=plain(variant.get("about") or ""),
        mean=numbers(variant["mean"]),
        sem=numbers(variant.get("sem")),
        normalised=numbers(variant.get("normalised")),
        chips=tuple(numbers(row) for row in scores),
        extra=tuple(Figures(plain(n), number(digital.get(n)), numbers(e["mean"]), numbers(e["sem"])) for n, e in extra),
    )


def _layer(entry: dict[str, Any]) -> Layer:
    name, tiles, matrices = plain(entry["name"]) or "(root)", int(entry.get("tiles") or 0), entry.get("matrices", ())
    names = [name] if len(matrices) == 1 else [f"{name} ({i + 1})" for i in range(len(matrices))]
    texts = {key: plain(entry.get(key) or "") for key in ("type", "where", "why", "tile", "matrix")}
    grids = tuple(TileGrid.of(n, **m) for n, m in zip(names, matrices)) if tiles else ()
    return Layer(name, **texts, tiles=tiles, parameters=int(entry.get("parameters") or 0), grids=grids)


def _product(entry: dict[str, Any]) -> Product:
    """The table of causes, its rows in the order of the effects."""
    if "skipped" in entry:
        return Product(0, 0, "", (), (), plain(entry["skipped"]))
    found = {(r["time"], r["what"]): number(r["mean"]) for r in entry["rows"]}
    times = list(dict.fromkeys(t for t, _ in found))

    def values(what: str) -> tuple[float | None, ...]:
        return tuple(found.get((t, what)) for t in times)

    causes = []
    for what in dict.fromkeys(what for _, what in found if not what.startswith("without ")):
        name = what.removesuffix(" alone")
        causes.append(Cause(plain(name), values(what), values(f"without {name}")))
    shown = tuple("programming" if t is None else format_seconds(t) for t in times)
    return Product(int(entry["size"]), int(entry["matrices"]), plain(entry["mapping"]), shown, tuple(causes))


def complete_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The entries of a JSONL file; a line that a crash cut short does not count."""
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            yield json.loads(line)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as e:
        raise MhoError(f"no finished run in {file.parent}: cannot read {file.name}; `mho run … --out` makes one") from e
