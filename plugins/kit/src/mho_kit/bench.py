"""The bench on which the checks put a part: a small uneven tile, sites as the core makes them, the same inputs always."""

import unittest
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn

import torch
from mho_fast import Precision, Route
from torch import Tensor, nn

from mho.config import Field, Hardware, parse
from mho.effects import TABLE, Adc, Dac, Geometry, Nonideality, Per, Site, Stream, draws, product
from mho.tile import tile_arrays
from mho.use import Tile, to_analog

# 17 inputs on tiles of at most 7 rows are 6 + 6 + 5: the third is padded. 10 outputs are 3 blocks of columns.
OUTPUTS, INPUTS, VECTORS = 10, 17, 6
TILE: dict[str, Any] = {"rows": 7, "columns": 4, "dac": {"bits": 8, "range": 1.0}, "adc": {"bits": None, "bound": 10.0}}
PER_VECTOR = ("input", "mvm", "accumulate", "output")
OF_DEVICES = ("program", "age")  # stages that see conductances


def skip(reason: str) -> NoReturn:
    """Leave a check that does not apply to this part."""
    raise unittest.SkipTest(reason)


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Torch's generator at `seed`, and no warnings; afterwards the generator is where it was."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        yield


@dataclass
class Recorder(Site):
    """A site that takes down how often the draws asked of it change."""

    asked: list[str] = field(default_factory=list)

    def randn_like(self, t: Tensor, per: Per | None = None, name: str = "") -> Tensor:
        self.asked.append(per or TABLE[self.stage].per)
        return super().randn_like(t, per, name)

    def rand_like(self, t: Tensor, per: Per | None = None, name: str = "") -> Tensor:
        self.asked.append(per or TABLE[self.stage].per)
        return super().rand_like(t, per, name)


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
    """Everything a check needs around one part.

    weight    [out, in] and `x` [vector, in] of a layer
    geometry  of its tiles
    w, g      what is to be written to them: normalised weights [tile, out, row], conductances [dev, tile, out, row] in µS
    """

    def __init__(self, tile: str = "", dtype: torch.dtype = torch.float64, precision: Precision = "auto") -> None:
        self.changes = parse(tile, "tile").data if tile.strip() else {}
        self.dtype, self.precision = dtype, precision
        self.weight = self.random(OUTPUTS, INPUTS, number=1) * 0.3
        self.x = self.random(VECTORS, INPUTS, number=2)
        made = self.tile()
        self.spec, self.geometry = made.tiles.spec, made.tiles.view.geometry
        self.w = made.program(seed=0).tiles.chip.target.to(dtype)
        pair = self.spec.device.pair
        self.g = self.spec.mapping.conductances(self.w, pair, self.geometry)
        self.on_tiles = self.spec.mapping.weights(self.g, self.w.sign(), pair, self.geometry)

    def random(self, *shape: int, number: int) -> Tensor:
        """U(-1, 1), the same on every call."""
        return (2 * torch.rand(shape, generator=torch.Generator().manual_seed(number), dtype=torch.float64) - 1).to(self.dtype)

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
        torch.manual_seed(3)
        model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3))
        return to_analog(model.to(self.dtype), self.hardware(*effects, tile=tile, **training))

    def images(self) -> Tensor:
        return self.random(VECTORS, 2, 4, 4, number=4)

    # -- single stages ----------------------------------------------------------------------------------------
    def arguments(self, stage: str, leading: tuple[int, ...] = ()) -> tuple[Tensor, ...]:
        """What the core passes to a stage, time and site left out; `leading` axes follow the vectors."""
        used = self.geometry.rows.used
        x, w = self.random(VECTORS, *leading, *used.shape, number=2) * used.to(self.dtype), self.on_tiles
        match stage:
            case "program" | "age":
                return (self.g,)
            case "fold" | "read":
                return (w,)
            case "input" | "passes":
                return (x,)
            case "mvm":
                return x, w
            case "accumulate":
                return product(x, w), x, w
        return (product(x, w),)

    def built(self, effect: Nonideality, layer: str = "layer") -> nn.Module:
        """What the effect learns in this layer, as the core asks for it."""
        path = draws.words(layer, effect.kind, 0)
        key = draws.fold_words(draws.key("build"), path)
        return effect.build(Site(self.geometry, Stream(key, key), path, "build"))

    def site(
        self,
        effect: Nonideality,
        stage: str,
        chip: int = 0,
        *,
        t: float = 0.0,
        layer: str = "layer",
        target: Tensor | None = None,
    ) -> Recorder:
        """A site as the core makes it for chip number `chip`; constants are prepared."""
        target = self.g if target is None else target
        geometry = on_device(self.geometry, target.device)
        path, stream = draws.words(layer, effect.kind, 0), _stream(chip, layer, t)
        module = None
        if effect.writes("build"):
            module = self.teach(self.built(effect, layer).to(device=target.device, dtype=self.dtype))
        prepared = Site(geometry, stream, path, "prepare", module=module)
        effect.prepare(prepared)
        devices = {"target": target if stage in OF_DEVICES else None, "programmed": target if stage == "age" else None}
        return Recorder(geometry, stream, path, stage, **devices, constants=prepared.constants, module=module)

    def converter_site(
        self, part: Dac | Adc, chip: int = 0, *, call: int = 0, vectors: int = VECTORS, device: str = "cpu"
    ) -> Recorder:
        """A site as the core makes it for the converters of chip number `chip`."""
        geometry = on_device(self.geometry, torch.device(device))
        return Recorder(geometry, _stream(chip, "layer", 0.0, call, vectors), draws.words("layer", part.kind, 0), part.CATEGORY)

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
        if stage in OF_DEVICES:
            where.setdefault("target", values[0])
        site = site or self.site(effect, stage, chip, t=t, **where)
        if stage == "mvm":
            return effect.mvm(*values, site)
        if stage == "passes":
            return torch.stack(effect.passes(values[0], site)).sum(0)
        return effect.apply(stage, values[0], *((t,) if stage == "age" else values[1:]), site)

    def asks(self, effect: Nonideality) -> dict[str, list[str]]:
        """stage -> how often each of its draws changes."""
        sites = {stage: self.site(effect, stage, t=3600.0) for stage in effect.stages()}
        for stage, site in sites.items():
            self.call(effect, stage, site=site)
        return {stage: site.asked for stage, site in sites.items()}


def _stream(chip: int, layer: str, t: float, call: int = 0, vectors: int = VECTORS) -> Stream:
    """The keys of a layer call on a chip at t seconds, whose vectors are samples."""
    key = draws.fold_words(draws.key("chip", chip), draws.words("layer", layer))
    return Stream(key, draws.fold(key, "call", t, call), t).of_sample(0, vectors)


def on_device(geometry: Geometry, device: torch.device | str) -> Geometry:
    """A geometry whose tensors are on that device."""
    rows = type(geometry.rows)(*(v.to(device) for v in geometry.rows))
    return geometry._replace(rows=rows, blocks=geometry.blocks.to(device))


# -- what the checks look at inside of a tile -----------------------------------------------------------------------
def weights(tile: Tile) -> Tensor:
    """What the conductances are now, [tile, out, row]; 1 = the mapped range."""
    return tile.tiles.chip.weights


def routes_of(net: nn.Module) -> list[Route]:
    """How the matrices of a network are simulated."""
    return [array.backend.route for array in tile_arrays(net)]


def route_of(tile: Tile) -> Route:
    return routes_of(tile)[0]
