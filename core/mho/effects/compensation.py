"""Drift compensation: known inputs are read right after programming and again later, and a digital gain restores the ratio."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from mho.config import Field, Kinded

if TYPE_CHECKING:
    from torch import Tensor

    from mho.effects.site import Geometry


class Compensation(Kinded):
    """What the periphery does about drift. `program` records the reference read-out, each `age` takes another.

    The core drives the read-outs (through the full noisy tile, ADC included); a subclass says what is summed over.
    """

    CATEGORY: ClassVar[str] = "compensation"

    inputs: Literal["random", "one_hot"] = Field("random", source="Rasch et al. 2023, Methods, Drift compensation")
    """read-out vectors: U(-1, 1), the same at every time, or one row after another"""
    vectors: int = Field(64, ge=1, unit="1", source="mho", description="number of random read-out vectors")

    # How often the core repeats the read-out vectors, each time with fresh noise: vectors k and k + n are then the same.
    repeats: ClassVar[int] = 1

    def gain(self, reference: Tensor, now: Tensor, geometry: Geometry) -> Tensor:
        """Digital gain [tile, out] from two read-outs [vector, tile, out] of the same inputs."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it compensates: write gain(reference, now, geometry)")


def ratio(reference: Tensor, now: Tensor) -> Tensor:
    """reference/now, and 1 where a dead column reads nothing."""
    return torch.where(now > 0, reference / now.clamp(min=1e-12), torch.ones_like(now))


class GlobalDrift(Compensation, kind="mho.global_drift"):
    """One gain per tile: sum |y| at programming over sum |y| now (Rasch et al. 2023, Methods)."""

    source: ClassVar[str] = "Rasch et al. 2023, Methods"

    def gain(self, reference: Tensor, now: Tensor, geometry: Geometry) -> Tensor:
        return ratio(geometry.over_tile(reference.abs().sum(0)), geometry.over_tile(now.abs().sum(0)))


class ColumnDrift(Compensation, kind="mho.column_drift"):
    """One gain per output column (Rasch et al. 2023, Methods)."""

    source: ClassVar[str] = "Rasch et al. 2023, Methods"

    def gain(self, reference: Tensor, now: Tensor, geometry: Geometry) -> Tensor:
        return ratio(reference.abs().sum(0), now.abs().sum(0))


class LeastSquaresDrift(Compensation, kind="mho.least_squares_drift"):
    """One gain per tile, the least-squares optimum alpha = <y_0, y_t>/<y_t, y_t>, without the bias of noise.

    Sums of |y| count noise as signal: where weights are small (a spread of 0.02 of the range) their ratio is 30 % above the
    optimum after a year. Here each vector is read twice, and products of different reads have no noise in their mean:
    alpha = <y_0, (y_t + y_t')/2>/<y_t, y_t'>, within 2 % of the optimum (tests/effects/test_compensation.py).
    """

    source: ClassVar[str] = "mho: least squares with two independent reads"
    repeats = 2

    def gain(self, reference: Tensor, now: Tensor, geometry: Geometry) -> Tensor:
        first, second = now.chunk(2)
        start = reference.unflatten(0, (2, -1)).mean(0)
        cross = geometry.over_tile((start * (first + second) / 2).sum(0))
        return ratio(cross, geometry.over_tile((first * second).sum(0)))
