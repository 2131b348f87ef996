"""One product of inputs with weights on tiles, stage after stage: the reference for every other way to compute it.

Read from top to bottom, this is Rasch et al. 2023, Eqs. 1-6 (R003-01 to R003-09):

    y_i = sum over row tiles of  alpha gamma_i s_i ADC(F(DAC(x / alpha)))_i

alpha    input range of the tile, or of the vector                      `input_range`
DAC      scale, clip, round; then effects of stage `input`              `inputs`
F        w = `read`; product, or what replaces it (`mvm`); `accumulate`; `output`     `analog`
ADC      clip, round                                                    `converted`
gamma s  digital scales of the column                                   `digital`

Shapes: xs [vector, tile, row] inputs, w [tile, out, row] normalised weights, y [vector, tile, out] outputs of single tiles.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mho.config import Backward
from mho.effects import Rounding, Site, Stream, draws, product, straight
from mho.tile.plan import Placed
from mho.tile.programmed import Programmed
from mho.tile.view import TileView


@dataclass(frozen=True)
class Call:
    """One call of a tile array: what may differ from one to the next, beside inputs and weights.

    stream     keys of the random numbers, and which vectors these are
    chip       the chip that is on; None where target weights are used
    gamma      [tile, out] of the mapping
    factor     [tile, out] what converted outputs are multiplied by, besides the input range: gamma s, and the gain of the
               drift compensation
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
        chip = self.view.prepared(stream, self._prepares(placed)) if self.chip is None else self.chip.constants
        constants = chip.get(placed.number, {})
        return self.view.site(placed, stage, stream, constants=constants, kernels=self.kernels, part=part)

    @staticmethod
    def _prepares(placed: Placed) -> tuple[Placed, ...]:
        return (placed,) if placed.effect.writes("prepare") else ()

    def weights(self, weight: Tensor | None) -> Tensor:
        """The normalised weights that this call sees: those of the chip, or `weight` [tile, out, row] / gamma, saturated at
        the device range, with what training does to them. The gradient is that of weight / gamma."""
        if self.chip is not None or weight is None:
            assert self.chip is not None
            return self.chip.weights
        w = (weight / self.gamma.unsqueeze(-1)).clamp(-1, 1)
        if self.drop:
            w = w * self._kept(w)
        if self.strength is None:
            return w
        with torch.no_grad():
            noisy = self.view.noisy(w, self.stream, self.strength)
        return straight(w, noisy)

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
        layout = self.call.view.layout
        return layout.add_up(self.digital(layout.cut(x), w))

    def digital(self, xs: Tensor, w: Tensor) -> Tensor:
        """Eq. 3: from the digital inputs of each tile to its digital outputs."""
        w, alpha = self.read(w), self.input_range(xs)
        y = self.note("converted", self.converted(self.inputs(xs, alpha), w))
        if alpha is not None:
            y, alpha = self.within_bound(y, xs, alpha, w)
        if alpha is None:
            return self.note("digital", y * self.call.factor)
        alpha = alpha.detach() if self.call.rounding == "through" else alpha
        return self.note("digital", y * (self.call.factor * alpha))

    # -- inputs -----------------------------------------------------------------------------------------------
    def input_range(self, xs: Tensor) -> Tensor | None:
        """alpha [tile, 1], or [vector, tile, 1] where it follows the inputs; None without a DAC."""
        dac = self.call.view.dac
        return None if dac is None else self.note("range", dac.used_range(xs, self.call.range))

    def inputs(self, xs: Tensor, alpha: Tensor | None) -> Tensor:
        """The analog inputs in [-1, 1]: DAC(x / alpha), then effects of the inputs."""
        call, view, code = self.call, self.call.view, xs
        if view.dac is not None and alpha is not None:
            site = view.converter_site("dac", call.stream)
            if call.rounding == "through":
                code = view.dac.encode(xs, alpha, call.decay, view.layout.occupied, site)
            else:
                code = view.dac.encode_exactly(xs, alpha, call.rounding, site)
        for p in view.plan.input:
            new = p.effect.apply("input", code, call.site(p, "input")) * view.layout.used
            code = straight(code, new) if p.effect.straight and call.rounding == "through" else new
        return self.note("inputs", code)

    def read(self, w: Tensor) -> Tensor:
        """The weights that this call reads."""
        for p in self.call.view.plan.read:
            new = self.call.view.in_rows(p.effect.apply("read", w, self.call.site(p, "read")))
            w = straight(w, new) if p.effect.straight and self.call.rounding == "through" else new
        return self.note("weights", w)

    # -- outputs ----------------------------------------------------------------------------------------------
    def converted(self, x: Tensor, w: Tensor) -> Tensor:
        """ADC(F(x)), in one pass or in several, whose results meet in front of the output stage or behind the ADC."""
        if not self.call.view.plan.passes:
            return self.adc(self.output(self.analog(x, w)))
        placed = self.call.view.plan.passes[0]
        parts = placed.effect.passes(x, self.call.site(placed, "passes"))
        passes = [self.again(k) for k in range(len(parts))]
        ys = [mvm.analog(part, w) for mvm, part in zip(passes, parts)]
        if getattr(placed.effect, "sum", "analog") == "analog":
            return self.adc(self.output(torch.stack(ys).sum(0)))
        return torch.stack([mvm.adc(mvm.output(y)) for mvm, y in zip(passes, ys)]).sum(0)

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
            y = torch.where(over, mvm.converted(mvm.inputs(xs, alpha), w), y)
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
