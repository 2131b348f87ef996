"""What programming and ageing make of conductances, effect after effect: functions of tensors and of keys.

Written once; the tile array computes them on whole tensors or on blocks of outputs, a back-end may compile them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from torch import Tensor

from mho.config import TileSpec
from mho.effects import Geometry, Mapping, Site, Stream
from mho.tile.plan import Placed, Plan


class Devices:
    """The formulas for the devices of one weight matrix; whoever inherits them says which devices these are.

    g [dev, tile, out, row] are conductances in µS, w [tile, out, row] weights in units of the mapped range. `part` are the
    outputs that a call sees, or None for all of them.
    """

    spec: TileSpec
    plan: Plan

    @property
    def geometry(self) -> Geometry:
        """The shape of the tiles and the range of the devices, in µS."""
        raise NotImplementedError

    def site(self, placed: Placed, stage: str, stream: Stream, **about: Any) -> Site:
        """What an effect knows in one stage."""
        raise NotImplementedError

    def in_rows(self, w: Tensor) -> Tensor:
        """Nothing in the padding, whatever an effect did there."""
        raise NotImplementedError

    @property
    def mapping(self) -> Mapping:
        """The mapping of the tile type: weights to conductances and back."""
        return cast(Mapping, self.spec.mapping)

    def target(self, w: Tensor) -> Tensor:
        """Target conductances of normalised weights."""
        return self.physical(self.mapping.conductances(w, self.spec.device.pair, self.geometry))

    def weights(self, g: Tensor, target: Tensor) -> Tensor:
        """Normalised weights of conductances; one active device keeps the sign of its `target`."""
        return self.mapping.weights(g, target.sign(), self.spec.device.pair, self.geometry)

    def physical(self, g: Tensor) -> Tensor:
        """Conductances are never negative (R003-17), and there are no devices in the padding."""
        return self.in_rows(g.relu())

    def programmed(self, w: Tensor, stream: Stream, strength: Tensor | float | None = None, part: slice | None = None) -> Tensor:
        """Conductances after programming the normalised weights w. With a strength (training), the error of all effects but
        the final ones is scaled: the floor at 0 then cuts the scaled error, and a stuck cell stays where it is stuck
        (R003-64)."""
        g = goal = self.target(w)
        errors = [p for p in self.plan.program if not p.effect.final]
        for k, p in enumerate(errors):
            g = self.physical(g) if k else g
            g = p.effect.apply("program", g, self.site(p, "program", stream, target=goal, part=part))
        if errors and strength is not None:
            g = goal + strength * (g - goal)
        g = self.physical(g)
        for p in self.plan.program[len(errors) :]:  # the plan has final effects last
            g = self.physical(p.effect.apply("program", g, self.site(p, "program", stream, target=goal, part=part)))
        return g

    def noisy(self, w: Tensor, stream: Stream, strength: Tensor | float, part: slice | None = None) -> Tensor:
        """Normalised weights w with the noise that training injects."""
        return self.weights(self.programmed(w.detach(), stream, strength, part), w)

    def aged(self, programmed: Tensor, w: Tensor, t: float | Tensor, stream: Stream, part: slice | None = None) -> Tensor:
        """Normalised weights t seconds after w was programmed as the conductances `programmed`."""
        g, goal = programmed, self.target(w)
        for p in self.plan.age:
            site = self.site(p, "age", stream, target=goal, programmed=programmed, part=part)
            g = self.physical(p.effect.apply("age", g, t, site))
        now = self.weights(g, w)
        for p in self.plan.fold:
            now = self.in_rows(p.effect.apply("fold", now, self.site(p, "fold", stream, part=part)))
        return now

    def cellwise(self, effects: Iterable[Placed]) -> bool:
        """Whether these effects and the mapping treat every cell alone, so that blocks of cells may be taken in turn."""
        own = any(getattr(type(self.mapping), n) is not getattr(Mapping, n) for n in ("conductances", "weights"))
        return not own and all(p.effect.cellwise for p in effects)
