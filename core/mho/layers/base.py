"""What analog layers have in common: tile arrays for their weights, and checkpoints that load in both directions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

import torch
from torch import Tensor, nn

from mho.tile import Session, TileArray, backend_for, tile_arrays

if TYPE_CHECKING:
    from mho.config import Hardware, TileSpec, TrainingSpec

# Methods of a user's subclass that may read the weight without taking part in the forward.
HARMLESS = {"__init__", "reset_parameters", "extra_repr", "__repr__", "__setstate__", "__getstate__"}

COMPUTED = "its weight is computed from other parameters (weight_norm, pruning); make it permanent first"


@dataclass
class Placement:
    """What a layer knows of its conversion, for the report."""

    tile: str = ""  # the name of the tile that it is on
    why: str = "by hand"
    waste: float = 1.0  # see `convert.range_waste`
    remarks: dict[str, str] = field(default_factory=dict)  # who found something -> what


class AnalogLayer(nn.Module):
    """A torch layer whose weight matrices are on tiles: its products W x become those of the tiles, everything else stays
    torch's. A subclass says which torch layer it replaces (`torch_type`), where its matrices are (`views`) and what it
    computes with them: `self.tiles(x, matrix)`, x [..., in] -> [..., out], in place of x W^T. `mho_layers` (or
    `mho.register`) makes it known. Parameters keep torch's names, shapes and units.

    torch_type   the torch class that it replaces; its subclasses are replaced too, by a class that is also theirs
    overridable  methods of that class that take part in the product, and that a subclass may not have changed
    order        how the vectors that it gives to its tiles lie, in a network that is given [time, batch, ...]: `steps`
                 is [time, batch, ...] or [time * batch, ...], `leading` the latter, `samples` is [batch, ...] anyhow
    tiles        a tile array, or a ModuleDict of them by the names of `views`
    """

    torch_type: ClassVar[type[nn.Module]]
    overridable: ClassVar[tuple[str, ...]] = ("forward",)
    order: ClassVar[Literal["steps", "leading", "samples"]] = "steps"
    made_of: ClassVar[tuple[type[AnalogLayer], type[nn.Module]] | None] = None  # see `analog_class`
    weight: Any
    bias: Any
    tiles: Any
    placement: Placement

    def __init__(self, *args: Any, hw: Hardware, tile: str | None = None, **kwargs: Any) -> None:
        """The arguments of the torch layer, and `hw` with the name of one of its tiles (default: its default). Raises
        `MhoError` where there is no such tile."""
        cast(Any, self.torch_type).__init__(self, *args, **kwargs)
        self.place_by_hand(hw, tile)

    def views(self) -> dict[str, Tensor]:
        """The weight matrices [out, in], or [group, out, in], by name; they share memory with the parameters."""
        return {"": self.weight}

    def channel(self) -> int:
        """Rows that belong together when a matrix is cut: those of one input channel."""
        return 1

    def biased(self, key: str) -> bool:
        """Whether a (digital) bias is added to the outputs of this matrix."""
        return getattr(self, "bias", None) is not None

    @classmethod
    def takes(cls, layer: nn.Module) -> bool:
        """Whether this class is the one for `layer`."""
        return isinstance(layer, cls.torch_type)

    @classmethod
    def refuses(cls, layer: Any) -> str | None:
        """Why this layer cannot be converted, or None."""
        return None if isinstance(layer.weight, nn.Parameter) else COMPUTED

    @classmethod
    def example(cls) -> tuple[nn.Module, tuple[Any, ...]]:
        """A small torch layer and inputs with which the conformance kit tries this class."""
        raise NotImplementedError

    # -- construction -----------------------------------------------------------------------------------------
    @classmethod
    def from_torch(cls, layer: nn.Module, spec: TileSpec, training: TrainingSpec, name: str = "", shared: Any = None) -> Self:
        """The analog layer with the same parameters, hooks and attributes as `layer`. `shared` remembers the tile arrays
        of parameters that several layers own: they are written to tiles once."""
        kind = analog_class(cls, type(layer))
        new = cast(Self, kind.__new__(kind))
        new.__dict__.update({k: copy.copy(v) for k, v in layer.__dict__.items()})
        new.place(spec, training, name, {} if shared is None else shared)
        return new

    def place(self, spec: TileSpec, training: TrainingSpec, name: str, shared: dict[Any, TileArray]) -> None:
        """Put the weight matrices on tiles of this type."""
        self.own_memory()
        self.placement = Placement()
        arrays = {}
        for key, view in self.views().items():
            owner = view if view._base is None else view._base
            same = (id(owner), view.storage_offset(), view.shape, view.stride(), self.channel(), id(spec))
            if same not in shared:
                shared[same] = self._tile_array(view, spec, training, f"{name}.{key}".strip("."))
            arrays[key] = shared[same]
        self.tiles = arrays[""] if set(arrays) == {""} else nn.ModuleDict(arrays)
        self._register_load_state_dict_pre_hook(_fill_in_scales, with_module=True)
        self.register_load_state_dict_post_hook(_remap_after_load)

    def _tile_array(self, view: Tensor, spec: TileSpec, training: TrainingSpec, name: str) -> TileArray:
        groups = view.shape[0] if view.dim() == 3 else 1
        sizes = view.shape[-2] * groups, view.shape[-1] * groups
        about: dict[str, Any] = {"name": name, "channel": self.channel(), "groups": groups}
        array = TileArray(*sizes, spec, training, **about, device=view.device, dtype=view.dtype)
        for method in training.all_methods.values():
            method.convert(array, view)
        array.train(self.training)
        array.order = self.order
        _start(array, view)
        return array

    def place_by_hand(self, hw: Hardware, tile: str | None) -> None:
        """Put the matrices on the tile of that name (default: the hardware's default), in a constructor: the layer
        is a network of its own until it becomes part of one. Raises `MhoError` where there is no such tile."""
        self.place(hw.tile(tile or hw.default), hw.training, "", {})
        self.placement.tile = tile or hw.default
        arrays, session = tile_arrays(self), Session(hardware=hw)
        for array in arrays:
            array.backend = backend_for(array.view, hw.precision, hw.compile)
            array.session = session
        if len(arrays) > 1:
            session.watch(self)

    def to_torch(self) -> nn.Module:
        """The plain torch layer, with learned output scales and what corrections add (adapters) folded into its weight."""
        self.fold_scales()
        for array, matrix in self.matrices():
            array.merge_(matrix)
        new = self.torch_class.__new__(self.torch_class)
        new.__dict__.update({k: copy.copy(v) for k, v in self.__dict__.items() if k != "placement"})
        del new._modules["tiles"]
        new._load_state_dict_pre_hooks.clear()
        new._load_state_dict_post_hooks.clear()
        return new

    @property
    def torch_class(self) -> type[nn.Module]:
        """The class of the torch layer that it stands for: `torch_type`, or a user's subclass of it."""
        return self.torch_type if self.made_of is None else self.made_of[1]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copies and pickles of classes that `analog_class` made."""
        if self.made_of is None:
            return super().__reduce_ex__(protocol)
        return _empty, self.made_of, self.__getstate__()

    # -- weights ----------------------------------------------------------------------------------------------
    @property
    def matrix(self) -> Tensor:
        """The (first) weight matrix, sharing memory with its parameter."""
        return next(iter(self.views().values()))

    def arrays(self) -> dict[str, TileArray]:
        """The tile arrays by the names of `views`."""
        return {"": self.tiles} if isinstance(self.tiles, TileArray) else dict(self.tiles.items())

    def matrices(self) -> Iterator[tuple[TileArray, Tensor]]:
        """Every (tile array, weight matrix) of the layer, computed anew where torch computes the weight in a hook (pruning)."""
        for hook in self._forward_pre_hooks.values():
            if hasattr(hook, "apply_mask") or hasattr(hook, "compute_weight"):
                hook(self, ())
        return zip(self.arrays().values(), self.views().values())

    @torch.no_grad()
    def fold_scales(self) -> None:
        """Multiply the learned output scales into weight and gamma (R003-74); the function stays."""
        for array, matrix in self.matrices():
            array.fold_scales(matrix)
            array.settle(matrix)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """An assigned weight is looked at, even where it lies at the address of one that is gone."""
        super().register_parameter(name, param)
        for array in self.arrays().values() if "tiles" in self._modules else ():
            array.known = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._follow()
        super()._apply(fn, recurse)
        self.own_memory()
        for array, matrix in self.matrices():
            array.settle(matrix, training=array.is_attached)
        return self

    def _save_to_state_dict(self, *args: Any) -> None:
        self._follow()  # what is saved belongs together
        super()._save_to_state_dict(*args)

    def _follow(self) -> None:
        for array, matrix in self.matrices():
            array.follow(matrix, sure=True)

    def own_memory(self) -> None:
        """Views need rows in order: undo a channels_last layout, or clip and remap would change a copy."""
        for p in self.parameters(recurse=False):
            if not p.is_contiguous():
                p.data = p.data.contiguous()


def _start(array: TileArray, view: Tensor) -> None:
    """Whatever follows from the weights that training starts with."""
    if array.weight_quantiser is not None and not view.is_meta:
        array.weight_quantiser.start(view.detach())
    array.remap(view)
    if array.training_spec.auto_scale:
        array.auto_scale()


def _fill_in_scales(layer: AnalogLayer, state: dict[str, Tensor], prefix: str, *args: Any) -> None:
    """A plain torch checkpoint has no analog scales: they keep their defaults, and gamma is mapped anew. What the hardware
    file fixes is not loaded: an input range that is a number, and gamma of another mapping."""
    for key, array in layer.arrays().items():
        mine = f"{prefix}tiles.{key}." if key else f"{prefix}tiles."
        own = array.state_dict(prefix=mine)
        if not any(k in state for k in own):
            array.after_load = "start"
            state.update(own)
            continue
        for q in ("weight_quantiser", "input_quantiser"):  # torch takes any key below a None
            if getattr(array, q) is None and any(k.startswith(f"{mine}{q}.") for k in state):
                args[-1].append(f"layer {array.name!r} of the checkpoint has a {q}, and none here: load it where there is one")
        state.update((k, own[k]) for k in (f"{mine}zero", f"{mine}mapped_by") if k not in state)
        gamma, there, by = state.get(f"{mine}gamma"), state.get(f"{mine}input_range"), f"{mine}mapped_by"
        if gamma is not None and gamma.shape != array.gamma.shape:
            args[-1].append(
                f"layer {array.name!r} of the checkpoint is on {tuple(gamma.shape)} columns of tiles, here on "
                f"{tuple(array.gamma.shape)}: load it on the hardware it was saved with, then mho.to_digital and mho.to_analog"
            )
        elif there is not None and not array.learns_range:
            state[f"{mine}input_range"] = own[f"{mine}input_range"]
            dac = array.view.dac
            if dac is not None and dac.range != "dynamic" and not bool((there == dac.start).all()):
                array.session.say(
                    "range",
                    f"layer {array.name!r} keeps the input range {dac.start:g} of the hardware file, not that of the "
                    f"checkpoint ({there.max():.3g}); range: learned loads it. The same holds for other layers of this tile type",
                )
        if not torch.equal(state[by].cpu(), array.mapped_by.cpu()):
            array.after_load, state[by] = "remap", own[by]
            array.session.say(
                "mapping",
                f"layer {array.name!r} is mapped anew by the mapping of the hardware file, {array.spec.mapping!r}: the "
                "checkpoint has scales of another one. The same holds for other layers of this tile type",
            )


def _remap_after_load(layer: nn.Module, _: Any) -> None:
    assert isinstance(layer, AnalogLayer)
    layer.own_memory()
    for array, matrix in layer.matrices():
        if array.after_load == "start":
            _start(array, matrix)
        elif array.after_load == "remap":
            array.remap(matrix)
        array.after_load = ""
        array.settle(matrix, training=array.is_attached)


# -- users' subclasses ----------------------------------------------------------------------------------------
_made: dict[tuple[type[AnalogLayer], type[nn.Module]], type[AnalogLayer]] = {}  # one class per subclass


def analog_class(cls: type[AnalogLayer], kind: type[nn.Module]) -> type[AnalogLayer]:
    """`cls`, or for a subclass `kind` of the layer that it replaces: a class that is both, with everything the user
    added. A forward of theirs that ends in `super().forward(...)` stays in front of the analog one."""
    if kind is cls.torch_type:
        return cls
    if (cls, kind) not in _made:
        own = "forward" in cls.overridable and kind.forward is not cls.torch_type.forward
        extra = {"made_of": (cls, kind), "__module__": kind.__module__, "__doc__": kind.__doc__}
        _made[cls, kind] = type(f"Analog{kind.__name__}", (kind, cls) if own else (cls, kind), extra)
    return _made[cls, kind]


def _empty(cls: type[AnalogLayer], kind: type[nn.Module]) -> AnalogLayer:
    made = analog_class(cls, kind)
    return made.__new__(made)


def lost(layer: nn.Module, cls: type[AnalogLayer]) -> str | None:
    """What a subclass does that the analog layer would not do, or None.

    A forward of its own is kept if all it does with the product is to call `super().forward`: neither it nor any other
    method may touch the weight or name the torch class, which would go round the tiles.
    """
    kind = type(layer)
    for method in cls.overridable:
        if method in layer.__dict__:
            return f"its {method} was replaced on the instance, which would go round the tiles"
        if method != "forward" and getattr(kind, method) is not getattr(cls.torch_type, method):
            return f"its class overrides {method}, which would be lost"
    if "forward" not in cls.overridable or kind.forward is cls.torch_type.forward:
        return None
    added = [c for c in kind.__mro__ if c not in cls.torch_type.__mro__]
    for method, function in ((n, f) for c in added for n, f in vars(c).items() if n not in HARMLESS):
        words = _words(function)
        if words & {"weight", "_parameters", "_conv_forward", cls.torch_type.__name__}:
            return f"its class overrides forward, and {method} uses the weight itself, which would go round the tiles"
        if method == "forward" and not {"super", "forward"} <= words:
            return "its class overrides forward without super().forward, which would be lost"
    return None


def _words(function: Any) -> set[str]:
    """Names and strings in the code of a function (or property), nested functions included."""
    function = getattr(function, "fget", getattr(function, "__wrapped__", function))
    if not isinstance(function, FunctionType):
        return set()
    found: set[str] = set()
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        found.update(code.co_names, code.co_freevars, (c for c in code.co_consts if isinstance(c, str)))
        codes += [c for c in code.co_consts if isinstance(c, CodeType)]
    return found
