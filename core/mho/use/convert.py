"""Turn a torch model into one whose layers run on analog tiles, and say what happened to every layer."""

from __future__ import annotations

import copy
import functools
import json
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from mho.config import Hardware, LayerRule, load, registry, suggest
from mho.ground import ConfigError, MhoError, Problem, Table, Tabular
from mho.layers import AnalogLayer, Placement, close_fast_paths, lost, open_fast_paths, order_projections
from mho.tile import Session, TileArray, backend_for, tile_arrays
from mho.use.chip import arrays_of, matrices

# Digital in every paper and every chip so far; they hold parameters but no matrix product with them.
DIGITAL_BY_DESIGN = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.RMSNorm,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.PReLU,
)

REFUSED = {nn.Bilinear: "a bilinear form multiplies two inputs; a crossbar multiplies one by stored weights"}

Kept = dict[str, tuple[str, str, str]]  # layers that conversion left: name -> (type, where, why)

ROOT = "(root)"  # the name of a model that is a layer itself
WASTE = 3.0  # `range_waste` from which on conversion warns


@dataclass(frozen=True)
class MatrixOnTiles:
    """How a weight matrix [out, in], or each of `groups` equal ones, lies on tiles: `down` x `across` tiles of `rows` x
    `columns` cells each. Its inputs are cut into `down` parts, its outputs and groups into `across`."""

    groups: int
    outputs: int
    inputs: int
    down: int
    across: int
    rows: int
    columns: int

    @classmethod
    def of(cls, array: TileArray) -> MatrixOnTiles:
        spec, down = array.spec, len(array.layout.sizes)
        size = array.layout.columns, array.layout.in_features // array.layout.groups
        return cls(array.layout.groups, *size, down, array.layout.tile_count // down, spec.rows, spec.columns)

    def __str__(self) -> str:
        text = f"{self.outputs}x{self.inputs}"
        return text if self.groups == 1 else f"{self.groups} of {text}"


@dataclass(frozen=True)
class Converted:
    """What became of one layer."""

    name: str
    type: str
    where: str  # analog | digital | left digital
    why: str
    tile: str = ""
    matrices: tuple[MatrixOnTiles, ...] = ()
    tiles: int = 0  # that it brought: a matrix shared with an earlier layer counts there
    parameters: int = 0
    waste: float = 1.0  # at conversion, see `range_waste`
    operations: int = 0  # digital multiply-adds of corrections, for every vector
    remarks: tuple[str, ...] = ()  # of calibration and evaluation
    beyond: tuple[str, ...] = ()  # what evaluation has found beyond ranges, see `Watch`

    @property
    def matrix(self) -> str:
        """The sizes of its matrices, out x in, for people: "64x512", "8 of 16x9" for groups."""
        return " ".join(map(str, self.matrices))

    @property
    def shown(self) -> str:
        """The name for people."""
        return self.name or ROOT

    @property
    def said(self) -> tuple[str, ...]:
        """Why it is where it is, what its corrections cost, and what was found later."""
        cost = f"{self.operations:,} digital operations a vector"
        return (self.why, *([cost] if self.operations else []), *self.remarks, *self.beyond)


class ConversionReport(Tabular, tuple[Converted, ...]):
    """One entry for every module that holds parameters. Print it for a table."""

    @property
    def analog(self) -> list[Converted]:
        """Layers whose weight matrices are on tiles."""
        return [e for e in self if e.where == "analog"]

    @property
    def left_digital(self) -> list[Converted]:
        """Layers with weights that no rule asked to keep digital, but that could not be put on tiles, or were put into the
        network later."""
        return [e for e in self if e.where == "left digital"]

    @property
    def outliers(self) -> list[Converted]:
        """Analog layers whose outlier weights waste the conductance range, see `range_waste`."""
        return [e for e in self if e.waste > WASTE]

    def as_table(self) -> Table:
        """What `print` and a notebook show."""
        head = ("layer", "type", "where", "tile", "matrix", "tiles", "parameters", "why")
        rows = [
            (e.shown, e.type, e.where, e.tile, e.matrix, str(e.tiles or ""), f"{e.parameters:,}", "; ".join(e.said)) for e in self
        ]
        share = sum(e.parameters for e in self.analog) / max(1, sum(e.parameters for e in self))
        note = f"{sum(e.tiles for e in self)} tiles; the layers on them hold {share:.1%} of the parameters"
        return Table(head, rows, note=note)

    def to_json(self) -> str:
        """A list of objects with the fields of `Converted` but `beyond`, and `matrix` for people."""
        return json.dumps([{k: v for k, v in asdict(e).items() if k != "beyond"} | {"matrix": e.matrix} for e in self])


class NothingAnalogError(MhoError):
    """No layer of a network went on tiles."""


def to_analog(model: nn.Module, hw: Hardware | str | Path, *, strict: bool = False) -> nn.Module:
    """A copy of `model` whose layers run on the analog tiles that `hw` (a `Hardware`, file or preset) describes.

    Layer rules of `hw` decide by name; everything else that can go on tiles goes on the default tile. What cannot is
    named in a warning, or in an error with `strict=True`; `conversion_report(net)` tells about every layer. A second
    warning names layers where a few outlier weights set the conductance range and the noise of all others with it:
    those whose noise would fall by a factor of 3 or more without the largest 0.5 % of their weights (`range_waste`).

    A module or parameter that is used in several places is on tiles once. Norms stay digital, and embeddings unless a
    plugin brings a layer for them. `model` itself is not changed.

    Raises `MhoError` for a model that is analog already, has nothing that can go on tiles, or has weights that are NaN,
    infinite or computed from other parameters; `ConfigError` for a rule that is about no layer.
    """
    if not isinstance(model, nn.Module):
        raise MhoError(f"model must be a torch module, got {model!r}")
    if not isinstance(hw, (Hardware, str, Path)):
        raise MhoError(f"hw must be a Hardware, a file or the name of a preset such as 'pcm.standard', got {hw!r}")
    hw = load(hw)
    if tile_arrays(model):
        raise MhoError("this model is analog already; convert the torch model it came from, or mho.to_digital(net) first")
    net, kept = _convert(_copy(model), hw)
    report = _report(net, kept)
    if not report.analog:
        raise NothingAnalogError(f"nothing in this {type(model).__name__} went on analog tiles:\n{report}")
    if report.left_digital:
        text = "left digital: " + "; ".join(f"{e.shown} ({e.type}: {e.why})" for e in report.left_digital)
        if strict:
            raise MhoError(f"{text}. Give them a rule {{match: NAME, tile: digital}}, or convert without strict=True")
        warnings.warn(text, stacklevel=2)
    if report.outliers:
        names = ", ".join(f"{e.shown} ({e.waste:.1f} times)" for e in report.outliers)
        warnings.warn(
            f"outlier weights set the conductance range and raise the noise of the others: {names}. Clip them "
            "(mapping: {clip: 2.5 sigma}), map by column, or keep the layer digital with a rule",
            stacklevel=2,
        )
    session = Session(kept, hw)
    for array in tile_arrays(net):
        array.session = session
        array.backend = backend_for(array.view, hw.precision, hw.compile)
    session.watch(net)
    return net


def _copy(model: nn.Module) -> nn.Module:
    tensors = [(name, v) for name, m in model.named_modules() for v in vars(m).values() if isinstance(v, Tensor)]
    computed = dict.fromkeys(name or ROOT for name, v in tensors if not v.is_leaf)
    if computed:  # torch cannot copy them
        raise MhoError(
            f"weights of {', '.join(computed)} are computed from other parameters (weight_norm, pruning); make them "
            "permanent first, e.g. with torch.nn.utils.remove_weight_norm or prune.remove"
        )
    return copy.deepcopy(model)


def conversion_report(net: nn.Module) -> ConversionReport:
    """Where every layer of `net` is now, and why; layers that were exchanged since the conversion are as they are, and what
    calibration or evaluation have found (no data, no forward that entered a layer) stands beside.

    Raises `MhoError` for a network without analog layers.
    """
    return _report(net, arrays_of(net)[0].session.report or {})


def remark(net: nn.Module, who: str, arrays: set[str], text: str, warning: str = "") -> None:
    """Let the report say `text` of the layers with tile arrays of these names, in place of what `who` said before; with a
    `warning` (to whoever called the caller) that has their names in place of {}."""
    found: list[str] = []
    for name, layer in net.named_modules():
        if isinstance(layer, AnalogLayer):
            layer.placement.remarks.pop(who, None)
            own = [a.name for a in layer.arrays().values()]
            if missed := [a for a in own if a in arrays]:
                some = len(missed) < len(own)  # of its matrices: these are named
                layer.placement.remarks[who] = f"{', '.join(missed)}: {text}" if some else text
                found += missed if some else [name or ROOT]
    if found and warning:
        warnings.warn(warning.format(", ".join(found)), stacklevel=3)


def to_digital(net: nn.Module) -> nn.Module:
    """A copy of `net` with torch's layers in place of those on tiles: what the tiles held becomes the weights (quantised
    ones stay so), and learned output scales and adapters are folded into them."""
    net = copy.deepcopy(net)
    for array in tile_arrays(net):
        array.session.unwatch()
    open_fast_paths(net)
    keep_stored(net)
    _untie(net, lambda array: bool((array.output_factor() != 1).any()) or any(c.adds for c in array.corrections))
    return _replace(net, {id(m): m.to_torch() for m in net.modules() if isinstance(m, AnalogLayer)})


def keep_stored(net: nn.Module) -> None:
    """Make what is written to tiles the weights of their layers, in place, and take the quantisers of tiles off."""
    _untie(net, lambda array: array.weight_quantiser is not None)
    for array, matrix in matrices(net):
        array.unquantise_(matrix)


def _untie(net: nn.Module, changes: Callable[[TileArray], bool]) -> None:
    """Layers whose weight is about to change get one of their own where a digital module (an embedding) shares it; what
    layers on tiles share among themselves they go on sharing."""
    digital = [m for m in net.modules() if not isinstance(m, AnalogLayer)]
    theirs = {id(p) for m in digital for p in m.parameters(recurse=False)}
    own: dict[int, nn.Parameter] = {}
    for layer in net.modules():
        if not isinstance(layer, AnalogLayer) or not any(map(changes, layer.arrays().values())):
            continue
        for name, p in layer._parameters.items():
            if p is not None and id(p) in theirs:
                layer._parameters[name] = own.setdefault(id(p), nn.Parameter(p.detach().clone(), requires_grad=p.requires_grad))


class Holder:
    """A module that holds parameters of its own, and what can become of it."""

    def __init__(self, name: str, module: nn.Module, classes: tuple[type[AnalogLayer], ...]) -> None:
        self.name, self.module = name, module
        self.own = list(module.parameters(recurse=False))
        self.cls = next((c for c in classes if c.takes(module)), None)  # which can replace it
        self.about = name, type(module).__name__, _count(self.own)  # what rules ask for
        kind = module.torch_class if isinstance(module, AnalogLayer) else type(module)
        self.type = f"nn.{kind.__name__}" if kind.__module__.startswith("torch.nn") else kind.__name__  # for people
        # An attention that is digital reads the weight of its projection directly: both stay together.
        self.with_parts = isinstance(module, nn.MultiheadAttention) and not isinstance(module, AnalogLayer)

    @functools.cached_property
    def stays(self) -> tuple[str, str] | None:
        """(where, why), or None if it can go on tiles."""
        if self.cls is None and isinstance(self.module, DIGITAL_BY_DESIGN):
            return "digital", "by design"
        if any(nn.parameter.is_lazy(p) for p in self.own):
            return "left digital", "its shape is not known yet; run one batch through the model before converting"
        if self.cls is None and not any(p.dim() > 1 for p in self.own):
            return "digital", "holds no weight matrix"
        if self.cls is None:
            refused = (why for kind, why in REFUSED.items() if isinstance(self.module, kind))
            return "left digital", next(refused, "no analog layer for this type")
        if nn.utils.parametrize.is_parametrized(self.module):
            return "left digital", "its weight is parametrized; remove_parametrizations first"
        if any(not p.is_floating_point() for p in self.own):
            return "left digital", f"its weights are {self.own[0].dtype}; tiles hold real numbers"
        lacks = lost(self.module, self.cls) or self.cls.refuses(self.module)
        return ("left digital", lacks) if lacks else None


def _holders(net: nn.Module) -> list[Holder]:
    """In the order of the model; what tiles hold for themselves is left out. Where the layers known so far leave a matrix
    digital, every installed plugin is asked whether it has one for it."""
    inside = {m for array in tile_arrays(net) for m in array.modules()}
    holders: list[Holder] = []
    registry.load(registry.CORE)
    for everywhere in (False, True):
        classes = cast(tuple[type[AnalogLayer], ...], registry.provided("layer", everywhere=everywhere))
        found = [Holder(name, m, classes) for name, m in net.named_modules() if m not in inside]
        holders = [h for h in found if h.own]
        if all(h.cls or all(nn.parameter.is_lazy(p) or p.dim() < 2 for p in h.own) for h in holders):
            break
    return holders


def _convert(net: nn.Module, hw: Hardware) -> tuple[nn.Module, Kept]:
    """Decide about every module of `net`, then exchange those that go on tiles."""
    holders = _holders(net)
    kept: Kept = {}
    new: dict[int, nn.Module] = {}
    names: list[str] = []
    matched: set[int] = set()
    closed: set[nn.Module] = set()
    shared: dict[Any, TileArray] = {}
    chosen = [set(_chosen_by(rule, holders)) for rule in hw.layers]
    for h in holders:
        if h.module in closed:
            continue
        names.append(h.name)
        rules = [i for i, those in enumerate(chosen) if h in those]
        matched.update(rules)
        rule = rules[0] if rules else None
        tile, decided = (hw.default, "default") if rule is None else (hw.layers[rule].tile, f"rule {hw.layers[rule].match!r}")
        stays = ("digital", decided) if tile == "digital" else h.stays
        if stays is not None:
            kept[h.name] = (h.type, *stays)
            closed.update(h.module.modules() if h.with_parts else ())
            continue
        assert h.cls is not None
        if not all(p.is_meta or p.isfinite().all() for p in h.own):
            raise MhoError(f"layer {h.name or ROOT} of this model has weights that are NaN or infinite")
        layer = new[id(h.module)] = h.cls.from_torch(h.module, hw.tile(tile), hw.training_of(rule), h.name, shared)
        layer.placement = Placement(tile, decided, range_waste(layer))
    _refuse_idle_rules(hw, matched, names)
    net = _replace(net, new)
    close_fast_paths(net)
    order_projections(net)
    return net, kept


def _chosen_by(rule: LayerRule, holders: list[Holder]) -> list[Holder]:
    """What a rule is about: everything that it matches, or the first or last of that which can go on tiles (R003-26)."""
    matched = [h for h in holders if rule.matches(*h.about)]
    if rule.position is None:
        return matched
    layers = [h for h in matched if h.stays is None]
    return layers[:1] if rule.position == "first" else layers[-1:]


def _report(net: nn.Module, kept: Kept) -> ConversionReport:
    """The entry of every layer as it is; `kept` says why those of the same name and type stayed digital."""
    entries: list[Converted] = []
    counted: set[TileArray] = set()
    closed: set[nn.Module] = set()
    for h in _holders(net):
        module = h.module
        if isinstance(module, AnalogLayer):
            about, arrays = module.placement, module.arrays().values()
            each = set(arrays)
            matrices = tuple(map(MatrixOnTiles.of, arrays))
            tiles = sum(a.layout.tile_count for a in each - counted)
            operations = sum(c.operations for a in each for c in a.corrections)
            facts = about.why, about.tile, matrices, tiles, _count(h.own), about.waste, operations
            beyond = tuple(dict.fromkeys(text for a in arrays for text in a.watch.texts()))
            entries.append(Converted(h.name, h.type, "analog", *facts, tuple(about.remarks.values()), beyond))
            counted |= each
        elif module not in closed:
            size = _count(module.parameters(recurse=h.with_parts))
            before, *told = kept.get(h.name, ("",))
            where, why = told if before == h.type else h.stays or ("left digital", "put there after the conversion")
            entries.append(Converted(h.name, h.type, where, why, parameters=size))
            closed.update(module.modules() if h.with_parts else ())
    return ConversionReport(entries)


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(0 if nn.parameter.is_lazy(p) else p.numel() for p in parameters)


@torch.no_grad()
def range_waste(layer: AnalogLayer) -> float:
    """How much less noise the matrices of a layer would have if their outliers were clipped: the largest, over the
    matrices, of rms(gamma) / rms(gamma'), gamma' of the same mapping after clipping the largest 0.5 % of each row tile
    (at less than 200 weights, none).

    Noise on a weight is proportional to its gamma, so this is the factor by which outliers raise the error of an MVM.
    Gaussian weights reach 1.7 with one gamma per 512 x 512 tile and stay below 1.3 with one per column.
    """
    waste = [1.0]
    for array, matrix in layer.matrices():
        if matrix.is_meta or not matrix.numel():
            continue
        w, used = array.layout.cut_weight(matrix.detach()), array.layout.occupied[:, None]
        few = (array.layout.occupied * array.layout.columns * 0.005).long()  # [tile]
        limit = w.abs().flatten(1).topk(int(few.max()) + 1).values.gather(1, few[:, None])[..., None]
        clipped = array.view.mapping.gamma(w.clamp(-limit, limit), array.view.geometry_of(array.layout))
        waste.append(float(((array.gamma**2 * used).sum() / (clipped**2 * used).sum()).sqrt()))
    return max(waste)


def _replace(net: nn.Module, new: dict[int, nn.Module]) -> nn.Module:
    """`net` with the modules whose id is a key exchanged, wherever and however often they are used."""
    for parent in [*net.modules(), *new.values()]:
        for name, child in parent._modules.items():
            if id(child) in new:
                parent._modules[name] = new[id(child)]
    return new.get(id(net), net)


def _refuse_idle_rules(hw: Hardware, matched: set[int], names: list[str]) -> None:
    """Every rule must be about a layer: each that is not is shown where it is written."""
    problems = []
    for i, rule in enumerate(hw.layers):
        if i in matched:
            continue
        conditions = rule.model_dump(exclude={"tile"}, exclude_none=True)
        text = f"called {rule.match!r}"
        if len(conditions) > 1:
            text = "there with all of " + ", ".join(f"{k}: {v}" for k, v in conditions.items())
        hint = suggest(rule.match, (n or ROOT for n in names), "layers of this model")
        problems.append(Problem(hw.mark_of_rule(i), f"layers[{i}]", f"no layer is {text}; {hint}"))
    if problems:
        raise ConfigError(problems)
