"""A training method: after every step, weights that the device could not tell from zero are pulled to zero."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mho import Field, TrainingMethod, hookimpl


class PruneBelowNoise(TrainingMethod, kind="shrink.below_noise"):
    """Makes the smallest weights of each column smaller still, now and then. Zero conductance has the least noise."""

    source = "an example"
    below: float = Field(0.02, ge=0, le=1, unit="1", source="mho", description="share of the column's range")
    factor: float = Field(0.9, ge=0, le=1, unit="1", source="mho", description="what such weights are multiplied by")
    every: int = Field(10, ge=1, unit="1", source="mho", description="optimizer steps between two times")

    def after_step(self, array: Any, weight: Tensor, step: int) -> None:
        if step % self.every:
            return
        small = weight.abs() < self.below * array.layout.spread(array.gamma).to(weight.dtype)
        weight.copy_(weight * (1 - (1 - self.factor) * small))


@hookimpl
def mho_training() -> list[type[TrainingMethod]]:
    return [PruneBelowNoise]
