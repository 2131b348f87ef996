"""How strong may each effect become? Thresholds at 99 % of the accuracy, and what equally large MVM errors cost (R003)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mho.config import Hardware
from mho.ground import MhoError
from mho_lab.measure.statistics import Ask, Effort, Interval, Threshold, interval, threshold
from mho_lab.run.product import MvmExperiment, standard_mvm_error
from mho_lab.studies import rounds, variants
from mho_lab.studies.mvm import equal_error_boost
from mho_lab.studies.shown import plain
from mho_lab.studies.subject import Item, Measurer, Subject, Value, column, scores
from mho_lab.studies.variants import Knob

LEVEL = 0.99  # of the accuracy on the hardware as it is (R003 Fig. 5)
TARGET = 0.20  # MVM error of R003 Fig. 4
TOLERANCE = math.log2(1.25)  # bisection of strengths stops when both ends are that near


class Case(NamedTuple):
    """One cell of the heat-map: a knob, a network, a time."""

    knob: str
    network: str
    time: float


@dataclass(frozen=True)
class Limit:
    """How far a knob may be turned before normalised accuracy falls below the level, with the interval of the decisions.

    For strengths `x`, `low`, `high` are factors: it held at `low` and did not at `high` (None: not reached at the largest
    factor tried, `tried`). For bits `low` is the smallest number that was decided to hold, `x` the crossing between them.
    """

    case: Case
    x: float | None
    low: float
    high: float | None
    tried: float
    chips: int
    bits: bool
    points: tuple[tuple[float, float, int], ...]  # (value, mean margin, chips)


class Boost(NamedTuple):
    """Fig. 4 (R003-44, R003-47): the value of a knob at which the MVM error of the default tile is `TARGET`, and the share
    of normalised accuracy that is lost there."""

    knob: str
    value: float | None
    loss: dict[str, Interval]  # by network
    note: str = ""


@dataclass(frozen=True)
class Sensitivity:
    """All of it: thresholds by case, boosts by knob; `chips` scores were measured."""

    knobs: tuple[Knob, ...]
    networks: dict[str, Subject]
    times: tuple[float, ...]
    level: float
    base: dict[tuple[str, float], Interval]  # scores on the hardware as it is
    limits: tuple[Limit, ...]
    boosts: tuple[Boost, ...]

    def ranked(self, network: str, time: float) -> list[Limit]:
        """The limits of strengths, the most sensitive knob first."""
        mine = [m for m in self.limits if m.case.network == network and m.case.time == time and not m.bits]
        return sorted(mine, key=lambda m: m.x if m.x is not None else math.inf)

    def relative(self, limit: Limit) -> float | None:
        """R003-46: where this threshold lies between the smallest and the largest over all networks and times, turned so
        that 1 is the most sensitive for strengths and bits alike. None where there is nothing to compare."""
        same = [m.x for m in self.limits if m.case.knob == limit.case.knob and m.x is not None]
        if limit.x is None or len(same) < 2 or max(same) == min(same):
            return None
        r = (limit.x - min(same)) / (max(same) - min(same))
        return r if limit.bits else 1 - r


def sensitivity(
    networks: dict[str, Subject],
    hw: Hardware,
    times: Sequence[float],
    measured: Measurer,
    *,
    level: float = LEVEL,
    effort: Effort | None = None,
    only: Sequence[str] = (),
    highest: float = 1024.0,
    boosts: bool = True,
) -> Sensitivity:
    """Turn every knob of `hw` for every network at every time (R003-44 ... R003-46).

    The level is a share of the normalised accuracy that the network has on this hardware as it is, on the same chips:
    margins are paired, chip by chip.
    """
    effort = effort or Effort()
    knobs = chosen_knobs(hw, only, highest)
    scored = measured([s.chips(hw, 0, effort.looks[-1], *times) for s in networks.values()], scores)  # as they are
    base = {(n, t): column([v], i) for n, v in zip(networks, scored) for i, t in enumerate(times)}
    cases = {Case(k.name, n, t): k for k in knobs for n in networks for t in times}

    def item(case: Case, ask: Ask) -> Item:
        return networks[case.network].chips(cases[case].turned(hw, ask.x), ask.first, ask.last, case.time)

    def margins(case: Case, ask: Ask, value: Value) -> list[float]:
        chance = networks[case.network].chance
        before = base[case.network, case.time][ask.first : ask.last]
        return [(s - chance) - level * (b - chance) for s, b in zip(column([value]), before)]

    def start(case: Case) -> float:
        """The margin of the hardware as it is."""
        return (1 - level) * (interval(base[case.network, case.time]).mean - networks[case.network].chance)

    searches = {c: threshold(effort, k.highest, 2.0, TOLERANCE if k.bits is None else 1.0, start(c)) for c, k in cases.items()}
    found = rounds.search(searches, item, margins, scores, measured)
    limits = tuple(_limit(c, cases[c], found[c]) for c in cases)
    summary = {k: interval(v) for k, v in base.items()}
    costs = _boosts(networks, hw, knobs, times[0], base, measured) if boosts else ()
    return Sensitivity(tuple(knobs), networks, tuple(times), level, summary, limits, costs)


def chosen_knobs(hw: Hardware, only: Sequence[str] = (), highest: float = 1024.0) -> list[Knob]:
    """The knobs of these names, all where there are none. Raises `MhoError`, with a suggestion, for any other name."""
    knobs = {k.name: k for k in variants.knobs(hw, highest)}
    if not knobs:
        raise MhoError("nothing in this hardware has a strength or a number of bits, so there is nothing to turn")
    return [knobs[name] for name in variants.chosen(only, knobs, "strength or bits")]


def _limit(case: Case, knob: Knob, t: Threshold) -> Limit:
    return Limit(
        case,
        None if t.x is None else knob.value(t.x),
        knob.value(t.low),
        None if t.high is None else knob.value(t.high),
        knob.value(knob.highest),
        sum(p.n for p in t.points),
        knob.bits is not None,
        tuple((knob.value(p.x), p.mean, p.n) for p in t.points),
    )


# --- Fig. 4: equal MVM errors ---


def boost(item: Item) -> Value:
    """Measure: the value of a knob at which the MVM error of the default tile reaches the target (R003-44)."""
    hw, e = Hardware.from_data(item["hardware"]), MvmExperiment(*item["experiment"])
    knob = next(k for k in variants.knobs(hw) if k.name == item["knob"])
    try:
        if knob.bits is not None:
            return {"value": _bits_at(hw, knob, item["target"], e)}
        value = equal_error_boost(hw, knob.kinds, item["target"], experiment=e, highest=item["highest"])
    except MhoError as why:
        return {"value": None, "why": str(why)}
    return {"value": value}


def _bits_at(hw: Hardware, knob: Knob, target: float, e: MvmExperiment) -> float:
    """The largest number of bits at which the error is at least the target."""
    for taken in range(1, int(knob.highest) + 1):
        if standard_mvm_error(knob.turned(hw, taken), None, e).mean >= target:
            return knob.value(taken)
    raise MhoError(f"not even 2 bits bring the MVM error to {target:.1%}")


def _boosts(
    networks: dict[str, Subject],
    hw: Hardware,
    knobs: list[Knob],
    time: float,
    base: dict[tuple[str, float], list[float]],
    measured: Measurer,
    chips: int = 8,
) -> tuple[Boost, ...]:
    """Every knob at an MVM error of 20 %, and the normalised accuracy that is lost there, on the same chips."""
    if hw.default not in hw.tiles:
        return ()
    size = min(512, hw.tile(hw.default).rows)
    common = {"hardware": hw.to_data(), "target": TARGET, "experiment": list(MvmExperiment(size=size, vectors=64, matrices=2))}
    values = dict(zip(knobs, measured([{**common, "knob": k.name, "highest": k.value(k.highest)} for k in knobs], boost)))
    reached = [k for k in knobs if values[k]["value"] is not None]
    cases = [(k, n) for k in reached for n in networks]
    turned = [
        networks[n].chips(k.turned(hw, k.position(values[k]["value"])), 0, min(chips, len(base[n, time])), time) for k, n in cases
    ]
    after = dict(zip(cases, measured(turned, scores)))

    def loss(k: Knob, n: str) -> Interval:
        chance, before = networks[n].chance, base[n, time]
        reference = sum(before) / len(before)
        return interval([(b - s) / (reference - chance) for s, b in zip(column([after[k, n]]), before)])

    return tuple(
        Boost(k.name, values[k]["value"], {n: loss(k, n) for n in networks} if k in reached else {}, values[k].get("why", ""))
        for k in knobs
    )


def as_data(s: Sensitivity) -> dict[str, Any]:
    """Plain data of everything that was found."""
    thresholds = []
    for m in s.limits:
        found = plain(m)
        unit = "bits" if found.pop("bits") else "factor"
        thresholds.append({**found.pop("case"), "unit": unit, "relative": s.relative(m), **found})
    return {
        "study": "sensitivity",
        "level": s.level,
        "times": list(s.times),
        "networks": {n: x.checkpoint for n, x in s.networks.items()},
        "scores": [{"network": n, "time": t, **plain(i)} for (n, t), i in s.base.items()],
        "thresholds": thresholds,
        "equal_error": plain(s.boosts),
    }
