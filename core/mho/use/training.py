"""Hardware-aware training in any loop: clip, remap and ramp as hooks behind any torch optimizer's step."""

from __future__ import annotations

import math
from typing import Any

import torch
from mho_qat.preactivation import PreactivationNoise
from torch import Tensor, nn

from mho.config import registry
from mho.config.recipe import NoiseSpec, Schedule
from mho.config.units import Sigmas, Span
from mho.effects.quantiser import quantisers
from mho.ground.errors import MhoError
from mho.tile.array import TileArray
from mho.use.chip import matrices


class Attached:
    """The post-step hook of one optimizer. `detach()` takes it off again."""

    def __init__(self, optimizer: torch.optim.Optimizer, net: nn.Module, steps_per_epoch: int | None) -> None:
        optimizer = _innermost(optimizer)
        pairs = list(matrices(net))
        if not pairs:
            raise MhoError("this model has no analog layers; convert it first: net = mho.to_analog(model, hw)")
        if steps_per_epoch is not None and not 1 <= steps_per_epoch < math.inf:
            raise MhoError(f"steps_per_epoch is a number of optimizer steps, at least 1; got {steps_per_epoch}")
        self.net, self.steps_per_epoch = net, steps_per_epoch
        self._seen: dict[TileArray, tuple[int, int]] = {}  # version and value of `step` after our last change
        spec = pairs[0][0].training_spec
        self._optimizer, self._schedule, self._noise_spec = optimizer, spec.schedule, spec.noise
        for array, _ in pairs:
            array.ramp = self._ramp(array)
            if array.training_spec.remap is not None:
                self._steps(array.training_spec.remap, "training.remap")
            if array.is_attached:
                raise MhoError(
                    "this network is attached to an optimizer already; detach() that one, or attach once only"
                )
            array.attached_as = id(array)
        self._noise = None if spec.noise is None else _attached_noise(spec.noise, net)
        self._hooks = [cls() for cls in registry.provided("training")]
        self._handles: list[Any] = [optimizer.register_step_post_hook(self._after_step)]
        if self._noise is not None or spec.schedule is not None:
            self._handles.append(net.register_forward_pre_hook(self._before_forward, prepend=True))
        self._first = pairs[0][0]
        self._follow(self._count(self._first))

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        if self._noise is not None:
            self._noise.detach()
        for q in quantisers(self.net) if self._schedule is not None else ():
            q.on = True  # a finished network is a quantised one, as after loading it
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

    def _ramp(self, array: TileArray) -> tuple[float, float]:
        """Steps before injected noise begins to grow, and steps until it is there in full."""
        inject, schedule = array.training_spec.inject, array.training_spec.schedule
        if schedule is not None:
            epoch = self._steps(Span(1, "epochs"), "training.schedule")
            return (schedule.noise_from - 1) * epoch, (schedule.noise_full - schedule.noise_from) * epoch
        return 0.0, self._steps(inject.ramp, "training.inject.ramp") if inject and inject.ramp else 0.0

    def _follow(self, step: int) -> None:
        """Bring learning rate, quantisers and the noise on pre-activations to where they are after this many steps."""
        if self._schedule is not None:
            done = step / self._steps(Span(1, "epochs"), "training.schedule")
            follow(self._schedule, done, self._optimizer, self.net, self._noise)
        elif self._noise is not None and self._noise_spec is not None and self._noise_spec.ramp is not None:
            self._noise.share = min(1.0, step / self._steps(self._noise_spec.ramp, "training.noise.ramp"))

    def _before_forward(self, net: nn.Module, args: Any) -> None:
        """Here rather than after a step, so that a checkpoint may be loaded at any time."""
        if net.training:
            self._follow(self._count(self._first))

    @torch.no_grad()
    def _after_step(self, *_: Any) -> None:
        for array, matrix in matrices(self.net):
            count = self._count(array) + 1
            self._clip(array, matrix)
            if self._remaps(array, count):
                array.remap(matrix)
            for hook in self._hooks:
                hook.after_step(array, matrix, count)
            array.follow_inputs()
            array.input_range.data.clamp_(min=1e-6)  # a range cannot be 0 or negative
            array.step += 1
            self._seen[array] = array.step._version, count

    def _remaps(self, array: TileArray, count: int) -> bool:
        """Whether the mapping is due after this many steps; quantised weights are mapped anew after each, since their levels
        move with the step of the quantiser."""
        span = array.training_spec.remap
        if array.weight_quantiser is not None:
            return True
        return span is not None and count % max(1, round(self._steps(span, "training.remap"))) == 0

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


def _innermost(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer that steps, inside the wrappers of Accelerate or Lightning."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    return optimizer


def _attached_noise(spec: NoiseSpec, net: nn.Module) -> PreactivationNoise:
    noise = PreactivationNoise(
        spec.sigma, spec.mode, spec.layers, alpha=spec.alpha, theta=spec.theta, training_only=True
    )
    return noise.attach(net)


def follow(
    schedule: Schedule,
    done: float,
    optimizer: torch.optim.Optimizer | None = None,
    net: nn.Module | None = None,
    noise: PreactivationNoise | None = None,
) -> None:
    """Bring a learning rate, the quantisers of a network and the noise on its pre-activations to where `schedule` has
    them after `done` epochs (R002-05): for loops of your own on digital networks. `mho.attach` does it on analog ones."""
    for group in optimizer.param_groups if optimizer is not None else ():
        group["lr"] = schedule.rate(done)
    for q in quantisers(net) if net is not None else ():
        q.on = schedule.quantised(done)
    if noise is not None:
        noise.share = schedule.noise(done)


def attach(optimizer: torch.optim.Optimizer, net: nn.Module, *, steps_per_epoch: int | None = None) -> Attached:
    """Make every `optimizer.step()` of any torch optimizer hardware-aware, as the `training:` section of the hardware says.

    After each step: the weights are clipped to the device range (R003-68), remapped where due (R003-69), and the ramp of
    the injected noise advances (R003-66; the step is saved with the model, so a resume continues it). Noise on
    pre-activations (`training: {noise: ...}`) is on while the network is in training mode, and a `schedule` sets the
    learning rate of all parameter groups.
    `steps_per_epoch` is needed only where the YAML counts in epochs.
    """
    return Attached(optimizer, net, steps_per_epoch)
