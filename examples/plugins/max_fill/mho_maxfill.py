"""A mapping with several devices for each weight, filled one after the other (Vasilopoulos et al. 2023).

Programming noise is largest in the middle of the conductance range. Of K devices in a row, as many as possible are
therefore written to g_max, the rest to zero, and at most one to something between; a weight is the sum of its devices.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mho import Field, hookimpl
from mho.effects import Geometry, Mapping


class MaxFill(Mapping, kind="maxfill.max_fill"):
    """|w| = 1 is K devices at g_max: device k gets clip(K |w| - k, 0, 1) g_max, k = 0 .. K - 1. `equal` splits evenly."""

    source = "Vasilopoulos et al. 2023"

    devices: int = Field(2, ge=1, unit="count", source="Vasilopoulos et al. 2023", description="devices for each polarity")
    equal: bool = Field(False, source="mho", description="give all devices the same, for comparison")

    def scale(self, w: Tensor, geometry: Geometry) -> Tensor:
        return w.abs().amax(-1)

    def conductances(self, w: Tensor, pair: str, geometry: Geometry) -> Tensor:
        parts = [w] if pair == "active" else [w.clamp(min=0), -w.clamp(max=0)]
        filled = torch.cat([self._filled(part.abs()) for part in parts])
        span = geometry.g_max - geometry.g_min
        return filled * span + geometry.g_min

    def _filled(self, w: Tensor) -> Tensor:
        """[device, tile, out, row] in [0, 1] of |w|."""
        if self.equal:
            return torch.stack([w] * self.devices)
        return torch.stack([(self.devices * w - k).clamp(0, 1) for k in range(self.devices)])

    def weights(self, g: Tensor, sign: Tensor, pair: str, geometry: Geometry) -> Tensor:
        share = (g - geometry.g_min) / ((geometry.g_max - geometry.g_min) * self.devices)
        if pair == "active":
            return share.sum(0) * sign
        return share[: self.devices].sum(0) - share[self.devices :].sum(0)


@hookimpl
def mho_mappings() -> list[type]:
    return [MaxFill]
