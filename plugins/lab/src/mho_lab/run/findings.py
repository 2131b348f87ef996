"""What came out of a run, in sentences."""

from __future__ import annotations

import math

from mho.ground import t95
from mho_lab.report import words
from mho_lab.run.results import RunResults, VariantScores

KNOWN = {"direct": "when deployed directly", "hwa": "when trained for the hardware"}


def how(curve: VariantScores) -> str:
    """The half-sentence that says how the network came onto the hardware."""
    return KNOWN.get(curve.name, f"as “{curve.name}”")


def headline(run: RunResults) -> str:
    """What came out, in one sentence."""
    ranked = _ranked(run)
    told = ranked if len(ranked) <= 3 else [ranked[0], ranked[-1]]
    found = [f"{words.with_error(c.mean[-1], c.sem[-1])} {how(c)}" for c in told]
    if not found:
        return f"No score of {run.task} on the hardware is known."
    digital = f"; digitally it is {words.percent(run.reference)}" if run.reference is not None else ""
    between = "" if told is ranked else f" ({len(ranked) - 2} more lie between)"
    return f"After {run.time_names[-1]} the score on {run.task} is {_and(found)}{between}{digital}."


def verdict(run: RunResults) -> str:
    """Whether the better way is better by more than chance; empty where there is nothing to compare."""
    named = {c.name: c for c in _ranked(run)}
    if run.gain is not None:
        return _paired(run, *run.gain[-1])
    if "direct" in named and "hwa" in named:
        return _hwa_or_not(named["hwa"], named["direct"])
    if len(named) > 1:
        first, second = list(named.values())[:2]
        return _first_or_not(first, second)
    return ""


def caution(run: RunResults) -> str:
    """What the error bars cover."""
    chips = max((len(c.last) for c in run.curves), default=0)
    if run.seeds:
        return (
            f"± is the standard error of the mean over {len(run.seeds)} trainings, each deployed on chips of its own "
            f"({chips} in all). It does not cover other test data."
        )
    if chips < 2:
        return "One chip was simulated, so there is no error bar: another chip can come out differently."
    return (
        f"± is the standard error of the mean over {chips} simulated chips, each programmed anew. "
        "It does not cover training again with another seed, nor other test data."
    )


def above_digital(run: RunResults) -> str:
    """Why a score above the digital one is no wonder of the hardware; empty where there is none."""
    hwa = next((c for c in _ranked(run) if c.name == "hwa"), None)
    if hwa is None or run.reference is None or (hwa.mean[-1] or 0) <= run.reference:
        return ""
    return (
        "Trained for the hardware, the network scores above the digital one. That need not be the hardware's doing: "
        "it was trained for longer, starting from the digital network."
    )


def _paired(run: RunResults, gain: float, half: float) -> str:
    """The same from differences of the same training."""
    n = len(run.seeds)
    low, high = words.signed_points(gain - half, 2), words.signed_points(gain + half, 2)
    size = f"95 % interval {low} to {high} points, {n} paired trainings"
    if abs(gain) <= half:
        return f"Training for the hardware makes no difference that {n} trainings can show ({size})."
    if gain > 0:
        return f"Training for the hardware gains {100 * gain:.2f} points over direct deployment ({size})."
    return f"Training for the hardware does not help here: it loses {-100 * gain:.2f} points ({size})."


def _hwa_or_not(hwa: VariantScores, direct: VariantScores) -> str:
    gain, sem, clear = _difference(hwa, direct)
    if sem is None:
        return f"Training for the hardware changes it by {words.signed_points(gain)} points: on one chip, that can be chance."
    points = _points(gain, sem)
    if not clear:
        chips = _chips(hwa, direct)
        return f"Training for the hardware makes no difference that {chips} chips can show ({points} points)."
    if gain > 0:
        return f"Training for the hardware gains {points.lstrip('+')} points over direct deployment."
    return (
        f"Training for the hardware does not help here: against direct deployment it loses {points.lstrip('−')} points."
    )


def _first_or_not(first: VariantScores, second: VariantScores) -> str:
    gain, sem, clear = _difference(first, second)
    if sem is None:
        return f"“{first.name}” is {words.signed_points(gain)} points from “{second.name}”: on one chip, that can be chance."
    if not clear:
        chips = _chips(first, second)
        return f"{chips} chips cannot tell “{first.name}” from “{second.name}” ({_points(gain, sem)} points)."
    return f"“{first.name}” is best, {_points(gain, sem).lstrip('+')} points ahead of “{second.name}”."


def _difference(a: VariantScores, b: VariantScores) -> tuple[float, float | None, bool]:
    """(a - b, its standard error, whether it is clear at 95 %) at the last time, for independent means."""
    gain, sems = (a.mean[-1] or 0) - (b.mean[-1] or 0), (a.sem[-1], b.sem[-1])
    if sems[0] is None or sems[1] is None:
        return gain, None, False
    sem = math.hypot(sems[0], sems[1])
    return gain, sem, abs(gain) > t95(_chips(a, b) - 1) * sem


def _chips(*curves: VariantScores) -> int:
    return min(len(c.last) for c in curves)


def _ranked(run: RunResults) -> list[VariantScores]:
    """The curves that have a mean at the last time, best first."""
    known = [c for c in run.curves if c.mean and c.mean[-1] is not None]
    return sorted(known, key=lambda c: -(c.mean[-1] or 0))


def _points(gain: float, sem: float) -> str:
    n = words.decimals(sem)
    return f"{words.signed_points(gain, n)}{words.SPACE}±{words.SPACE}{100 * sem:.{n}f}"


def _and(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
