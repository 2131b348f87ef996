"""One product of inputs with weights on tiles, stage after stage: the reference for every other way to compute it.

Read from top to bottom, this is Rasch et al. 2023, Eqs. 1-6 (R003-01 to R003-09):

    y_i = sum over row tiles of  alpha gamma_i s_i ADC(F(DAC(x / alpha)))_i

alpha    input range of the tile, or of the vector                      `input_range`
DAC      scale, clip, round: `encoded`; then effects of stage `input`   `inputs`
F        w = `read`; product, or what replaces it (`mvm`); `accumulate`; `output`     `analog`
ADC      clip, round                                                    `converted`
gamma s  digital scales of the column                                   `digital`

Where weights are sliced, every slice that has a column of its own is an output up to the ADC, and `digital` adds them up; where
inputs are, `converted` reads the tile once for every part.

Shapes: xs [vector, tile, row] inputs, w [tile, out, row] normalised weights, y [vector, tile, out] outputs of single tiles.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mho.config import Backward
from mho.effects import Rounding, Site, Stream, draws, product, straight
from mho.ground import MhoError
from mho.tile.plan import Placed
from mho.tile.programmed import Programmed
from mho.tile.view import TileView


@dataclass(frozen=True)
class Call:
    """One call of a tile array: what may differ from one to the next, beside inputs and weights.

    stream     keys of the random numbers, and which vectors these are
    chip       the chip that is on; None where target weights are used
    gamma      [tile, out] of the mapping
    factor     [tile, out] what converted outputs are multiplied by, besides the input range: gamma s, what slices count, and
               the gain of the drift compensation
    offset     [tile, out] what the digital sum of the inputs is multiplied by; None: it is not needed
    range      [tile, 1] input ranges
    backward   how gradients are asked for, and so the derivative of DAC and ADC (`rounding`)
    training   whether weights are noisy: with injected noise of this `strength` (None: without any), and a share `drop` of
               them at 0
    decay      pull on a learned input range (R003-70)
    kernels    for `site.kernel` of effects
    """

    view: TileView
    stream: Stream
    chip: Programmed | None
    gamma: Tensor
    factor: Tensor
    offset: Tensor | None
    range: Tensor
    backward: Backward
    strength: Tensor | float | None = None
    drop: float = 0.0
    decay: float = 0.0
    kernels: Any = None

    @property
    def rounding(self) -> Rounding:
        """Derivative of DAC and ADC: "through" (masked straight-through), "ste" or "zero"."""
        return self.backward.rounding if self.backward.mode == "autograd" else "through"

    def site(self, placed: Placed, stage: str, stream: Stream | None = None, part: slice | None = None) -> Site:
        """What an effect knows in a stage of this call. Without a chip its constants belong to the mini-batch."""
        stream = self.stream if stream is None else stream
        effects = (placed,) if placed.effect.writes("prepare") else ()
        chip = self.view.prepared(stream, effects) if self.chip is None else self.chip.constants
        return self.view.site(placed, stage, stream, constants=chip.get(placed.number, {}), kernels=self.kernels, part=part)

    def weights(self, weight: Tensor | None) -> Tensor:
        """The weights that columns see in this call: those of the chip, or `weight` [tile, out, row] / gamma, saturated at
        the device range, with what training does to them. The gradient is that of weight / gamma. Raises `MhoError` for a
        lean chip."""
        if self.chip is not None or weight is None:
            if self.chip is None or self.chip.weights is None:
                raise MhoError("this lean chip keeps no weights: program it again without `lean`")
            return self.chip.weights
        w = (weight / self.gamma.unsqueeze(-1)).clamp(-1, 1)
        if self.drop:
            w = w * self._kept(w)
        if self.strength is None and not self.view.mapping.sliced:
            return w
        with torch.no_grad():
            seen = self.view.clean(w) if self.strength is None else self.view.noisy(w, self.stream, self.strength)
        return straight(self.view.carrier(w), seen)

    def _kept(self, w: Tensor) -> Tensor:
        """Drop-connect: 0 for a share of the weights of this mini-batch, else 1 (R003-67)."""
        cells = draws.count(w.shape[:-1].numel(), w.device)
        draw = draws.uniform(draws.rows_of(draws.fold(self.stream.chip, "drop-connect"), cells), w.shape[-1])
        return draw.view_as(w) >= self.drop


@dataclass(frozen=True)
class Mvm:
    """The product of one call. `seen`, if given, takes down the named values of the stages: range, inputs, weights, analog,
    converted, digital."""

    call: Call
    seen: dict[str, Tensor] | None = None

    def __call__(self, x: Tensor, w: Tensor) -> Tensor:
        """x [vector, in], normalised weights w -> [vector, out]."""
        return self.call.view.matrix.add_up(self.digital(self.call.view.layout.cut(x), w))

    def digital(self, xs: Tensor, w: Tensor) -> Tensor:
        """Eq. 3: from the digital inputs of each tile to its digital outputs."""
        w, alpha = self.read(w), self.input_range(xs)
        code = self.encoded(xs, alpha)
        y = self.note("converted", self.converted(self.inputs(code), w))
        if alpha is not None:
            y, alpha = self.within_bound(y, xs, alpha, w)
            alpha = alpha.detach() if self.call.rounding == "through" else alpha
        y = self.call.view.referred(y)
        y = self.call.view.joined(y * (self.call.factor if alpha is None else self.call.factor * alpha))
        return self.note("digital", y if self.call.offset is None else y + self.offset(code, alpha))

    def offset(self, code: Tensor, alpha: Tensor | None) -> Tensor:
        """[vector, tile, out] what slices that are never negative leave to the digital side: offset sum_j x_j, the inputs as
        the DAC has coded them."""
        assert self.call.offset is not None
        total = code.sum(-1, keepdim=True)
        return (total if alpha is None else total * alpha) * self.call.offset

    # -- inputs -----------------------------------------------------------------------------------------------
    def input_range(self, xs: Tensor) -> Tensor | None:
        """alpha [tile, 1], or [vector, tile, 1] where it follows the inputs; None without a DAC."""
        dac = self.call.view.dac
        return None if dac is None else self.note("range", dac.used_range(xs, self.call.range))

    def inputs(self, code: Tensor) -> Tensor:
        """The analog inputs in [-1, 1] of values of the DAC; where they are applied in parts, effects act on each."""
        return code if len(self.passes) > 1 else self.note("inputs", self.driven(code))

    @property
    def passes(self) -> tuple[float, ...]:
        """What the parts count in which inputs are applied."""
        dac = self.call.view.dac
        return (1.0,) if dac is None else dac.passes

    def encoded(self, xs: Tensor, alpha: Tensor | None) -> Tensor:
        """DAC(x / alpha)."""
        call, view = self.call, self.call.view
        if view.dac is None or alpha is None:
            return xs
        site = view.converter_site("dac", call.stream)
        if call.rounding == "through":
            return view.dac.encode(xs, alpha, call.decay, view.layout.occupied, site)
        return view.dac.encode_exactly(xs, alpha, call.rounding, site)

    def part(self, x: Tensor, k: int) -> Tensor:
        """Part k of the inputs, in [-1, 1]."""
        dac = self.call.view.dac
        assert dac is not None and dac.top and dac.part_top
        return self.driven(dac.part((x * dac.top).round(), k) / dac.part_top)

    def driven(self, code: Tensor) -> Tensor:
        """What effects of the inputs make of them."""
        call, view = self.call, self.call.view
        for p in view.plan.input:
            new = p.effect.apply("input", code, call.site(p, "input")) * view.layout.used
            code = straight(code, new) if p.effect.straight and call.rounding == "through" else new
        return code

    def read(self, w: Tensor) -> Tensor:
        """The weights that this call reads."""
        for p in self.call.view.plan.read:
            new = self.call.view.in_rows(p.effect.apply("read", w, self.call.site(p, "read")))
            w = straight(w, new) if p.effect.straight and self.call.rounding == "through" else new
        return self.note("weights", w)

    # -- outputs ----------------------------------------------------------------------------------------------
    def converted(self, x: Tensor, w: Tensor) -> Tensor:
        """ADC(F(x)), in one pass or in several, whose results meet in front of the output stage or behind the ADC. Inputs that
        are applied in parts have the gradient of inputs that are not."""
        if len(self.passes) == 1:
            return self.in_passes(x, w)
        with torch.no_grad():
            y = self.in_parts(x, w)
        return straight(self.in_passes(self.driven(x), w), y) if torch.is_grad_enabled() else y

    def in_parts(self, x: Tensor, w: Tensor) -> Tensor:
        """The same, part after part."""
        apart = self.call.view.dac is None or self.call.view.dac.apart
        runs = [(f, self.again(k), self.again(k).part(x, k)) for k, f in enumerate(self.passes)]
        ys = [f * (mvm.in_passes(part, w) if apart else mvm.analog(part, w)) for f, mvm, part in runs]
        y = torch.stack(ys).sum(0)
        return y if apart else self.adc(self.output(y))

    def in_passes(self, x: Tensor, w: Tensor) -> Tensor:
        """The same for one part of the inputs."""
        if not self.call.view.plan.passes:
            return self.adc(self.output(self.analog(x, w)))
        placed = self.call.view.plan.passes[0]
        parts = placed.effect.passes(x, self.call.site(placed, "passes"))
        passes = [self.again(k) for k in range(len(parts))]
        ys = [mvm.analog(part, w) for mvm, part in zip(passes, parts)]
        if placed.effect.apart:
            return torch.stack([mvm.adc(mvm.output(y)) for mvm, y in zip(passes, ys)]).sum(0)
        return self.adc(self.output(torch.stack(ys).sum(0)))

    def analog(self, x: Tensor, w: Tensor) -> Tensor:
        """Eq. 6: sum_j w_ij x_j, and IR-drop and read noise while it accumulates (in the order of the signal, R003-09)."""
        replaced = self.call.view.plan.mvm
        y = replaced[0].effect.mvm(x, w, self.call.site(replaced[0], "mvm")) if replaced else product(x, w)
        return self.staged("accumulate", y, x, w)

    def output(self, y: Tensor) -> Tensor:
        """The output stage in front of the ADC: nonlinearity, output noise."""
        return self.note("analog", self.staged("output", y))

    def adc(self, y: Tensor) -> Tensor:
        """Eq. 5."""
        adc = self.call.view.adc
        return y if adc is None else adc.convert(y, self.call.rounding, self.call.view.converter_site("adc", self.call.stream))

    def staged(self, stage: str, y: Tensor, *args: Tensor) -> Tensor:
        """All effects of a stage. Declared terms are the identity in a straight-through backward."""
        for p in getattr(self.call.view.plan, stage):
            new = p.effect.apply(stage, y, *args, self.call.site(p, stage))
            declared = p.effect.straight or (not p.effect.writes(stage) and p.effect.backward != "exact")
            y = straight(y, new) if declared and self.call.rounding == "through" else new
        return y

    def within_bound(self, y: Tensor, xs: Tensor, alpha: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """Bound management: where an output of a vector saturates the ADC, repeat the MVM with its inputs halved (R003-06).
        A range that was not large enough learns from clipped inputs only."""
        dac, adc = self.call.view.dac, self.call.view.adc
        if dac is None or adc is None or not dac.halvings:
            return y, alpha
        alpha = alpha.detach().expand(len(xs), -1, 1)
        for k in range(dac.halvings):
            over = y.detach().abs().amax(-1, keepdim=True) >= adc.limit  # [vector, tile, 1]
            alpha = torch.where(over, 2 * alpha, alpha)
            mvm = self.again(k)
            y = torch.where(over, mvm.converted(mvm.inputs(mvm.encoded(xs, alpha)), w), y)
        return y, alpha

    # -- bookkeeping ------------------------------------------------------------------------------------------
    def again(self, k: int) -> Mvm:
        """The k-th pass or repetition, with noise of its own; nothing is taken down."""
        return Mvm(replace(self.call, stream=self.call.stream.of_pass(k)))

    def note(self, name: str, value: Tensor) -> Tensor:
        """Take the value down in `seen`, without its graph, where somebody wants it; returns the value."""
        if self.seen is not None:
            self.seen[name] = value.detach()
        return value
