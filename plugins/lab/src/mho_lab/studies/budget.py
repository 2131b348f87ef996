"""An error budget: accuracy lost per effect and per layer, with what they cost together beyond their sum, and "what if"."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mho.config import Hardware, load
from mho_lab.measure.statistics import Interval, interval
from mho_lab.studies import variants
from mho_lab.studies.layers import layers_on_tiles
from mho_lab.studies.shown import plain
from mho_lab.studies.subject import Measurer, Subject, column, scores


class Share(NamedTuple):
    """One cause: the score lost with it alone, and won back without it while all others stay."""

    cause: str
    alone: Interval
    removed: Interval


class Budget(NamedTuple):
    """All causes of one kind (effects, or layers) at one time; losses are differences of scores, paired over chips.

    total        lost with all of them
    interaction  total - sum of the losses of each alone: 0 where they add up, negative where they hide behind each other
    """

    what: str
    time: float
    total: Interval
    shares: tuple[Share, ...]
    interaction: Interval

    @property
    def ranked(self) -> list[Share]:
        return sorted(self.shares, key=lambda s: -s.alone.mean)


class WhatIf(NamedTuple):
    """The score with some values of the hardware changed, and the difference on the same chips."""

    changes: tuple[str, ...]
    time: float
    score: Interval
    gain: Interval


@dataclass(frozen=True)
class BudgetStudy:
    """Budgets by effect and by layer at every time, and the changes that were asked about."""

    digital: float
    exact: float  # on tiles without any effect or converter
    chips: int
    confidence: float
    scores: dict[float, Interval]  # on the hardware as it is, by time
    budgets: tuple[Budget, ...]
    what_if: tuple[WhatIf, ...]


def budget_study(
    subject: Subject,
    hw: Hardware,
    times: Sequence[float],
    measured: Measurer,
    *,
    chips: int = 12,
    confidence: float = 0.95,
    what_if: Sequence[str | tuple[str, ...]] = (),
) -> BudgetStudy:
    """Measure the hardware as it is, each cause alone, each removed, and each change, all on chips of the same seeds.

    The score without any effect is that of exact products (`exact`): what it differs from the digital one is lost where
    input ranges cut inputs off. Without any layer on tiles the score is the digital one. A cause's chips differ in nothing
    but the cause: its draws are functions of the chip's seed.
    """
    hw = load(hw, set=["precision=reference"])  # the fused path draws neighbouring noises at once: less alike with one gone
    layers = [x.name for x in layers_on_tiles(subject, hw)]
    effects = variants.causes(hw)
    asked = [(c,) if isinstance(c, str) else tuple(c) for c in what_if]
    hardwares: dict[Any, Hardware] = {"all": hw, "exact": hw.varied(only=())}
    for e in effects:
        hardwares["effect", "alone", e] = hw.varied(only=e)
        hardwares["effect", "removed", e] = hw.varied(without=e)
    for x in layers if len(layers) > 1 else ():
        hardwares["layer", "alone", x] = variants.digital(hw, [y for y in layers if y != x])
        hardwares["layer", "removed", x] = variants.digital(hw, [x])
    for c in asked:
        hardwares["what if", "", c] = load(hw, set=c)
    digital, *values = measured([subject.item(None), *[subject.chips(h, 0, chips, *times) for h in hardwares.values()]], scores)
    found = dict(zip(hardwares, values))
    reference = column([digital])[0]
    budgets, answers = [], []
    for i, t in enumerate(times):
        at = {name: column([v], i) for name, v in found.items()}
        budgets.append(_budget("effect", t, effects, at, at["exact"], confidence))
        if len(layers) > 1:
            budgets.append(_budget("layer", t, layers, at, [reference] * chips, confidence))
        for c in asked:
            new = at["what if", "", c]
            gain = interval([n - a for n, a in zip(new, at["all"])], confidence)
            answers.append(WhatIf(c, t, interval(new, confidence), gain))
    overall = {t: interval(column([found["all"]], i), confidence) for i, t in enumerate(times)}
    return BudgetStudy(reference, column([found["exact"]])[0], chips, confidence, overall, tuple(budgets), tuple(answers))


def _budget(
    what: str, t: float, causes: Sequence[str], at: dict[Any, list[float]], best: list[float], confidence: float
) -> Budget:
    """Losses by chip against the score `best` that there is without any of the causes."""
    total = [b - a for b, a in zip(best, at["all"])]
    alone = {c: [b - s for b, s in zip(best, at[what, "alone", c])] for c in causes}
    removed = {c: [s - a for s, a in zip(at[what, "removed", c], at["all"])] for c in causes}
    together = [lost - math.fsum(alone[c][k] for c in causes) for k, lost in enumerate(total)]
    shares = tuple(Share(c, interval(alone[c], confidence), interval(removed[c], confidence)) for c in causes)
    return Budget(what, t, interval(total, confidence), shares, interval(together, confidence))


def as_data(s: BudgetStudy) -> dict[str, Any]:
    """Plain data of everything that was found."""
    return {"study": "budget", **plain(s), "scores": [{"time": t, **plain(i)} for t, i in s.scores.items()]}
