"""DAC and ADC: quantise and saturate at the edges of a tile (R003 Eqs. 3-5)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from mho.config.schema import Field, Kinded
from mho.effects.gradient import straight
from mho.effects.site import Site

RANGE_CAP = 10.0  # no input range that is set from data is larger (R003-62)
Rounding = Literal["through", "zero", "ste"]


class Converter(Kinded):
    """A data converter. `bits: none` keeps the saturation and drops the rounding; the whole converter `none` is ideal."""

    bits: int | None = Field(
        8,
        ge=2,
        le=24,
        unit="bit",
        source="Rasch et al. 2023, Table A.1",
        description="resolution: b bits are 2^b - 1 levels; none: no rounding",
    )

    @property
    def top(self) -> int | None:
        """The largest code, 2^(b-1) - 1: 127 for 8 bits (R003-02); None without rounding."""
        return None if self.bits is None else 2 ** (self.bits - 1) - 1


def quantise(z: Tensor, bound: float | Tensor, top: int | None, rounding: Rounding = "through") -> Tensor:
    """`clip(s round(z/s), -b, b)` with s = b/top: 2 top + 1 levels (R003-02, Eq. 4 corrected, docs/physics.md E2),
    saturating on both sides (R003-03, Eq. 5).

    Gradient: `through` passes it where the result is not a saturated code; `ste` is the derivative of the clip with
    rounding straight-through; `zero` is the true derivative, 0 wherever there is rounding.
    """
    if top is None:
        return z.clamp(-bound, bound) if isinstance(bound, float) else torch.minimum(torch.maximum(z, -bound), bound)
    step = bound / top
    code = (z / step).round().clamp(-top, top)
    value = code * step
    if rounding == "zero":
        return value
    saturated = code.detach().abs() >= top if rounding == "through" else z.detach().abs() > bound
    passed = torch.where(saturated, z.detach(), z)
    return straight(passed, value)


class Dac(Converter, kind="mho.dac"):
    """Input side: x is scaled by the input range alpha, clipped to [-1, 1] and rounded (R003-04, R003-06).

    A plugin's DAC subclasses it and overrides `encode`. `site` is what the core tells it about the layer and the chip,
    as it does effects: `site.randn_like(v, per="chip")` are errors of this chip's converters.
    """

    CATEGORY: ClassVar[str] = "dac"
    source: ClassVar[str] = "Rasch et al. 2023, Eqs. 3-4"

    range: float | Literal["learned", "dynamic"] = Field(
        "learned",
        gt=0,
        unit="1",
        source="Rasch et al. 2023, Eq. 3",
        description="input range: learned (by calibration and training), dynamic (abs-max of each vector), or a number",
    )

    noise_management: bool = Field(
        False,
        source="Rasch et al. 2023, A.1",
        description="vectors whose largest input is below the range take that input as their range",
    )

    halvings: int = Field(
        0,
        ge=0,
        le=16,
        unit="count",
        source="Rasch et al. 2023, A.1",
        description="bound management: how often the inputs of a vector may be halved while an output saturates the ADC",
    )

    @classmethod
    def cross_check(cls, value: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """A dynamic range is noise management already."""
        if isinstance(value, Mapping) and value.get("range") == "dynamic" and value.get("noise_management"):
            yield ("noise_management",), "'range: dynamic' takes the largest input of every vector already; remove this"

    @property
    def start(self) -> float:
        """alpha before any calibration."""
        return self.range if isinstance(self.range, float) else 1.0

    def used_range(self, x: Tensor, alpha: Tensor) -> Tensor:
        """The range of x [vector, tile, row], given that of the tiles alpha [tile, 1]: alpha, or [vector, tile, 1] where it
        follows the largest input max|x| of each vector, which is min(alpha, max|x|) with noise management (R003-54)."""
        if self.range != "dynamic" and not self.noise_management:
            return alpha
        top = x.detach().abs().amax(-1, keepdim=True)
        if self.range == "dynamic":
            return torch.where(top > 0, top, torch.ones_like(top))
        return torch.where((top > 0) & (top < alpha), top, alpha)

    def encode(
        self, x: Tensor, alpha: Tensor, decay: float, rows: Tensor | None = None, site: Site | None = None
    ) -> Tensor:
        """x [vector, tile, row] -> analog inputs in [-1, 1], straight through the rounding; alpha [tile, 1], or
        [vector, tile, 1] from `used_range`, learns as in R003-70."""
        code: Tensor = EncodeInput.apply(x, alpha, self.top, decay, rows)[0]
        return code

    def encode_exactly(self, x: Tensor, alpha: Tensor, rounding: Rounding, site: Site | None = None) -> Tensor:
        """The same values with the true derivative in x and alpha (mode `autograd`)."""
        return quantise(x / alpha, 1.0, self.top, rounding)


class Adc(Converter, kind="mho.adc"):
    """Output side: saturates at `bound` and rounds (R003-05).

    A plugin's ADC subclasses it and overrides `convert`; `site` is as for a `Dac`.
    """

    CATEGORY: ClassVar[str] = "adc"
    source: ClassVar[str] = "Rasch et al. 2023, Eq. 5"

    bound: float | None = Field(
        10.0,
        gt=0,
        unit="1",
        source="Rasch et al. 2023, Table A.1",
        description="output bound: that many fully-on rows of full weights saturate the ADC",
    )

    @classmethod
    def cross_check(cls, value: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Rounding needs a range to round in."""
        if isinstance(value, Mapping) and value.get("bound", 1.0) is None and value.get("bits", 8) is not None:
            yield ("bound",), "an ADC without a bound cannot round: write 'bits: none' too, or give a bound"

    @property
    def limit(self) -> float:
        return math.inf if self.bound is None else self.bound

    def convert(self, y: Tensor, rounding: Rounding = "through", site: Site | None = None) -> Tensor:
        """y [vector, tile, out] in analog units -> digital value in the same units."""
        if self.bound is None:
            return y
        return quantise(y, self.bound, self.top, rounding)


