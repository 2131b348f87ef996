"""Resolve the effects of a tile once, when a layer is built, into what runs at each stage.

The forward pass loops over tuples of this plan; no hook, registry or schema is consulted there.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from mho.effects import TERMS, Nonideality, draws
from mho.effects.stages import acting
from mho.ground import ConfigError


class Placed(NamedTuple):
    """An effect in a layer: `path` names its random numbers, `number` its constants, `name` what it has built."""

    effect: Nonideality
    path: tuple[int, int]
    number: int
    name: str


@dataclass(frozen=True)
class Plan:
    """The active effects: all, those that prepare constants, and by stage (`plan.read`, `plan.mvm`, ...: an attribute for
    every stage of the table), each tuple in the order of the signal (`Nonideality.place`)."""

    effects: tuple[Placed, ...]
    prepare: tuple[Placed, ...]
    at: dict[str, tuple[Placed, ...]]

    def __post_init__(self) -> None:
        self.__dict__.update(self.at)

    if TYPE_CHECKING:

        def __getattr__(self, stage: str) -> tuple[Placed, ...]: ...

    def explain(self) -> list[tuple[str, str, str]]:
        """(stage, kind, what it does there) in the order in which they act."""
        return [(stage, p.effect.kind, _says(p.effect, stage)) for stage, found in self.at.items() for p in found]


def resolve(effects: tuple[Nonideality, ...], layer: str, factor: Callable[[str], float] = lambda kind: 1.0) -> Plan:
    """Place the effects of a layer, their strengths multiplied by `factor(kind)`. The n-th effect of a kind draws numbers of
    its own (occurrence n), so adding or dropping another kind changes nobody's draws. Raises
    `ConfigError` for two effects that both replace the product, or both say in which passes a tile is read."""
    seen: Counter[str] = Counter()
    placed: list[Placed] = []
    for e in effects:
        path, name = draws.words(layer, e.kind, seen[e.kind]), f"{e.kind.replace('.', '_')}_{seen[e.kind]}"
        seen[e.kind] += 1
        if e.strength and factor(e.kind) != 1:
            strength = factor(e.kind) * getattr(e, e.strength)
            e = e.model_copy(update={e.strength: strength})  # noqa: PLW2901 (the same effect, stronger)
        if e.active:
            placed.append(Placed(e, path, len(placed), name))
    at = {}
    for stage in acting():
        found = (p for p in placed if stage in p.effect.stages())
        at[stage] = tuple(sorted(found, key=lambda p: p.effect.place(stage)))  # stable
    for stage, what in (("mvm", "replace the product of a tile"), ("passes", "say in which passes a tile is read")):
        if len(at[stage]) > 1:
            names = " and ".join(p.effect.kind for p in at[stage])
            raise ConfigError(f"{names} both {what}; list one of them")
    return Plan(tuple(placed), tuple(p for p in placed if p.effect.writes("prepare")), at)


def _says(effect: Nonideality, stage: str) -> str:
    declared = effect.declares() and stage == ("accumulate" if effect.sides else "output")
    if not declared or effect.writes(stage):
        return "plain " + stage
    terms = ", ".join(t for t in TERMS if effect.writes(t))
    sides = ", ".join(f"{s.phi.__doc__ or s.phi.__name__} . {s.psi.__doc__ or s.psi.__name__}" for s in effect.sides.values())
    return f"declared {terms}" + (f" over {sides}" if sides else "")
