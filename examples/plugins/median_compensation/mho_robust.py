"""Drift compensation by the median over read-out vectors and columns, which a few broken columns do not move."""

from __future__ import annotations

import torch
from torch import Tensor

from mho import Compensation, hookimpl
from mho.effects import Geometry


class MedianDrift(Compensation, kind="robust.median"):
    """One gain for each row tile: the median over its columns of (sum |y| at programming)/(sum |y| now)."""

    source = "an example"

    def gain(self, reference: Tensor, now: Tensor, geometry: Geometry) -> Tensor:
        before, after = reference.abs().sum(0), now.abs().sum(0)  # [tile, out]
        alive = (before > 0) & (after > 0)
        ratios = torch.where(alive, before / after.clamp(min=1e-12), torch.full_like(after, torch.nan))
        median = ratios.nanmedian(-1, keepdim=True).values
        return torch.nan_to_num(median, nan=1.0).expand_as(after)


@hookimpl
def mho_compensations() -> list[type]:
    return [MedianDrift]
