"""The bench on which the checks put an effect: a small uneven tile, sites as the core makes them, the same inputs always."""

from __future__ import annotations

import unittest
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn

from mho.config import Field, Hardware, parse
from mho.effects import STAGES, TABLE, Adc, Dac, Geometry, Nonideality, Per, Site, Stream, draws, product
from mho.fast import Precision
from mho.tile import resolve, stream_of
from mho.use import Tile

# 17 inputs on tiles of at most 7 rows are 6 + 6 + 5: the third is padded. 10 outputs are 3 blocks of columns.
OUTPUTS, INPUTS, VECTORS = 10, 17, 6
TILE: dict[str, Any] = {"rows": 7, "columns": 4, "dac": {"bits": 8, "range": 1.0}, "adc": {"bits": None, "bound": 10.0}}
PER_VECTOR = tuple(s for s in STAGES if TABLE[s].per == "vector" and s != "passes")  # of one value each


def skip(reason: str) -> NoReturn:
    """Leave a check that does not apply to this effect."""
    raise unittest.SkipTest(reason)


@dataclass
class Recorder(Site):
    """A site that takes down how often the draws asked of it change."""

    asked: list[str] = field(default_factory=list)

    def _rows(self, t: Tensor, per: Per | None, name: str) -> tuple[Tensor, Tensor]:
        self.asked.append(per or TABLE[self.stage].per)
        return super()._rows(t, per, name)


class Witness(Nonideality, kind="witness.noise"):
    """Draws at every kind of stage: shows whether the draws of a neighbour change."""

    source: ClassVar[str] = "mho"
    cellwise = True
    size: float = Field(0.01, ge=0, unit="1", description="relative size")

    def program(self, g: Tensor, site: Site) -> Tensor:
        return g * (1 + self.size * site.randn_like(g))

    def age(self, g: Tensor, t: float, site: Site) -> Tensor:
        return g * (1 + self.size * site.randn_like(g))

    def read(self, w: Tensor, site: Site) -> Tensor:
        return w * (1 + self.size * site.randn_like(w))

    def variance(self, site: Site, **sides: Tensor) -> float:
        return self.size**2


