"""The fused forward and backward pass of one array, as `torch.autograd.Function`s.

Saved for backward (see `backward`) are integers, masks, and the weights that the forward saw.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from mho.effects import draws
from mho.effects.converter import Dac
from mho.effects.site import Stream
from mho.fast.backward import Saved, Wanted, each, gradients
from mho.fast.codes import Planes, code_inputs, code_weights
from mho.fast.epilogue import Epilogue
from mho.fast.kernels import possible
from mho.fast.route import Route
from mho.fast.source import source, spread, tiles_by_pixel
from mho.tile.layout import blocks
from mho.tile.patches import Patches

if TYPE_CHECKING:
    from mho.tile.array import TileArray


class Weights(NamedTuple):
    """The normalised weights w [tile, out, row] that a call sees, and their planes once somebody has made them."""

    w: Tensor
    planes: Planes | None = None


@dataclass(frozen=True)
class Call:
    """What a call of an array knows besides tensors; without `source` it codes weights only."""

    array: TileArray
    route: Route
    stream: Stream
    keep: bool  # whether a backward pass may follow
    source: Any = None  # Source
    shares: bool = False  # whether the codes of the weights are done with before the next call

    @property
    def epilogue(self) -> Epilogue:
        return Epilogue(self.array, self.route, self.stream)


def takes(array: TileArray, x: Tensor, weight: Tensor) -> bool:
    """Whether this call runs on the fused path."""
    if not _can(array, weight) or array._draws_per_sample:
        return False
    return not (_by_reference(array) and wants_gradient(array, x, weight))


def _by_reference(array: TileArray) -> bool:
    """Whether gradients come from the reference path."""
    return bool(array.route.by_reference) or array.training_spec.backward.mode == "autograd"


def _can(array: TileArray, weight: Tensor) -> bool:
    return array.route.fused and weight.dtype == torch.float32 and weight.device.type == "cpu"


def wants_gradient(array: TileArray, *tensors: Tensor) -> bool:
    """Whether autograd will ask for a gradient of this call."""
    if torch.compiler.is_compiling():  # a graph cannot list parameters of a module that has just changed
        return torch.is_grad_enabled()
    return torch.is_grad_enabled() and any(t.requires_grad for t in (*tensors, *array.parameters()))


def forward(array: TileArray, patches: Patches, weight: Tensor, drawn: Weights | None, stream: Stream) -> Tensor:
    """patches of [vector, in], weight [out, in] -> [vector, out], as `TileArray` documents it."""
    origin, x = source(array, patches)
    call = Call(array, array.route, stream, wants_gradient(array, x, weight), origin)
    w, planes = drawn or weights(array, weight, stream)
    for p in array.plan.read:
        w = array._in_rows(p.effect.apply("read", w, array._live_site(p, "read", stream)))
    if planes is None:
        planes = Planes(*CodedWeights.apply(w, replace(call, shares=True)))
    arguments = (x, w, _input_range(array, x), array.digital_scale(), *planes, call)
    if not call.keep and not torch._C._are_functorch_transforms_active():
        with torch.no_grad():
            return TileProduct.forward(*arguments)[0]  # what autograd does around it takes a while
    return TileProduct.apply(*arguments)[0]


def drawn(array: TileArray, weight: Tensor, stream: Stream) -> Weights:
    """The weights of a root forward, for layers that use them at every time step."""
    if not _can(array, weight):
        return Weights(array._weights(weight, stream))
    w, planes = weights(array, weight, stream)
    if planes is None and not array.plan.read:
        planes = Planes(*CodedWeights.apply(w, Call(array, array.route, stream, False)))
    return Weights(w, planes)


def weights(array: TileArray, weight: Tensor, stream: Stream) -> Weights:
    """The weights of a call: of the chip, whose planes are made once per age; or of this mini-batch."""
    if not array.deployed:
        if array.training and array.training_spec.drop_connect:
            return Weights(array._weights(weight, stream))
        return Weights(MiniBatchWeights.apply(array.cut_weight(array.stored(weight)), array.gamma, array, stream))
    if array.plan.read:  # coded after every read
        return Weights(array.aged)
    return Weights(array.aged, _chip_planes(array, stream))


def _chip_planes(array: TileArray, stream: Stream) -> Planes:
    """The planes of the chip that is on, made once per age."""
    if array.planes is None:
        array.planes, array.bound = CodedWeights.apply(array.aged, Call(array, array.route, stream, False))
    return Planes(array.planes, array.bound)


def reads_out(array: TileArray) -> bool:
    """Whether `read_out` knows how: plain `input` methods take no part in a read-out."""
    return _can(array, array.aged) and not array.plan.input


def read_out(array: TileArray, x: Tensor, stream: Stream) -> Tensor:
    """Digital outputs [vector, tile, out] of the chip that is on for inputs x [vector, tile, row] in DAC units, with input
    ranges and digital scales of 1."""
    origin, image = source(array, Patches(array.join(x)))
    call = Call(array, array.route, stream, True, origin, shares=True)
    planes = Planes(*CodedWeights.apply(array.aged, call)) if array.plan.read else _chip_planes(array, stream)
    with array.kernels.apart("read-out"):
        ones = torch.ones_like(array.gamma)
        codes = TileProduct.forward(image, array.aged, ones[:, :1], ones, *planes, call)[3]
    return codes.to(torch.float32) * call.epilogue.adc.step


def _input_range(array: TileArray, x: Tensor) -> Tensor:
    """[tile, 1], or [vector, tile, 1] where it is dynamic."""
    dac = array.spec.dac
    dynamic = isinstance(dac, Dac) and dac.range == "dynamic"
    alpha = array.used_range(array.cut(x.detach()) if dynamic else x)
    return torch.ones_like(array.input_range) if alpha is None else alpha


class CodedWeights(torch.autograd.Function):
    """`Planes` of w, which have no gradient: a Function for the sake of its vmap rule."""

    @staticmethod
    def forward(w: Tensor, call: Call) -> tuple[Tensor, Tensor]:
        planes, bound = code_weights(w, call.epilogue, call.shares)
        return tiles_by_pixel(planes, call.array.rows_of_tiles, call.route.cells), bound

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def backward(ctx: Any, *g: Any) -> tuple[None, None]:
        return None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, w: Tensor, call: Call) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        call = replace(call, shares=False)
        coded = [CodedWeights.apply(v, call) for v in each(w, in_dims[0], info.batch_size)]
        planes, bounds = zip(*coded)
        return (torch.stack(planes), torch.stack(bounds)), (0, 0)


class MiniBatchWeights(torch.autograd.Function):
    """w/gamma, saturated at the device range, with the programming noise that training injects (R003-64): one pass over
    blocks of outputs. The gradient is that of w/gamma where it does not saturate."""

    @staticmethod
    def forward(weight: Tensor, gamma: Tensor, array: TileArray, stream: Stream) -> Tensor:
        strength = array.injection() if array.injects else None

        def of(
            weight: Tensor, gamma: Tensor, key: draws.Key, strength: Tensor | float | None, part: slice | None = None
        ) -> Tensor:
            w = (weight / gamma.unsqueeze(-1)).clamp_(-1, 1)
            return w if strength is None else array.with_noise(w, Stream(key, key, quick=True), strength, part)

        def kernel(*arguments: Any) -> Tensor:
            return of(*arguments).contiguous()  # as its codes will lie

        def eager() -> Tensor:
            if strength is not None and not array.cellwise(array.plan.program):
                return of(weight, gamma, stream.chip, strength)
            out = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
            for part in blocks(weight.shape[1], weight.shape[0] * weight.shape[2]):
                out[:, part] = of(weight[:, part], gamma[:, part], stream.chip, strength, part)
            return out

        key = draws.as_tensors(stream.chip, weight.device)
        arguments = (weight, gamma, key, None if strength is None else torch.as_tensor(strength))
        return array.kernels.run("weight noise", lambda _: kernel, arguments, eager, own=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        weight, gamma, ctx.array, _ = inputs
        ctx.save_for_backward(weight, gamma)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        weight, gamma = ctx.saved_tensors
        array: TileArray = ctx.array

        if array.plan.read or _by_reference(array) or not possible():  # effects, derivatives, transforms may see g too
            g = g.clone()

        def of(g: Tensor, weight: Tensor, gamma: Tensor) -> None:
            full = gamma.unsqueeze(-1)
            g.div_(full).masked_fill_(weight.abs() > full, 0)

        def eager() -> None:
            for part in blocks(g.shape[1], g.shape[0] * g.shape[2]):
                of(g[:, part], weight[:, part], gamma[:, part])

        array.kernels.run("gradient of the weights", lambda _: of, (g, weight, gamma), eager)
        return g, None, None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, weight: Tensor, gamma: Tensor, array: TileArray, stream: Stream
    ) -> tuple[Tensor, int]:
        pairs = zip(each(weight, in_dims[0], info.batch_size), each(gamma, in_dims[1], info.batch_size))
        return torch.stack([MiniBatchWeights.apply(w, c, array, stream) for w, c in pairs]), 0


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
        x: Tensor, w: Tensor, alpha: Tensor, scale: Tensor, planes: Tensor, bound: Tensor, call: Call
    ) -> tuple[Tensor, ...]:
        """Outputs, and what a backward pass needs: inputs of the product, their clip mask, codes of the ADC."""
        epilogue = call.epilogue
        adc = epilogue.adc
        coded = code_inputs(x, spread(call.array, alpha), call.array, call.keep)
        inputs = epilogue.behind_dac(coded)
        shape = (call.source.count, *scale.shape) if call.keep else (0,)
        codes = torch.empty(shape, dtype=adc.kind, device=x.device)
        own = alpha if alpha.dim() == 3 else None
        full = scale * adc.step if own is not None else scale * alpha * adc.step
        out = epilogue.run(call.source, inputs, w, Planes(planes, bound), full, own, codes if call.keep else None)
        clipped = inputs.clipped if inputs.clipped is not None else torch.empty(0, dtype=torch.int8, device=x.device)
        return out, inputs.main, clipped, codes

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, w, alpha, scale, _, _, call = inputs
        _, main, clipped, codes = output
        ctx.call = call
        ctx.mark_non_differentiable(main, clipped, codes)
        ctx.set_materialize_grads(False)
        half = call.array.training_spec.backward.products == "bf16"
        ctx.save_for_backward(main, clipped, codes, w.to(torch.bfloat16) if half else w, alpha, scale)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if g is None:
            return (None,) * 7
        found = gradients(g, Saved(*ctx.saved_tensors), ctx.call, Wanted(*ctx.needs_input_grad[:4]))
        return *found, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """A loop: on a processor as fast as one batched product (PERFORMANCE.md, trap 4)."""
        tensors = [each(a, d, info.batch_size) for a, d in zip(args[:-1], in_dims)]
        results = [TileProduct.apply(*each, args[-1]) for each in zip(*tensors)]
        return tuple(torch.stack(parts) for parts in zip(*results)), (0, 0, 0, 0)
