"""Which layers suffer, and which have to leave the tiles: sensitivity of each, exemption, a mixed deployment (R003)."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from mho.config import Hardware
from mho.ground import MhoError, needed
from mho.use import conversion_report
from mho_lab.measure.statistics import Ask, Decision, Effort, Interval, Search, decide, interval
from mho_lab.studies import rounds, variants
from mho_lab.studies.shown import plain
from mho_lab.studies.subject import Item, Measurer, Subject, Value, column, network, scores, task_of

SCALE = 15.0  # R003-50
TARGET = 0.99  # normalised accuracy, R003-43
Weigh = Callable[[Hardware], float]
EXHAUSTIVE = 6  # up to so many layers, every mixed deployment is tried


class OnTiles(NamedTuple):
    """An analog layer: which tile it is on, and how many parameters it has."""

    name: str
    tile: str
    parameters: int


class Alone(NamedTuple):
    """Normalised accuracy with device noise in one layer only (R003-50)."""

    layer: OnTiles
    accuracy: Interval


class Exemption(NamedTuple):
    """Normalised accuracy with no device noise in these layers (R003-51), and their share of the parameters. All else stays:
    converters, output noise, read noise from cycle to cycle."""

    layers: tuple[str, ...]
    share: float
    accuracy: Interval


class Deployment(NamedTuple):
    """A mixed deployment: what leaves the tiles, and what chips that the search has not seen say about it.

    weight what was to be small: the share of parameters off the tiles, or a column of a plugin
    met    whether the lower end of the interval reaches the target
    every  whether every smaller one was tried (and none was good enough), or only the most promising ones
    """

    layers: tuple[str, ...]
    share: float
    hardware: Hardware
    accuracy: Interval
    met: bool
    every: bool
    weight: float


@dataclass(frozen=True)
class LayerStudy:
    """All of it; accuracies are normalised by the digital score of the same network (A* of R003)."""

    layers: tuple[OnTiles, ...]
    families: tuple[str, ...]
    scale: float
    time: float
    target: float
    digital: float
    quiet: Interval  # device noise in no layer
    alone: tuple[Alone, ...]  # the most sensitive first
    exemptions: tuple[Exemption, ...]  # none exempt, the most sensitive one, the two most sensitive, ..., all
    deployment: Deployment


def layer_study(
    subject: Subject,
    hw: Hardware,
    time: float,
    measured: Measurer,
    *,
    families: Sequence[str] = (),
    scale: float = SCALE,
    target: float = TARGET,
    chips: int = 8,
    verify: int = 24,
    effort: Effort | None = None,
    weigh: Weigh | None = None,
) -> LayerStudy:
    """Sensitivity of every layer, accuracy over the share of exempt parameters, and the exemption that meets the target with the
    smallest `weigh(hardware)` (default: share of parameters off the tiles): searched on the chips of one seed, verified on
    chips of another."""
    noise = variants.device_noise(hw, families)
    kinds = [kind for found in noise.values() for kind in found]
    if not kinds:
        raise MhoError("no effect of this hardware comes with its devices; say whose noise to scale with --family")
    layers = layers_on_tiles(subject, hw)
    search = _Search(subject, hw, layers, weigh, time, target, column(measured([subject.item(None)], scores))[0], measured)
    nowhere = hw.varied(dict.fromkeys(kinds, 0.0))
    noisy = [variants.one_noisy_layer(hw, x.name, x.tile, kinds, scale) for x in layers]
    quiet, *alone = search.accuracies([nowhere, *noisy], chips)
    ranked = sorted((Alone(x, a) for x, a in zip(layers, alone)), key=lambda a: a.accuracy.mean)
    order = [a.layer.name for a in ranked]
    exemptions = _exemptions(search, [a.layer for a in ranked], kinds, chips)
    deployment = _deployment(search, order, effort or Effort((4, 8, 16, 32)), verify)
    return LayerStudy(
        tuple(layers), tuple(noise), scale, time, target, search.digital, quiet, tuple(ranked), exemptions, deployment
    )  # fmt: skip


def predicted(subject: Subject, hw: Hardware, nats: float) -> Any:
    """The `LayerChoice` of mho-digital, from backward passes and without any search: what leaves the tiles of `hw` so that the
    divergence of the rest is predicted to be at most so many nats. Raises `MhoError` without mho-digital."""
    task = task_of(subject.task)
    choose = needed("mho_digital.choice", "--predict comes with mho-digital", "mho-digital").stay_digital

    def logits(net: Any, batch: Any) -> Any:
        return task.logits(task.predict(net, batch))

    found = choose(network(subject.item(hw)), task.calibration_batches(), nats, logits, seed=subject.seed)
    return replace(found, hardware=variants.digital(hw, found.digital))


def layers_on_tiles(subject: Subject, hw: Hardware) -> list[OnTiles]:
    """The analog layers of the network on this hardware."""
    report = conversion_report(network(subject.item(hw)))
    return [OnTiles(e.name, e.tile, e.parameters) for e in report.analog]


@dataclass(frozen=True)
class _Search:
    """Measures normalised accuracies of one network at one time."""

    subject: Subject
    hw: Hardware
    layers: list[OnTiles]
    weigh: Weigh | None
    time: float
    target: float
    digital: float  # the score without hardware
    measured: Measurer

    def weight(self, names: Sequence[str]) -> float:
        """What a choice of layers off the tiles weighs."""
        return _share(self.layers, names) if self.weigh is None else self.weigh(variants.digital(self.hw, names))

    def normal(self, values: Sequence[Value]) -> list[float]:
        chance = self.subject.chance
        if self.digital == chance:
            raise MhoError(f"the digital network scores {chance:.1%}, which is guessing: there is nothing to lose")
        return [(s - chance) / (self.digital - chance) for s in column(list(values))]

    def accuracies(self, hardwares: Sequence[Hardware], chips: int, confidence: float = 0.95) -> list[Interval]:
        items = [self.subject.chips(h, 0, chips, self.time) for h in hardwares]
        return [interval(self.normal([v]), confidence) for v in self.measured(items, scores)]

    def meets(self, hw: Hardware, effort: Effort) -> Decision:
        """Whether the accuracy of this hardware is at least the target."""

        def item(_: int, ask: Ask) -> Item:
            return self.subject.chips(hw, ask.first, ask.last, self.time)

        def margins(_: int, ask: Ask, value: Value) -> list[float]:
            return [a - self.target for a in self.normal([value])]

        searches: dict[int, Search] = {0: decide(0.0, effort)}
        return rounds.search(searches, item, margins, scores, self.measured)[0]


def _exemptions(search: _Search, ranked: list[OnTiles], kinds: Sequence[str], chips: int) -> tuple[Exemption, ...]:
    """R003-51: exempt layers from device noise, from the most to the least sensitive."""
    cuts = [ranked[:k] for k in range(len(ranked) + 1)]
    found = search.accuracies([variants.exempt(search.hw, {x.name: x.tile for x in c}, kinds) for c in cuts], chips)
    names = [tuple(x.name for x in c) for c in cuts]
    return tuple(Exemption(n, _share(ranked, n), a) for n, a in zip(names, found))


def _share(layers: list[OnTiles], names: Sequence[str]) -> float:
    """Of the parameters that could be on tiles, those of these layers."""
    return sum(x.parameters for x in layers if x.name in names) / max(1, sum(x.parameters for x in layers))


def _deployment(search: _Search, order: list[str], effort: Effort, verify: int) -> Deployment:
    """The lightest candidate that meets the target in the search and on new chips."""
    hw, layers = search.hw, search.layers
    every = len(layers) <= EXHAUSTIVE
    candidates = list(_subsets(layers)) if every else [tuple(order[:k]) for k in range(len(order) + 1)]
    for names in candidates if search.weigh is None else sorted(candidates, key=search.weight):
        if len(names) == len(layers):
            break
        if search.meets(variants.digital(hw, names), effort).sign <= 0:
            continue
        kept = names if every else _pruned(search, names, effort)
        mixed = variants.digital(hw, kept)
        # on chips of another seed than the search used; one-sided at 95 %, so 90 % between both ends
        fresh = replace(search, subject=replace(search.subject, seed=search.subject.seed + 1))
        seen = fresh.accuracies([mixed], verify, confidence=0.90)[0]
        if seen.low >= search.target:
            return Deployment(kept, _share(layers, kept), mixed, seen, True, every, search.weight(kept))
    everything = variants.digital(hw, [x.name for x in layers])
    sure = Interval(1.0, 1.0, 1.0, verify)
    return Deployment(tuple(order), 1.0, everything, sure, search.target <= 1.0, every, search.weight(order))


def _subsets(layers: list[OnTiles]) -> Iterator[tuple[str, ...]]:
    """Every choice of layers, those with the fewest parameters first."""
    choices = itertools.chain.from_iterable(itertools.combinations(layers, k) for k in range(len(layers) + 1))
    for c in sorted(choices, key=lambda c: (sum(x.parameters for x in c), len(c))):
        yield tuple(x.name for x in c)


def _pruned(search: _Search, names: tuple[str, ...], effort: Effort) -> tuple[str, ...]:
    """Put back on tiles whatever can go back and is lighter there, the largest layer first."""
    for x in sorted((x for x in search.layers if x.name in names), key=lambda x: -x.parameters):
        fewer = tuple(n for n in names if n != x.name)
        if search.weight(fewer) < search.weight(names) and search.meets(variants.digital(search.hw, fewer), effort).sign > 0:
            names = fewer
    return names


def as_data(s: LayerStudy) -> dict[str, Any]:
    """Plain data of everything that was found."""
    found = {"study": "layers", **plain(s)}
    found["layers"] = [{**plain(a.layer), "alone": plain(a.accuracy)} for a in s.alone]
    del found["alone"]
    return found