class EncodeInput(torch.autograd.Function):
    """clip and round x/alpha to [-1, 1].

    Backward, with g the gradient of the result: the input gets g/alpha where |x| <= alpha, else 0 (straight through the
    rounding). alpha learns as in R003-70: only clipped inputs whose gradient asks for a larger range contribute,
    multiplied by alpha, so that sum over clipped of min(sign(x) g, 0); and `decay` * alpha pulls it down while more
    than 95 % of the inputs are unclipped. Where every vector has a range of its own, those that are clipped share the
    pull: ranges that are those of the vectors themselves (noise management) teach alpha nothing.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, alpha: Tensor, top: int | None, decay: float, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        code = (x / alpha).clamp(-1, 1)  # clamp_ has no batching rule under vmap
        return (code if top is None else code.mul_(top).round_().div_(top)), x.abs() > alpha

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _, alpha, _, ctx.decay, ctx.rows = inputs
        code, clipped = output
        ctx.mark_non_differentiable(clipped)
        ctx.save_for_backward(code, clipped, alpha)  # the product keeps the code anyway; the mask is a byte

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        code, clipped, alpha = ctx.saved_tensors
        gx = (g / alpha).masked_fill_(clipped, 0) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return gx, None, None, None, None
        rows = clipped.shape[-1] if ctx.rows is None else ctx.rows  # occupied rows [tile]: padding is never clipped
        return gx, range_gradient(g, code, clipped, alpha, ctx.decay, rows), None, None, None


def range_gradient(g: Tensor, code: Tensor, clipped: Tensor, alpha: Tensor, decay: float, rows: Tensor | int) -> Tensor:
    """The gradient of alpha [tile, 1], or [vector, tile, 1], by R003-70 from g, the gradient of the DAC's values `code`
    [vector, tile, row]."""
    return range_step(*clipping(g, code, clipped), alpha, decay, rows)


def clipping(g: Tensor, code: Tensor, clipped: Tensor) -> tuple[Tensor, Tensor]:
    """What the clipped inputs of every vector ask of the range, and how many they are: [vector, tile, 1] each."""
    asks = (g * code).clamp(max=0).mul_(clipped).sum(-1, keepdim=True)  # a clipped code is the sign of x
    return asks, clipped.to(g.dtype).sum(-1, keepdim=True)


def range_step(asks: Tensor, outside: Tensor, alpha: Tensor, decay: float, rows: Tensor | int) -> Tensor:
    """`range_gradient` from the sums of `clipping`."""
    mostly_inside = (outside.sum((0, -1)) < 0.05 * len(outside) * rows)[:, None]
    pull = decay * alpha * mostly_inside
    if alpha.dim() < outside.dim():
        return asks.sum(0) + pull
    beyond = outside > 0
    return asks + pull * beyond / beyond.sum(0).clamp(min=1)
