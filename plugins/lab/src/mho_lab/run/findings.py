"""What came out of a run, in sentences."""

import math

from mho.ground import percent
from mho_lab.errorbars import t95
from mho_lab.report import words
from mho_lab.run.results import RunResults, VariantScores

KNOWN = {"direct": "when deployed directly", "hwa": "when trained for the hardware"}


def headline(run: RunResults) -> str:
    """What came out, in one sentence."""
    ranked = _ranked(run)
    told = ranked if len(ranked) <= 3 else [ranked[0], ranked[-1]]
    ways = [KNOWN.get(c.name, f"as “{c.name}”") for c in told]
    found = [f"{words.with_error(c.mean[-1], c.sem[-1])} {way}" for c, way in zip(told, ways)]
    if not found:
        return f"No score of {run.task} on the hardware is known."
    digital = f"; digitally it is {words.percent(run.reference)}" if run.reference is not None else ""
    between = "" if told is ranked else f" ({len(ranked) - 2} more lie between)"
    listed = found[0] if len(found) == 1 else f"{', '.join(found[:-1])} and {found[-1]}"
    return f"After {run.time_names[-1]} the score on {run.task} is {listed}{between}{digital}."


def verdict(run: RunResults) -> str:
    """Whether the better way is better by more than chance; empty where there is nothing to compare."""
    named = {c.name: c for c in _ranked(run)}
    if run.gain is not None:
        return _paired(len(run.seeds), *run.gain[-1])
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


def _paired(n: int, gain: float, half: float) -> str:
    """From differences within each of n trainings: their mean and half of its 95 % interval."""
    low, high = words.points(gain - half, places=2), words.points(gain + half, places=2)
    size = f"95 % interval {low} to {high} points, {n} paired trainings"
    if abs(gain) <= half:
        return f"Training for the hardware makes no difference that {n} trainings can show ({size})."
    if gain > 0:
        return f"Training for the hardware gains {percent(gain, 2)} points over direct deployment ({size})."
    return f"Training for the hardware does not help here: it loses {percent(-gain, 2)} points ({size})."


def _hwa_or_not(hwa: VariantScores, direct: VariantScores) -> str:
    how, points, chips = _compared(hwa, direct)
    return {
        "one chip": f"Training for the hardware changes it by {points} points: on one chip, that can be chance.",
        "equal": f"Training for the hardware makes no difference that {chips} chips can show ({points} points).",
        "better": f"Training for the hardware gains {points.lstrip('+')} points over direct deployment.",
        "worse": f"Training for the hardware does not help here: against direct deployment it loses {points.lstrip('−')} points.",
    }[how]


def _first_or_not(first: VariantScores, second: VariantScores) -> str:
    how, points, chips = _compared(first, second)
    return {
        "one chip": f"“{first.name}” is {points} points from “{second.name}”: on one chip, that can be chance.",
        "equal": f"{chips} chips cannot tell “{first.name}” from “{second.name}” ({points} points).",
    }.get(how, f"“{first.name}” is best, {points.lstrip('+')} points ahead of “{second.name}”.")


def _compared(a: VariantScores, b: VariantScores) -> tuple[str, str, int]:
    """What a - b at the last time says, for independent means; the difference in points with its standard error; the fewer
    chips."""
    sems, chips = (a.sem[-1], b.sem[-1]), min(len(a.last), len(b.last))
    gain, sem = (a.mean[-1] or 0) - (b.mean[-1] or 0), None if None in sems else math.hypot(*filter(None, sems))
    how = "one chip" if sem is None else "equal" if abs(gain) <= t95(chips - 1) * sem else "better" if gain > 0 else "worse"
    return how, words.points(gain, sem), chips


def _ranked(run: RunResults) -> list[VariantScores]:
    """The curves that have a mean at the last time, best first."""
    return sorted([c for c in run.curves if c.mean and c.mean[-1] is not None], key=lambda c: -(c.mean[-1] or 0))
