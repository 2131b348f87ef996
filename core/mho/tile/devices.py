"""What programming and ageing make of conductances, effect after effect: functions of tensors and of keys.

Written once; the tile array computes them on whole tensors or on blocks of outputs, a back-end may compile them.
"""

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor

from mho.config import TileSpec
from mho.effects import Geometry, Mapping, Site, Stream
from mho.tile.plan import Placed, Plan


class Devices:
    """The formulas for the devices of one weight matrix; whoever inherits them says which devices these are.

    g [dev, tile, out, row] are conductances in µS, w [tile, out, row] weights in units of the mapped range. Where a weight has
    several slices, `out` counts those of every output, side by side, in conductances and in the targets v of slices. `part` are
    the outputs that a call sees, or None for all of them.
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

    @property
    def factors(self) -> tuple[float, ...]:
        """What each slice of a weight counts."""
        return self.mapping.factors

    @property
    def slices(self) -> int:
        """Of one weight."""
        return len(self.factors)

    def split(self, w: Tensor) -> Tensor:
        """The slices of normalised weights, [tile, slices of every output, row]."""
        return self.mapping.split(w).flatten(-3, -2) if self.mapping.sliced else w

    def summed(self, v: Tensor) -> Tensor:
        """What a column sees of slices [tile, slices of every output, row]: their sum, unless they are apart."""
        if self.mapping.apart or not self.mapping.sliced:
            return v
        return torch.stack([f * s for f, s in zip(self.factors, v.unflatten(-2, (-1, self.slices)).unbind(-2))]).sum(0)

    def carrier(self, w: Tensor) -> Tensor:
        """Normalised weights w in the shape of what columns see, for the gradient of that: every slice takes part as it counts,
        v_k = w f_k / sum f^2, so that sum_k f_k v_k = w."""
        if not self.mapping.apart:
            return w
        square = sum(f * f for f in self.factors)
        return torch.stack([f / square * w for f in self.factors], -2).flatten(-3, -2)

    def target(self, v: Tensor) -> Tensor:
        """Target conductances of slices."""
        return self.physical(self.mapping.conductances(v, self.spec.device.pair, self.geometry))

    def weights(self, g: Tensor, target: Tensor) -> Tensor:
        """Slices of conductances; one active device keeps the sign of its `target`."""
        return self.mapping.weights(g, target.sign(), self.spec.device.pair, self.geometry)

    def written(self, w: Tensor, program: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """The slices to which normalised weights w are written, and their conductances, which `program` makes of such targets:
        once, and again where some of them make up for what others have become."""
        v = self.split(w)
        g = program(v)
        for k in range(self.mapping.again):
            v, now = (t.unflatten(-2, (-1, self.slices)) for t in (v, self.weights(g, v)))
            v = self.mapping.corrected(w, v, now, k).flatten(-3, -2)
            g = program(v)
        return v, g

    def physical(self, g: Tensor) -> Tensor:
        """Conductances are never negative (R003-17), and there are no devices in the padding."""
        return self.in_rows(g.relu())

    def programmed(self, w: Tensor, stream: Stream, strength: Tensor | float | None = None, part: slice | None = None) -> Tensor:
        """Conductances after programming the slices w. With a strength (training), the error of all effects but
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
        """What columns see of normalised weights w with the noise that training injects."""
        v, g = self.written(w.detach(), lambda v: self.programmed(v, stream, strength, part))
        return self.summed(self.weights(g, v))

    def clean(self, w: Tensor) -> Tensor:
        """What columns see of normalised weights w on ideal devices."""
        v = self.split(w)
        return self.summed(self.weights(self.target(v), v))

    def aged(self, programmed: Tensor, w: Tensor, t: float | Tensor, stream: Stream, part: slice | None = None) -> Tensor:
        """What columns see t seconds after the slices w were programmed as the conductances `programmed`."""
        g, goal = programmed, self.target(w)
        for p in self.plan.age:
            site = self.site(p, "age", stream, target=goal, programmed=programmed, part=part)
            g = self.physical(p.effect.apply("age", g, t, site))
        now = self.summed(self.weights(g, w))
        for p in self.plan.fold:
            now = self.in_rows(p.effect.apply("fold", now, self.site(p, "fold", stream, part=part)))
        return now

    def cellwise(self, effects: Iterable[Placed]) -> bool:
        """Whether these effects and the mapping treat every cell alone, so that blocks of cells may be taken in turn."""
        own = any(getattr(type(self.mapping), n) is not getattr(Mapping, n) for n in ("conductances", "weights"))
        return (self.mapping.apart or not self.mapping.sliced) and not own and all(p.effect.cellwise for p in effects)
