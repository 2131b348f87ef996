"""Turn a torch model into one whose layers run on analog tiles, and say what happened to every layer."""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from mho.config import registry
from mho.config.hardware import Hardware, load
from mho.config.schema import suggest
from mho.ground.errors import ConfigError, MhoError, Problem
from mho.ground.notebook import html_table
from mho.ground.tables import table
from mho.layers import AnalogLayer
from mho.layers.attention import close_fast_paths, open_fast_paths, order_projections
from mho.layers.base import lost
from mho.tile.array import TileArray
from mho.tile.session import Run, tile_arrays
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
        spec, down = array.spec, len(array.sizes)
        size = array.columns, array.in_features // array.groups
        return cls(array.groups, *size, down, array.tile_count // down, spec.rows, spec.columns)

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
    waste: float = 1.0  # see `range_waste`

    @property
    def matrix(self) -> str:
        """The sizes of its matrices, out x in, for people: "64x512", "8 of 16x9" for groups."""
        return " ".join(map(str, self.matrices))


class ConversionReport(tuple[Converted, ...]):
    """One entry for every module that holds parameters. Print it for a table."""

    @property
    def analog(self) -> list[Converted]:
        return [e for e in self if e.where == "analog"]

    @property
    def left_digital(self) -> list[Converted]:
        """Layers with weights that no rule asked to keep digital, but that could not be put on tiles."""
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
        rows: list[tuple[str, ...]] = [
            (e.name or "(root)", e.type, e.where, e.tile, e.matrix, str(e.tiles or ""), f"{e.parameters:,}", e.why)
            for e in self
        ]
        share = sum(e.parameters for e in self.analog) / max(1, sum(e.parameters for e in self))
        head = ("layer", "type", "where", "tile", "matrix", "tiles", "parameters", "why")
        return head, rows, f"{sum(e.tiles for e in self)} tiles; the layers on them hold {share:.1%} of the parameters"

    def to_json(self) -> str:
        return json.dumps([{**asdict(e), "matrix": e.matrix} for e in self])


def to_analog(model: nn.Module, hw: Hardware | str, *, strict: bool = False) -> nn.Module:
    """A copy of `model` whose layers run on the analog tiles that `hw` (a `Hardware`, file or preset) describes.

    Layer rules of `hw` decide by name; everything else that can go on tiles goes on the default tile. What cannot is
    named in a warning, or in an error with `strict=True`; `conversion_report(net)` tells about every layer. A second
    warning names layers where a few outlier weights set the conductance range and the noise of all others with it:
    those whose noise would fall by a factor of 3 or more without the largest 0.5 % of their weights (`range_waste`).

    A module or parameter that is used in several places is on tiles once. Embeddings and norms stay digital. `model`
    itself is not changed.
    """
    hw = load(hw)
    if tile_arrays(model):
        raise MhoError(
            "this model is analog already; convert the torch model it came from, or mho.to_digital(net) first"
        )
    net, report = _convert(_copy(model), hw)
    if not report.analog:
        raise MhoError(f"nothing in this {type(model).__name__} went on analog tiles:\n{report}")
    if report.left_digital:
        text = "left digital: " + "; ".join(f"{e.name or '(root)'} ({e.type}: {e.why})" for e in report.left_digital)
        if strict:
            raise MhoError(f"{text}. Give them a rule {{match: NAME, tile: digital}}, or convert without strict=True")
        warnings.warn(text, stacklevel=2)
    if report.outliers:
        names = ", ".join(f"{e.name or '(root)'} ({e.waste:.1f} times)" for e in report.outliers)
        warnings.warn(
            f"outlier weights set the conductance range and raise the noise of the others: {names}. Clip them "
            "(mapping: {clip: 2.5 sigma}), map by column, or keep the layer digital with a rule",
            stacklevel=2,
        )
    run = Run(report, hw)
    for array in tile_arrays(net):
        array.run = run
        array.use(hw.precision, hw.compile)
    run.watch(net)
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
    """What `to_analog` did with every layer of `net`."""
    arrays = tile_arrays(net)
    report = arrays[0].run.report if arrays else None
    if not isinstance(report, ConversionReport):
        raise MhoError("this model did not come from mho.to_analog")
    return report


def to_digital(net: nn.Module) -> nn.Module:
    """A copy of `net` with torch's layers in place of those on tiles: what the tiles held becomes the weights (quantised
    ones stay so), and learned output scales are folded into them."""
    net = copy.deepcopy(net)
    for array in tile_arrays(net):
        array.run.unwatch()
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


def _convert(net: nn.Module, hw: Hardware) -> tuple[nn.Module, ConversionReport]:
    """Decide about every module of `net`, then exchange those that go on tiles."""
    classes = cast(tuple[type[AnalogLayer], ...], registry.layer_classes())
    entries: list[Converted] = []
    new: dict[int, nn.Module] = {}
    closed: list[str] = []  # modules whose children must stay as they are
    matched: set[int] = set()
    shared: dict[Any, TileArray] = {}
    rules = _placed(hw, net, classes)
    for name, module in net.named_modules():
        own = list(module.parameters(recurse=False))
        if not own or any(c == "" or name.startswith(c + ".") for c in closed):
            continue
        size, kind = _count(own), type(module).__name__
        matched.update(i for i, rule in enumerate(rules.layers) if rule.matches(name, kind, size))
        tile, rule = rules.rule_for(name, kind, size)
        cls = next((c for c in classes if c.takes(module)), None)
        why = _not_analog(module, cls, own)
        if tile == "digital":
            why = "digital", "default" if rule is None else f"rule {hw.layers[rule].match!r}"
        if why is not None:
            if isinstance(module, nn.MultiheadAttention):  # it reads its projection's weight directly
                closed.append(name)
                size = _count(list(module.parameters()))
            entries.append(Converted(name, _type_name(module), *why, parameters=size))
            continue
        assert cls is not None
        before = len(shared)
        layer = new[id(module)] = cls.from_torch(module, hw.tile(tile), hw.training_of(rule), name, shared)
        entries.append(
            Converted(
                name,
                _type_name(module),
                "analog",
                "default" if rule is None else f"rule {hw.layers[rule].match!r}",
                tile,
                tuple(MatrixOnTiles.of(a) for a in layer.arrays().values()),
                sum(a.tile_count for a in list(shared.values())[before:]),
                size,
                range_waste(layer),
            )
        )
    _refuse_idle_rules(hw, matched, [e.name for e in entries])
    net = _replace(net, new)
    close_fast_paths(net)
    order_projections(net)
    return net, ConversionReport(entries)


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
    if isinstance(module, DIGITAL_BY_DESIGN):
        return "digital", "by design"
    if any(nn.parameter.is_lazy(p) for p in own):
        return "left digital", "its shape is not known yet; run one batch through the model before converting"
    if cls is None:
        matrix = any(p.dim() > 1 for p in own)
        reason = next(
            (text for kind, text in REFUSED.items() if isinstance(module, kind)), "no analog layer for this type"
        )
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
    w = array.cut_weight(matrix)
    size = w.abs().flatten(1)
    count = (array.occupied * array.columns * 0.005).long()  # [tile]
    limit = size.topk(int(count.max()) + 1).values.gather(1, count[:, None])[..., None]
    clipped = array.mapping.gamma(w.clamp(-limit, limit), array.geometry)
    n = array.occupied[:, None]
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


def _type_name(module: nn.Module) -> str:
    name = type(module).__name__
    return f"nn.{name}" if type(module).__module__.startswith("torch.nn") else name
