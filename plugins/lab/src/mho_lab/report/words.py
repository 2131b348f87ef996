"""Numbers and findings of a study in plain words."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mho.ground import t95

if TYPE_CHECKING:
    from mho_lab.report.results import Curve, Study

NONE = "–"
SPACE = "\N{NO-BREAK SPACE}"
KNOWN = {"direct": "when deployed directly", "hwa": "when trained for the hardware"}


def decimals(sem: float | None) -> int:
    """Places of a percentage: one, or as many as show the first digit of its standard error (three at most)."""
    shown = (n for n in (1, 2) if sem and round(100 * sem, n) > 0)
    return next(shown, 3) if sem else 1


def percent(value: float | None, places: int = 1) -> str:
    """A fraction as a percentage.

    >>> percent(0.9712).replace(SPACE, " ")
    '97.1 %'
    """
    return NONE if value is None else f"{plain_number(100 * value, places)}{SPACE}%"


def with_error(value: float | None, sem: float | None) -> str:
    """A fraction with its standard error, where there is one."""
    if value is None or sem is None:
        return percent(value)
    n = decimals(sem)
    return f"{percent(value, n)}{SPACE}±{SPACE}{percent(sem, n)}"


def printable(text: Any) -> str:
    """Text on one line, without control characters.

    >>> printable("a\\n\\x00b")
    'a �b'
    """
    return "".join(c if c.isprintable() else "�" for c in " ".join(str(text).split()))


def digits(value: float) -> str:
    """Four digits of a number.

    >>> digits(-0.123456), digits(1234567.0)
    ('−0.1235', '1,234,567')
    """
    return _minus(f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}")


def plain_number(value: float | None, places: int = 3) -> str:
    return NONE if value is None else _minus(f"{value:z.{places}f}")


def duration(seconds: float | None) -> str:
    """How long something took.

    >>> duration(192).replace(SPACE, " ")
    '3 min 12 s'
    """
    if seconds is None:
        return NONE
    if seconds < 60:
        return f"{seconds:.1f}{SPACE}s"
    minutes, s = divmod(round(seconds), 60)
    h, m = divmod(minutes, 60)
    return f"{h}{SPACE}h {m}{SPACE}min" if h else f"{m}{SPACE}min {s}{SPACE}s"


def how(curve: Curve) -> str:
    """The half-sentence that says how the network came onto the hardware."""
    return KNOWN.get(curve.name, f"as “{curve.name}”")


def headline(study: Study) -> str:
    """What came out, in one sentence."""
    ranked = _ranked(study)
    told = ranked if len(ranked) <= 3 else [ranked[0], ranked[-1]]
    found = [f"{with_error(c.mean[-1], c.sem[-1])} {how(c)}" for c in told]
    if not found:
        return f"No score of {study.task} on the hardware is known."
    digital = f"; digitally it is {percent(study.reference)}" if study.reference is not None else ""
    between = "" if told is ranked else f" ({len(ranked) - 2} more lie between)"
    return f"After {study.time_names[-1]} the score on {study.task} is {_and(found)}{between}{digital}."


def verdict(study: Study) -> str:
    """Whether the better way is better by more than chance; empty where there is nothing to compare."""
    named = {c.name: c for c in _ranked(study)}
    if study.gain is not None:
        return _paired(study, *study.gain[-1])
    if "direct" in named and "hwa" in named:
        return _hwa_or_not(named["hwa"], named["direct"])
    if len(named) > 1:
        first, second = list(named.values())[:2]
        return _first_or_not(first, second)
    return ""


def caution(study: Study) -> str:
    """What the error bars cover."""
    chips = max((len(c.last) for c in study.curves), default=0)
    if study.seeds:
        return (
            f"± is the standard error of the mean over {len(study.seeds)} trainings, each deployed on chips of its own "
            f"({chips} in all). It does not cover other test data."
        )
    if chips < 2:
        return "One chip was simulated, so there is no error bar: another chip can come out differently."
    return (
        f"± is the standard error of the mean over {chips} simulated chips, each programmed anew. "
        "It does not cover training again with another seed, nor other test data."
    )


def above_digital(study: Study) -> str:
    """Why a score above the digital one is no wonder of the hardware; empty where there is none."""
    hwa = next((c for c in _ranked(study) if c.name == "hwa"), None)
    if hwa is None or study.reference is None or (hwa.mean[-1] or 0) <= study.reference:
        return ""
    return (
        "Trained for the hardware, the network scores above the digital one. That need not be the hardware's doing: "
        "it was trained for longer, starting from the digital network."
    )


def _paired(study: Study, gain: float, half: float) -> str:
    """The same from differences of the same training."""
    n = len(study.seeds)
    size = (
        f"95 % interval {signed_points(gain - half, 2)} to {signed_points(gain + half, 2)} points, {n} paired trainings"
    )
    if abs(gain) <= half:
        return f"Training for the hardware makes no difference that {n} trainings can show ({size})."
    if gain > 0:
        return f"Training for the hardware gains {100 * gain:.2f} points over direct deployment ({size})."
    return f"Training for the hardware does not help here: it loses {-100 * gain:.2f} points ({size})."


def _hwa_or_not(hwa: Curve, direct: Curve) -> str:
    gain, sem, clear = _difference(hwa, direct)
    if sem is None:
        return f"Training for the hardware changes it by {signed_points(gain)} points: on one chip, that can be chance."
    points = _points(gain, sem)
    if not clear:
        chips = _chips(hwa, direct)
        return f"Training for the hardware makes no difference that {chips} chips can show ({points} points)."
    if gain > 0:
        return f"Training for the hardware gains {points.lstrip('+')} points over direct deployment."
    return (
        f"Training for the hardware does not help here: against direct deployment it loses {points.lstrip('−')} points."
    )


def _first_or_not(first: Curve, second: Curve) -> str:
    gain, sem, clear = _difference(first, second)
    if sem is None:
        return f"“{first.name}” is {signed_points(gain)} points from “{second.name}”: on one chip, that can be chance."
    if not clear:
        chips = _chips(first, second)
        return f"{chips} chips cannot tell “{first.name}” from “{second.name}” ({_points(gain, sem)} points)."
    return f"“{first.name}” is best, {_points(gain, sem).lstrip('+')} points ahead of “{second.name}”."


def _difference(a: Curve, b: Curve) -> tuple[float, float | None, bool]:
    """(a - b, its standard error, whether it is clear at 95 %) at the last time, for independent means."""
    gain, sems = (a.mean[-1] or 0) - (b.mean[-1] or 0), (a.sem[-1], b.sem[-1])
    if sems[0] is None or sems[1] is None:
        return gain, None, False
    sem = math.hypot(sems[0], sems[1])
    return gain, sem, abs(gain) > t95(_chips(a, b) - 1) * sem


def _chips(*curves: Curve) -> int:
    return min(len(c.last) for c in curves)


def _ranked(study: Study) -> list[Curve]:
    """The curves that have a mean at the last time, best first."""
    known = [c for c in study.curves if c.mean and c.mean[-1] is not None]
    return sorted(known, key=lambda c: -(c.mean[-1] or 0))


def signed_points(value: float, places: int = 1) -> str:
    """A difference of fractions in points, with its sign."""
    return _minus(f"{100 * value:+z.{places}f}")


def _minus(number: str) -> str:
    return number.replace("-", "−")


def _points(gain: float, sem: float) -> str:
    n = decimals(sem)
    return f"{signed_points(gain, n)}{SPACE}±{SPACE}{100 * sem:.{n}f}"


def _and(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
