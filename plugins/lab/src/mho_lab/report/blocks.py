"""Blocks that a report page is put together from: each a title, something to look at, and its numbers as a table.

    page("What costs accuracy", [
        lines("Accuracy over bits", {"direct": [(5, 0.81, 0.01), (8, 0.97)]}, x="ADC bits", y="accuracy", percent=True),
        heatmap("Loss of accuracy", rows=["conv1", "head"], columns=["drift", "read noise"], values=[[0.1, 0], [0, 0]]),
    ])

Every text may come from anywhere: it is shown as text, never as markup. Missing values are None or nan.
"""

import functools
import inspect
import itertools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, cast

from mho import ground
from mho.ground import MhoError, write_atomically
from mho_lab import errorbars
from mho_lab.report import figures, words
from mho_lab.report.figures import Drawing, Series, TileGrid

PAGE = "page.json"
FOLDED = 15  # rows beside curves; more are folded up
NUMBER = re.compile(r"[−+-]?[\d.,]+(\s±\s[\d.,]+)?(\s%)?")
Value = float | int | None
Cell = str | float | int | None


@dataclass(frozen=True)
class Block:
    """One section of a page. `draw(name)` gives the figure as SVG, `name` making its ids unique on the page; `call` is how
    the block was made, as plain data."""

    title: str
    template: str
    data: dict[str, Any] = field(default_factory=dict)
    draw: Callable[[str], str] | None = None
    note: str = ""
    call: dict[str, Any] = field(default_factory=dict)


Maker = TypeVar("Maker", bound=Callable[..., Block])
_MAKERS: dict[str, Callable[..., Block]] = {}


def _block(make: Maker) -> Maker:
    """A function that makes blocks; they remember how, so that a page can be kept as data and made again."""
    signature = inspect.signature(make)

    @functools.wraps(make)
    def made(*args: Any, **kwargs: Any) -> Block:
        block = make(*args, **kwargs)
        return replace(block, call={"block": make.__name__, **signature.bind(*args, **kwargs).arguments, **block.call})

    _MAKERS[make.__name__] = made
    return cast(Maker, made)


def _made_again(call: Mapping[str, Any]) -> Block:
    make = _MAKERS[call["block"]]
    bound = inspect.signature(make).bind_partial()
    bound.arguments.update({k: v for k, v in call.items() if k != "block"})
    return make(*bound.args, **bound.kwargs)


@_block
def text(title: str, *paragraphs: str) -> Block:
    """Paragraphs."""
    return Block(title, "text", {"paragraphs": paragraphs})


@_block
def facts(title: str, entries: Mapping[str, Any], *, note: str = "") -> Block:
    """Names with one value each: settings, versions."""
    return Block(title, "facts", {"entries": {k: shown(v) for k, v in entries.items()}}, note=note)


@_block
def code(title: str, content: str, *, summary: str = "", note: str = "") -> Block:
    """A command or a file; with `summary` it is folded up under these words."""
    return Block(title, "code", {"content": content, "summary": summary}, note=note)


@_block
def table(
    title: str, head: Sequence[str], rows: Sequence[Sequence[Cell]], *, percent: bool = False, summary: str = "", note: str = ""
) -> Block:
    """A table. Numbers stand to the right (with `percent`, fractions are shown as per cent), texts to the left; with
    `summary` it is folded up under these words."""
    return Block(title, "table", {"table": _table(head, rows, percent), "summary": summary}, note=note)


@_block
def lines(
    title: str,
    series: Mapping[str, Sequence[tuple[Value, ...]]],
    *,
    x: str = "",
    y: str = "",
    log: Sequence[str] = (),
    percent: bool = False,
    x_names: Callable[[float], str] | Sequence[tuple[float, str]] | None = None,
    levels: Mapping[str, float] | None = None,
    note: str = "",
) -> Block:
    """Curves: for each name its points (x, y) or (x, y, standard error). `log` holds the logarithmic axes ("x", "y"),
    `levels` named horizontal lines to compare with, `x_names` how settings are called (default: as numbers)."""
    known = {} if callable(x_names) else {float(v): str(n) for v, n in x_names or ()}
    name_of = x_names if callable(x_names) else lambda v: known.get(v, f"{v:g}")
    curves = [_series(name, points) for name, points in series.items()]
    settings = sorted({v for c in curves for v in c.x})
    found = [{v: (a, e) for v, a, e in zip(c.x, c.y, c.sem)} for c in curves]
    rows = [[name_of(v), *(_with_error(*f.get(v, (None, None)), percent) for f in found)] for v in settings]
    head = [x or "setting", *series]
    if len(curves) > 3 and len(settings) < len(curves) + 3:  # long names go down, short settings across
        head, *rows = [list(column) for column in zip(head, *rows)]
        head[0] = f"↓ → {head[0]}"
    rows += [[name, *[shown(level, percent)] * (len(head) - 1)] for name, level in (levels or {}).items()]
    drawing = Drawing(x, y, tuple(log), percent, dict(levels or {}), tuple((v, name_of(v)) for v in settings))
    label = f"{title}: {y or 'value'} over {x or 'the setting'} for {_names(series)}. The numbers are in the table."
    numbers = _table(head, rows, percent, numeric=range(1, len(head)))
    data = {"legend": list(series), "levels": list(levels or {}), "table": numbers}
    if len(rows) > FOLDED:
        data["folded"] = f"Numbers by {x or 'setting'}"
    call = {"x_names": drawing.settings}
    return Block(title, "figure", data, lambda name: figures.curves(drawing, curves, name, label), note, call)


