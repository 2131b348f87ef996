"""The `training:` section of a hardware file: how networks are trained for the hardware. Torch-free, like all configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, model_validator

from mho.config import registry
from mho.config.schema import RASCH, Field, Kinded, Strict
from mho.config.slots import SECTIONS, SURROGATE, TRAINING, Section
from mho.config.units import Sigmas, Span

if TYPE_CHECKING:
    from torch import Tensor

# Where the methods and their defaults come from.
FENG = "Feng et al. 2025"
INJECTION = f"{RASCH}, Methods, Re-training with weight noise injection"
CLIPPING = f"{RASCH}, Methods, Weight mapping and clipping"
FACTORS = f"{RASCH}, Methods, Learning of weight-to-conductance conversion factors"


class Backward(Strict):
    """How gradients pass through a tile; a bare word is the mode."""

    SHORTHAND: ClassVar[str | None] = "mode"

    mode: Literal["through", "ste", "masked", "surrogate", "autograd"] = Field(
        "through", source=f"through: {RASCH}; ste, masked: {FENG}; autograd: Fang & Wang 2026"
    )
    """through: noisy weights, rounding straight-through; ste: clean weights; masked: clean weights, and nothing where converters
    saturate; surrogate: those of a stand-in; autograd: every derivative"""
    products: Literal["fp32", "bf16"] = Field("fp32", source="mho")
    """through, on the fused path: arithmetic of the two products of a backward pass; bf16: half the time"""
    rounding: Literal["zero", "ste"] = Field("zero", source=f"zero: Fang & Wang 2026; ste: {FENG}")
    """autograd only: derivative of rounding, 0 or straight-through"""
    surrogate: Annotated[Kinded, SURROGATE] | None = Field(None, source=FENG)
    """surrogate only: the differentiable stand-in whose gradient is taken"""

    @model_validator(mode="after")
    def _parts_fit_the_mode(self) -> Self:
        if self.rounding != "zero" and self.mode != "autograd":
            raise ValueError(f"'rounding: {self.rounding}' has a meaning only with 'mode: autograd'")
        if (self.surrogate is None) == (self.mode == "surrogate"):
            raise ValueError("'mode: surrogate' and 'surrogate: KIND' belong together, e.g. 'surrogate: mho.saturating'")
        return self

    @property
    def forward_only(self) -> bool:
        """Whether the forward runs without a graph, so that it may be any code (R001-01)."""
        return self.mode in ("ste", "masked", "surrogate")


class InjectSpec(Strict):
    """Programming noise on the weights while training."""

    scale: float = Field(1.0, ge=0, unit="1", source=INJECTION, description="factor on the noise that programming would make")
    ramp: Span | None = Field(None, source=INJECTION, description="grow linearly from 0 over this time, e.g. '1 epoch'")
    per: Literal["mini-batch", "sample"] = Field("mini-batch", source=INJECTION)
    """one draw of the weights for a whole mini-batch, or one for each of its samples (slow: a product each)"""


class TrainingHooks:
    """What a training method does around the steps of one training, from `mho.attach` to `detach`. Override what is needed."""

    def before_forward(self, step: int) -> None:
        """Before every forward pass in training mode, and once at the start; `step` optimizer steps are done. A checkpoint
        that is loaded on the way changes `step`, so look at it and count nothing."""

    def after_step(self, array: Any, weight: Tensor, step: int) -> None:
        """After the `step`-th optimizer step (the first is 1), for every weight matrix: `array` is its `TileArray` (gamma,
        input_range, geometry, layout), `weight` [out, in] or [group, out, in] may be changed in place. It has been clipped
        and remapped already."""

    def detach(self) -> None:
        """When the training ends: take off what `start` put on."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that it remembers from step to step, as tensors, numbers, text, and lists and dicts of them: a training
        that is killed goes on with it. What follows from `step` alone need not be here."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remember what `state_dict` gave."""


class TrainingMethod(Kinded, TrainingHooks):
    """A way to train networks for hardware: its class is the schema of what YAML lists under `training: {methods: [...]}`.

    `to_analog` calls `convert`; `mho.attach` calls `start` and, through what that returns, the `TrainingHooks`; `mho run` and
    `mho train` ask for `loss` and `decides`. A method that remembers nothing between calls overrides the hooks in its own
    class; one that does returns an object from `start`, since what YAML describes never changes.
    """

    CATEGORY: ClassVar[str] = "training"

    def convert(self, array: Any, weight: Tensor) -> None:
        """A new matrix on tiles, not mapped yet: put a quantiser into `array.weight_quantiser` or `array.input_quantiser`, or
        change `weight` in place."""

    def start(self, training: Any) -> TrainingHooks:
        """The hooks of one training. `training` is what `mho.attach` returns: `net`, `optimizer`, `spec` (the whole section)
        and `steps(span, name)`, a `Span` of YAML as a number of steps."""
        return self

    def loss(self, value: Tensor, logits: Callable[[], Tensor], teacher: Callable[[], Tensor]) -> Tensor:
        """The loss of a batch, given that of the task [1]; `logits()` [..., classes] are those of the network, `teacher()`
        those of the digital network that training started from. Loops of your own call it themselves."""
        return value

    def decides(self) -> dict[str, Any]:
        """Other keys of `training:` that this method sets, with the values at the start: {"epochs": 300, "inject.ramp": ...}.
        A file that gives them too is refused."""
        return {}


