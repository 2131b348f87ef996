"""How values are coded, and how gradients pass: rounding and saturation (R003 Eqs. 3-5), and how an input range learns."""

from typing import Any

import torch
from torch import Tensor

from mho.effects.gradient import straight
from mho.effects.stages import Rounding


def quantise(z: Tensor, bound: float | Tensor, top: int | None, rounding: Rounding = "through", lowest: float = -1.0) -> Tensor:
    """`clip(s round(z/s), lowest b, b)` with s = b/top: 2 top + 1 levels for lowest = -1 (R003-02, Eq. 4 corrected,
    docs/physics.md E2), saturating on both sides (R003-03, Eq. 5).

    Gradient: `through` passes it where the result is not a saturated code; `ste` is the derivative of the clip with
    rounding straight-through; `zero` is the true derivative, 0 wherever there is rounding.
    """
    if top is None:
        if isinstance(bound, float):
            return z.clamp(lowest * bound, bound)
        return torch.minimum(torch.maximum(z, lowest * bound), bound)
    step = bound / top
    bottom = round(lowest * top)
    code = (z / step).round().clamp(bottom, top)
    value = code * step
    if rounding == "zero":
        return value
    if rounding == "through":
        saturated = (code.detach() >= top) | (code.detach() <= bottom)
    else:
        saturated = outside(z.detach(), bound, lowest)
    passed = torch.where(saturated, z.detach(), z)
    return straight(passed, value)


def outside(x: Tensor, span: Tensor | float, lowest: float) -> Tensor:
    """Which x lie outside [lowest span, span]."""
    return x.abs() > span if lowest == -1 else (x > span) | (x < lowest * span)


class EncodeInput(torch.autograd.Function):
    """clip and round x/alpha to [lowest, 1].

    Backward, with g the gradient of the result: the input gets g/alpha where |x| <= alpha (x >= lowest alpha), else 0 (straight
    through the rounding). alpha learns as in R003-70: only clipped inputs whose gradient asks for a larger range contribute,
    multiplied by alpha, so that sum over clipped of min(sign(x) g, 0); and `decay` * alpha pulls it down while more
    than 95 % of the inputs are unclipped. Where every vector has a range of its own, those that are clipped share the
    pull: ranges that are those of the vectors themselves (noise management) teach alpha nothing.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, alpha: Tensor, top: int | None, lowest: float, decay: float, rows: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        code = (x / alpha).clamp(lowest, 1)  # clamp_ has no batching rule under vmap
        return (code if top is None else code.mul_(top).round_().div_(top)), outside(x, alpha, lowest)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _, alpha, _, _, ctx.decay, ctx.rows = inputs
        code, clipped = output
        ctx.mark_non_differentiable(clipped)
        ctx.save_for_backward(code, clipped, alpha)  # the product keeps the code anyway; the mask is a byte

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        code, clipped, alpha = ctx.saved_tensors
        gx = (g / alpha).masked_fill_(clipped, 0) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return gx, None, None, None, None, None
        rows = clipped.shape[-1] if ctx.rows is None else ctx.rows  # occupied rows [tile]: padding is never clipped
        beyond = clipped.to(g.dtype)
        return gx, range_gradient(g, code * beyond, beyond, alpha, ctx.decay, rows), None, None, None, None


def range_gradient(g: Tensor, ends: Tensor, beyond: Tensor, alpha: Tensor, decay: float, rows: Tensor | int) -> Tensor:
    """The gradient of alpha [tile, 1], or [vector, tile, 1], by R003-70 from g, the gradient of the DAC's values [vector, tile,
    row]. `ends`: those values where x is clipped, else 0; `beyond`: 1 or -1 there, else 0."""
    return range_step(*clipping(g, ends, beyond), alpha, decay, rows)


def clipping(g: Tensor, ends: Tensor, beyond: Tensor) -> tuple[Tensor, Tensor]:
    """What the clipped inputs of every vector ask of the range, and how many they are: [vector, tile, 1] each."""
    return (g * ends).clamp(max=0).sum(-1, keepdim=True), beyond.abs().sum(-1, keepdim=True)


def range_step(asks: Tensor, outside: Tensor, alpha: Tensor, decay: float, rows: Tensor | int) -> Tensor:
    """`range_gradient` from the sums of `clipping`."""
    mostly_inside = (outside.sum((0, -1)) < 0.05 * len(outside) * rows)[:, None]
    pull = decay * alpha * mostly_inside
    if alpha.dim() < outside.dim():
        return asks.sum(0) + pull
    beyond = outside > 0
    return asks + pull * beyond / beyond.sum(0).clamp(min=1)
