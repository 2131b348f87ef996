"""Values with somebody else's gradient: what "straight-through" means here."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mho.effects.arithmetic import float_product


def straight(carrier: Tensor, value: Tensor) -> Tensor:
    """Exactly `value`, with the gradient of `carrier`."""
    if not (torch.is_grad_enabled() and carrier.requires_grad):
        return value
    return _Straight.apply(carrier, value.detach())


class _Straight(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(carrier: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        return g, None


class CleanProduct(torch.autograd.Function):
    """The value of an analog forward y with the backward of the clean product x @ (w spread(s)).T (mode `ste`, R001-02),
    s a constant: nothing but x, w and the small s is kept (R001-04), and the forward may be any code."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, w: Tensor, s: Tensor, spread: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
        return y.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, w, s, ctx.spread, _ = inputs
        ctx.save_for_backward(x, w, s)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, w, s = ctx.saved_tensors
        scale = ctx.spread(s)
        gx = float_product(g, w * scale) if ctx.needs_input_grad[0] else None
        gw = float_product(g.mT, x) * scale if ctx.needs_input_grad[1] else None
        return gx, gw, None, None, None


class StandIn(torch.autograd.Function):
    """The value of an analog forward y with the gradient of `stand_in(*inputs)`, which is computed only when it is asked for:
    nothing but the inputs is kept (R001-04)."""

    @staticmethod
    def forward(ctx: Any, stand_in: Callable[..., Tensor], y: Tensor, *inputs: Tensor) -> Tensor:
        ctx.stand_in = stand_in
        ctx.save_for_backward(*inputs)
        return y.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        wanted, twice = ctx.needs_input_grad[2:], torch.is_grad_enabled()
        with torch.enable_grad(), torch.autocast(g.device.type, enabled=False):
            inputs = [t if twice else t.detach().requires_grad_(w) for t, w in zip(ctx.saved_tensors, wanted)]
            y, asked = ctx.stand_in(*inputs), [t for t, w in zip(inputs, wanted) if w]
            found = iter(torch.autograd.grad(y, asked, g, create_graph=twice, allow_unused=True))
        return None, None, *(next(found) if w else None for w in wanted)