@_block
def scatter(
    title: str, spots: Sequence[tuple[Any, ...]], front: int, *, x: str = "", y: str = "", percent: bool = False, note: str = ""
) -> Block:
    """Points (name, x, low, high, y, standard error); the first `front` are the best: numbered and joined, the others pale."""
    rows = [
        [str(i + 1) if i < front else "", n, f"{at:.3g}", f"{low:.3g} to {high:.3g}", _with_error(v, number(sem), percent)]
        for i, (n, at, low, high, v, sem) in enumerate(spots)
    ]
    far = max(s[1] for s in spots) > 10 * min(s[1] for s in spots) > 0
    drawing = Drawing(x, y, ("x",) * far, percent)
    data = {"legend": [], "levels": [], "table": _table(["", "Point", x, "Band", y], rows, percent, numeric=[2, 3, 4])}
    label = f"{title}: {y} over {x} for {_names([s[0] for s in spots])}. The numbers are in the table."
    return Block(title, "figure", data, lambda name: figures.scatter(drawing, spots, front, name, label), note)


@_block
def bars(
    title: str,
    values: Mapping[str, tuple[Value, ...] | Value],
    *,
    y: str = "",
    log: bool = False,
    percent: bool = False,
    note: str = "",
) -> Block:
    """One bar for each name: a value, or (value, standard error)."""
    pairs = {n: (v if isinstance(v, (tuple, list)) else (v,)) for n, v in values.items()}
    heights = {n: (number(p[0]), number(p[1]) if len(p) > 1 else None) for n, p in pairs.items()}
    rows = [[n, _with_error(v, e, percent)] for n, (v, e) in heights.items()]
    drawing = Drawing("", y, ("x",) if log else (), percent)
    label = f"{title}: {y or 'value'} of {_names(values)}. The numbers are in the table."
    data = {"legend": [], "levels": [], "table": _table(["", y or "value"], rows, percent, numeric=[1])}
    return Block(title, "figure", data, lambda name: figures.bars(drawing, heights, name, label), note)


@_block
def histogram(title: str, edges: Sequence[float], counts: Mapping[str, Sequence[float]], *, x: str = "", note: str = "") -> Block:
    """Distributions over common bins (one more edge than counts), each as shares of its total, drawn as steps."""
    shares = {n: [v / max(sum(c), 1e-300) for v in c] for n, c in counts.items()}
    rows = [
        [f"{a:.4g} to {b:.4g}", *(shown(s[i], percent=True) for s in shares.values())]
        for i, (a, b) in enumerate(itertools.pairwise(edges))
    ]
    label = f"{title}: distribution of {x or 'values'} for {_names(counts)}. The numbers are in the table."
    numbers = _table([x or "bin", *counts], rows, True, numeric=range(1, len(counts) + 1))
    data = {"legend": list(counts), "levels": [], "folded": "Shares by bin", "table": numbers}
    return Block(title, "figure", data, lambda name: figures.steps(edges, shares, x, name, label), note)


@_block
def heatmap(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[Value]],
    *,
    corner: str = "",
    percent: bool = False,
    texts: Sequence[Sequence[str]] | None = None,
    low: float | None = None,
    high: float | None = None,
    note: str = "",
) -> Block:
    """A table whose cells are coloured by `values[row][column]`: from `low` (pale; default 0 or the smallest) to `high`
    (the largest); values below 0 get another colour. `texts` replaces the printed numbers."""
    numbers = [[number(v) for v in row] for row in values]
    known = [v for row in numbers for v in row if v is not None]
    bottom = min([0.0, *known]) if low is None else low
    bottom = 0.0 if bottom < 0 and low is None else bottom
    top = max([abs(v) for v in known], default=1.0) if high is None else high
    cells = [
        [
            (texts[i][j] if texts else shown(v, percent), _shade(v, bottom, top), "warm" if (v or 0) < 0 else "cool")
            for j, v in enumerate(row)
        ]
        for i, row in enumerate(numbers)
    ]
    whole = {"head": [corner, *columns], "rows": [[name, *(c[0] for c in row)] for name, row in zip(rows, cells)]}
    data = {"corner": corner, "columns": columns, "rows": list(zip(rows, cells)), "table": whole}
    return Block(title, "heatmap", data, note=note)


