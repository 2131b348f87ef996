"""The page of a sweep: its table, curves over time and over the grid, heat-maps, what failed, how to get it again."""

import json
import math
import shlex
from pathlib import Path
from typing import Any

from mho.config import format_seconds
from mho.ground import NONE, number
from mho_lab.errorbars import t95
from mho_lab.measure.state import Record, State, Status, status
from mho_lab.measure.statistics import Interval
from mho_lab.measure.table import read
from mho_lab.report import words
from mho_lab.report.blocks import Block, code, facts, heatmap, lines, page, scatter, shown, table
from mho_lab.sweep.arms import ArmScore, digital, front, name_of, outcomes, quantity, read_plan, short_names
from mho_lab.sweep.plan import SweepPlan

BARS = "± and bars: 95 % intervals of the mean over {}."
SHOWN = 500  # rows of a generic table on the page
DRAWN = 10  # lines that can be told apart in one figure


def sweep_page(folder: Path) -> str:
    """Of a folder that `mho sweep run` or `mho.sweep.run` has written, finished or not."""
    return _plan_page(folder) if (folder / "sweep.yaml").exists() else _table_page(folder)


def _plan_page(folder: Path) -> str:
    plan, found, progress = read_plan(folder), outcomes(folder), status(folder)
    levels = {f"digital, {words.percent(d)}": d} if (d := digital(folder)) is not None else {}
    pareto, *hardware = _pareto(plan, found) or [None]
    blocks = [*_map(plan, found), *filter(None, [pareto]), *_over_grid(plan, found, levels)]
    blocks += [*_over_time(plan, found, levels), *_tables(plan, found), *hardware]
    blocks += [*_failures(progress), code("The plan", plan.to_yaml(), summary="As a sweep file"), *_again(folder)]
    title = f"{plan.task} on: {plan.base.description or plan.hardware}"
    return page(title, blocks, headline=_headline(plan, found), note=_note(found, progress))


def _table_page(folder: Path) -> str:
    """Results of measure functions of one's own: the table, as it is."""
    progress, data = status(folder), read(folder)
    rows = [[_cell(row.get(c)) for c in data.columns] for row in data.rows[:SHOWN]]
    note = f"The first {SHOWN} of {len(data)} rows; mho sweep export gives all." if len(data) > SHOWN else ""
    blocks = [table("Results", list(data.columns), rows, note=note), *_failures(progress), *_again(folder)]
    return page(f"Sweep {folder.name}", blocks, headline=f"{len(data):,} results.", note=_note([], progress))


def _cell(value: Any) -> Any:
    return value if value is None or isinstance(value, (str, int, float)) else json.dumps(value)


# -- words ----------------------------------------------------------------------------------------------------------
def _headline(plan: SweepPlan, found: list[ArmScore]) -> str:
    """The best and the worst; nothing that its error bar does not set apart."""
    ranked = sorted(_last(found), key=lambda o: -o.mean)
    if not ranked:
        return "Nothing is measured yet."
    best, worst, when = ranked[0], ranked[-1], format_seconds(ranked[0].time)
    if best is worst:
        return f"After {when} the score is {_score(best)}."
    if not _clear(best, ranked[1]):
        near = sum(not _clear(best, o) for o in ranked)
        said = f"none of {len(ranked)} settings is clear of the others: {near} at the top, at {_score(best)}, look alike"
    else:
        said = f"the best is {_label(plan, best)}: {_score(best)}"
    if _clear(best, worst) and _clear(ranked[-2], worst):
        said += f"; the worst is {_label(plan, worst)}: {_score(worst)}"
    return f"After {when} {said}."


def _clear(a: ArmScore, b: ArmScore) -> bool:
    """Whether a is above b by more than chance: 95 %, two-sided, independent means."""
    sem = math.hypot(a.sem, b.sem)
    return a.mean - b.mean > t95(min(_count(a), _count(b)) - 1) * sem if math.isfinite(sem) else False


def _count(o: ArmScore) -> int:
    return o.seeds if o.over == "seeds" else o.chips