class TrainingSpec(Strict):
    """Hardware-aware training (R003-60 to R003-79), with the methods that plugins add to it."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Annotated[TrainingMethod, SECTIONS]]

    backward: Backward = Field(Backward(), source=INJECTION, description="how gradients pass through a tile")
    inject: InjectSpec | None = Field(InjectSpec(), source=INJECTION, description="weight noise while training")
    clip: float | Sigmas | None = Field(1.0, gt=0, unit="1", source=CLIPPING)
    """after every step, clip the mapped weights at this value or at this many sigma"""
    remap: Span | None = Field(None, source=CLIPPING, description="map weights anew this often: columns use the full range again")
    out_scale: Literal["fixed", "tile", "column", "both"] = Field("fixed", source=FACTORS)
    """train a digital output factor for every tile (kappa), every column of every tile, both, or none"""
    auto_scale: bool = Field(False, source=FACTORS, description="column factors in units of sqrt(3/n), of like size everywhere")
    drop_connect: float = Field(0.0, ge=0, lt=1, unit="1", source=f"{RASCH}, A.2.7")
    """share of the weights set to 0 in each mini-batch"""
    range_decay: float = Field(0.001, ge=0, unit="1", source=f"{RASCH}, Methods, Learning the input range")
    """pull on a learned input range while few inputs are clipped"""
    methods: tuple[Annotated[TrainingMethod, TRAINING], ...] = Field((), source="mho")
    """training methods of plugins, in the order in which they act"""
    epochs: int | None = Field(None, ge=0, unit="1", source="mho", description="passes over the data; none: the task says")
    lr: float | None = Field(None, gt=0, unit="1", source="mho", description="learning rate; none: the task says")
    optimizer: Literal["adam", "adamw", "sgd"] | None = Field(None, source="mho", description="torch optimizer; none: the task's")
    weight_decay: float | None = Field(None, ge=0, unit="1", source=FACTORS, description="of the optimizer; none: the task says")

    @classmethod
    def _spelled_out(cls, value: Any) -> Any:
        """Keys that are no fields are those of plugins (`noise: {...}` of mho-qat): see `Sections`."""
        value = super()._spelled_out(value)
        if not isinstance(value, Mapping):
            return value
        claims = {k: v for k, v in registry.default().sections.items() if k not in cls.model_fields}
        given = {k: v for k, v in value.items() if k not in claims or v not in (None, "none")}
        return {k: Section(claims[k], v) if k in claims else v for k, v in given.items()}

    @classmethod
    def known_keys(cls) -> tuple[str, ...]:
        return (*super().known_keys(), *registry.default().sections)

    @property
    def all_methods(self) -> dict[str, TrainingMethod]:
        """Every training method, by where it is written: sections by name (noise), then those of the list (methods[0])."""
        sections = dict(sorted((self.__pydantic_extra__ or {}).items()))  # equal files act in one order
        return {**sections, **{f"methods[{i}]": m for i, m in enumerate(self.methods)}}

    def method(self, kind: str) -> Any:
        """The training method of this kind, None if there is none."""
        return next((m for m in self.all_methods.values() if m.kind == kind), None)

    @property
    def decided(self) -> dict[str, Any]:
        """What methods decide in place of other keys, by key."""
        return {key: value for m in self.all_methods.values() for key, value in m.decides().items()}

    def disagreements(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """A kind comes once, and what a method decides is given nowhere else."""
        if self.auto_scale and self.out_scale in ("fixed", "tile"):
            yield ("auto_scale",), "nothing to scale: it needs 'out_scale: column' or 'out_scale: both'"
        kinds = [m.kind for m in self.all_methods.values()]
        for i, m in enumerate(self.methods):
            if kinds.count(m.kind) > 1:
                yield ("methods", i), f"{m.kind!r} is given twice; remove one of them"
        for place, m in self.all_methods.items():
            for key in m.decides():
                name, _, field = key.partition(".")
                given = getattr(self, name, None)
                if given is not None and (not field or getattr(given, field, None) is not None):
                    yield tuple(key.split(".")), f"training.{place} says this already; remove one of them"

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        result = super().__get_pydantic_json_schema__(schema, handler)
        inner = handler.resolve_ref_schema(result)
        inner["properties"] |= SECTIONS.properties(handler)
        inner["additionalProperties"] = False
        return result
