"""Hardware-aware training in any loop: clip, remap, ramp and training methods as hooks behind any torch optimizer's step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mho.config import Sigmas, Span, TrainingHooks
from mho.ground import MhoError, whole
from mho.tile import TileArray, tile_arrays
from mho.use.chip import arrays_of, matrices

FIRST, BINDING = 16, 0.25  # the clip is said to bind from this step on, and where it holds so many weights


class Attached:
    """One training of a network: clip, remap, ramp and the methods of `training:` around the steps of its optimizer.

    net, optimizer     what is trained, and the innermost torch optimizer
    spec               the `training:` section
    methods            the `TrainingHooks` of its methods, in their order
    """

    def __init__(self, optimizer: torch.optim.Optimizer, net: nn.Module, steps_per_epoch: int | None) -> None:
        arrays = arrays_of(net)
        steps_per_epoch = None if steps_per_epoch is None else whole("steps_per_epoch", steps_per_epoch, least=1)
        self.net, self.optimizer, self.steps_per_epoch = net, _innermost(optimizer), steps_per_epoch
        self._first = arrays[0]
        self.spec = arrays[0].training_spec
        self._seen: dict[TileArray, tuple[int, int]] = {}  # version and value of `step` after our last change
        if any(array.is_attached for array in arrays):
            raise MhoError("this network is attached to an optimizer already; detach() that one, or attach once only")
        for array in arrays:
            inject = array.training_spec.inject
            array.ramp = 0.0, self.steps(inject.ramp, "training.inject.ramp") if inject and inject.ramp else 0.0
            self._remaps(array, 1)  # a span that cannot be counted should not wait for the first step
        ours = set(net.parameters())
        if not any(p in ours for group in self.optimizer.param_groups for p in group["params"]):
            raise MhoError("the optimizer trains no parameter of this network: make it from net.parameters() of this one")
        for array, matrix in matrices(net):
            array.follow(matrix, sure=True)
            array.attached_as = id(array)
        self.methods: list[TrainingHooks] = []
        self._ranges: list[tuple[Tensor, Tensor]] = []  # input ranges and their values before a step that would decay them
        self._handles: list[Any] = [
            self.optimizer.register_step_pre_hook(self._before_step),
            self.optimizer.register_step_post_hook(self._after_step),
        ]
        try:
            for method in self.spec.all_methods.values():
                self.methods.append(method.start(self))
            if self.methods:
                self._handles.append(net.register_forward_pre_hook(self._before_forward, prepend=True))
            self._follow()
        except Exception:
            self.detach()
            raise

    def detach(self) -> None:
        """End the training: steps of the optimizer are its own again."""
        for handle in self._handles:
            handle.remove()
        for method in self.methods:
            method.detach()
        for array, matrix in matrices(self.net):
            array.attached_as = None
            array.settle(matrix)

    def state_dict(self) -> dict[str, Any]:
        """What the methods of this training remember, to be saved beside `optimizer.state_dict()`; all else is in the network."""
        return {name: hooks.state_dict() for name, hooks in zip(self.spec.all_methods, self.methods, strict=True)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict` of the same methods. Raises `MhoError` where it is one of others."""
        names = list(self.spec.all_methods)
        if sorted(state) != sorted(names):
            theirs, ours = ", ".join(state) or "none", ", ".join(names) or "none"
            raise MhoError(f"this is the state of a training with other methods: {theirs}; here: {ours}")
        for name, hooks in zip(names, self.methods, strict=True):
            hooks.load_state_dict(state[name])

    def __repr__(self) -> str:
        about = {k: getattr(self.spec, k) for k in ("clip", "remap", "out_scale")} | {"methods": [*self.spec.all_methods]}
        said = ", ".join(f"{k}: {v if v or v == 0 else 'none'}" for k, v in about.items())
        return f"Attached({type(self.optimizer).__name__} after {self._count(self._first)} steps, {said})"

    def steps(self, span: Span, name: str) -> float:
        """A stretch of training as a number of steps; an error that mentions `name` where it counts in epochs and nobody
        has said how many steps these have."""
        if span.unit == "steps":
            return span.count
        if self.steps_per_epoch is None:
            raise MhoError(
                f"{name} counts in epochs ('{span}'): call mho.attach(..., steps_per_epoch=len(loader)), or count in steps"
            )
        return span.count * self.steps_per_epoch

    def _follow(self) -> None:
        for method in self.methods:
            method.before_forward(self._count(self._first))

    def _before_forward(self, net: nn.Module, args: Any) -> None:
        """Here rather than after a step, so that a checkpoint may be loaded at any time."""
        if net.training:
            self._follow()

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: dict[str, Any]) -> Any:
        """Weight decay must not shrink input ranges: they take the step from 0, where there is nothing to decay."""
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self._hold_ranges()
            return None

        def evaluated() -> Any:
            self._return_ranges()
            loss = closure()
            self._hold_ranges()
            return loss

        return args[:1], {**kwargs, "closure": evaluated}

    @torch.no_grad()
    def _hold_ranges(self) -> None:
        ranges = {a.input_range for a in tile_arrays(self.net)}
        decayed = [p for group in self.optimizer.param_groups if group.get("weight_decay") for p in group["params"]]
        self._ranges = [(p, p.clone()) for p in decayed if p in ranges and p.grad is not None]
        for p, _ in self._ranges:
            p.zero_()

    @torch.no_grad()
    def _return_ranges(self) -> None:
        for p, before in self._ranges:
            p.add_(before)
        self._ranges = []

    @torch.no_grad()
    def _after_step(self, *_: Any) -> None:
        self._return_ranges()
        for array, matrix in matrices(self.net):
            count = self._count(array) + 1
            if _trains(matrix):
                array.follow_zeros(matrix)
                self._clip(array, matrix, count)
            if self._remaps(array, count):
                array.remap(matrix)
            for method in self.methods:
                method.after_step(array, matrix, count)
            array.follow_inputs()
            array.input_range.data.clamp_(min=1e-6)  # a range cannot be 0 or negative
            array.step += 1
            array.settle(matrix, training=True)
            self._seen[array] = array.step._version, count

    def _remaps(self, array: TileArray, count: int) -> bool:
        """Whether the mapping is due after this many steps; quantised weights are mapped anew after each, since their levels
        move with the step of the quantiser."""
        span = array.training_spec.remap
        due = span is not None and count % max(1, round(self.steps(span, "training.remap"))) == 0
        return due or array.weight_quantiser is not None

    def _count(self, array: TileArray) -> int:
        """Steps so far, without waiting for the device: `step` is read only where somebody else has changed it (a
        checkpoint was loaded)."""
        version, count = self._seen.get(array, (-1, 0))
        return count if array.step._version == version else int(array.step)

    @staticmethod
    def _clip(array: TileArray, matrix: Tensor, count: int) -> None:
        clip = array.training_spec.clip
        if isinstance(clip, Sigmas):
            bound = clip.count * matrix.square().mean().sqrt()  # about 0, as the range is
            matrix.copy_(torch.minimum(torch.maximum(matrix, -bound), bound))
        elif clip is not None:
            array.clip_(matrix, clip)
            if count >= FIRST and count & (count - 1) == 0:  # powers of two: nothing to wait for in between
                _say_where_it_binds(array, matrix, clip)


