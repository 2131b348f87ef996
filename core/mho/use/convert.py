"""Turn a torch model into one whose layers run on analog tiles, and say what happened to every layer."""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections.abc import Callable, Container, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from mho.config import Hardware, load, registry, suggest
from mho.fast.backend import make_fast
from mho.ground import ConfigError, MhoError, Problem, html_table, table
from mho.layers import AnalogLayer, Placement, close_fast_paths, lost, open_fast_paths, order_projections
from mho.tile import Session, TileArray, tile_arrays
from mho.use.chip import matrices

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

    @property
    def matrix(self) -> str:
        """The sizes of its matrices, out x in, for people: "64x512", "8 of 16x9" for groups."""
        return " ".join(map(str, self.matrices))


class ConversionReport(tuple[Converted, ...]):
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

    def __str__(self) -> str:
        head, rows, note = self._table()
        return f"{table(head, rows)}\n{note}"

    def _repr_html_(self) -> str:
        head, rows, note = self._table()
        return html_table(head, rows, note=note)

    def _table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]], str]:
        head = ("layer", "type", "where", "tile", "matrix", "tiles", "parameters", "why")
        rows: list[tuple[str, ...]] = [
            (shown(e), e.type, e.where, e.tile, e.matrix, str(e.tiles or ""), f"{e.parameters:,}", why)
            for e in self
            for digital in ((f"{e.operations:,} digital operations a vector",) if e.operations else (),)
            for why in ("; ".join((e.why, *digital, *e.remarks)),)
        ]
        share = sum(e.parameters for e in self.analog) / max(1, sum(e.parameters for e in self))
        return head, rows, f"{sum(e.tiles for e in self)} tiles; the layers on them hold {share:.1%} of the parameters"

    def to_json(self) -> str:
        """A list of objects with the fields of `Converted`, and `matrix` for people."""
        return json.dumps([{**asdict(e), "matrix": e.matrix} for e in self])


def shown(e: Converted) -> str:
    return e.name or "(root)"


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
        raise MhoError(f"nothing in this {type(model).__name__} went on analog tiles:\n{report}")
    if report.left_digital:
        text = "left digital: " + "; ".join(f"{shown(e)} ({e.type}: {e.why})" for e in report.left_digital)
        if strict:
            raise MhoError(f"{text}. Give them a rule {{match: NAME, tile: digital}}, or convert without strict=True")
        warnings.warn(text, stacklevel=2)
    if report.outliers:
        names = ", ".join(f"{shown(e)} ({e.waste:.1f} times)" for e in report.outliers)
        warnings.warn(
            f"outlier weights set the conductance range and raise the noise of the others: {names}. Clip them "
            "(mapping: {clip: 2.5 sigma}), map by column, or keep the layer digital with a rule",
            stacklevel=2,
        )
    session = Session(kept, hw)
    for array in tile_arrays(net):
        array.session = session
        make_fast(array, hw.precision, hw.compile)
    session.watch(net)
    return net


def _copy(model: nn.Module) -> nn.Module:
    computed = [
        name or "(root)"
        for name, m in model.named_modules()
        if any(isinstance(v, Tensor) and not v.is_leaf for v in vars(m).values())
    ]
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
    arrays = tile_arrays(net)
    if not arrays:
        raise MhoError("this model has no analog layers; convert it first: net = mho.to_analog(model, hw)")
    return _report(net, arrays[0].session.report or {})


def remark(net: nn.Module, who: str, arrays: set[str], text: str, warning: str = "") -> None:
    """Let the report say `text` of the layers with tile arrays of these names, in place of what `who` said before; with a
    `warning` (to whoever called the caller) that has their names in place of {}."""
    found = []
    for name, layer in net.named_modules():
        if isinstance(layer, AnalogLayer):
            layer.placement.remarks.pop(who, None)
            if arrays & {a.name for a in layer.arrays().values()}:
                layer.placement.remarks[who] = text
                found.append(name or "(root)")
    if found and warning:
        warnings.warn(warning.format(", ".join(found)), stacklevel=3)


