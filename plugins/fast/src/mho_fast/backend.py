"""The fast path of one array: forward and backward pass as `torch.autograd.Function`s.

Saved for backward (see `backward`) are integers, masks, and the weights that the forward saw.
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mho.config import Hardware
from mho.effects import Stream, draws, possible, straight, transformed
from mho.tile import Call, Drawn, Mvm, Patches, Programmed, TileView, blocks
from mho_fast import cells
from mho_fast.backward import Saved, Wanted, gradients, looped
from mho_fast.codes import Packed, Planes, code_inputs, code_weights
from mho_fast.epilogue import Ends
from mho_fast.kernels import Kernels
from mho_fast.product import Product
from mho_fast.route import Route, resolve, routes
from mho_fast.source import source, spread, tiles_by_pixel
from mho_fast.tier import Precision

HAS_TRITON = importlib.util.find_spec("triton") is not None  # what torch.compile makes kernels of accelerators with


class Fast:
    """What `Mvm` computes, in integers where the hardware has them and with one pointwise epilogue: the back-end of arrays
    (`mho.tile.Backend`). `route` says how, and why not. On an accelerator, kernels are compiled where Triton is installed.

    precision, compiled   of the hardware file
    """

    def __init__(self, view: TileView, precision: Precision = "auto", compiled: bool = False) -> None:
        self.view, self.precision, self.compiled = view, precision, compiled
        layout, channel = view.layout, view.channel
        channel = channel if all(n % channel == 0 for n in layout.sizes) else 0
        self.near, self.far = (resolve(view.plan, view.spec, precision, layout.height, channel, on) for on in (False, True))
        self.near_kernels = Kernels(view, (self.near.tier, self.near.cells), compiled)
        self.far_kernels = Kernels(view, (self.far.tier, self.far.cells, True), compiled or HAS_TRITON)

    @property
    def route(self) -> Route:
        """How the array is simulated where it is now."""
        return self.far if on_accelerator(self.view) else self.near

    @property
    def kernels(self) -> Kernels:
        """The compiled kernels there."""
        return self.far_kernels if on_accelerator(self.view) else self.near_kernels

    @property
    def quick(self) -> bool:
        """Whether normal numbers of training have 16 bits there."""
        return self.route.fused

    def __reduce__(self) -> Any:
        """Copies and pickles resolve their route anew: it holds functions of plugins, and another machine has another tier."""
        return Fast, (self.view, self.precision, self.compiled)

    @classmethod
    def explain(cls, hardware: Hardware) -> dict[str, list[tuple[str, str]]]:
        """How each tile is simulated on this machine: tier and gradients with their reasons, and every effect."""
        backward, found, accelerated = hardware.training.backward, {}, routes(hardware, True)
        mode, made = backward.mode, "kernels by Triton" if HAS_TRITON else "eagerly, since Triton is not installed"
        for name, route in routes(hardware).items():
            by_reference = f"mode {mode}" if mode == "autograd" else "" if backward.forward_only else route.by_reference
            gradients = f"reference path: {by_reference}" if by_reference else f"fused ({mode})"
            found[name] = [("precision", f"{route.tier}: {route.why}"), ("gradients", gradients), *route.notes]
            if torch.accelerator.is_available():
                found[name].insert(1, ("on the accelerator", f"{accelerated[name].tier}, {made}"))
        return found

    def takes(self, call: Call, weight: Tensor, differentiated: bool) -> bool:
        """Whether this call runs here; gradients that only autograd knows come from the reference path."""
        return self._can(weight) and not (differentiated and self._by_reference(call))

    def _can(self, weight: Tensor) -> bool:
        return self.route.fused and weight.dtype == torch.float32

    def _by_reference(self, call: Call) -> bool:
        return bool(self.route.by_reference) or call.backward.mode == "autograd"

    def product(self, call: Call, keep: bool, **about: Any) -> Product:
        """One call as `TileProduct` and `CodedWeights` need it; `keep` what a backward pass needs."""
        return Product(call, self.route, self.kernels, keep, self._by_reference(call), **about)

    def outputs(self, call: Call, x: Patches, weight: Tensor | None, drawn: Drawn | None, differentiated: bool) -> Tensor:
        """x of [vector, in], weight [tile, out, row] (None on a chip) -> [vector, out], as `TileArray` documents it."""
        origin, pixels = source(self.view.layout, self.route, x)
        product = self.product(call, differentiated, source=origin)
        w, planes = drawn or self._weights(call, weight)
        w = Mvm(call).read(w)
        if planes is None:
            planes = Planes(*CodedWeights.apply(w, replace(product, shares=True)))
        product = replace(product, packed=planes.packed)
        arguments = (pixels, w, self._ranges(call, pixels), call.factor, *planes[:2], product)
        parts = self._parts(product)
        with torch.no_grad():
            found = (TileProduct.forward(*arguments[:3], one.call.factor, *planes[:2], one)[0] for one in parts)
            y = functools.reduce(Tensor.add_, found) if parts else None
        if differentiated or transformed():
            whole = TileProduct.apply(*arguments)[0]
            return whole if y is None else straight(whole, y)
        if y is not None:
            return y
        with torch.no_grad():
            return TileProduct.forward(*arguments)[0]  # what autograd does around it takes a while

    def _parts(self, product: Product) -> list[Product]:
        """The products of a call whose inputs are applied in parts, one for each."""
        call, passes = product.call, (1.0,) if self.view.dac is None else self.view.dac.passes
        if len(passes) == 1:
            return []
        calls = [replace(call, stream=call.stream.of_pass(k), factor=f * call.factor) for k, f in enumerate(passes)]
        return [replace(product, call=c, part=k) for k, c in enumerate(calls)]

    def drawn(self, call: Call, weight: Tensor) -> Drawn:
        """The weights of a root forward, for layers that use them at every time step."""
        w, planes = self._weights(call, weight)
        if planes is None and not self.view.plan.read:
            packed = None if torch.compiler.is_compiling() else Packed()
            planes = Planes(*CodedWeights.apply(w, self.product(call, False)), packed)
        return Drawn(w, planes)

    def _weights(self, call: Call, weight: Tensor | None) -> Drawn:
        """The weights of a call: of the chip, whose planes are made once per age; or of this mini-batch."""
        if call.chip is not None:  # with `read` effects they are coded after every read
            return Drawn(call.chip.weights, None if self.view.plan.read else self._planes(call))
        if call.drop:
            return Drawn(call.weights(weight))
        return Drawn(MiniBatchWeights.apply(weight, call.gamma, self.product(call, False)))

    def _planes(self, call: Call) -> Planes:
        """Those of the chip that is on, made once per age."""
        assert call.chip is not None
        kept = call.chip.coded
        if "planes" not in kept:
            kept["planes"], kept["bound"] = CodedWeights.apply(call.chip.weights, self.product(call, False))
            kept |= {"suffices": True} if self.route.tier == "int8" and not self.route.whole else {}
        if torch.compiler.is_compiling():
            return Planes(kept["planes"], kept["bound"])
        return Planes(kept["planes"], kept["bound"], kept.setdefault("packed", Packed()))

    def _ranges(self, call: Call, pixels: Tensor) -> Tensor:
        """Input ranges [tile, 1], or [vector, tile, 1] where they are dynamic."""
        dac = self.view.dac
        if dac is None:
            return torch.ones_like(call.range)
        return dac.used_range(self.view.layout.cut(pixels.detach()) if dac.range == "dynamic" else pixels, call.range)

    # -- a chip -----------------------------------------------------------------------------------------------
    def read_out(self, call: Call, x: Tensor) -> Tensor | None:
        """Converted outputs [vector, tile, out] of the chip that is on for inputs x [vector, tile, row] in DAC units; None where
        it takes the reference path. Plain `input` methods take no part in a read-out."""
        assert call.chip is not None
        w = call.chip.weights
        if not self._can(w) or self.view.plan.input:
            return None
        origin, pixels = source(self.view.layout, self.route, Patches(self.view.layout.join(x)))
        product = self.product(call, True, source=origin, shares=True)
        planes = Planes(*CodedWeights.apply(w, product)) if self.view.plan.read else self._planes(call)
        read = []
        with self.kernels.apart("read-out"):
            for one in self._parts(product) or [product]:
                codes = TileProduct.forward(pixels, w, call.range, call.factor, *planes[:2], one)[3]
                read.append(codes.to(torch.float32) * product.epilogue.adc.step)
        if len(read) == 1 or self.view.dac is None:
            return read[0]
        return torch.stack([f * y for f, y in zip(self.view.dac.passes, read)]).sum(0)

    def laid_out(self, target: Tensor) -> Tensor:
        """Normalised targets [tile, out, row] in the order in memory in which the other two read them."""
        return cells.laid_out(self.kernels, target)

    def programmed(self, target: Tensor, key: draws.Key) -> Tensor | None:
        """Conductances [dev, tile, out, row] in µS of a chip with this key, in one pass over the cells; None: not here."""
        return cells.programmed(self.kernels, target, key)

    def aged(self, chip: Programmed, t: float) -> Tensor | None:
        """Weights [tile, out, row] of the chip t seconds after programming, in one pass over the cells; None: not here."""
        return cells.aged(self.kernels, chip, t)


def on_accelerator(view: TileView) -> bool:
    """Whether an array lies on another device than the processor."""
    return view.layout.used.device.type != "cpu"


class CodedWeights(torch.autograd.Function):
    """`Planes` of w, which have no gradient: a Function for the sake of its vmap rule."""

    @staticmethod
    def forward(w: Tensor, product: Product) -> tuple[Tensor, Tensor]:
        planes, bound, _ = code_weights(w, product.epilogue, product.kernels, product.shares)
        return tiles_by_pixel(planes, product.view.layout.rows_of_tiles, product.route.cells), bound

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def backward(ctx: Any, *g: Any) -> tuple[None, None]:
        return None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, w: Tensor, product: Product) -> tuple[Any, Any]:
        product = replace(product, shares=False)
        return looped(CodedWeights.apply, info, in_dims, (w,), product)


class MiniBatchWeights(torch.autograd.Function):
    """w/gamma, saturated at the device range, with the programming noise that training injects (R003-64): one pass over
    blocks of outputs. The gradient is that of w/gamma where it does not saturate."""

    @staticmethod
    def forward(weight: Tensor, gamma: Tensor, product: Product) -> Tensor:
        view, call = product.view, product.call
        strength = call.strength

        def of(
            weight: Tensor, gamma: Tensor, key: draws.Key, strength: Tensor | float | None, part: slice | None = None
        ) -> Tensor:
            w = (weight / gamma.unsqueeze(-1)).clamp_(-1, 1)
            return w if strength is None else view.noisy(w, Stream(key, key, quick=True), strength, part)

        def kernel(*arguments: Any) -> Tensor:
            return of(*arguments).contiguous()  # as its codes will lie

        def eager() -> Tensor:
            if strength is not None and not view.cellwise(view.plan.program):
                return of(weight, gamma, call.stream.chip, strength)
            out = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
            for part in blocks(weight.shape[1], weight.shape[0] * weight.shape[2], weight.device):
                out[:, part] = of(weight[:, part], gamma[:, part], call.stream.chip, strength, part)
            return out

        key = draws.as_tensors(call.stream.chip, weight.device)
        arguments = (weight, gamma, key, None if strength is None else torch.as_tensor(strength))
        return product.kernels.run("weight noise", lambda _: kernel, arguments, eager, own=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        weight, gamma, ctx.product = inputs
        ctx.save_for_backward(weight, gamma)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        weight, gamma = ctx.saved_tensors
        product: Product = ctx.product

        if product.view.plan.read or product.by_reference or not possible():  # effects, derivatives, transforms may see g too
            g = g.clone()

        def of(g: Tensor, weight: Tensor, gamma: Tensor) -> None:
            full = gamma.unsqueeze(-1)
            g.div_(full).masked_fill_(weight.abs() > full, 0)

        def eager() -> None:
            for part in blocks(g.shape[1], g.shape[0] * g.shape[2], g.device):
                of(g[:, part], weight[:, part], gamma[:, part])

        product.kernels.run("gradient of the weights", lambda _: of, (g, weight, gamma), eager)
        return g, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, weight: Tensor, gamma: Tensor, product: Product) -> tuple[Any, Any]:
        return looped(MiniBatchWeights.apply, info, in_dims, (weight, gamma), product)


class TileProduct(torch.autograd.Function):
    """The vectors of x [pixel, channel] (see `Source`) through DAC, tiles and ADC, scaled and summed over row tiles ->
    [vector, out].

    w       [tile, out, row] the weights that the products see; their integers are `planes` and `bound` (`Planes`)
    alpha   [tile, 1] or [vector, tile, 1] input ranges
    scale   [tile, out] digital scales besides alpha

    Gradients: of x and w as the module says; of alpha by R003-70, as `EncodeInput` has it; of scale exactly.
    """

    @staticmethod
    def forward(
        x: Tensor, w: Tensor, alpha: Tensor, scale: Tensor, planes: Tensor, bound: Tensor, product: Product
    ) -> tuple[Tensor, ...]:
        """Outputs, and what a backward pass needs: inputs of the product, their clip mask, codes of the ADC."""
        epilogue, route, kernels = product.epilogue, product.route, product.kernels
        adc = epilogue.adc
        span = spread(product.view.layout, route, alpha)
        inputs = epilogue.behind_dac(code_inputs(x, span, epilogue.dac, route, kernels, product.keep, product.part))
        layout, count = epilogue.layout, product.source.count
        shape = (count, layout.row_tiles, layout.columns) if product.keep else (0,)
        codes = torch.empty(shape, dtype=adc.kind, device=x.device)
        own = alpha if alpha.dim() == 3 else None
        full = scale * adc.step if own is not None else scale * alpha * adc.step
        out = product.source.over_window(inputs.poison).expand(count, layout.groups * scale.shape[1]).clone()
        ends = Ends(full, out, own, codes if product.keep else None)
        epilogue.run(product.source, inputs, w, Planes(planes, bound, product.packed), ends, kernels)
        clipped = inputs.clipped if inputs.clipped is not None else torch.empty(0, dtype=torch.int8, device=x.device)
        return out, inputs.main, clipped, codes

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, w, alpha, scale, _, _, product = inputs
        _, main, clipped, codes = output
        ctx.product = product
        ctx.mark_non_differentiable(main, clipped, codes)
        ctx.set_materialize_grads(False)
        half = product.call.backward.products == "bf16"
        ctx.save_for_backward(main, clipped, codes, w.to(torch.bfloat16) if half else w, alpha, scale)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if g is None:
            return (None,) * 7
        return *gradients(g, Saved(*ctx.saved_tensors), ctx.product, Wanted(*ctx.needs_input_grad[:4])), None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> tuple[Any, Any]:
        return looped(TileProduct.apply, info, in_dims, args[:-1], args[-1])
