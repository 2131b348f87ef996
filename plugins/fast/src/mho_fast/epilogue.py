"""From products to digital outputs: terms of the effects, one Gaussian draw, ADC, column scale, sum over row tiles.

The formulas are those of `mho.Nonideality`. They run over blocks of vectors whose temporaries stay in the cache, or in one
piece where a compiler fuses them.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mho.effects import Adc, Dac, draws, float_product
from mho.tile import Call, Constants, Layout, Placed, TileView, blocks
from mho_fast.codes import HIGH, LOW, SIDE, Inputs, Packed, Planes, code_sides
from mho_fast.kernels import Kernels
from mho_fast.route import Route, Step
from mho_fast.source import Source, tiles_by_pixel
from mho_fast.terms import Terms
from mho_fast.tier import EXACT, has_packed, int8_product, int8_products, packed_product
from mho_fast.workspace import stacked, workspace

ROOM = 1 << 26  # bytes of products at a time
SMALL = 1 << 19  # operations of a tile
FEW = 64  # vectors, and at least two: weights are packed once for all calls; for more, that is little of a product
LARGE = 1 << 20  # weights of a product that are worth it: fewer stay in the cache
WIDE = 64  # outputs: vector code goes along them and adds the tiles of each one after the other; of fewer, in lanes
SHORT = 64  # channels: patches of no more are gathered in half the time line by line of the kernel


class Conversion(NamedTuple):
    """The ADC in numbers: codes of size `step` up to +-`top`; without rounding a clip at `bound`; inf: nothing."""

    bound: float
    top: int | None

    @classmethod
    def of(cls, adc: Any) -> Conversion:
        """That of an `Adc`; without one, nothing is clipped or rounded."""
        return cls(adc.limit, adc.top) if isinstance(adc, Adc) else cls(math.inf, None)

    @property
    def step(self) -> float:
        """What one unit of a converted output stands for."""
        return 1.0 if self.top is None or math.isinf(self.bound) else self.bound / self.top

    @property
    def limit(self) -> float:
        """Converted outputs from here on are saturated."""
        return self.bound / self.step

    @property
    def kind(self) -> torch.dtype:
        """Enough for the codes."""
        if self.top is None or math.isinf(self.bound):
            return torch.float32
        return torch.int8 if self.top <= 127 else torch.int16 if self.top < 1 << 15 else torch.float32

    def convert(self, y: Tensor) -> Tensor:
        """y in units of `step`, rounded and clipped, in place."""
        if math.isinf(self.bound):
            return y
        if self.top is None:
            return y.clamp_(-self.bound, self.bound)
        return y.div_(self.step).round_().clamp_(-self.top, self.top)


class Draws(NamedTuple):
    """What the noise of a call is drawn from: a key for every step, sample and position of every vector, tiles; and the `words`
    [tile, vector] of every step that these make, where somebody has hashed them."""

    keys: list[draws.Key]
    sample: Tensor
    position: Tensor
    tile: Tensor
    words: list[Any] | None = None

    def of(self, b: slice) -> Draws:
        """Those of some vectors."""
        words = None if self.words is None else [None if w is None else w[:, b] for w in self.words]
        return Draws(self.keys, self.sample[b], self.position[b], self.tile, words)

    def word(self, step: int) -> Tensor:
        """Hash words [tile, vector] of a step."""
        if self.words is not None:
            return self.words[step]
        return draws.words_at(self.keys[step], self.sample, self.position, self.tile[:, None])

    def hashed(self, noisy: Sequence[bool]) -> Draws:
        """The same with the words of all vectors, for steps that are `noisy`."""
        return self._replace(words=[self.word(k) if asks else None for k, asks in enumerate(noisy)])


class Products(NamedTuple):
    """What a block starts from: products [tile, vector, out] of the main and the side products, the scales of their planes
    (`Planes.bound`), and what the noise is drawn from."""

    main: list[Tensor]
    sides: list[Tensor]
    bound: Tensor
    draws: Draws

    def of(self, b: slice) -> Products:
        """Those of some vectors."""
        main, sides = ([v[:, b] for v in group] for group in (self.main, self.sides))
        return Products(main, sides, self.bound, self.draws.of(b))


class Ends(NamedTuple):
    """Where a block ends: added to `out` [vector, out] after `scale` [tile, out], and `alpha` [vector, tile, 1] where every
    vector has an input range of its own; `codes` [vector, tile, out], if given, takes converted outputs down."""

    scale: Tensor
    out: Tensor
    alpha: Tensor | None
    codes: Tensor | None

    def of(self, b: slice) -> Ends:
        """Those of some vectors."""
        alpha, codes = (None if v is None else v[b] for v in (self.alpha, self.codes))
        return Ends(self.scale, self.out[b], alpha, codes)


class Epilogue(Terms):
    """One call of one array: `run` turns its products into outputs."""

    def __init__(
        self, view: TileView, route: Route, call: Call | None, constants: Constants | None = None, parts: bool = False
    ) -> None:
        super().__init__(view, route, call, constants)
        self.parts = parts  # of the inputs are multiplied
        self.layout, self.adc = view.layout, Conversion.of(view.adc)

    def behind_dac(self, inputs: Inputs) -> Inputs:
        """The inputs after plain `input` methods: the main product sees values then, side products the codes of these."""
        if not self.view.plan.input:
            return inputs
        x = self.layout.cut(inputs.main)
        for p in self.view.plan.input:
            x = p.effect.apply("input", x, self.site(p, "input")) * self.layout.used
        x = self.layout.join(x)
        code_sides(inputs.sides, x, self.route)
        return inputs._replace(main=x)

    # -- products ---------------------------------------------------------------------------------------------
    def run(self, source: Source, inputs: Inputs, w: Tensor, planes: Planes, whole: Ends, kernels: Kernels) -> None:
        """Bring the vectors that `source` takes from the inputs to the ends of the `whole` call."""
        drawn, chunks = self._draws(), self._chunks(source)
        for c in chunks:
            alone = len(chunks) == 1
            products = Products(*self._products(source, c, inputs, w, planes), planes.bound, drawn if alone else drawn.of(c))
            ends = whole if alone else whole.of(c)
            if self.route.whole:
                self.block(products, ends, plain=(inputs, w))
            elif torch.compiler.is_compiling():
                self.block(products, ends)
            else:
                eager = functools.partial(self._blocks, products, ends, None if alone else c.start)
                arguments = (products, ends, self.constants)
                elements = max(inputs.main.numel(), ends.scale.numel() * len(ends.out))  # as the DAC decides, or more
                make = functools.partial(self._kernel, route=self.route, parts=self.parts)
                kernels.run("epilogue of parts" if self.parts else "epilogue", make, arguments, eager, elements)

    @staticmethod
    def _kernel(view: TileView, route: Route, parts: bool) -> Callable[[Products, Ends, Constants], None]:
        def kernel(products: Products, ends: Ends, constants: Constants) -> None:
            Epilogue(view, route, None, constants, parts).block(products, ends)

        return kernel

    def _blocks(self, products: Products, ends: Ends, first: int | None) -> None:
        """Eagerly, in blocks whose temporaries stay in the cache; `first` is the number of the first vector in the call, None
        for all vectors of it."""
        if self.layout.columns >= WIDE:  # else words are as many as numbers: block by block
            products = products._replace(draws=products.draws.hashed([step.does == "noise" for step in self.route.steps]))
        parts = list(blocks(len(ends.out), self.layout.row_tiles * self.layout.columns, ends.out.device))
        if first is None and len(parts) == 1:
            return self.block(products, ends, slice(0, len(ends.out)))
        for b in parts:
            start = (first or 0) + b.start
            self.block(products.of(b), ends.of(b), slice(start, start + b.stop - b.start))

    def _chunks(self, source: Source) -> list[slice]:
        """Vectors whose products fit the workspace; few, since every product packs its weights anew."""
        per = 4 * (max(1, self.route.mains) + len(self.route.pairs)) * self.layout.row_tiles * self.layout.columns
        per += 4 * self.layout.in_features if self.layout.groups > 1 else 0  # gathered in fp32
        return source.chunks(source.count if (self.route.whole or torch.compiler.is_compiling()) else max(256, ROOM // per))

    def _products(self, source: Source, c: slice, inputs: Inputs, w: Tensor, planes: Planes) -> tuple[list[Tensor], list[Tensor]]:
        """Main and side products [tile, vector, out] of some vectors."""
        mains, route, columns = self.route.mains, self.route, self.layout.columns
        main = []
        if not mains and not self.view.plan.mvm:
            w = tiles_by_pixel(w, self.layout.rows_of_tiles, route.cells)
            main = self._multiplied("main product", source, c, [inputs.main], w)[0]
        found: dict[tuple[int | None, int], Tensor] = {}
        for k, joint in enumerate(route.joints):
            psis = joint.psis
            codes = [inputs.main] if psis is None else inputs.sides[psis.start : psis.stop]
            mine = planes.planes[:, joint.planes.start * columns : joint.planes.stop * columns]
            ys = self._multiplied(f"product {k}", source, c, codes, mine, planes.packed)
            for psi, y in zip(psis or [None], ys):
                found.update(((psi, plane), v) for plane, v in zip(joint.planes, y))
        main += [found[None, k] for k in range(mains)]
        return main, [found[psi, mains + phi] for phi, psi in route.pairs]

    def _multiplied(
        self, name: str, source: Source, c: slice, codes: list[Tensor], planes: Tensor, packed: Packed | None = None
    ) -> list[list[Tensor]]:
        """Each of the codes [pixel, channel] times each of the planes [tile, plane * out, row] -> [tile, vector, out]."""
        if depth_wise(self.layout, source):
            by_plane = planes.to(torch.float32).unbind(1)
            return [[source.sums(v, c, w) for w in by_plane] for v in codes]
        y = self._matrices(name, source, c, codes, planes, packed)
        return [list(of_code.split(self.layout.columns, -1)) for of_code in y.unbind(1)]

    def _matrices(
        self, name: str, source: Source, c: slice, codes: list[Tensor], planes: Tensor, packed: Packed | None
    ) -> Tensor:
        """The same as products of matrices, [tile, psi, vector, plane * out]."""
        tiles, outputs, _ = planes.shape
        shape = (tiles, len(codes), c.stop - c.start, outputs)
        at_once = many_small(self.layout, c.stop - c.start)
        kind = torch.int32 if codes[0].dtype == torch.int8 and not at_once else torch.float32
        if kind == torch.int32 and torch.compiler.is_compiling():
            return int8_products([_operand(source, codes, c, t) for t in range(tiles)], planes).view(shape)
        y = workspace(name, shape, kind, planes.device)
        if at_once:
            _tiles_at_once(source, c, codes, planes, y)
            return y
        sizes, outs = self.layout.rows_of_tiles, y.flatten(1, 2).unbind()
        few = planes.device.type == "cpu" and kind == torch.int32 and 1 < len(outs[0]) <= FEW and planes[0].numel() >= LARGE
        if packed is not None and few and self.layout.height <= EXACT and has_packed():
            for t, (w, out) in enumerate(zip(packed.of(name, planes, sizes), outs)):
                packed_product(_operand(source, codes, c, t), w, out)
            return y
        multiply = int8_product if kind == torch.int32 else _product
        for t, (rows, w, out) in enumerate(zip(sizes, planes, outs)):
            multiply(_operand(source, codes, c, t), w[:, :rows], out)
        return y

    # -- blocks -----------------------------------------------------------------------------------------------
    def block(self, products: Products, ends: Ends, part: slice | None = None, plain: Any = None) -> None:
        """From products to digital outputs, for all vectors or a `part` of those of the call. Plain methods also see the
        inputs and the weights, `plain`."""
        z = self.adc.convert(self._steps(*self._values(products), products.draws, part, plain))
        if ends.codes is not None:
            ends.codes.copy_(z)
        z = self.view.referred(z)
        if ends.alpha is not None:
            z = z * ends.alpha
        per_group = (self.layout.groups, len(self.layout.sizes))
        out = ends.out.unflatten(1, (self.layout.groups, -1))
        parts, scale = z.unflatten(1, per_group), ends.scale.unflatten(0, per_group)
        parts.mul_(scale)
        if torch.compiler.is_compiling() and self.layout.columns >= WIDE:
            out.add_(parts.sum(2))  # one pass
            return
        for of_tile in parts.unbind(2):  # one after the other: the order of `sum` depends on the number of vectors
            out.add_(of_tile)

    def _values(self, products: Products) -> tuple[Tensor | None, list[Tensor]]:
        """Products in analog units, [vector, tile, out]; fresh tensors."""
        main, sides = ([v.transpose(0, 1) for v in group] for group in (products.main, products.sides))
        y = None
        if len(main) == 2:
            y = self._joined(*main).mul_(products.bound[0, :, None] / (LOW * self.top))
        elif main:
            y = main[0].clone()
        if self.route.tier == "fp32":
            return y, [s.clone() for s in sides]
        levels = [SIDE * (self.top if pair.psi is None else SIDE) for pair in self.route.pairs]
        tops = [products.bound[1 + pair.phi, :, None] for pair in self.route.pairs]
        return y, [s.to(torch.float32).mul_(top / n) for s, top, n in zip(sides, tops, levels)]

    def _joined(self, high: Tensor, low: Tensor) -> Tensor:
        """256 high + low in fp32, rounded once: in integers where 32 bits hold it."""
        if self.layout.height * self.top * LOW < 1 << 31:
            return low.add(high, alpha=HIGH).to(torch.float32)
        return high.to(torch.float32).mul_(HIGH).add_(low)

    @property
    def top(self) -> int:
        """The largest code of the inputs of a product."""
        top = self.dac.part_top if self.parts else self.dac.top
        assert top is not None
        return top

    @property
    def dac(self) -> Dac:
        """There is one: the fast path has digital inputs."""
        assert self.view.dac is not None
        return self.view.dac

    def _steps(self, y: Tensor | None, m: list[Tensor], drawn: Draws, part: slice | None, plain: Any) -> Tensor:
        """The terms of all effects, in the order of the signal."""
        if y is None:
            p = self.view.plan.mvm[0]
            y = p.effect.mvm(self.values(plain[0]), plain[1], self.site(p, "mvm")).clone()  # ours, and dense
        for number, step in enumerate(self.route.steps):
            p = step.effects[0]
            if step.does == "cut":
                args = (self.values(plain[0]), plain[1]) if step.stage == "accumulate" else ()
                y = p.effect.apply(step.stage, y, *args, self.site(p, step.stage)).clone()
            elif step.does == "transfer":
                y = p.effect.scaled_transfer(y, self.site(p, step.stage, part)).clone()
            elif step.does == "shift":
                y.add_(p.effect.scaled_shift(self.site(p, step.stage, part), self._named(p, m)))
            else:
                draw = draws.quick_normal(drawn.word(number), self.layout.columns).transpose(0, 1)  # as products lie
                self._add_noise(y, m, step, draw, part)
        return y

    def _add_noise(self, y: Tensor, m: list[Tensor], step: Step, draw: Tensor, part: slice | None) -> None:
        """One draw for all neighbouring Gaussian terms: variances add."""
        sites = (self.site(p, "accumulate" if p.effect.sides else "output", part) for p in step.effects)
        terms = [p.effect.scaled_variance(site, self._named(p, m)) for p, site in zip(step.effects, sites)]
        variance = functools.reduce(operator.add, terms)
        if isinstance(variance, Tensor):
            own = len(terms) > 1  # a single term may be somebody's constant
            y.addcmul_(draw, variance.sqrt_() if own else variance.sqrt())
        else:
            y.add_(draw, alpha=math.sqrt(variance))

    def _named(self, p: Placed, m: list[Tensor]) -> dict[str, Tensor]:
        """Side products by the names that an effect gave them."""
        return {name: m[self.route.sides[p.number, name]] for name in p.effect.sides}

    def _draws(self) -> Draws:
        assert self.call is not None
        stream, device = self.call.stream, self.layout.used.device
        base = stream.key("vector")
        keys = (_noise_keys if isinstance(base.a, Tensor) else _kept_noise_keys)(base, len(self.route.steps), device)
        return Draws(keys, *stream.vectors.numbers(device), _count_of_tiles(self.layout.row_tiles, device))

    def values(self, inputs: Inputs) -> Tensor:
        """The analog inputs [vector, tile, row] that plain methods see."""
        return self.layout.cut(inputs.main.to(torch.float32).div_(self.top) if self.route.tier == "int8" else inputs.main)


def _noise_keys(base: draws.Key, steps: int, device: torch.device) -> list[draws.Key]:
    """The key of every step."""
    return [draws.as_tensors(draws.fold(base, "noise", i), device) for i in range(steps)]


@functools.lru_cache(1 << 10)
@torch.inference_mode(False)
def _kept_noise_keys(base: draws.Key, steps: int, device: torch.device) -> list[draws.Key]:
    """The same of a chip, which has them in every batch."""
    return _noise_keys(base, steps, device)


@torch.compiler.assume_constant_result
def _count_of_tiles(n: int, device: torch.device) -> Tensor:
    """0 ... n - 1 as hashes take them (`draws.count`): n never changes, so that they are made once, and are part of a graph."""
    return _kept_count(n, device)


@functools.lru_cache(256)
@torch.inference_mode(False)
def _kept_count(n: int, device: torch.device) -> Tensor:
    return torch.arange(n, dtype=torch.int32, device=device)


def _operand(source: Source, codes: list[Tensor], c: slice, tile: int) -> Tensor:
    """What a tile gets of codes [pixel, channel], one below the other: [codes * vector, row]; written to a workspace, if that is
    not how they lie in memory."""
    patches = [source.patches(v, c, tile) for v in codes]
    if len(patches) == 1 and patches[0].dim() == 2:
        return patches[0]
    dims, short = len(source.size), patches[0].shape[-1] <= SHORT
    lines = 1 + dims if short and patches[0].dim() > 2 * dims > 0 else None  # of the kernel
    return stacked("patches", patches, lines).reshape(-1, source.sizes[tile])


def _product(x: Tensor, w: Tensor, out: Tensor) -> Tensor:
    """x [vector, row] . w [out, row] -> out [vector, out]."""
    return out.copy_(float_product(x, w.t()))


def _tiles_at_once(source: Source, c: slice, codes: list[Tensor], planes: Tensor, y: Tensor) -> None:
    """`_multiplied` for many small tiles of one height: batched products in fp32, which is exact for integers below 2^24."""
    w = planes.to(torch.float32)
    for v, out in zip(codes, y.unbind(1)):
        patches = source.patches_of_all(v, c)
        x = workspace("patches", tuple(patches.shape), patches.dtype, patches.device).copy_(patches)
        out.copy_(torch.bmm(w, x.view(len(w), w.shape[2], -1)).mT)  # [tile, row, vector]


def depth_wise(layout: Layout, source: Source) -> bool:
    """Whether every tile has one output, of one channel: then its products are sums over the window, in fp32, which is exact."""
    return layout.columns == 1 and source.window.cells == layout.height <= EXACT and not source.window.is_pixel


def many_small(layout: Layout, vectors: int) -> bool:
    """Whether tiles of one height are so many and small that a product of its own is too much for each; so low, too, that
    fp32 holds sums of products of 8-bit integers exactly."""
    small = layout.height <= EXACT and vectors * layout.height * layout.columns <= SMALL
    return small and layout.groups > 1 and len(layout.sizes) == 1