def to_digital(net: nn.Module) -> nn.Module:
    """A copy of `net` with torch's layers in place of those on tiles: what the tiles held becomes the weights (quantised
    ones stay so), and learned output scales are folded into them."""
    net = copy.deepcopy(net)
    for array in tile_arrays(net):
        array.session.unwatch()
    open_fast_paths(net)
    keep_stored(net)
    _untie(net, lambda array: bool((array.output_factor() != 1).any()))
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
                fresh = nn.Parameter(p.detach().clone(), requires_grad=p.requires_grad)
                layer._parameters[name] = own.setdefault(id(p), fresh)


def _convert(net: nn.Module, hw: Hardware) -> tuple[nn.Module, Kept]:
    """Decide about every module of `net`, then exchange those that go on tiles."""
    classes = layer_classes()
    kept: Kept = {}
    new: dict[int, nn.Module] = {}
    names: list[str] = []
    matched: set[int] = set()
    shared: dict[Any, TileArray] = {}
    rules = _placed(hw, net, classes)
    for name, module in _holding_parameters(net, new):
        own = list(module.parameters(recurse=False))
        size, kind = _count(own), type(module).__name__
        names.append(name)
        matched.update(i for i, rule in enumerate(rules.layers) if rule.matches(name, kind, size))
        tile, rule = rules.rule_for(name, kind, size)
        cls = next((c for c in classes if c.takes(module)), None)
        decided = "default" if rule is None else f"rule {hw.layers[rule].match!r}"
        stays = ("digital", decided) if tile == "digital" else _not_analog(module, cls, own)
        if stays is not None:
            kept[name] = (_type_name(type(module)), *stays)
            continue
        assert cls is not None
        if not all(p.is_meta or p.isfinite().all() for p in own):
            raise MhoError(f"layer {name or '(root)'} of this model has weights that are NaN or infinite")
        layer = new[id(module)] = cls.from_torch(module, hw.tile(tile), hw.training_of(rule), name, shared)
        layer.placement = Placement(tile, decided, range_waste(layer))
    _refuse_idle_rules(hw, matched, names)
    net = _replace(net, new)
    close_fast_paths(net)
    order_projections(net)
    return net, kept


def _holding_parameters(net: nn.Module, new: Container[int] = ()) -> Iterator[tuple[str, nn.Module]]:
    """Every module with parameters of its own, but neither the tiles of analog layers nor the projection of an attention
    that is digital (not one of `new`, by id): it reads the weight directly."""
    closed: tuple[str, ...] = ()  # starts of names
    for name, module in net.named_modules():
        inside = f"{name}." if name else ""
        if inside.startswith(closed):
            continue
        if isinstance(module, AnalogLayer):
            closed += (f"{inside}tiles.",)
        if any(True for _ in module.parameters(recurse=False)):
            yield name, module
            if _is_digital_attention(module) and id(module) not in new:
                closed += (inside,)


def _is_digital_attention(module: nn.Module) -> bool:
    return isinstance(module, nn.MultiheadAttention) and not isinstance(module, AnalogLayer)


def _report(net: nn.Module, kept: Kept) -> ConversionReport:
    """The entry of every layer as it is; `kept` says why those of the same name and type stayed digital."""
    classes = layer_classes()
    entries: list[Converted] = []
    counted: set[TileArray] = set()
    for name, module in _holding_parameters(net):
        own = list(module.parameters(recurse=False))
        if isinstance(module, AnalogLayer):
            kind = module.torch_type if module.made_of is None else module.made_of[1]
            arrays, about = dict.fromkeys(module.arrays().values()), module.placement
            matrices = tuple(MatrixOnTiles.of(a) for a in module.arrays().values())
            tiles = sum(a.layout.tile_count for a in arrays if a not in counted)
            operations = sum(c.operations for a in arrays for c in a.corrections)
            facts = about.why, about.tile, matrices, tiles, _count(own), about.waste, operations
            entries.append(Converted(name, _type_name(kind), "analog", *facts, tuple(about.remarks.values())))
            counted.update(arrays)
            continue
        kind = type(module)
        before, where, why = kept.get(name, ("", "", ""))
        if before != _type_name(kind):
            cls = next((c for c in classes if c.takes(module)), None)
            where, why = _not_analog(module, cls, own) or ("left digital", "put there after the conversion")
        size = _count(list(module.parameters()) if _is_digital_attention(module) else own)
        entries.append(Converted(name, _type_name(kind), where, why, parameters=size))
    return ConversionReport(entries)


def layer_classes() -> tuple[type[AnalogLayer], ...]:
    return cast(tuple[type[AnalogLayer], ...], registry.layer_classes())