@_block
def tiles(title: str, grids: Sequence[TileGrid], *, note: str = "") -> Block:
    """The tiles of every layer drawn to one scale, what holds weights filled; equal layers of large networks once."""
    grids = [g if isinstance(g, TileGrid) else TileGrid(**g) for g in grids]
    cards = figures.tile_cards(grids)
    rows: list[list[Cell]] = [
        [g.name, g.matrix, g.down * g.across, f"{g.down} × {g.across}", shown(g.used, percent=True)] for g in grids
    ]
    head = ["Layer", "Matrix", "Tiles", "Rows × columns of tiles", "Used"]
    return Block(title, "tiles", {"cards": cards, "table": _table(head, rows, False, numeric=[2, 4])}, note=note)


def page(title: str, blocks: Sequence[Block], *, headline: str = "", note: str = "") -> str:
    """One HTML file that holds everything it shows: no script, no request, a policy that forbids both."""
    return render("page.html.j2", title=title, headline=headline, note=note, blocks=drawn(blocks))


def drawn(blocks: Sequence[Block], name: str = "f") -> list[tuple[Block, Any]]:
    """Each block with its figure; `name` is of these blocks alone on a page."""
    return [(b, figures.markup(b.draw(f"{name}{i}")) if b.draw else "") for i, b in enumerate(blocks)]


def write_page(
    file: str | Path, title: str, blocks: Sequence[Block], *, headline: str = "", note: str = "", keep: bool = False
) -> Path:
    """Write `page` to a file; with `keep` its data too, as page.json beside it, for `mho report` to make it again."""
    if keep:
        data = {"title": title, "headline": headline, "note": note, "blocks": [b.call for b in blocks]}
        write_atomically(Path(file).with_name(PAGE), json.dumps(data, indent=1, default=_plain))
    return write_atomically(Path(file), page(title, blocks, headline=headline, note=note))


def kept_page(folder: Path) -> str:
    """The page whose data `write_page` has kept in a folder."""
    file = folder / PAGE
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        return page(data["title"], [_made_again(call) for call in data["blocks"]], headline=data["headline"], note=data["note"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MhoError(f"{file} is not a page that mho wrote: {type(error).__name__}: {error}") from error


def _plain(value: Any) -> Any:
    return asdict(value) if isinstance(value, TileGrid) else str(value)


def render(template: str, package: str = __package__, **values: Any) -> str:
    """A template in the folder templates/ of a package, which may extend those of this one."""
    figures.need_extras()
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    def source(name: str) -> str | None:
        places = (resources.files(p).joinpath("templates", name) for p in (package, __package__))
        return next((f.read_text(encoding="utf-8") for f in places if f.is_file()), None)

    made = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(source)
    )
    made.globals.update(figures=figures, words=words)
    made.filters.update(percent=words.percent, number=errorbars.number, decimals=errorbars.decimals, plain=words.printable)
    return str(made.get_template(template).render(**values)) + "\n"


# -- numbers and names ----------------------------------------------------------------------------------------------
def number(value: Any) -> float | None:
    """A finite float, or None."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def shown(value: Any, percent: bool = False) -> str:
    """A value as a reader likes it: four digits, or a percentage; – where there is none."""
    if isinstance(value, (str, bool)):
        return words.printable(value)
    if isinstance(value, int) and not percent:
        return f"{value:,}"
    if value is None or isinstance(value, (int, float)):
        known = number(value)
        return ground.NONE if known is None else words.percent(known) if percent else words.digits(known)
    return words.printable(value)


def _with_error(value: float | None, sem: float | None, percent: bool) -> str:
    if sem is None or value is None:
        return shown(value, percent)
    return words.with_error(value, sem) if percent else f"{shown(value)}{words.SPACE}±{words.SPACE}{sem:.2g}"


def _series(name: str, points: Sequence[tuple[Value, ...]]) -> Series:
    known = [(float(p[0] or 0), number(p[1]), number(p[2]) if len(p) > 2 else None) for p in points]
    return Series(name, tuple(p[0] for p in known), tuple(p[1] for p in known), tuple(p[2] for p in known))


def _table(
    head: Sequence[str], rows: Sequence[Sequence[Cell]], percent: bool, numeric: Sequence[int] | range | None = None
) -> dict[str, Any]:
    """Head and cells as text, and which columns stand to the right: those of numbers."""
    if numeric is None:
        numeric = [j for j in range(len(head)) if any(isinstance(r[j], (int, float)) or (j and _is_number(r[j])) for r in rows)]
    return {"head": [str(h) for h in head], "rows": [[shown(c, percent) for c in row] for row in rows], "right": set(numeric)}


def _is_number(cell: Cell) -> bool:
    """Whether a text is a number, perhaps with its error: it must not be broken into lines."""
    return isinstance(cell, str) and NUMBER.fullmatch(cell) is not None


def _shade(value: float | None, low: float, high: float) -> int:
    """How strong the colour of a cell is, in per cent: numbers stay readable on the strongest."""
    if value is None or high <= low:
        return 0
    return round(50 * min(1.0, max(0.0, (abs(value) - low) / (high - low))))


def _names(names: Sequence[str] | Mapping[str, Any]) -> str:
    listed = [words.printable(n) for n in names]
    return ", ".join(listed[:6]) + (f" and {len(listed) - 6} more" if len(listed) > 6 else "")
