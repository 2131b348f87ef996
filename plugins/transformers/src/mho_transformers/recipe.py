"""The training recipe of analog foundation models, as far as `training:` lacks it: weights clipped channel by channel."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mho import Field, TrainingHooks, TrainingMethod
from mho.config import Span

AFM = "Büchel et al. 2025 (AFM)"


class ChannelClip(TrainingMethod, kind="hf.channel_clip"):
    """After every step, the weights of each output channel are clipped to `sigmas` standard deviations of that channel:
    |w_ij| <= k std_j(w_ij).

    Clipping a finished language model destroys it, so k falls linearly from `first` over the time of the `ramp`.
    """

    source: ClassVar[str] = AFM
    sigmas: float = Field(2.5, gt=0, unit="1", source=AFM, description="standard deviations k of a channel")
    first: float = Field(10.0, gt=0, unit="1", source="mho", description="k before the first step, with a ramp")
    ramp: Span | None = Field(None, source="mho", description="how long k takes to fall, e.g. '500 steps'; none: at once")

    def limit(self, step: int, ramp: float) -> float:
        """k after this many steps."""
        share = min(1.0, step / ramp) if ramp else 1.0
        return max(self.first, self.sigmas) * (1 - share) + self.sigmas * share

    def start(self, training: Any) -> TrainingHooks:
        return Clipping(self, 0.0 if self.ramp is None else training.steps(self.ramp, "hf.channel_clip.ramp"))


@dataclass
class Clipping(TrainingHooks):
    """A training whose channels are clipped."""

    spec: ChannelClip
    ramp: float

    @torch.no_grad()
    def after_step(self, array: Any, weight: Tensor, step: int) -> None:
        bound = self.spec.limit(step, self.ramp) * weight.std(-1, keepdim=True)
        weight.copy_(torch.minimum(torch.maximum(weight, -bound), bound))
