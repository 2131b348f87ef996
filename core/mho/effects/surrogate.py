"""Surrogate gradients: a differentiable stand-in for a tile, whose forward may be any code (R001-02)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from mho.config import Kinded
from mho.effects.nonideality import product

if TYPE_CHECKING:
    from torch import Tensor

    from mho.effects.site import Geometry


class Surrogate(Kinded):
    """What the backward of `mode: surrogate` differentiates in place of the simulated tile.

    The forward value is always the simulator's. A plugin's surrogate overrides `outputs`; for a backward written by
    hand it may call an autograd.Function there. The base class is the exact product, which is mode `ste`.
    """

    CATEGORY: ClassVar[str] = "surrogate"

    def outputs(self, x: Tensor, w: Tensor, geometry: Geometry) -> Tensor:
        """y [vector, tile, out] in analog units, in front of the digital scales; x [vector, tile, row] inputs in units of
        the input range (not clipped), w [tile, out, row] clean weights, 1 = the full range."""
        return product(x, w)


class Saturating(Surrogate, kind="mho.saturating"):
    """y = b tanh(x.w/b): the product with a soft limit at the output bound b of the ADC, so that outputs far beyond it
    pass no gradient while those at it still pass some. Without a bound it is the exact product."""

    source = "Feng et al. 2025"

    def outputs(self, x: Tensor, w: Tensor, geometry: Geometry) -> Tensor:
        y, b = product(x, w), geometry.bound
        return y if math.isinf(b) else b * (y / b).tanh()
