"""A 4-bit flash cell: 16 levels written with a residual error, and charge that leaks with the logarithm of time."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor

from mho import Field, Nonideality, Site, hookimpl
from mho.config import Seconds


class Levels(Nonideality, kind="flash4.levels"):
    """Program-and-verify to the nearest of 2^bits equally spaced levels, with a Gaussian residue relative to the spacing."""

    source = "an example; numbers of the kind found in data sheets"
    strength: ClassVar[str | None] = None
    cellwise = True

    bits: int = Field(4, ge=1, le=8, unit="bit", source="an example", description="bits in a cell")
    residue: float = Field(0.1, ge=0, unit="1", source="an example", description="std after verify, in level spacings")

    def program(self, g: Tensor, site: Site) -> Tensor:
        step = site.g_max / (2**self.bits - 1)
        return (g / step).round() * step + self.residue * step * site.randn_like(g)


class ChargeLoss(Nonideality, kind="flash4.charge_loss"):
    """Stored charge leaks: g(t) = g (1 - k max(xi, 0) log10(1 + t/t0)), one xi ~ N(1, spread) for each cell."""

    source = "an example; log-time charge loss"
    strength: ClassVar[str] = "loss"
    cellwise = True

    loss: float = Field(0.005, ge=0, unit="1", source="an example", description="mean relative loss per decade of time")
    spread: float = Field(0.3, ge=0, unit="1", source="an example", description="spread of the loss between cells, relative")
    t0: Seconds = Field(1.0, gt=0, source="an example", description="time at which the loss sets in")

    def age(self, g: Tensor, t: float, site: Site) -> Tensor:
        rate = (1 + self.spread * site.randn_like(g, per="chip", name="loss")).clamp(min=0)
        return g * (1 - self.loss * rate * math.log10(1 + t / self.t0))


@hookimpl
def mho_nonidealities() -> list[type[Nonideality]]:
    return [Levels, ChargeLoss]