def _placed(hw: Hardware, net: nn.Module, classes: tuple[type[AnalogLayer], ...]) -> Hardware:
    """`hw` with the layer's own name in place of every rule about the first or the last of several layers (R003-26)."""
    layers: list[tuple[str, str, int]] = []
    for name, module in net.named_modules():
        own = list(module.parameters(recurse=False))
        cls = next((c for c in classes if c.takes(module)), None) if own else None
        if cls is not None and _not_analog(module, cls, own) is None:
            layers.append((name, type(module).__name__, _count(own)))
    rules = []
    for rule in hw.layers:
        if rule.position is not None:
            about = [layer[0] for layer in layers if rule.matches(*layer)]
            name = re.escape(about[0 if rule.position == "first" else -1]) if about else "(?!)"  # which matches nothing
            rule = rule.model_copy(update={"match": f"re:{name}"})  # noqa: PLW2901
        rules.append(rule)
    return hw.model_copy(update={"layers": tuple(rules)})


def _not_analog(module: nn.Module, cls: type[AnalogLayer] | None, own: list[nn.Parameter]) -> tuple[str, str] | None:
    """(where it stays, why), or None if `cls` can replace the module."""
    if cls is None and isinstance(module, DIGITAL_BY_DESIGN):
        return "digital", "by design"
    if any(nn.parameter.is_lazy(p) for p in own):
        return "left digital", "its shape is not known yet; run one batch through the model before converting"
    if cls is None:
        matrix = any(p.dim() > 1 for p in own)
        reason = next((text for kind, text in REFUSED.items() if isinstance(module, kind)), "no analog layer for this type")
        return ("left digital", reason) if matrix else ("digital", "holds no weight matrix")
    if nn.utils.parametrize.is_parametrized(module):
        return "left digital", "its weight is parametrized; remove_parametrizations first"
    if any(not p.is_floating_point() for p in own):
        return "left digital", f"its weights are {own[0].dtype}; tiles hold real numbers"
    lacks = lost(module, cls) or cls.refuses(module)
    return ("left digital", lacks) if lacks else None


def _count(parameters: list[nn.Parameter]) -> int:
    return sum(0 if nn.parameter.is_lazy(p) else p.numel() for p in parameters)


@torch.no_grad()
def range_waste(layer: AnalogLayer) -> float:
    """How much less noise the matrices of a layer would have if their outliers were clipped: the largest, over the
    matrices, of rms(gamma) / rms(gamma'), gamma' of the same mapping after clipping the largest 0.5 % of each row tile
    (at less than 200 weights, none).

    Noise on a weight is proportional to its gamma, so this is the factor by which outliers raise the error of an MVM.
    Gaussian weights reach 1.7 with one gamma per 512 x 512 tile and stay below 1.3 with one per column.
    """
    return max(_waste(array, matrix.detach()) for array, matrix in layer.matrices())


def _waste(array: TileArray, matrix: Tensor) -> float:
    if matrix.is_meta or not matrix.numel():
        return 1.0
    w = array.layout.cut_weight(matrix)
    size = w.abs().flatten(1)
    count = (array.layout.occupied * array.layout.columns * 0.005).long()  # [tile]
    limit = size.topk(int(count.max()) + 1).values.gather(1, count[:, None])[..., None]
    clipped = array.view.mapping.gamma(w.clamp(-limit, limit), array.view.geometry)
    n = array.layout.occupied[:, None]
    return float(((array.gamma**2 * n).sum() / (clipped**2 * n).sum()).sqrt())


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
    for i in (i for i in range(len(hw.layers)) if i not in matched):
        conditions = {k: v for k, v in hw.layers[i].model_dump().items() if k != "tile" and v is not None}
        text = f"called {hw.layers[i].match!r}"
        if len(conditions) > 1:
            text = "there with all of " + ", ".join(f"{k}: {v}" for k, v in conditions.items())
        hint = suggest(hw.layers[i].match, (n or "(root)" for n in names), "layers of this model")
        problems.append(Problem(hw.mark_of_rule(i), f"layers[{i}]", f"no layer is {text}; {hint}"))
    if problems:
        raise ConfigError(problems)


def _type_name(kind: type[nn.Module]) -> str:
    return f"nn.{kind.__name__}" if kind.__module__.startswith("torch.nn") else kind.__name__
