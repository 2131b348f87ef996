"""What programming and ageing make of conductances, effect after effect: functions of tensors and of keys.

Cells use them on whole tensors or on blocks; `mho.fast.devices` makes compiled kernels of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from mho.effects.mapping import Mapping
from mho.effects.site import Geometry, Site, Stream
from mho.tile.plan import Placed, Plan

if TYPE_CHECKING:
    from mho.config.hardware import TileSpec


class Stages:
    """The formulas; whoever inherits them says which devices they are for."""

    spec: TileSpec
    plan: Plan
    full: bool  # no padding

    @property
    def geometry(self) -> Geometry:
        raise NotImplementedError

    def _site(self, placed: Placed, stage: str, stream: Stream, **about: Any) -> Site:
        """What an effect knows in one stage."""
        raise NotImplementedError

    @property
    def mapping(self) -> Mapping:
        return cast(Mapping, self.spec.mapping)

    def _signed(self, g: Tensor, normalised: Tensor) -> Tensor:
        return self.mapping.weights(g, normalised.sign(), self.spec.device.pair, self.geometry)

    def _target(self, normalised: Tensor) -> Tensor:
        return self.mapping.conductances(normalised, self.spec.device.pair, self.geometry)

    def _physical(self, g: Tensor) -> Tensor:
        """Conductances are never negative (R003-17), and there are no devices in the padding."""
        return self._in_rows(g.relu())

    def _in_rows(self, w: Tensor) -> Tensor:
        """Nothing in the padding, whatever an effect did there."""
        return w if self.full else w * self.geometry.rows.used[:, None, :]

    def _programmed(
        self, target: Tensor, stream: Stream, strength: Tensor | float | None = None, part: slice | None = None
    ) -> Tensor:
        """Conductances after programming, of a `part` of the outputs or of all. With a strength (training), the error of all
        effects but the final ones is scaled: the floor at 0 then cuts the scaled error, and a stuck cell stays where it is
        stuck (R003-64)."""
        g = goal = self._physical(target)
        errors = [p for p in self.plan.program if not p.effect.final]
        for k, p in enumerate(errors):
            g = self._physical(g) if k else g
            g = p.effect.apply("program", g, self._site(p, "program", stream, target=goal, part=part))
        if errors and strength is not None:
            g = goal + strength * (g - goal)
        g = self._physical(g)
        for p in self.plan.program[len(errors) :]:
            g = self._physical(p.effect.apply("program", g, self._site(p, "program", stream, target=goal, part=part)))
        return g

    def _aged(
        self, programmed: Tensor, target: Tensor, t: float | Tensor, stream: Stream, part: slice | None = None
    ) -> Tensor:
        """Normalised weights t seconds after programming, of a `part` of the outputs or of all."""
        g, goal = programmed, self._physical(self._target(target))
        for p in self.plan.age:
            site = self._site(p, "age", stream, target=goal, programmed=programmed, part=part)
            g = self._physical(p.effect.apply("age", g, t, site))
        w = self._signed(g, target)
        for p in self.plan.fold:
            w = self._in_rows(p.effect.apply("fold", w, self._site(p, "fold", stream, part=part)))
        return w

    def cellwise(self, effects: Iterable[Placed]) -> bool:
        """Whether these effects and the mapping treat every cell alone, so that blocks of cells may be taken in turn."""
        own = any(getattr(type(self.mapping), n) is not getattr(Mapping, n) for n in ("conductances", "weights"))
        return not own and all(p.effect.cellwise for p in effects)