def _half(o: ArmScore) -> float | None:
    """Half of the 95 % interval of the mean."""
    return t95(_count(o) - 1) * o.sem if math.isfinite(o.sem) else None


def _last(found: list[ArmScore]) -> list[ArmScore]:
    return [o for o in found if o.time == max(f.time for f in found)]


def _note(found: list[ArmScore], progress: list[Status]) -> str:
    planned, done = sum(s.planned for s in progress), sum(s.done for s in progress)
    said = f"{done:,} of {planned:,} items are measured; they took {words.duration(sum(s.seconds for s in progress))}. "
    return said + (_bars(found[0]) if found else "")


def _bars(o: ArmScore) -> str:
    return BARS.format(f"{_count(o)} {o.over}")


def _label(plan: SweepPlan, o: ArmScore) -> str:
    names = short_names(list(plan.grid))
    at = [f"{names[p]} {shown(v)}" for p, v in o.grid.items()]
    return ", ".join([f"“{o.arm}”"] * (len(plan.all_arms) > 1 or not at) + at)


def _score(o: ArmScore) -> str:
    return words.with_error(o.mean, _half(o))


# -- blocks ---------------------------------------------------------------------------------------------------------
def _tables(plan: SweepPlan, found: list[ArmScore]) -> list[Block]:
    """All scores; those of earlier times, or of many settings, folded up."""
    names, last = short_names(list(plan.grid)), _last(found)
    head = ["Arm", *names.values(), "Score", "Normalised"]
    head += [f"Difference from “{plan.compared_with}”, points"] * (plan.compared_with is not None)
    head += plan.all_columns
    note = f"{_bars(found[0])} " if found else ""
    note += "Normalised: 1 is the digital score of the same seed, 0 is guessing (Rasch et al. 2023, Eq. 1)."
    if plan.compared_with is not None:
        note += f" Differences are paired by {found[0].over[:-1] if found else 'seed'}."

    def row(o: ArmScore) -> list[Any]:
        cells = [o.arm, *(_cell(v) for v in o.grid.values()), _score(o), number(o.normalised)]
        cells += [_points(o.difference)] * (plan.compared_with is not None)
        return cells + [quantity(o.columns.get(c)) for c in plan.all_columns]

    tables = []
    if last:
        many = f"{len(last):,} settings" if len(last) > 20 else ""
        when = format_seconds(last[0].time)
        tables.append(table(f"Scores after {when}", head, [row(o) for o in last], summary=many, note=note))
    if len(found) > len(last):
        rows = [[format_seconds(o.time), *row(o)] for o in found]
        tables.append(table("Scores at every time", ["Time", *head], rows, summary=f"{len(rows):,} rows"))
    return tables


def _points(d: Interval | None) -> str:
    return NONE if d is None else words.points(d.mean, d.half if math.isfinite(d.half) else None, places=2)


def _pareto(plan: SweepPlan, found: list[ArmScore]) -> list[Block]:
    """Score against a column at the last time, and the hardware of every point on the front."""
    column = plan.pareto or ""
    last = [o for o in _last(found) if column in o.columns]
    if not last:
        return []
    best = front(last, column)
    ranked = sorted(last, key=lambda o: (o not in best, o.columns[column]["value"]))
    spots = [
        (_label(plan, o), *(o.columns[column][k] for k in ("value", "low", "high")), o.mean, _half(o) or 0.0) for o in ranked
    ]
    x = f"{column}, {best[0].columns[column]['unit']}".rstrip(", ")
    note = f"Numbered: nothing is better in both; pale: beaten. {_bars(best[0])} Thin: bands of the column."
    title = f"Score after {format_seconds(last[0].time)} against {column.partition(':')[0]}"
    drawn = scatter(title, spots, len(best), x=x, y="score", percent=True, note=note)
    hardware = {name_of(p.arm, p.grid): p.hardware.to_yaml() for p in plan.points()}
    return [drawn] + [
        code(f"Hardware of {i}: {_label(plan, o)}", hardware[name_of(o.arm, o.grid)], summary="As a hardware file")
        for i, o in enumerate(best, 1)
    ]


