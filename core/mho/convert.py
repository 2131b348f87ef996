"""Turn a torch model into one whose layers run on analog tiles, and say what happened to every layer."""

from __future__ import annotations

import copy
import difflib
import json
import warnings
from dataclasses import asdict, dataclass
from typing import cast

from torch import nn

from mho import registry
from mho.errors import ConfigError, MhoError
from mho.hardware import Hardware, load
from mho.layers import AnalogLayer
from mho.run import Run, tile_arrays
from mho.tables import table

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


@dataclass(frozen=True)
class Converted:
    """What became of one layer."""

    name: str
    type: str
    where: str  # analog | digital | left digital
    why: str
    tile: str = ""
    matrix: str = ""
    tiles: int = 0
    parameters: int = 0


class ConversionReport(tuple[Converted, ...]):
    """One entry for every module that holds parameters. Print it for a table."""

    @property
    def analog(self) -> list[Converted]:
        return [e for e in self if e.where == "analog"]

    @property
    def left_digital(self) -> list[Converted]:
        """Layers with weights that no rule asked to keep digital, but that could not be put on tiles."""
        return [e for e in self if e.where == "left digital"]

    def __str__(self) -> str:
        rows = [
            (e.name or "(root)", e.type, e.where, e.tile, e.matrix, str(e.tiles or ""), f"{e.parameters:,}", e.why)
            for e in self
        ]
        share = sum(e.parameters for e in self.analog) / max(1, sum(e.parameters for e in self))
        head = ("layer", "type", "where", "tile", "matrix", "tiles", "parameters", "why")
        return f"{table(head, rows)}\n{sum(e.tiles for e in self)} tiles hold {share:.1%} of the parameters"

    def to_json(self) -> str:
        return json.dumps([asdict(e) for e in self])


def to_analog(model: nn.Module, hw: Hardware | str, *, strict: bool = False) -> nn.Module:
    """A copy of `model` whose layers run on the analog tiles that `hw` (a `Hardware`, file or preset) describes.

    Layer rules of `hw` decide by name; everything else that can go on tiles goes on the default tile. What cannot is
    named in a warning, or in an error with `strict=True`; `conversion_report(net)` tells about every layer. `model`
    itself is not changed.
    """
    hw = load(hw)
    if tile_arrays(model):
        raise MhoError(
            "this model is analog already; convert the torch model it came from, or mho.to_digital(net) first"
        )
    net, report = _convert(copy.deepcopy(model), hw)
    if not report.analog:
        raise MhoError(f"nothing in this {type(model).__name__} went on analog tiles:\n{report}")
    if report.left_digital:
        text = "left digital: " + "; ".join(f"{e.name or '(root)'} ({e.type}: {e.why})" for e in report.left_digital)
        if strict:
            raise MhoError(f"{text}. Give them a rule {{match: NAME, tile: digital}}, or convert without strict=True")
        warnings.warn(text, stacklevel=2)
    run = Run(report, hw)
    for array in tile_arrays(net):
        array.run = run
    run.watch(net)
    return net


def conversion_report(net: nn.Module) -> ConversionReport:
    """What `to_analog` did with every layer of `net`."""
    arrays = tile_arrays(net)
    report = arrays[0].run.report if arrays else None
    if not isinstance(report, ConversionReport):
        raise MhoError("this model did not come from mho.to_analog")
    return report


def to_digital(net: nn.Module) -> nn.Module:
    """A plain torch copy of `net`, with the learned output scales folded into the weights."""
    net = copy.deepcopy(net)
    for array in tile_arrays(net):
        array.run.unwatch()
    return _replace(net, {id(m): m.to_torch() for m in net.modules() if isinstance(m, AnalogLayer)})


