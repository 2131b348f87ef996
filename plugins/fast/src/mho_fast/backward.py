"""The backward pass of one array: straight through everything but the product (R003-65).

Two products per row tile, with the weights that the forward saw, masked where DAC, ADC or weights saturate. Vectors that are
patches of an image are gathered again from its codes, in parts that fit the cache, and the gradients of their elements are
added up where the patches overlap.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mho.effects import clipping, float_product, range_gradient, range_step, transformed
from mho.ground import MhoError
from mho_fast.epilogue import Conversion, many_small
from mho_fast.product import Product
from mho_fast.source import Source, by_channel, by_pixel, spread

PATCHES = 1 << 20  # elements of patches that are written out at a time


class Saved(NamedTuple):
    """What the forward pass leaves: inputs of the product [pixel, channel] and on which side they were clipped, codes of the ADC
    [vector, tile, out], the weights [tile, out, row], input ranges and digital scales."""

    main: Tensor
    clipped: Tensor
    codes: Tensor
    w: Tensor
    alpha: Tensor
    scale: Tensor


class Wanted(NamedTuple):
    """Which gradients autograd asks for, or those themselves."""

    x: Any
    w: Any
    alpha: Any
    scale: Any


def gradients(g: Tensor, saved: Saved, product: Product, wanted: Wanted) -> Wanted:
    """From the gradient g of the outputs [vector, out]: those of the inputs, weights, input ranges and digital scales."""
    if not transformed():
        return Backward(product, saved, wanted).run(g)
    found = Gradients.apply(g, *saved, product, wanted)
    return Wanted(*(v if asked else None for v, asked in zip(found, wanted)))


class Gradients(torch.autograd.Function):
    """`Backward` for torch.func, whose transforms cannot write to tensors in place: a Function for the sake of its vmap rule."""

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:
        g, *saved, product, wanted = args
        found = Backward(product, Saved(*saved), wanted).run(g)
        return tuple(g.new_empty(0) if v is None else v for v in found)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[None, ...]:
        raise MhoError("the fused path has no second derivatives under torch.func; 'precision: reference' has")

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> tuple[Any, Any]:
        return looped(Gradients.apply, info, in_dims, args[:7], *args[7:])


class Refusing(torch.autograd.Function):
    """Values whose derivative is not known. (The second argument stands for what they come from.)"""

    @staticmethod
    def forward(ctx: Any, values: Tensor, origin: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, ...]:
        raise MhoError(
            "the fused path has no derivative of the gradient of the weights by the inputs; 'precision: reference' has"
        )


def looped(apply: Callable[..., Any], info: Any, in_dims: Any, tensors: tuple[Tensor, ...], *others: Any) -> tuple[Any, Any]:
    """What a vmap rule returns that calls `apply` for each part of the tensors: on a processor as fast as one batched product."""
    parts = [[t] * info.batch_size if dim is None else t.unbind(dim) for t, dim in zip(tensors, in_dims)]
    found = [apply(*one, *others) for one in zip(*parts)]
    if isinstance(found[0], Tensor):
        return torch.stack(found), 0
    return tuple(torch.stack(v) for v in zip(*found)), (0,) * len(found[0])


class Backward:
    """One backward pass; `run` gives the gradients that are wanted."""

    def __init__(self, product: Product, saved: Saved, wanted: Wanted) -> None:
        self.saved, self.wanted = saved, wanted
        self.product, self.layout = product, product.view.layout
        self.source: Source = product.source
        self.cells = product.route.cells
        self.top = product.epilogue.top

    def run(self, g: Tensor) -> Wanted:
        main, clipped, _, w, alpha, _ = self.saved
        gts, gscales = self._before_adc(g, torch.bfloat16 if w.dtype == torch.bfloat16 else g.dtype)
        rows = self.source.window.is_pixel
        fresh = torch.empty_like if rows and self.layout.full else torch.zeros_like
        gx = fresh(main, dtype=g.dtype) if self.wanted.x or self.wanted.alpha else None
        gw = self._as_weights_lie(fresh, w, g.dtype) if self.wanted.w else None
        if gw is not None and transformed():
            gw = gw + main.new_zeros((), dtype=g.dtype)  # where torch.func maps this pass: one for every sample
        galpha = None
        if rows:
            self._rows(gts, gx, gw)
            if gx is not None:
                gx, galpha = self._before_dac(gx)
        else:
            galpha = (self._patches_of_all if many_small(self.layout, self.source.count) else self._patches)(gts, gx, gw)
            if gx is not None:
                gx = torch.where(clipped != 0, 0, gx / spread(self.layout, self.product.route, alpha))
        return Wanted(gx if self.wanted.x else None, gw, galpha, torch.stack(gscales) if gscales else None)

    def _as_weights_lie(self, fresh: Callable[..., Tensor], w: Tensor, kind: torch.dtype) -> Tensor:
        """Memory for the gradient of w [tile, out, row] in the order of the layer's weight, whose gradient it becomes without
        a copy."""
        dims = (1, 0) if self.layout.groups == 1 else (0, 1)
        lying = w.permute(*dims, 2)
        return fresh(lying, dtype=kind, memory_format=torch.contiguous_format).permute(*dims, 2)

    def _ends(self, beyond: Tensor) -> Tensor:
        """The DAC's values of clipped inputs: 1 above the range, the lowest below it. What a `transfer` makes of them is passed
        straight through."""
        lowest = round(self.product.view.dac.lowest * self.top) / self.top
        return beyond if lowest == -1 else beyond.clamp(min=lowest)

    def _once(self, values: Tensor) -> Tensor:
        """The inputs of the product, of which only codes have been kept: whoever differentiates the gradient of the weights by
        them must not get zeros."""
        again = torch.is_grad_enabled() and self.wanted.x and not transformed()
        return Refusing.apply(values, values.new_zeros((), requires_grad=True)) if again else values

    def _before_adc(self, g: Tensor, kind: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
        """Gradients of the products of every tile, [vector, out] of type `kind`, and of scale [out] where it is asked for."""
        adc, outputs = (Conversion.of(self.product.view.adc), [self.layout.outputs(t) for t in range(self.layout.row_tiles)])

        def every(g: Tensor, codes: Tensor, alpha: Tensor, scale: Tensor, learned: bool) -> tuple[list[Tensor], list[Tensor]]:
            tiles = [(g[:, out], codes[:, t], alpha[..., t, :], scale[t]) for t, out in enumerate(outputs)]
            gscales = [(g * codes * alpha).sum(0) * adc.step for g, codes, alpha, _ in tiles if learned]
            return [before(*tile) for tile in tiles], gscales

        def before(g: Tensor, codes: Tensor, alpha: Tensor, scale: Tensor) -> Tensor:
            gt = g * (alpha * scale)
            if not math.isinf(adc.bound):
                gt = gt.masked_fill(codes.abs() >= adc.limit, 0)
            return gt.to(kind)

        arguments = (g, self.saved.codes, self.saved.alpha, self.saved.scale, bool(self.wanted.scale))
        elements = self.saved.codes.numel()
        return self.product.kernels.run("gradient of the ADC", lambda _: every, arguments, lambda: every(*arguments), elements)

    # -- vectors that are rows of memory ------------------------------------------------------------------------
    def _rows(self, gts: list[Tensor], gx: Tensor | None, gw: Tensor | None) -> None:
        """Write the gradients of the DAC's values gx [vector, in] and of the weights gw."""
        for t, (gt, rows) in enumerate(zip(gts, self.layout.rows_of_tiles)):
            mine = self.source.channels(t)
            if gx is not None:
                gx[:, mine] = float_product(gt, self.saved.w[t, :, :rows].to(gt.dtype))
            if gw is not None:
                gw[t, :, :rows] = float_product(gt.t(), self._once(_values(self.saved.main[:, mine], self.top, gt.dtype)))

    def _before_dac(self, g: Tensor) -> tuple[Tensor, Tensor | None]:
        """From the gradient g of the DAC's values [vector, in]: those of x, and of alpha where it is asked for."""
        sizes = self.layout.rows_of_tiles

        def every(
            g: Tensor, clipped: Tensor, alpha: Tensor, span: Tensor, decay: float, learned: bool
        ) -> tuple[Tensor, Tensor | None]:
            beyond = clipped.to(g.dtype)
            gx = torch.where(beyond != 0, 0, g / span)
            return gx, ranges(g, self._ends(beyond), beyond, alpha, decay) if learned else None

        def ranges(g: Tensor, ends: Tensor, beyond: Tensor, alpha: Tensor, decay: float) -> Tensor:
            galpha, start = [], 0
            for t, rows in enumerate(sizes):
                cut = slice(start, start + rows)
                start += rows
                of_tile, code, outside = (v[:, None, cut] for v in (g, ends, beyond))
                galpha.append(range_gradient(of_tile, code, outside, alpha[..., t : t + 1, :], decay, rows))
            return torch.cat(galpha, -2)

        _, clipped, _, _, alpha, _ = self.saved
        span, learned = spread(self.layout, self.product.route, alpha), bool(self.wanted.alpha)
        arguments = (g, clipped, alpha, span, self.product.call.decay, learned)  # no decay in evaluation
        return self.product.kernels.run("gradient of the DAC", lambda _: every, arguments, lambda: every(*arguments), g.numel())

    # -- patches ------------------------------------------------------------------------------------------------
    def _patches(self, gts: list[Tensor], gx: Tensor | None, gw: Tensor | None) -> Tensor | None:
        """Add up the gradients of the DAC's values gx [pixel, channel] and of the weights gw, zeros so far. Returns that of
        the input ranges, for which every element of a patch counts by itself."""
        main, clipped, _, w, alpha, _ = self.saved
        galpha = []
        for t, (gt, rows) in enumerate(zip(gts, self.layout.rows_of_tiles)):
            weights, sums = by_pixel(w[t, :, :rows], self.cells).to(gt.dtype).contiguous(), []
            for c in self.source.chunks(PATCHES // rows):
                values = _values(self.source.rows(main, c, t), self.top, gt.dtype)
                if gw is not None:
                    gw[t, :, :rows] += by_channel(float_product(gt[c].t(), self._once(values)), self.cells)
                if gx is None:
                    continue
                part = float_product(gt[c], weights)
                self.source.add_up(gx, part, c, t)
                if self.wanted.alpha:
                    beyond = self.source.rows(clipped, c, t).to(part.dtype)
                    sums.append(clipping(*(v[:, None] for v in (part, self._ends(beyond), beyond))))
            if sums:
                asks, outside = (torch.cat(v) for v in zip(*sums))
                galpha.append(range_step(asks, outside, alpha[t : t + 1], self.product.call.decay, rows))
        return torch.cat(galpha) if galpha else None

    def _patches_of_all(self, gts: list[Tensor], gx: Tensor | None, gw: Tensor | None) -> Tensor | None:
        """The same for many small tiles at once."""
        main, clipped, _, w, alpha, _ = self.saved
        kind = gts[0].dtype
        weights, sums = by_pixel(w, self.cells).to(kind), []
        for c in self.source.chunks(PATCHES // self.layout.in_features):
            gt = torch.stack([g[c] for g in gts])  # [tile, vector, out]
            x, beyond = (self.source.patches_of_all(v, c).reshape(*w.shape[::2], -1) for v in (main, clipped))
            values = (x / self.top if main.dtype == torch.int8 else x).to(kind)  # [tile, row, vector]
            if gw is not None:
                gw += by_channel(gt.mT @ self._once(values).mT, self.cells)
            if gx is None:
                continue
            part = weights.mT @ gt.mT
            self.source.add_up_all(gx, part, c)
            if self.wanted.alpha:
                beyond = beyond.to(part.dtype)
                sums.append(clipping(*(v.permute(2, 0, 1) for v in (part, self._ends(beyond), beyond))))
        if not sums:
            return None
        asks, count = (torch.cat(v) for v in zip(*sums))
        return range_step(asks, count, alpha, self.product.call.decay, w.shape[2])


def _values(codes: Tensor, top: int, kind: torch.dtype) -> Tensor:
    """Inputs of the product as they are worth: int8 codes over `top`."""
    return codes.to(kind).div_(top) if codes.dtype == torch.int8 else codes.to(kind)
