"""What the fused path computes for one array, resolved once: products, pointwise steps, seams, and the reasons.

Terms are an algebra: shifts and variances commute, variances of neighbours add up to one Gaussian draw; a `transfer` or
a plain method is a barrier. A plain method costs a seam, not the path: the stage table says which.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from torch import Tensor

from mho.config import Hardware, TileSpec
from mho.effects import TABLE, TERMS, Adc, Dac, Nonideality, Side, linear, with_circuits
from mho.tile import Placed, Plan, resolve as resolve_plan
from mho_fast.tier import Precision, Tier, chosen_tier


class Weighing(NamedTuple):
    """phi(W) of a side product, as one effect sees it. `mho`'s own functions are the same for every effect; another one
    may use constants of the effect that asks."""

    phi: Callable[..., Tensor]
    owner: int | None


class Pair(NamedTuple):
    """One side product: which weighing and which function of the inputs, by number; psi None: the codes of the main product."""

    phi: int
    psi: int | None


class Joint(NamedTuple):
    """Products that are computed as one: neighbouring planes, each with the codes of neighbouring psis, or (None) with those of
    the main product."""

    planes: range
    psis: range | None


class Step(NamedTuple):
    """One pointwise step of the epilogue, or a cut in it."""

    does: Literal["shift", "transfer", "noise", "cut"]
    stage: str
    effects: tuple[Placed, ...]  # one, except for noise that is drawn at once


@dataclass(frozen=True)
class Route:
    """How one array is simulated. `tier` "reference": not on the fused path, and `why` says why not."""

    tier: Tier
    why: str
    steps: tuple[Step, ...] = ()
    phis: tuple[Weighing, ...] = ()
    askers: tuple[Placed, ...] = ()  # the effect that asks for each phi first: its site is used
    psis: tuple[Callable[[Tensor], Tensor], ...] = ()
    pairs: tuple[Pair, ...] = ()
    joints: tuple[Joint, ...] = ()
    sides: dict[tuple[int, str], int] = field(default_factory=dict)  # (number of the effect, side) -> number of the pair
    cells: int = 1  # rows of an input channel, where images are coded before they are unfolded; 1: vectors are coded
    unfolded: str = ""  # why the patches of an image are written out before they are coded, or ""
    whole: bool = False  # whether a plain method has to see all vectors at once
    preparing: tuple[Placed, ...] = ()  # the effects whose terms use constants of the chip
    by_reference: str = ""  # why gradients come from the reference path, or ""
    notes: tuple[tuple[str, str], ...] = ()  # (kind, what happens to it)

    @property
    def fused(self) -> bool:
        """Whether the fast path computes this array; else `why` says why not."""
        return self.tier != "reference"

    @property
    def mains(self) -> int:
        """Planes of the main product."""
        return _mains(self.tier)


def resolve(plan: Plan, spec: TileSpec, precision: Precision, rows: int, channel: int = 1, accelerator: bool = False) -> Route:
    """The route of an array with this plan, on this processor or on an accelerator; `rows` of its highest tile, `channel` rows of
    one input channel (0: channels are cut between tiles)."""
    chosen, why = chosen_tier(precision, _dac_bits(spec), rows, accelerator)
    if chosen != "reference" and (reason := _unsupported(plan, spec)):
        chosen, why = "reference", reason
    if chosen == "reference":
        return Route(chosen, why, by_reference=why)
    if chosen == "int8" and (plan.input or plan.mvm):
        effect = (plan.input or plan.mvm)[0].effect.kind
        chosen, why = "fp32-main", f"{effect} leaves no integers for the main product"
    products, steps = _products(plan, chosen), _steps(plan)
    unfolded = _unfolded(plan, spec, steps, channel)
    return Route(
        chosen,
        why,
        steps,
        **products,
        cells=1 if unfolded else channel,
        unfolded=unfolded,
        whole=bool(plan.input or plan.mvm) or any(s.does == "cut" for s in steps),
        preparing=_preparing(products["askers"], steps),
        by_reference=_no_gradient(plan, spec),
        notes=_notes(plan),
    )


def routes(hw: Hardware, accelerator: bool = False) -> dict[str, Route]:
    """How each tile of a hardware is simulated on this processor, or on an accelerator: tier, reasons, and what happens to every
    effect. Nothing is executed. `layer.tiles.backend.route` tells the same of a layer."""
    found = {}
    for name, spec in hw.tiles.items():
        effects = with_circuits(tuple(e for e in spec.nonidealities if isinstance(e, Nonideality)), spec.dac, spec.adc)
        found[name] = resolve(resolve_plan(effects, "", spec.factor), spec, hw.precision, spec.rows, 1, accelerator)
    return found


def _dac_bits(spec: TileSpec) -> float:
    dac = spec.dac
    if not isinstance(dac, Dac) or type(dac).encode is not Dac.encode or dac.bits is None:
        return math.inf
    return dac.bits if len(dac.passes) == 1 else 1 + (dac.part_top or 0).bit_length()


def _unsupported(plan: Plan, spec: TileSpec) -> str:
    """What the fused path cannot do at all."""
    if plan.passes:
        return f"{plan.passes[0].effect.kind} reads a tile in several passes"
    if isinstance(spec.dac, Dac) and len(spec.dac.passes) > 1 and not spec.dac.apart:
        return f"{spec.dac.kind} adds up the currents of several passes"
    if isinstance(spec.dac, Dac) and spec.dac.halvings:
        return "bound management repeats products"
    if isinstance(spec.dac, Dac) and (spec.dac.noise_management or type(spec.dac).used_range is not Dac.used_range):
        return "every vector has an input range of its own"
    if isinstance(spec.adc, Adc) and type(spec.adc).convert is not Adc.convert:
        return f"{spec.adc.kind} converts in its own way"
    return ""


def _unfolded(plan: Plan, spec: TileSpec, steps: tuple[Step, ...], channel: int) -> str:
    """Why patches cannot be gathered from the codes of an image, or ""."""
    if not channel:
        return "channels are cut between tiles, which have input ranges of their own"
    if isinstance(spec.dac, Dac) and spec.dac.range == "dynamic":
        return "every vector has an input range of its own"
    plain = next((p for p in (*plan.input, *plan.mvm)), None) or next((s.effects[0] for s in steps if s.does == "cut"), None)
    return f"{plain.effect.kind} works on the values of the vectors" if plain else ""


def _no_gradient(plan: Plan, spec: TileSpec) -> str:
    """Why gradients need the reference path, or ""."""
    if isinstance(spec.dac, Dac) and len(spec.dac.passes) > 1 and (spec.dac.bits or 0) > 8:
        return f"inputs of {spec.dac.bits} bits fit 8 in parts only"
    if getattr(spec.mapping, "unsigned", False):
        return f"{spec.mapping.kind} leaves an offset to the digital side"
    for p in plan.effects:
        if p.effect.writes("build"):
            return f"{p.effect.kind} has parameters of its own"
    # Plain methods of products are differentiated by autograd alone, unless they ask to be the identity.
    for stage in (s for s in plan.at if TABLE[s].per == "vector"):
        for p in plan.at[stage]:
            if p.effect.writes(stage) and not p.effect.straight:
                return f"{p.effect.kind} has a plain {stage}"
            if p.effect.backward == "exact":
                return f"{p.effect.kind} declares an exact gradient"
    return ""


def _steps(plan: Plan) -> tuple[Step, ...]:
    """The epilogue in the order of the signal; noise is drawn at the next barrier."""
    steps: list[Step] = []
    pending: list[Placed] = []

    def barrier(stage: str) -> None:
        if pending:
            steps.append(Step("noise", stage, tuple(pending)))
            pending.clear()

    for stage in ("accumulate", "output"):
        for p in getattr(plan, stage):
            if p.effect.writes(stage):
                barrier(stage)
                steps.append(Step("cut", stage, (p,)))
                continue
            if p.effect.writes("shift"):
                steps.append(Step("shift", stage, (p,)))
            if p.effect.writes("transfer"):
                barrier(stage)
                steps.append(Step("transfer", stage, (p,)))
            if p.effect.writes("variance"):
                pending.append(p)
    barrier("output")
    return tuple(steps)


def _mains(tier: Tier) -> int:
    return 2 if tier == "int8" else 0


class _Asked(NamedTuple):
    """A side product as an effect asks for it."""

    placed: Placed
    name: str
    side: Side
    by_main: bool  # whether the codes of the main product serve

    @property
    def weighing(self) -> Weighing:
        own = getattr(self.side.phi, "__module__", "") != linear.__module__
        return Weighing(self.side.phi, self.placed.number if own else None)


def _products(plan: Plan, tier: Tier) -> dict[str, Any]:
    """The side products that the terms ask for, each once, as fields of a `Route`; numbered such that planes of the same codes,
    and codes of the same plane, are neighbours where that can be."""
    asked = [
        _Asked(p, name, side, tier == "int8" and side.psi is linear)
        for p in plan.accumulate
        if not p.effect.writes("accumulate")
        for name, side in p.effect.sides.items()
    ]
    pairs: list[Pair] = []
    phis: list[Weighing] = []
    psis: list[Callable[..., Tensor]] = []
    askers: list[Placed] = []
    sides: dict[tuple[int, str], int] = {}
    for a in sorted(asked, key=lambda a: not a.by_main):
        _number(phis, a.weighing)
        askers += [a.placed] * (len(phis) - len(askers))
    for a in sorted(asked, key=lambda a: phis.index(a.weighing)):
        pair = Pair(phis.index(a.weighing), None if a.by_main else _number(psis, a.side.psi))
        sides[a.placed.number, a.name] = _number(pairs, pair)
    return {
        "pairs": tuple(pairs),
        "joints": _joints(_mains(tier), pairs),
        "phis": tuple(phis),
        "askers": tuple(askers),
        "psis": tuple(psis),
        "sides": sides,
    }


def _joints(mains: int, pairs: list[Pair]) -> tuple[Joint, ...]:
    """All products with planes. One product of many rows or columns takes less time than several of few."""
    by_main = [*range(mains), *(mains + p.phi for p in pairs if p.psi is None)]
    joints = [Joint(run, None) for run in _runs(by_main)]
    for psi in sorted({p.psi for p in pairs if p.psi is not None}):
        for run in _runs([mains + p.phi for p in pairs if p.psi == psi]):
            last = joints[-1] if joints else None
            if last and last.planes == run and last.psis and last.psis.stop == psi:
                joints[-1] = Joint(run, range(last.psis.start, psi + 1))
            else:
                joints.append(Joint(run, range(psi, psi + 1)))
    return tuple(joints)


def _runs(numbers: list[int]) -> list[range]:
    """Numbers as ranges without gaps."""
    starts = sorted(n for n in numbers if n - 1 not in numbers)
    ends = sorted(n for n in numbers if n + 1 not in numbers)
    return [range(start, end + 1) for start, end in zip(starts, ends)]


def _preparing(askers: tuple[Placed, ...], steps: tuple[Step, ...]) -> tuple[Placed, ...]:
    asked = {p.number: p for p in (*askers, *(p for s in steps for p in s.effects))}
    return tuple(p for p in asked.values() if p.effect.writes("prepare"))


def _number(known: list[Any], item: Any) -> int:
    if item not in known:
        known.append(item)
    return known.index(item)


def _notes(plan: Plan) -> tuple[tuple[str, str], ...]:
    notes: list[tuple[str, str]] = []
    for e in (p.effect for p in plan.effects):
        fused = f"fused ({', '.join(t for t in TERMS if e.writes(t))})"
        notes += [(e.kind, f"{stage}: {TABLE[stage].seam if e.writes(stage) else fused}") for stage in e.stages()]
    return tuple(notes)