def _convert(net: nn.Module, hw: Hardware) -> tuple[nn.Module, ConversionReport]:
    """Decide about every module of `net`, then exchange those that go on tiles."""
    classes = cast(tuple[type[AnalogLayer], ...], registry.layer_classes())
    entries: list[Converted] = []
    new: dict[int, nn.Module] = {}
    closed: list[str] = []  # modules whose children must not be converted one by one
    matched: set[int] = set()
    for name, module in net.named_modules():
        if any(name.startswith(c + ".") or c == "" for c in closed):
            continue
        own = [p for p in module.parameters(recurse=not _is_open(module)) if p is not None]
        if not own:
            continue
        if not _is_open(module):
            closed.append(name)
        size, kind = sum(0 if nn.parameter.is_lazy(p) else p.numel() for p in own), _type_name(module)
        matched.update(i for i, rule in enumerate(hw.layers) if rule.matches(name, type(module).__name__, size))
        tile, rule = hw.rule_for(name, type(module).__name__, size)
        why = "default" if rule is None else f"rule {hw.layers[rule].match!r}"
        if tile == "digital":
            entries.append(Converted(name, kind, "digital", why, parameters=size))
            continue
        cls = next((c for c in classes if isinstance(module, c.torch_type)), None)
        if reason := _not_convertible(module, cls, own):
            entries.append(Converted(name, kind, *reason, parameters=size))
            continue
        assert cls is not None
        layer = cls.from_torch(module, hw.tile(tile), hw.training, name)
        new[id(module)] = layer
        arrays = tile_arrays(layer)
        shape = " ".join(f"{a.out_features}x{a.in_features}" for a in arrays)
        entries.append(Converted(name, kind, "analog", why, tile, shape, sum(a.tile_count for a in arrays), size))
    _refuse_idle_rules(hw, matched, [e.name for e in entries])
    return _replace(net, new), ConversionReport(entries)


def _is_open(module: nn.Module) -> bool:
    """Whether children may be converted one by one. Attention keeps bare weight matrices and reads its projection's
    weight directly; the transformer layers have a fused inference path that would silently go round the tiles."""
    return not isinstance(
        module, (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.RNNBase)
    )


def _not_convertible(
    module: nn.Module, cls: type[AnalogLayer] | None, own: list[nn.Parameter]
) -> tuple[str, str] | None:
    """(where it stays, why), or None if `cls` can replace the module."""
    if isinstance(module, DIGITAL_BY_DESIGN):
        return "digital", "by design"
    if any(nn.parameter.is_lazy(p) for p in own):
        return "left digital", "its shape is not known yet; run one batch through the model before converting"
    if cls is None:
        matrix = any(p.dim() > 1 for p in own)
        return ("left digital", "no analog layer for this type") if matrix else ("digital", "holds no weight matrix")
    if nn.utils.parametrize.is_parametrized(module):
        return "left digital", "its weight is parametrized; remove_parametrizations first"
    changed = [m for m in cls.overridable if getattr(type(module), m) is not getattr(cls.torch_type, m)]
    if changed:
        return "left digital", f"its class overrides {changed[0]}, which would be lost"
    if reason := cls.refuses(module):
        return "left digital", reason
    return None


def _replace(net: nn.Module, new: dict[int, nn.Module]) -> nn.Module:
    """`net` with the modules whose id is a key exchanged, wherever and however often they are used."""
    for parent in list(net.modules()):
        for name, child in parent._modules.items():
            if id(child) in new:
                parent._modules[name] = new[id(child)]
    return new.get(id(net), net)


def _refuse_idle_rules(hw: Hardware, matched: set[int], names: list[str]) -> None:
    idle = [i for i in range(len(hw.layers)) if i not in matched]
    if not idle:
        return
    lines = []
    for i in idle:
        near = difflib.get_close_matches(hw.layers[i].match, names, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        lines.append(f"{hw.where_rule(i)}  layers[{i}]\n    no layer is called {hw.layers[i].match!r}{hint}")
    raise ConfigError("\n".join([*lines, "layers of this model: " + ", ".join(n or "(root)" for n in names)]))


def _type_name(module: nn.Module) -> str:
    name = type(module).__name__
    return f"nn.{name}" if type(module).__module__.startswith("torch.nn") else name