def _trains(matrix: Tensor) -> bool:
    """Whether an optimizer may change this matrix: a frozen one is left as it is."""
    owner = matrix if matrix._base is None else matrix._base
    return isinstance(owner, nn.Parameter) and owner.requires_grad


def _say_where_it_binds(array: TileArray, matrix: Tensor, clip: float) -> None:
    if array.training_spec.out_scale in ("column", "both"):
        return  # outputs grow by their factors
    share = float((array.corrected(matrix).abs() >= array.layout.spread(array.gamma * clip) * (1 - 1e-6)).float().mean())
    if share > BINDING:
        array.session.say(
            "clip",
            f"training: the clip holds {share:.0%} of the weights of layer {array.name!r} at the edge of their range, which was "
            "mapped before training: they cannot grow. Let outputs grow (training.out_scale: column), or the ranges follow "
            "(training.clip: none with training.remap: 1 step, or clip: 2.5 sigma), or start from trained weights",
        )


def _innermost(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer that steps, inside the wrappers of Accelerate or Lightning."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    return optimizer


def attach(optimizer: torch.optim.Optimizer, net: nn.Module, *, steps_per_epoch: int | None = None) -> Attached:
    """Make every `optimizer.step()` of any torch optimizer hardware-aware, as the `training:` section of the hardware says.

    After each step: the weights are clipped to the device range (R003-68), remapped where due (R003-69), and the ramp of
    the injected noise advances (R003-66; the step is saved with the model, so a resume continues it). Training methods
    of plugins act at the places that `TrainingMethod` names. `steps_per_epoch` is needed only where the YAML counts in
    epochs. `detach()` of the result ends it all.
    """
    return Attached(optimizer, net, steps_per_epoch)