class Bench:
    """Everything a check needs around one part."""

    def __init__(self, tile: str = "", dtype: torch.dtype = torch.float64, precision: Precision = "auto") -> None:
        self.changes = parse(tile, "tile").data if tile.strip() else {}
        self.dtype, self.precision = dtype, precision
        self.weight = self.random(OUTPUTS, INPUTS, number=1) * 0.3
        self.x = self.random(VECTORS, INPUTS, number=2)
        self.array = self.tile().tiles

    def random(self, *shape: int, number: int) -> Tensor:
        """U(-1, 1), the same on every call."""
        draws = torch.rand(shape, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
        return (2 * draws - 1).to(self.dtype)

    # -- tiles ------------------------------------------------------------------------------------------------
    def hardware(self, *effects: Nonideality, tile: dict[str, Any] | None = None, **training: Any) -> Hardware:
        spec = {**TILE, **self.changes, **(tile or {}), "nonidealities": effects}
        about = {"tiles": {"t": spec}, "training": training, "precision": self.precision, "times": (1.0,)}
        return Hardware.model_validate({"mho": 1, "default": "t", **about})

    def tile(self, *effects: Nonideality, tile: dict[str, Any] | None = None, **training: Any) -> Tile:
        """The bench's matrix on tiles, in eval, without a chip."""
        made = Tile(self.weight, self.hardware(*effects, tile=tile, **training))
        self.teach(made.tiles.built)
        return made

    def teach(self, module: nn.Module) -> nn.Module:
        """Move what an effect learns away from where it starts, which is often where it does nothing."""
        with torch.no_grad():
            for k, p in enumerate(module.parameters()):
                p.add_(0.3 * self.random(*p.shape, number=20 + k).to(p.device, p.dtype))
        return module

    def network(self, *effects: Nonideality, tile: dict[str, Any] | None = None, **training: Any) -> nn.Module:
        """A converted convolution and a linear layer."""
        from mho.use import to_analog

        torch.manual_seed(3)
        model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3))
        return to_analog(model.to(self.dtype), self.hardware(*effects, tile=tile, **training))

    def images(self) -> Tensor:
        return self.random(VECTORS, 2, 4, 4, number=4)

    # -- single stages ----------------------------------------------------------------------------------------
    def target(self) -> Tensor:
        """µS [dev, tile, out, row]"""
        return self.array.view.target(self.array.normalised(self.weight))

    def arguments(self, stage: str, leading: tuple[int, ...] = (), dtype: torch.dtype | None = None) -> tuple[Any, ...]:
        """What the core passes to a stage, the site left out; `leading` axes follow the vectors."""
        dtype = dtype or self.dtype
        w = self.array.view.weights(self.target(), self.array.normalised(self.weight)).to(dtype)
        x = self.array.layout.cut(self.random(VECTORS, *leading, INPUTS, number=2)).to(dtype)
        tensors = {"g": self.target(), "w": w, "x": x, "y": product(x, w)}
        return tuple(tensors[t].to(dtype) for t in TABLE[stage].takes)

    def site(
        self,
        effect: Nonideality,
        stage: str,
        chip: int = 0,
        *,
        t: float = 0.0,
        layer: str = "layer",
        call: int = 0,
        target: Tensor | None = None,
    ) -> Recorder:
        """A site as the core makes it for chip number `chip`; constants are prepared."""
        target = self.target() if target is None else target
        geometry = on_device(self.array.view.geometry, target.device)
        path = resolve((effect,), layer).effects[0].path
        key = draws.fold_words(draws.key("chip", chip), draws.words("layer", layer))
        prepared = Site(geometry, Stream(key, key), path, "prepare")
        module = None
        if effect.writes("build"):
            first = draws.fold_words(draws.key("build"), path)
            module = effect.build(Site(geometry, Stream(first, first), path, "build"))
            prepared.module = module = self.teach(module.to(device=target.device, dtype=self.dtype))
        effect.prepare(prepared)
        stream = stream_of(key, draws.fold(key, "call", t, call), t, VECTORS, samples=VECTORS)
        return Recorder(
            geometry,
            stream,
            path,
            stage,
            target=target if stage in ("program", "age") else None,
            programmed=target if stage == "age" else None,
            constants=prepared.constants,
            module=module,
        )

    def converter_site(self, converter: Dac | Adc, chip: int = 0, *, call: int = 0, device: str = "cpu") -> Recorder:
        """A site as the core makes it for the converters of chip number `chip`."""
        key = draws.fold_words(draws.key("chip", chip), draws.words("layer", "layer"))
        stream = stream_of(key, draws.fold(key, "call", 0.0, call), 0.0, VECTORS, samples=VECTORS)
        geometry = on_device(self.array.view.geometry, torch.device(device))
        return Recorder(geometry, stream, draws.words("layer", converter.kind, 0), converter.CATEGORY)

    def call(
        self,
        effect: Nonideality,
        stage: str,
        chip: int = 0,
        *,
        arguments: tuple[Tensor, ...] | None = None,
        t: float = 3600.0,
        site: Site | None = None,
        **where: Any,
    ) -> Tensor:
        """One stage of the effect, strength mixed in, as the core calls it."""
        values = self.arguments(stage) if arguments is None else arguments
        if stage in ("program", "age"):
            where.setdefault("target", values[0])
        site = site or self.site(effect, stage, chip, t=t, **where)
        if stage == "mvm":
            x, w = values
            return effect.mvm(x, w, site)
        if stage == "passes":
            return torch.stack(effect.passes(values[0], site)).sum(0)
        return effect.apply(stage, values[0], *((t,) if stage == "age" else values[1:]), site)

    def asks(self, effect: Nonideality) -> dict[str, list[str]]:
        """stage -> how often each of its draws changes."""
        sites = {stage: self.site(effect, stage, t=3600.0) for stage in effect.stages()}
        for stage, site in sites.items():
            self.call(effect, stage, site=site)
        return {stage: site.asked for stage, site in sites.items()}


def on_device(geometry: Geometry, device: torch.device) -> Geometry:
    """A geometry whose tensors are on that device."""
    rows = type(geometry.rows)(*(v.to(device) for v in geometry.rows))
    return geometry._replace(rows=rows, blocks=geometry.blocks.to(device))