def _over_time(plan: SweepPlan, found: list[ArmScore], levels: dict[str, float]) -> list[Block]:
    """Drift curves, a line for every arm at every point of the grid."""
    if len({o.time for o in found}) < 2:
        return []
    series, note = _series(plan, found, lambda o: o.time, "")
    options: dict[str, Any] = {"x": "time after programming", "y": "score", "log": ["x"], "percent": True, "levels": levels}
    return [lines("Score over time", series, x_names=format_seconds, note=note, **options)]


def _over_grid(plan: SweepPlan, found: list[ArmScore], levels: dict[str, float]) -> list[Block]:
    """Score over each setting of the grid whose values are numbers at the last time, a line for all others' values."""
    names, last, blocks = short_names(list(plan.grid)), _last(found), []
    for path, values in plan.grid.items():
        if not last or len(values) < 2 or not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
            continue
        series, note = _series(plan, last, lambda o, path=path: o.grid[path], path)
        options: dict[str, Any] = {"x": path, "y": "score", "percent": True, "levels": levels}
        note = f"After {format_seconds(last[0].time)}. {note}"
        blocks.append(lines(f"Score over {names[path]}", series, note=note, **options))
    return blocks


def _series(plan: SweepPlan, found: list[ArmScore], x: Any, path: str) -> tuple[dict[str, list[tuple[Any, ...]]], str]:
    """Name -> points (x, mean, half of the interval), one for all values but those of `path`; and what to say below."""
    series: dict[str, list[tuple[Any, ...]]] = {}
    for o in found:
        rest = o._replace(grid={p: v for p, v in o.grid.items() if p != path})
        series.setdefault(_label(plan, rest), []).append((x(o), o.mean, _half(o)))
    names = list(series)
    kept = [names[i * len(names) // DRAWN] for i in range(DRAWN)] if len(names) > DRAWN else names
    more = f"{DRAWN} of {len(names)} lines are drawn; the tables of scores have all. " if len(names) > DRAWN else ""
    return {n: series[n] for n in kept}, more + _bars(found[0])


def _map(plan: SweepPlan, found: list[ArmScore]) -> list[Block]:
    """Every arm and all settings but the last one of the grid against that one, at the last time; arms against times where
    there is no grid."""
    *_, across = [*plan.grid] or [""]
    cells: dict[str, dict[str, ArmScore]] = {}
    for o in _last(found) if across else found:
        rest = o._replace(grid={p: v for p, v in o.grid.items() if p != across})
        cells.setdefault(_label(plan, rest), {})[(shown(o.grid[across]) if across else format_seconds(o.time))] = o
    columns = list(dict.fromkeys(c for row in cells.values() for c in row))
    if len(cells) * len(columns) < 2:
        return []
    grid = [[row.get(c) for c in columns] for row in cells.values()]
    title = f"Score after {format_seconds(_last(found)[0].time)}" if across else "Score over time"
    values = [[o and o.mean for o in row] for row in grid]
    texts = [[_score(o) if o else NONE for o in row] for row in grid]
    low, note = min(o.mean for o in found), f"Pale: the lowest score. {_bars(found[0])}"
    return [heatmap(title, list(cells), columns, values, texts=texts, corner=f"↓ → {across}", low=low, note=note)]


def _failures(progress: list[Status]) -> list[Block]:
    failed: list[Record] = [f for s in progress for f in s.failed]
    if not failed:
        return []
    rows = [[f["status"], f["error"]["type"], f["error"]["message"], json.dumps(f["item"])[:300]] for f in failed]
    return [table("What failed", ["Status", "Error", "Message", "Item"], rows, note="mho sweep retry FOLDER tries again.")]


def _again(folder: Path) -> list[Block]:
    """Command and versions."""
    plans = State(folder).plans()
    command = plans[-1].get("command", [])
    said = shlex.join(["mho", *command[1:]]) if command and Path(command[0]).name == "mho" else shlex.join(command)
    versions = plans[-1]["identity"].get("versions", {})
    return ([code("To get this again", said)] if said else []) + ([facts("Versions", versions)] if versions else [])
