"""What a tile array is apart from its weights, its chip and its network: fixed when it is built.

The reference path, back-ends and kernels are given this view, never the array itself.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from mho.config import TileSpec
from mho.config.recipe import Backward
from mho.effects import Adc, Dac, Geometry, Mapping, Nonideality, Rows, Site, Stream, draws
from mho.effects.circuits import with_circuits
from mho.ground import MhoError
from mho.tile.devices import Devices
from mho.tile.layout import Layout, blocks
from mho.tile.plan import Placed, Plan, resolve

Constants = dict[int, dict[str, Tensor]]  # what `prepare` has set, by number of the effect and name


@dataclass(frozen=True, eq=False)
class TileView(Devices):
    """Geometry, hardware and effects of one weight matrix on tiles.

    name     of the layer; with the kinds of its parts it names their random numbers (`path`)
    layout   of what is multiplied: `mapping.columns` for every output; that of the outputs themselves is `matrix`
    factors, offset, lines   what each slice of a weight counts, what the digital side adds to it, and how many columns,
              and conversions, one output has (`mapping.columns`)
    reference the share of its tile's reference column that is taken from every column (`referred`)
    channel  rows of one input channel
    built    what effects have built: parameters that are trained, and parts of the array
    constants  what effects have set in `prepare`, for views of one chip (`on_chip`)
    """

    name: str
    spec: TileSpec
    backward: Backward
    plan: Plan
    layout: Layout
    matrix: Layout
    built: nn.ModuleDict
    path: tuple[int, int]
    factors: tuple[float, ...] = (1.0,)
    offset: float = 0.0
    lines: int = 1
    reference: float = 0.0
    channel: int = 1
    constants: Constants = field(default_factory=dict)

    @classmethod
    def of(
        cls, name: str, spec: TileSpec, backward: Backward, layout: Layout, channel: int, matrix: Layout | None = None
    ) -> TileView:
        """The view of a new array, with everything that its effects build. Raises `MhoError` where an effect builds
        something to be trained and the backward mode differentiates no effects (`ste`, `masked`, `surrogate`)."""
        path, mapping, device = draws.words("layer", name), cast(Mapping, spec.mapping), spec.device
        factors, idle = mapping.factors, device.g_min / (device.g_max - device.g_min)
        digital, read = (0.0, mapping.offset(idle)) if mapping.reference else (mapping.offset(idle), 0.0)
        slices = factors, digital, mapping.columns, -read / (sum(factors) * (1 + idle)) if read else 0.0
        view = cls(name, spec, backward, _plan(spec, name), layout, matrix or layout, nn.ModuleDict(), path, *slices, channel)
        plan = view.plan
        for p in plan.effects:
            if p.effect.writes("build"):
                view.built[p.name] = view.build(p)
        trains = any(q.requires_grad for q in view.built.parameters())
        if backward.forward_only and trains:
            kinds = ", ".join(p.effect.kind for p in plan.effects if p.effect.writes("build"))
            raise MhoError(
                f"{kinds}: 'backward: {backward.mode}' does not differentiate effects and trains none; use through or autograd"
            )
        return view

    def build(self, placed: Placed) -> nn.Module:
        """What an effect learns or keeps in this layer: a new module; its first values come from the site's draws. Raises
        `MhoError` for anything but a `torch.nn.Module`."""
        key = draws.fold_words(draws.key("build"), placed.path)
        module = placed.effect.build(Site(self.geometry, Stream(key, key), placed.path, "build"))
        if not isinstance(module, nn.Module):
            raise MhoError(f"build(site) of {placed.effect.kind} must return a torch.nn.Module, not {module!r}")
        return module

    @property
    def dac(self) -> Dac | None:
        """The DAC of the tile type; None: inputs are exact."""
        return cast("Dac | None", self.spec.dac)

    @property
    def adc(self) -> Adc | None:
        """The ADC of the tile type; None: outputs are exact."""
        return cast("Adc | None", self.spec.adc)

    @property
    def geometry(self) -> Geometry:
        """What effects may know of the shape of the tiles: rows, columns and blocks, conductances in µS, bound of the ADC."""
        return self.geometry_of(self.layout)

    def geometry_of(self, layout: Layout, lines: int = 1) -> Geometry:
        """The same of a layout each of whose columns counts as so many."""
        device, bound = self.spec.device, math.inf if self.adc is None else self.adc.limit
        rows = Rows(layout.occupied, layout.depth, layout.used)
        block = layout.block if lines == 1 else layout.block.repeat_interleave(lines)
        width = lines * (max(layout.block_sizes) + bool(layout.references))
        ends = device.g_min, device.g_max, bound, device.pair == "single", width
        return Geometry(rows, lines * layout.columns, block, layout.block_count, *ends)

    @property
    def kind(self) -> tuple[Hashable, ...]:
        """Arrays of which this is equal compute the same: hardware, effects, shape, backward pass, device."""
        effects, layout = [p.effect for p in self.plan.effects], self.layout
        classes = tuple(map(type, (*effects, self.spec.mapping, self.spec.dac, self.spec.adc)))
        hardware = repr(self.spec), repr(effects), classes, repr(self.backward), layout.used.device
        return *hardware, layout.groups, layout.columns, *layout.sizes

    @property
    def signature(self) -> str:
        """What a saved chip must have been made for: shapes of the tiles, kinds of the effects."""
        layout, effects = self.layout, [p.effect.kind for p in self.plan.effects]
        shape = layout.out_features, layout.in_features, layout.groups, layout.sizes
        return repr((*shape, self.spec.device.pair, effects, *((self.mapping,) if self.mapping.sliced else ())))

    def in_rows(self, w: Tensor) -> Tensor:
        return self.layout.in_rows(w)

    # -- reference columns ------------------------------------------------------------------------------------
    def split(self, w: Tensor) -> Tensor:
        return self._beside(super().split(w), 1.0)

    def carrier(self, w: Tensor) -> Tensor:
        return self._beside(super().carrier(w), 0.0)

    def _beside(self, v: Tensor, level: float) -> Tensor:
        """v [tile, column, row] and the reference columns, of which every cell is at this level."""
        n = self.layout.references
        return torch.cat([v, level * self.layout.used[:, None].to(v).expand(-1, n, -1)], -2) if n else v

    def referred(self, y: Tensor) -> Tensor:
        """Converted outputs [..., columns and references] -> [..., columns]: each less its share of the reference of its tile."""
        if not self.layout.references:
            return y
        columns, reference = y.split([self.layout.columns - self.layout.references, self.layout.references], -1)
        return columns - self.reference * reference[..., self.layout.block[: columns.shape[-1]]]

    def line_factors(self, v: Tensor) -> Tensor:
        """v [tile, out] times what each slice counts, [tile, columns of all outputs], where slices are apart."""
        return torch.stack([f * v for f in self.factors], -1).flatten(1) if self.mapping.apart else v

    def joined(self, y: Tensor) -> Tensor:
        """Digital values [..., columns of all outputs] -> [..., out]: slices that are apart are added up."""
        return y if self.lines == 1 else y.unflatten(-1, (-1, self.lines)).sum(-1)

    # -- sites ------------------------------------------------------------------------------------------------
    def site(self, placed: Placed, stage: str, stream: Stream, **about: Any) -> Site:
        """What an effect knows in one stage: its place, its random numbers, what it has built, and `about` it."""
        about.setdefault("constants", self.constants.get(placed.number, {}))
        lines = self.slices if stage in ("program", "age") and not self.mapping.apart else 1
        site = Site(self.geometry_of(self.layout, lines), stream, placed.path, stage, **about)
        if placed.effect.writes("build"):
            site.module = self.built[placed.name]
        return site

    def converter_site(self, slot: str, stream: Stream) -> Site:
        """What the `dac` or the `adc` knows."""
        return Site(self.geometry, stream, draws.words(self.name, getattr(self.spec, slot).kind, 0), slot)

    def prepared(self, stream: Stream, effects: Iterable[Placed] | None = None) -> Constants:
        """The constants that effects (all by default) set for the chip or the mini-batch of a stream."""
        found: Constants = {}
        for p in self.plan.prepare if effects is None else effects:
            site = self.site(p, "prepare", stream, constants={})
            p.effect.prepare(site)
            found[p.number] = site.constants
        return found

    def on_chip(self, constants: Constants) -> TileView:
        """The same view where effects find these constants."""
        return replace(self, constants=constants)

    def renamed(self, name: str) -> TileView:
        """The same view of a layer of another name, with random numbers of its own."""
        return replace(self, name=name, plan=_plan(self.spec, name), path=draws.words("layer", name))

    def bare(self) -> TileView:
        """A copy without anything that is trained, for what others may keep."""
        layout, matrix = copy.deepcopy((self.layout, self.matrix))
        return replace(self, layout=layout, matrix=matrix, built=nn.ModuleDict())

    # -- blocks -----------------------------------------------------------------------------------------------
    def in_blocks(self, f: Callable[[slice], Tensor], effects: Iterable[Placed]) -> Tensor:
        """f(part of the outputs) -> [..., out, row] for all outputs; in blocks whose temporaries stay in the cache, where
        `effects` treat every cell alone."""
        columns = self.slices * self.matrix.columns + self.layout.references
        parts = list(blocks(columns, self.layout.row_tiles * self.layout.height, self.layout.used.device))
        if len(parts) == 1 or not self.cellwise(effects):
            return f(slice(0, columns))
        first = f(parts[0])
        out = first.new_empty(*first.shape[:-2], columns, first.shape[-1])
        out[..., parts[0], :] = first
        for part in parts[1:]:
            out[..., part, :] = f(part)
        return out

    def check(self, x: torch.Size, kind: torch.dtype) -> None:
        """Refuse inputs of another length or of integers."""
        if x[-1] != self.layout.in_features or not kind.is_floating_point:
            raise MhoError(
                f"layer {self.name!r} takes floating-point inputs of {self.layout.in_features} features, got {tuple(x)} of {kind}"
            )


def _plan(spec: TileSpec, name: str) -> Plan:
    return resolve(with_circuits(cast(tuple[Nonideality, ...], spec.nonidealities), spec.dac, spec.adc), name, spec.factor)
