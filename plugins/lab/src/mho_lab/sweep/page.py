"""The page of a sweep: its table, curves over time and over the grid, heat-maps, what failed, how to get it again."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from typing import Any

from mho.config import format_seconds
from mho.ground import NONE, number
from mho_lab.measure.state import Record, State, Status, status
from mho_lab.measure.statistics import Interval
from mho_lab.measure.table import read
from mho_lab.report import words
from mho_lab.report.blocks import Block, code, facts, heatmap, lines, page, scatter, shown, table
from mho_lab.sweep.arms import ArmScore, front, outcomes, quantity, read_plan, short_names
from mho_lab.sweep.plan import SweepPlan

BARS = "Bars: standard errors."
SHOWN = 500  # rows of a generic table on the page


def sweep_page(folder: Path) -> str:
    """Of a folder that `mho sweep run` or `mho.sweep.run` has written, finished or not."""
    return _plan_page(folder) if (folder / "sweep.yaml").exists() else _table_page(folder)


def _plan_page(folder: Path) -> str:
    plan, found, progress = read_plan(folder), outcomes(folder), status(folder)
    blocks = [
        *_pareto(plan, found),
        _outcomes(plan, found),
        *_over_time(plan, found),
        *_over_grid(plan, found),
        *_maps(plan, found),
    ]
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
    """The best and the worst, and how far the best is from the baseline."""
    last = [o for o in found if o.time == max(f.time for f in found)]
    if not last:
        return "Nothing is measured yet."
    best, worst = max(last, key=lambda o: o.mean), min(last, key=lambda o: o.mean)
    said = f"After {format_seconds(best.time)} the best is {_label(plan, best)}: {_score(best)}"
    if best is not worst:
        said += f"; the worst is {_label(plan, worst)}: {_score(worst)}"
    return said + "."


def _note(found: list[ArmScore], progress: list[Status]) -> str:
    planned, done = sum(s.planned for s in progress), sum(s.done for s in progress)
    said = [f"{done:,} of {planned:,} items are measured; they took {words.duration(sum(s.seconds for s in progress))}."]
    if found:
        o = found[0]
        n = o.seeds if o.over == "seeds" else o.chips
        said.append(f"± is the standard error of the mean over {n} {o.over}.")
    return " ".join(said)


def _label(plan: SweepPlan, o: ArmScore) -> str:
    names = short_names(list(plan.grid))
    at = [f"{names[p]} {shown(v)}" for p, v in o.grid.items()]
    return ", ".join([f"“{o.arm}”"] * (len(plan.all_arms) > 1 or not at) + at)


def _score(o: ArmScore) -> str:
    return words.with_error(o.mean, o.sem if math.isfinite(o.sem) else None)


# -- blocks ---------------------------------------------------------------------------------------------------------
def _outcomes(plan: SweepPlan, found: list[ArmScore]) -> Block:
    names = short_names(list(plan.grid))
    head = ["Arm", *names.values(), "Time", "Score", "Normalised"]
    head += [f"Difference from “{plan.compared_with}”, points"] * (plan.compared_with is not None)
    head += plan.all_columns
    rows: list[list[Any]] = []
    for o in found:
        row = [o.arm, *(_cell(v) for v in o.grid.values()), format_seconds(o.time), _score(o), number(o.normalised)]
        row += [_points(o.difference)] * (plan.compared_with is not None)
        rows.append(row + [quantity(o.columns.get(c)) for c in plan.all_columns])
    note = "Normalised: 1 is the digital score of the same seed, 0 is guessing (Rasch et al. 2023, Eq. 1)."
    if plan.compared_with is not None:
        note += f" Differences are paired by {found[0].over[:-1] if found else 'seed'}; ± is half of the 95 % interval."
    return table("Scores", head, rows, note=note)


def _points(d: Interval | None) -> str:
    return NONE if d is None else words.points(d.mean, d.half if math.isfinite(d.half) else None, places=2)


def _pareto(plan: SweepPlan, found: list[ArmScore]) -> list[Block]:
    """Score against a column at the last time, and the hardware of every point on the front."""
    column = plan.pareto or ""
    last = [o for o in found if o.time == max(f.time for f in found) and column in o.columns]
    if not last:
        return []
    best = front(last, column)
    ranked = sorted(last, key=lambda o: (o not in best, o.columns[column]["value"]))
    spots = [
        (
            _label(plan, o),
            *(o.columns[column][k] for k in ("value", "low", "high")),
            o.mean,
            o.sem if math.isfinite(o.sem) else 0.0,
        )
        for o in ranked
    ]
    x = f"{column}, {best[0].columns[column]['unit']}".rstrip(", ")
    note = "Numbered: nothing is better in both; pale: beaten. Bars: standard errors of the score; thin: bands of the column."
    title = f"Score after {format_seconds(last[0].time)} against {column.partition(':')[0]}"
    drawn = scatter(title, spots, len(best), x=x, y="score", percent=True, note=note)
    hardware = {(p.arm, json.dumps(p.grid)): p.hardware.to_yaml() for p in plan.points()}
    return [drawn] + [
        code(f"Hardware of {i}: {_label(plan, o)}", hardware[o.arm, json.dumps(o.grid)], summary="As a hardware file")
        for i, o in enumerate(best, 1)
    ]


def _over_time(plan: SweepPlan, found: list[ArmScore]) -> list[Block]:
    """Drift curves of the arms, at the first point of the grid."""
    if len({o.time for o in found}) < 2:
        return []
    first = found[0].grid
    series = _series([o for o in found if o.grid == first], lambda o: o.arm, lambda o: o.time)
    names = short_names(list(plan.grid))
    at = ", ".join(f"{names[p]} {shown(v)}" for p, v in first.items())
    note = f"At {at}. {BARS}" if at else BARS
    options: dict[str, Any] = {"x": "time after programming", "y": "score", "log": ["x"], "percent": True}
    return [lines("Score over time", series, x_names=format_seconds, note=note, **options)]


def _over_grid(plan: SweepPlan, found: list[ArmScore]) -> list[Block]:
    """Score over each setting of the grid whose values are numbers, others at their first value, at the last time."""
    names, last = short_names(list(plan.grid)), max((o.time for o in found), default=0.0)
    blocks = []
    for path, values in plan.grid.items():
        if len(values) < 2 or not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
            continue
        rest = {p: v[0] for p, v in plan.grid.items() if p != path}
        at = [o for o in found if o.time == last and all(o.grid[p] == v for p, v in rest.items())]
        series = _series(at, lambda o: o.arm, lambda o, path=path: o.grid[path])
        note = "".join(f", {names[p]} {shown(v)}" for p, v in rest.items())
        title = f"Score over {names[path]}"
        note = f"After {format_seconds(last)}{note}. {BARS}"
        blocks.append(lines(title, series, x=path, y="score", percent=True, note=note))
    return blocks


def _series(found: list[ArmScore], name: Any, x: Any) -> dict[str, list[tuple[Any, ...]]]:
    series: dict[str, list[tuple[Any, ...]]] = {}
    for o in found:
        series.setdefault(name(o), []).append((x(o), o.mean, o.sem))
    return series


def _maps(plan: SweepPlan, found: list[ArmScore]) -> list[Block]:
    """Arms x grid, or the two settings of the grid against each other for each arm, at the last time."""
    last = [o for o in found if o.time == max(f.time for f in found)]
    names = short_names(list(plan.grid))
    title = f"Score after {format_seconds(last[0].time)}" if last else ""
    if len(plan.grid) == 2:
        (p, ps), (q, qs) = plan.grid.items()
        return [
            _map(
                f"{title}: {arm}" if len(plan.all_arms) > 1 else title,
                [f"{names[p]} {shown(v)}" for v in ps],
                [f"{names[q]} {shown(v)}" for v in qs],
                {(ps.index(o.grid[p]), qs.index(o.grid[q])): o.mean for o in last if o.arm == arm},
            )
            for arm in plan.all_arms
        ]
    points = list(dict.fromkeys(json.dumps(o.grid) for o in last))
    if len(plan.all_arms) < 2 or len(points) < 2:
        return []
    columns = [", ".join(f"{names[p]} {shown(v)}" for p, v in json.loads(g).items()) for g in points]
    arms = list(plan.all_arms)
    return [_map(title, arms, columns, {(arms.index(o.arm), points.index(json.dumps(o.grid))): o.mean for o in last})]


def _map(title: str, rows: list[str], columns: list[str], found: dict[tuple[int, int], float]) -> Block:
    values = [[found.get((i, j)) for j in range(len(columns))] for i in range(len(rows))]
    low = min(found.values(), default=0.0)
    return heatmap(title, rows, columns, values, percent=True, low=low, note="Pale: the lowest score on this map.")


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
    blocks = [code("To get this again", said)] if said else []
    return blocks + ([facts("Versions", versions)] if versions else [])
