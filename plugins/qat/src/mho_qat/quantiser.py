"""Quantisation-aware training (R002-02): quantisers for weights and activations, on digital layers and in front of tiles."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mho import AnalogLayer, Field, Quantiser, QuantiserModule, TrainingMethod
from mho.config import Slot
from mho.effects import What, quantisers, straight
from mho.ground import MhoError
from mho.use import keep_stored
from mho_qat.preactivation import has_matrix

QUANTISER = Slot("quantiser", "qat.uniform")
MOMENTUM = 0.1  # of the running abs-max of activations, as in torch's batch norm
SMALLEST = 1e-8  # a step is never 0 or negative

# Where the methods and their defaults come from.
WANG = "Wang et al. 2025"


class Uniform(Quantiser, kind="qat.uniform"):
    """Equal steps: q(v) = s clip(round(v/s), low, high), straight-through where it does not clip.

    Weights and signed activations have codes -h ... h with h = 2^(b-1) - 1 (zero is a level), activations
    that are never negative 0 ... 2^b - 1 (`calibrate` finds out). The step s:

    learned      a parameter with the gradient of Esser et al. 2020 (LSQ): sum of g (q - v/s) inside, g low or g high outside,
                 over sqrt(n high); starts at 2 mean|v|/sqrt(high)
    statistics   max|v|/high: of the weights as they are, of activations as a running mean over training batches
    a number     this range/high: constant, without gradient

    """

    source: ClassVar[str] = "Esser et al. 2020; Wang et al. 2025"
    bits: int = Field(4, ge=2, le=8, unit="bit", source=WANG, description="resolution: 2^bits - 1 levels (signed)")
    range: float | Literal["learned", "statistics"] = Field("learned", gt=0, unit="1", source=WANG)
    """largest value: learned (LSQ gradient), from statistics (abs-max), or a constant"""

    def module(self, what: What) -> UniformModule:
        return UniformModule(self, what)


class UniformModule(QuantiserModule):
    """`Uniform` at its place. State (saved): `step` [1], `unsigned` [1], `bits` [1] that the step is for."""

    spec: Uniform
    step: Tensor
    unsigned: Tensor

    def __init__(self, spec: Uniform, what: What) -> None:
        super().__init__(spec, what)
        step = torch.full((1,), (spec.range if isinstance(spec.range, float) else 1.0) / self._high(0.0))
        if spec.range == "learned":
            self.step = nn.Parameter(step)
        else:
            self.register_buffer("step", step)
        self.register_buffer("unsigned", torch.zeros(1))
        self.register_buffer("bits", torch.full((1,), float(spec.bits)))
        self.register_load_state_dict_pre_hook(_with_bits)
        self.register_load_state_dict_post_hook(_of_these_bits)

    def _high(self, unsigned: Any) -> Any:
        """The largest code: 2^(b-1) - 1, or 2^b - 1 where no code is spent on negative values."""
        signed = 2.0 ** (self.spec.bits - 1) - 1
        return signed + unsigned * (2.0**self.spec.bits - 1 - signed)

    def quantised(self, v: Tensor) -> Tensor:
        high = self._high(self.unsigned)
        low = -high * (1 - self.unsigned)
        s = self._step(v, high).to(v.dtype)
        clipped = torch.minimum(torch.maximum(v / s, low.to(v.dtype)), high.to(v.dtype))
        return straight(clipped, clipped.round()) * s

    def _step(self, v: Tensor, high: Tensor) -> Tensor:
        if self.spec.range == "learned":
            g = 1 / (v.numel() * high).sqrt()  # the gradient's scale, the value stays
            s = self.step.abs().clamp(min=SMALLEST)
            return s * g + (s - s * g).detach()
        if self.spec.range == "statistics":
            return self._statistics(v.detach(), high)
        return self.spec.range / high  # of the file, whatever a checkpoint says

    @torch.no_grad()
    def _statistics(self, v: Tensor, high: Tensor) -> Tensor:
        if self.what == "activations" and not self.training:
            return self.step
        now = (v.abs().amax() / high).clamp(min=SMALLEST).to(self.step.dtype)
        if self.what == "weights":
            return now
        self.step.lerp_(now, MOMENTUM)
        return self.step.clone()  # the graph must not see later batches

    @torch.no_grad()
    def start_from(self, mean: Tensor, top: Tensor, lowest: Tensor) -> None:
        """Set the step from the mean and the largest |v|, and for activations from the lowest v whether they have a sign."""
        if self.what == "activations":
            self.unsigned.fill_(lowest >= 0)
        high = self._high(self.unsigned)
        if self.spec.range == "learned":
            self.step.copy_((2 * mean / high.sqrt()).clamp(min=SMALLEST))
        elif self.spec.range == "statistics":
            self.step.copy_((top / high).clamp(min=SMALLEST))
        else:
            self.step.copy_(self.spec.range / high)

    def extra_repr(self) -> str:
        return f"{self.what}, {self.spec.bits} bits, range {self.spec.range}"


def _with_bits(q: UniformModule, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    state.setdefault(f"{prefix}bits", q.bits)  # files from before do not tell


def _of_these_bits(q: UniformModule, _: object) -> None:
    there, here = int(q.bits), q.spec.bits
    q.bits.fill_(float(here))
    if there != here:  # steps and conductance ranges are those of the bits
        raise MhoError(f"the checkpoint was quantised with {there} bits, the hardware says {here}: load it with {there}")


class Quantise(TrainingMethod, kind="qat.quantise"):
    """Quantisation-aware training of the layers on tiles."""

    example: ClassVar[dict[str, Any]] = {"weights": {"bits": 4}}
    source: ClassVar[str] = "Wang et al. 2025"
    weights: Annotated[Quantiser, QUANTISER] | None = Field(None, source=WANG, description="quantise weights; none: leave them")
    activations: Annotated[Quantiser, QUANTISER] | None = Field(None, source=WANG)
    """quantise the inputs of the layers, in front of the DAC; none: leave them"""

    def convert(self, array: Any, weight: Tensor) -> None:
        array.weight_quantiser = placed(self.weights, "weights", weight)
        array.input_quantiser = placed(self.activations, "activations", weight)


def placed(spec: Quantiser | None, what: What, weight: Tensor) -> QuantiserModule | None:
    """The quantiser of one layer with this weight."""
    if spec is None:
        return None
    made = spec.module(what).to(weight.device)
    if what == "weights" and not weight.is_meta and weight.numel():
        made.start(weight.detach())
    return made


def quantise(
    model: nn.Module,
    *,
    weights: Quantiser | Mapping[str, Any] | int | None = None,
    activations: Quantiser | Mapping[str, Any] | int | None = None,
) -> nn.Module:
    """A copy of `model` that trains with quantised weights and layer inputs (R002-02).

    `weights` and `activations` are bits, or `{"bits": 4, "range": "learned" | "statistics" | 1.0}`, or the quantiser of
    another plugin (`{"kind": ...}` or an object), or None. Linear layers and convolutions of torch are quantised where
    they are; layers on tiles too (the activations in front of the DAC), of any kind. Ranges of activations start at 1:
    let `mho.calibrate(model, batches)` set them from data, which also finds out where activations are never negative. In
    YAML: `training: {quantise: ...}`. `mho.unquantise` makes the result permanent.
    """
    given = {"weights": weights, "activations": activations}
    try:
        method = Quantise.model_validate({k: {"bits": v} if isinstance(v, int) else v for k, v in given.items()})
    except ValidationError as error:
        complaints = "; ".join(".".join(map(str, e["loc"])) + f": {e['msg']}" for e in error.errors())
        raise MhoError(f"cannot quantise like this: {complaints}") from None
    if method.weights is None and method.activations is None:
        raise MhoError("nothing to quantise: give weights=BITS, activations=BITS, or both")
    model = copy.deepcopy(model)
    if any(True for _ in quantisers(model)):
        raise MhoError("this model is quantised already; mho.unquantise(model) first")
    done = 0
    for module in list(model.modules()):
        if isinstance(module, AnalogLayer):
            for array, matrix in module.matrices():
                method.convert(array, matrix)
                array.remap(matrix)
                done += 1
        elif has_matrix(module):
            _quantise_digital(module, method)
            done += 1
    if not done:
        raise MhoError(f"this {type(model).__name__} has no linear layer, convolution or layer on tiles to quantise")
    return model


def unquantise(model: nn.Module) -> nn.Module:
    """A copy of `model` without quantisers; its weights are the quantised ones from now on."""
    model = copy.deepcopy(model)
    keep_stored(model)
    for module in list(model.modules()):
        if isinstance(getattr(module, "input_quantiser", None), QuantiserModule) or _weight_quantiser(module):
            _unquantise_digital_(module)
    return model


def _quantise_digital(module: nn.Module, method: Quantise) -> None:
    if parametrize.is_parametrized(module):
        raise MhoError(f"{type(module).__name__} is parametrized already; remove_parametrizations first")
    weight = cast(Tensor, module.weight)
    if (q := placed(method.weights, "weights", weight)) is not None:
        parametrize.register_parametrization(module, "weight", q)
    module.register_module("input_quantiser", placed(method.activations, "activations", weight))
    module.register_forward_pre_hook(_quantise_input)
    module.register_load_state_dict_pre_hook(_from_plain)


def _quantise_input(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    quantiser = module.input_quantiser
    return args if quantiser is None else (cast(QuantiserModule, quantiser)(args[0]), *args[1:])


def _weight_quantiser(module: nn.Module) -> QuantiserModule | None:
    if not parametrize.is_parametrized(module, "weight"):
        return None
    first = cast(Any, module).parametrizations.weight[0]
    return first if isinstance(first, QuantiserModule) else None


def _unquantise_digital_(module: nn.Module) -> None:
    if _weight_quantiser(module) is not None:
        weight = cast(Tensor, module.weight).detach()
        # torch's remove_parametrizations would take the weight from copies of this module too: they share its new class
        del module._modules["parametrizations"]
        module.__class__ = type(module).__bases__[0]
        module.weight = nn.Parameter(weight)
    module.register_module("input_quantiser", None)


def _from_plain(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """A checkpoint of the plain layer: its weight goes in front of the quantiser, which starts anew."""
    q, plain = _weight_quantiser(module), f"{prefix}weight"
    if q is not None and plain in state:
        q.start(state[plain])
        for name, value in q.state_dict().items():
            state[f"{prefix}parametrizations.weight.0.{name}"] = value
        state[f"{prefix}parametrizations.weight.original"] = state.pop(plain)
    if isinstance(module.input_quantiser, QuantiserModule):
        for name, value in module.input_quantiser.state_dict().items():
            state.setdefault(f"{prefix}input_quantiser.{name}", value)
