"""Hardware-aware training in any loop: clip, remap and ramp as hooks behind any torch optimizer's step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mho import registry
from mho.chip import matrices
from mho.errors import MhoError
from mho.tile import TileArray
from mho.units import Sigmas, Span


class Attached:
    """The post-step hook of one optimizer. `detach()` takes it off again."""

    def __init__(self, optimizer: torch.optim.Optimizer, net: nn.Module, steps_per_epoch: int | None) -> None:
        pairs = list(matrices(net))
        if not pairs:
            raise MhoError("this model has no analog layers; convert it first: net = mho.to_analog(model, hw)")
        self.net, self.steps_per_epoch = net, steps_per_epoch
        self._seen: dict[TileArray, tuple[int, int]] = {}  # version and value of `step` after our last change
        for array, _ in pairs:
            inject = array.training_spec.inject
            array.ramp = (0.0, self._steps(inject.ramp, "training.inject.ramp") if inject and inject.ramp else 0.0)
            if array.training_spec.remap is not None:
                self._steps(array.training_spec.remap, "training.remap")
            if array.is_attached:
                raise MhoError(
                    "this network is attached to an optimizer already; detach() that one, or attach once only"
                )
            array.attached_as = id(array)
        self._hooks = [cls() for cls in registry.provided("training")]
        self._handle = optimizer.register_step_post_hook(self._after_step)

    def detach(self) -> None:
        self._handle.remove()
        for array, _ in matrices(self.net):
            array.attached_as = None

    def _steps(self, span: Any, key: str) -> float:
        assert isinstance(span, Span)
        if span.unit == "steps":
            return span.count
        if self.steps_per_epoch is None:
            raise MhoError(
                f"{key} counts in epochs ('{span}'): call mho.attach(..., steps_per_epoch=len(loader)), or count in steps"
            )
        return span.count * self.steps_per_epoch

    @torch.no_grad()
    def _after_step(self, *_: Any) -> None:
        for array, matrix in matrices(self.net):
            count = self._count(array) + 1
            self._clip(array, matrix)
            remap = array.training_spec.remap
            if remap is not None and count % max(1, round(self._steps(remap, "training.remap"))) == 0:
                array.remap(matrix)
            for hook in self._hooks:
                hook.after_step(array, matrix, count)
            array.input_range.data.clamp_(min=1e-6)  # a range cannot be 0 or negative
            array.step += 1
            self._seen[array] = array.step._version, count

    def _count(self, array: TileArray) -> int:
        """Steps so far, without waiting for the device: `step` is read only where somebody else has changed it (a
        checkpoint was loaded)."""
        version, count = self._seen.get(array, (-1, 0))
        return count if array.step._version == version else int(array.step)

    @staticmethod
    def _clip(array: TileArray, matrix: Tensor) -> None:
        clip = array.training_spec.clip
        if clip is None:
            return
        if isinstance(clip, Sigmas):
            bound = clip.count * matrix.std()
            matrix.copy_(torch.minimum(torch.maximum(matrix, -bound), bound))
            return
        array.clip_(matrix, clip)


def attach(optimizer: torch.optim.Optimizer, net: nn.Module, *, steps_per_epoch: int | None = None) -> Attached:
    """Make every `optimizer.step()` of any torch optimizer hardware-aware, as the `training:` section of the hardware says.

    After each step: the weights are clipped to the device range (R003-68), remapped where due (R003-69), and the ramp of
    the injected noise advances (R003-66; the step is saved with the model, so a resume continues it).
    `steps_per_epoch` is needed only where the YAML counts in epochs.
    """
    return Attached(optimizer, net, steps_per_epoch)
