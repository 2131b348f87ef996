"""From products to digital outputs: terms of the effects, one Gaussian draw, ADC, column scale, sum over row tiles.

The formulas are those of `mho.nonideality`. They run over blocks of vectors whose temporaries stay in the cache, or in one
piece where a compiler fuses them.
"""

from __future__ import annotations

import functools
import math
import operator
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from mho import noise
from mho.converter import Adc
from mho.fused.codes import HIGH, LOW, SIDE, Inputs, Planes, code_sides
from mho.fused.route import Route, Step
from mho.fused.source import Source, tiles_by_pixel
from mho.fused.tier import int8_product
from mho.layout import blocks
from mho.nonideality import linear
from mho.plan import Placed
from mho.site import Site, Stream

if TYPE_CHECKING:
    from mho.tile import TileArray

ROOM = 1 << 26  # bytes of products at a time


class Conversion(NamedTuple):
    """The ADC in numbers: codes of size `step` up to +-`top`; without rounding a clip at `bound`; inf: nothing."""

    bound: float
    top: int | None

    @classmethod
    def of(cls, adc: Any) -> Conversion:
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


class Epilogue:
    """One call of one array: `run` turns its products into outputs."""

    def __init__(self, array: TileArray, route: Route, stream: Stream, source: Source) -> None:
        self.array, self.route, self.stream, self.source = array, route, stream, source
        self.adc = Conversion.of(array.spec.adc)
        self.sites: dict[tuple[str, int], Site] = {}

    def site(self, p: Placed, stage: str, part: slice | None = None) -> Site:
        """The site of an effect, made once per call."""
        if (stage, p.number) not in self.sites:
            self.sites[stage, p.number] = self.array._live_site(p, stage, self.stream)
        site = self.sites[stage, p.number]
        return site if part is None else replace(site, part=part)

    def phi_sites(self) -> list[Site]:
        return [self.site(p, "accumulate") for p in self.route.askers]

    def behind_dac(self, inputs: Inputs) -> Inputs:
        """The inputs after plain `input` methods: the main product sees values then, side products the codes of these."""
        array = self.array
        if not array.plan.input:
            return inputs
        x = array.cut(inputs.main)
        for p in array.plan.input:
            x = p.effect.apply("input", x, self.site(p, "input")) * array.used
        x = array.join(x)
        code_sides(inputs.sides, x, self.route)
        return inputs._replace(main=x)

    # -- products ---------------------------------------------------------------------------------------------
    def run(
        self, inputs: Inputs, w: Tensor, planes: Planes, scale: Tensor, alpha: Tensor | None, codes: Tensor | None
    ) -> Tensor:
        """Outputs [vector, out]. `scale` [tile, out], and `alpha` [vector, tile, 1] where every vector has an input range of
        its own, turn converted outputs into digital ones; `codes` [vector, tile, out], if given, takes them down."""
        count, width = self.source.count, self.array.columns
        out = self.source.over_window(inputs.poison).expand(count, width).clone()
        words = [self._words(i) if s.does == "noise" else None for i, s in enumerate(self.route.steps)]
        for c in self._chunks(count):
            main, sides = self._products(inputs, c, w, planes)
            for b in [c] if self.route.whole else blocks(c.stop - c.start, self.array.row_tiles * width, c.start):
                y, m = self._values(main, sides, planes, slice(b.start - c.start, b.stop - c.start))
                z = self.adc.convert(self._steps(y, m, words, inputs, w, b))
                if codes is not None:
                    codes[b] = z
                z = z if alpha is None else z * alpha[b]
                for t in range(self.array.row_tiles):
                    out[b].addcmul_(z[:, t], scale[t])
        return out

    def _chunks(self, count: int) -> list[slice]:
        """Vectors whose products fit the workspace; few, since every product packs its weights anew."""
        per = 4 * (max(1, self.route.mains) + len(self.route.pairs)) * self.array.row_tiles * self.array.columns
        whole = self.route.whole or torch.compiler.is_compiling()
        return self.source.chunks(count if whole else max(256, ROOM // per))

    def _products(self, inputs: Inputs, c: slice, w: Tensor, planes: Planes) -> tuple[list[Tensor], list[Tensor]]:
        """Main and side products [tile, vector, out] of some vectors."""
        mains, route = self.route.mains, self.route
        factors = [(inputs.main, planes.planes[k]) for k in range(mains)]
        if not mains and not self.array.plan.mvm:
            factors = [(inputs.main, tiles_by_pixel(w, self.array.sizes, route.cells))]
        first = len(factors)
        factors += [(inputs.sides[psi], planes.planes[mains + phi]) for phi, psi in route.pairs]
        products = self._multiplied(factors, c)
        return products[:first], products[first:]

    def _multiplied(self, factors: list[tuple[Tensor, Tensor]], c: slice) -> list[Tensor]:
        """The products [tile, vector, out] of codes and planes, one strided product each and per row tile."""
        shape = (self.array.row_tiles, c.stop - c.start, self.array.columns)
        kinds = [torch.int32 if x.dtype == torch.int8 else x.dtype for x, _ in factors]
        out = [workspace(f"product{k}", shape, kind, factors[k][0].device) for k, kind in enumerate(kinds)]
        for x in {id(x): x for x, _ in factors}.values():  # vectors are gathered once for all products that they are in
            mine = [(w, y) for (x_, w), y in zip(factors, out) if x_ is x]
            for t, rows in enumerate(self.array.sizes):
                part = self._rows(x, c, t)
                for w, y in mine:
                    weights = w[t, :, :rows]
                    int8_product(part, weights, y[t]) if y.dtype == torch.int32 else torch.mm(
                        part, weights.t(), out=y[t]
                    )
        return out

    def _rows(self, codes: Tensor, c: slice, tile: int) -> Tensor:
        """The vectors c of a tile, [vector, row]."""
        patches = self.source.patches(codes, c, tile)
        if patches.dim() == 2:
            return patches
        written = workspace("patches", tuple(patches.shape), codes.dtype, codes.device).copy_(patches)
        return written.view(c.stop - c.start, self.array.sizes[tile])

    # -- blocks -----------------------------------------------------------------------------------------------
    def _values(
        self, main: list[Tensor], sides: list[Tensor], planes: Planes, b: slice
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Products of a block in analog units, [vector, tile, out]; fresh tensors."""
        bound = planes.bound[:, None]
        y = None
        if len(main) == 2:
            y = _floats(main[0], b).mul_(HIGH).add_(main[1][:, b].transpose(0, 1)).mul_(bound / (LOW * self.top))
        elif main:
            y = main[0][:, b].transpose(0, 1).clone()
        if self.route.tier == "fp32":
            return y, [s[:, b].transpose(0, 1).clone() for s in sides]
        return y, [
            _floats(s, b).mul_(bound / (SIDE * self._levels(pair.psi))) for s, pair in zip(sides, self.route.pairs)
        ]

    @property
    def top(self) -> int:
        return self.array.spec.dac.top

    def _levels(self, psi: int) -> int:
        """What the integer of psi(x) = 1 is."""
        return self.top if self.route.tier == "int8" and self.route.psis[psi] is linear else SIDE

    def _steps(
        self, y: Tensor | None, m: list[Tensor], words: list[Any], inputs: Inputs, w: Tensor, b: slice
    ) -> Tensor:
        """The terms of all effects, in the order of the signal."""
        if y is None:
            p = self.array.plan.mvm[0]
            y = p.effect.mvm(self.values(inputs), w, self.site(p, "mvm"))
        for step, drawn in zip(self.route.steps, words):
            p = step.effects[0]
            if step.does == "cut":
                args = (self.values(inputs), w) if step.stage == "accumulate" else ()
                y = p.effect.apply(step.stage, y, *args, self.site(p, step.stage)).clone()
            elif step.does == "transfer":
                y = p.effect.scaled_transfer(y, self.site(p, step.stage, b)).clone()
            elif step.does == "shift":
                y.add_(p.effect.scaled_shift(self.site(p, step.stage, b), self._named(p, m)))
            else:
                self._add_noise(y, m, step, drawn, b)
        return y

    def _add_noise(self, y: Tensor, m: list[Tensor], step: Step, words: tuple[Tensor, Tensor], b: slice) -> None:
        """One draw for all neighbouring Gaussian terms: variances add."""
        draw = noise.quick_normal((words[0][:, b], words[1][:, b]), y.shape[-1]).transpose(0, 1)
        sites = (self.site(p, "accumulate" if p.effect.sides else "output", b) for p in step.effects)
        terms = [p.effect.scaled_variance(site, self._named(p, m)) for p, site in zip(step.effects, sites)]
        variance = functools.reduce(operator.add, terms)
        if isinstance(variance, Tensor):
            y.addcmul_(draw, variance.sqrt())
        else:
            y.add_(draw, alpha=math.sqrt(variance))

    def _named(self, p: Placed, m: list[Tensor]) -> dict[str, Tensor]:
        """Side products by the names that an effect gave them."""
        return {name: m[self.route.sides[p.number, name]] for name in p.effect.sides}

    def _words(self, number: int) -> tuple[Tensor, Tensor]:
        """Hash words [tile, vector] of the noise of one step."""
        key = noise.fold(self.stream.key("vector"), "noise", number)
        a, b = self.stream.vectors.words(key, self.array.row_tiles, self.array.gamma.device)
        return a.t(), b.t()

    def values(self, inputs: Inputs) -> Tensor:
        """The analog inputs [vector, tile, row] that plain methods see."""
        x = inputs.main.to(torch.float32).div_(self.top) if self.route.tier == "int8" else inputs.main
        return self.array.cut(x)


def _floats(product: Tensor, b: slice) -> Tensor:
    """A block [vector, tile, out] of int32 products [tile, vector, out]."""
    return product[:, b].transpose(0, 1).to(torch.float32)


_kept = threading.local()


def workspace(name: str, shape: tuple[int, ...], kind: torch.dtype, device: torch.device) -> Tensor:
    """Memory that products of all layers are written to in turn, one of each name per thread and device. Whoever reads it
    is done before the next call; no output or saved tensor may be a view of it."""
    if torch.compiler.is_compiling():
        return torch.empty(shape, dtype=kind, device=device)
    count = math.prod(shape)
    spaces: dict[Any, Tensor] = _kept.__dict__.setdefault("spaces", {})
    key = (name, kind, device)
    if (
        key not in spaces
        or spaces[key].numel() < count
        or spaces[key].is_inference() != torch.is_inference_mode_enabled()
    ):
        spaces[key] = torch.empty(count, dtype=kind, device=device)
    return spaces[key][:count].view(shape)
