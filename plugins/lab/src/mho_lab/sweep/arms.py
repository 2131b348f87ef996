"""What came out of a plan: every arm at every point of the grid and time, and its difference from the baseline."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from mho.config import format_seconds
from mho.ground import MhoError, table
from mho.use import normalised_accuracy
from mho_lab.errorbars import with_error
from mho_lab.measure.state import Record, State
from mho_lab.measure.statistics import Interval, interval, standard_error
from mho_lab.measure.table import SHOWN, Table, read as read_all
from mho_lab.sweep.plan import SweepPlan

INTERNAL = ("times", "task", "network")  # of the items of a plan: how a chip is made again

Scores = dict[tuple[int, int], float]  # (seed, chip) -> score


class ArmScore(NamedTuple):
    """One arm at one point of the grid and one time.

    `mean` and `sem` are over seeds, each the mean over its chips; over chips where there is one seed (`over` says which).
    `difference` is to the baseline arm at the same point, paired by seed (or chip), with its 95 % interval (Student's t).
    """

    arm: str
    grid: dict[str, Any]
    time: float
    mean: float
    sem: float
    normalised: float | None
    seeds: int
    chips: int
    over: str
    difference: Interval | None
    columns: dict[str, dict[str, Any]] = {}  # what plugins say of the point: value, low, high, unit

    def to_data(self) -> dict[str, Any]:
        """Plain data; infinite and missing ends are null."""
        d = self.difference
        ends = {k: v if math.isfinite(v) else None for k, v in d._asdict().items()} if d else None
        return {**self._asdict(), "sem": self.sem if math.isfinite(self.sem) else None, "difference": ends}


def read_plan(folder: str | Path) -> SweepPlan:
    """The plan of a folder that `mho sweep run` has written."""
    file = Path(folder) / "sweep.yaml"
    if not file.is_file():
        raise MhoError(f"{folder} holds no sweep of `mho sweep run`: there is no sweep.yaml in it")
    return SweepPlan.from_file(file)


def outcomes(folder: str | Path) -> list[ArmScore]:
    """Every arm, point and time of a folder that has results, in the order of the plan."""
    plan, records = read_plan(folder), _done(folder)
    chips = [r for r in records if r["measure"].endswith(":chip")]
    references = _references(records)
    file = Path(folder) / "columns.json"
    beside = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    points: dict[str, list[Record]] = {}
    for r in chips:
        points.setdefault(name_of(r["item"]["arm"], r["item"]["grid"]), []).append(r)
    found = []
    for at in points.values():
        item = at[0]["item"]
        base = points.get(name_of(plan.compared_with, item["grid"])) if item["arm"] != plan.compared_with else None
        for i, t in enumerate(item["times"]):
            o = _outcome(item, t, _scores(at, i), _scores(base, i) if base else None, references)
            found.append(o._replace(columns=beside.get(name_of(item["arm"], item["grid"]), {})))
    return found


def read(folder: str | Path, measure: str | None = None) -> Table:
    """All results of a folder, see `measure.table.read`; those of a plan's chips without the columns that only resuming needs."""
    found = read_all(folder, measure)
    if measure is not None or not (Path(folder) / "sweep.yaml").exists():
        return found
    return Table(tuple({k: v for k, v in row.items() if k not in INTERNAL} for row in found.rows))


def digital(folder: str | Path) -> float | None:
    """The mean score of the digital networks of a folder; None where none is there yet."""
    scores = [score for score, _ in _references(_done(folder)).values()]
    return fmean(scores) if scores else None


def _done(folder: str | Path) -> list[Record]:
    """All results of a folder."""
    state = State(Path(folder))
    return [r for p in state.plans() for k in p["items"] if (r := state.record(k)) and r["status"] == "done"]


def _outcome(item: dict[str, Any], t: float, scores: Scores, base: Scores | None, references: Any) -> ArmScore:
    by_seed = _by_seed(scores)
    over = "seeds" if len(by_seed) > 1 else "chips"
    values = list(by_seed.values()) if over == "seeds" else list(scores.values())
    common = references.get(None)
    known = [(v, r) for seed, v in by_seed.items() if (r := references.get(seed, common)) and r[0] != r[1]]
    shares = [normalised_accuracy(v, *reference) for v, reference in known]
    return ArmScore(
        arm=item["arm"],
        grid=item["grid"],
        time=t,
        mean=fmean(values),
        sem=standard_error(values),
        normalised=fmean(shares) if len(known) == len(by_seed) else None,
        seeds=len(by_seed),
        chips=len(scores),
        over=over,
        difference=_difference(scores, base, over) if base else None,
    )


def _difference(scores: Scores, base: Scores, over: str) -> Interval | None:
    """Paired by seed; by chip where there is one seed. The same chip of both has the same draws."""
    a, b = (_by_seed(scores), _by_seed(base)) if over == "seeds" else (scores, base)
    pairs = [v - b[k] for k, v in a.items() if k in b]  # type: ignore[index]
    return interval(pairs) if pairs else None


def _by_seed(scores: Scores) -> dict[int, float]:
    """Mean over the chips of each seed."""
    seeds = dict.fromkeys(seed for seed, _ in scores)
    return {s: fmean(v for (seed, _), v in scores.items() if seed == s) for s in seeds}


def _scores(records: Sequence[Record], i: int) -> Scores:
    return {(r["item"]["seed"], r["item"]["chip"]): r["value"]["rows"][i]["score"] for r in records}


def _references(records: Sequence[Record]) -> dict[int | None, tuple[float, float]]:
    """Seed -> (digital score, chance); None where all seeds start from one checkpoint."""
    digital = [r for r in records if r["measure"].endswith(":digital")]
    return {r["item"].get("seed"): (r["value"]["score"], r["value"]["chance"]) for r in digital}


def name_of(arm: str | None, grid: dict[str, Any]) -> str:
    """Of a point: the same for equal settings."""
    return json.dumps([arm, grid])


# -- text -----------------------------------------------------------------------------------------------------------
def short_names(paths: Sequence[str]) -> dict[str, str]:
    """The last parts of paths, as many as tell them apart.

    >>> short_names(["tiles.pcm.adc.bits", "tiles.pcm.dac.bits"])
    {'tiles.pcm.adc.bits': 'adc.bits', 'tiles.pcm.dac.bits': 'dac.bits'}
    """
    parts = {p: p.split(".") for p in paths}
    for n in range(1, max((len(v) for v in parts.values()), default=1) + 1):
        names = {p: ".".join(v[-n:]) for p, v in parts.items()}
        if len(set(names.values())) == len(paths) and not any(v in ("scale", "bits", "kind") for v in names.values()):
            return names
    return {p: p for p in paths}


def quantity(c: dict[str, Any] | None) -> str:
    """The value of a column of a plugin, with its unit and how far it may be off.

    >>> quantity({"value": 2e-9, "low": 1e-9, "high": 3e-9, "unit": "J"})
    '2e-09 J (1e-09 … 3e-09)'
    """
    if c is None:
        return ""
    return f"{c['value']:.3g} {c['unit']}".rstrip() + (f" ({c['low']:.3g} … {c['high']:.3g})" if c["low"] != c["high"] else "")


def front(found: Sequence[ArmScore], column: str) -> list[ArmScore]:
    """Those that no other one beats: none has a higher score at the same or a smaller value of the column."""
    ranked = sorted((o for o in found if column in o.columns), key=lambda o: (o.columns[column]["value"], -o.mean))
    best: list[ArmScore] = []
    for o in ranked:
        if not best or o.mean > best[-1].mean:
            best.append(o)
    return best


def summary(folder: str | Path) -> str:
    """The table of outcomes for the terminal."""
    plan, found = read_plan(folder), outcomes(folder)
    names = short_names(list(plan.grid))
    times = list(dict.fromkeys(o.time for o in found))
    head = ["arm", *names.values(), *(format_seconds(t) for t in times), *plan.all_columns]
    points: dict[str, dict[float, ArmScore]] = {}
    for o in found:
        points.setdefault(name_of(o.arm, o.grid), {})[o.time] = o
    rows: list[list[str]] = []
    for at in points.values():
        first = next(iter(at.values()))
        lines = [[first.arm, *map(str, first.grid.values())], [""] * (1 + len(names))]
        for t in times:
            o = at.get(t)
            lines[0].append(with_error(o.mean, o.sem, 2, in_percent=True) if o else "")
            lines[1].append(with_error(d.mean, d.half, 2, in_percent=True, sign=True) if o and (d := o.difference) else "")
        lines[0] += [quantity(first.columns.get(c)) for c in plan.all_columns]
        lines[1] += [""] * len(plan.all_columns)
        rows += lines if any(lines[1]) else lines[:1]
    if not found:
        return "no results yet"
    note = f"accuracy %, mean ± SEM over {found[0].over}"
    if plan.compared_with:
        note += f"; below: difference from {plan.compared_with!r} in points, 95 % interval, paired by {found[0].over[:-1]}"
    more = f"\n… and {len(rows) - 10 * SHOWN} more lines" if len(rows) > 10 * SHOWN else ""
    return f"{table(head, rows[: 10 * SHOWN])}{more}\n\n{note}"
