"""The `training:` section of a hardware file: how networks are trained for the hardware. Torch-free, like all configuration."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import model_validator

from mho.config.schema import Field, Kinded, Strict
from mho.config.slots import SURROGATE
from mho.config.units import Sigmas, Span
from mho.ground.errors import MhoError

# Where the methods and their defaults come from.
RASCH, WANG, FENG = "Rasch et al. 2023", "Wang et al. 2025", "Feng et al. 2025"
INJECTION = f"{RASCH}, Methods, Re-training with weight noise injection"
CLIPPING = f"{RASCH}, Methods, Weight mapping and clipping"
FACTORS = f"{RASCH}, Methods, Learning of weight-to-conductance conversion factors"
TEACHER = f"{RASCH}, Methods, Distilling with floating-point teacher"
VARIANCE_AWARE = "variance-aware noisy training, by the group of Wang et al. 2025"
EPOCHS = f"schedule of the group of {WANG}"


class Backward(Strict):
    """How gradients pass through a tile; a bare word is the mode."""

    SHORTHAND: ClassVar[str | None] = "mode"

    mode: Literal["through", "ste", "surrogate", "autograd"] = Field(
        "through",
        source=f"through: {RASCH}; ste: {FENG}; autograd: Fang & Wang 2026",
        description="through: noisy weights, rounding straight-through; ste: clean weights; surrogate: those of a stand-in; "
        "autograd: every derivative",
    )
    products: Literal["fp32", "bf16"] = Field(
        "fp32",
        source="mho",
        description="through, on the fused path: arithmetic of the two products of a backward pass; bf16: half the time",
    )
    rounding: Literal["zero", "ste"] = Field(
        "zero",
        source=f"zero: Fang & Wang 2026; ste: {FENG}",
        description="autograd only: derivative of rounding, 0 or straight-through",
    )
    surrogate: Annotated[Kinded, SURROGATE] | None = Field(
        None, source=FENG, description="surrogate only: the differentiable stand-in whose gradient is taken"
    )

    @model_validator(mode="after")
    def _parts_fit_the_mode(self) -> Self:
        if self.rounding != "zero" and self.mode != "autograd":
            raise ValueError(f"'rounding: {self.rounding}' has a meaning only with 'mode: autograd'")
        if (self.surrogate is None) == (self.mode == "surrogate"):
            raise ValueError(
                "'mode: surrogate' and 'surrogate: KIND' belong together, e.g. 'surrogate: mho.saturating'"
            )
        return self

    @property
    def forward_only(self) -> bool:
        """Whether the forward runs without a graph, so that it may be any code (R001-01)."""
        return self.mode in ("ste", "surrogate")


class InjectSpec(Strict):
    """Programming noise on the weights while training."""

    scale: float = Field(
        1.0, ge=0, unit="1", source=INJECTION, description="factor on the noise that programming would make"
    )
    ramp: Span | None = Field(None, source=INJECTION, description="grow linearly from 0 over this time, e.g. '1 epoch'")
    per: Literal["mini-batch", "sample"] = Field(
        "mini-batch",
        source=INJECTION,
        description="one draw of the weights for a whole mini-batch, or one for each of its samples (slow: a product each)",
    )


class NoiseSpec(Strict):
    """Gaussian noise on pre-activations while training: noisy training, and variance-aware training with alpha and theta."""

    sigma: float = Field(ge=0, unit="1", source=WANG, description="standard deviation, in units of the pre-activation")
    mode: Literal["additive", "multiplicative", "mixed"] = Field(
        "additive", source=WANG, description="y + sigma xi, y (1 + sigma xi), or both with draws of their own"
    )
    layers: str | tuple[str, ...] = Field(
        "all", source=WANG, description="all (global), or names or shell patterns of the noisy layers (walking)"
    )
    alpha: float = Field(
        1.0, ge=0, unit="1", source=VARIANCE_AWARE, description="each sample draws N(alpha sigma, theta^2)"
    )
    theta: float = Field(
        0.0, ge=0, unit="1", source=VARIANCE_AWARE, description="spread of the drawn standard deviation"
    )
    ramp: Span | None = Field(None, source=INJECTION, description="grow linearly from 0 over this time, e.g. '1 epoch'")


class QuantiserSpec(Strict):
    """A quantiser; a bare number in Python's `mho.quantise` is its bits."""

    bits: int = Field(4, ge=2, le=8, unit="bit", source=WANG, description="resolution: 2^bits - 1 levels (signed)")
    range: float | Literal["learned", "statistics"] = Field(
        "learned",
        gt=0,
        unit="1",
        source=WANG,
        description="largest value: learned (LSQ gradient), from statistics (abs-max), or a constant",
    )


class QuantiseSpec(Strict):
    """Quantisation-aware training of the layers on tiles."""

    weights: QuantiserSpec | None = Field(None, source=WANG, description="quantise the weights; none: leave them")
    activations: QuantiserSpec | None = Field(
        None, source=WANG, description="quantise the inputs of the layers, in front of the DAC; none: leave them"
    )


class DistillSpec(Strict):
    """A digital teacher beside the labels (Hinton et al. 2015)."""

    temperature: float = Field(10.0, gt=0, unit="1", source=TEACHER, description="softens both distributions")
    weight: float = Field(
        0.75, ge=0, le=1, unit="1", source=TEACHER, description="share of the teacher; the task's loss has the rest"
    )


class Schedule(Strict):
    """When quantisation and noise begin, and the learning rate: the published schedule of noisy training (R002-05).

    The fields count epochs from 1, as papers do; the methods take `done`, the epochs finished so far (with fractions):

    >>> s = mho.Schedule()
    >>> s.quantised(10), s.noise(70), s.rate(0)     # epochs 11, 71 and 1 begin
    (True, 0.5, 0.001)

    Batches of 128 and Adam complete the recipe.
    """

    quantise_from: int = Field(11, ge=1, unit="1", source=EPOCHS, description="first epoch with quantisers on")
    noise_from: int = Field(21, ge=1, unit="1", source=EPOCHS, description="epoch in which noise begins to grow")
    noise_full: int = Field(121, ge=1, unit="1", source=EPOCHS, description="first epoch of full noise")
    epochs: int = Field(300, ge=1, unit="1", source=EPOCHS, description="last epoch")
    lr: float = Field(1e-3, gt=0, unit="1", source=EPOCHS, description="learning rate at the start")
    lr_end: float = Field(1e-6, ge=0, unit="1", source=EPOCHS, description="learning rate at the end, a cosine away")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.noise_full < self.noise_from:
            raise ValueError(f"noise_full ({self.noise_full}) must not come before noise_from ({self.noise_from})")
        return self

    def quantised(self, done: float) -> bool:
        """Whether quantisers are on."""
        return done >= self.quantise_from - 1

    def noise(self, done: float) -> float:
        """Share of the noise, 0 to 1: linear from the beginning of `noise_from` to that of `noise_full`."""
        start, full = self.noise_from - 1, self.noise_full - 1
        return float(done >= start) if full == start else min(1.0, max(0.0, (done - start) / (full - start)))

    def rate(self, done: float) -> float:
        """The learning rate: lr_end + (lr - lr_end) (1 + cos(pi done/epochs))/2."""
        return self.lr_end + (self.lr - self.lr_end) * (1 + math.cos(math.pi * min(1.0, done / self.epochs))) / 2

    def stretched(self, epochs: int) -> Schedule:
        """The same shape over another number of epochs."""
        if epochs < 1:
            raise MhoError(f"a schedule needs at least 1 epoch, got {epochs}")
        f = epochs / self.epochs
        moved = {n: round((getattr(self, n) - 1) * f) + 1 for n in ("quantise_from", "noise_from", "noise_full")}
        return self.model_copy(update={**moved, "epochs": epochs})


class TrainingSpec(Strict):
    """Hardware-aware training (R003-60 to R003-79), and the quantised and noisy training of R002."""

    backward: Backward = Field(Backward(), source=INJECTION, description="how gradients pass through a tile")
    inject: InjectSpec | None = Field(InjectSpec(), source=INJECTION, description="weight noise while training")
    clip: float | Sigmas | None = Field(
        1.0,
        gt=0,
        unit="1",
        source=CLIPPING,
        description="after every step, clip the mapped weights at this value or at this many sigma",
    )
    remap: Span | None = Field(
        None, source=CLIPPING, description="map the weights anew this often, so that columns use the full range"
    )
    out_scale: Literal["fixed", "tile", "column", "both"] = Field(
        "fixed",
        source=FACTORS,
        description="train a digital output factor for every tile (kappa), every column of every tile, both, or none",
    )
    auto_scale: bool = Field(
        False,
        source=FACTORS,
        description="learn column factors in units of sqrt(3/n), so that they have similar magnitudes everywhere",
    )
    drop_connect: float = Field(
        0.0,
        ge=0,
        lt=1,
        unit="1",
        source=f"{RASCH}, A.2.7",
        description="share of the weights set to 0 in each mini-batch",
    )
    range_decay: float = Field(
        0.001,
        ge=0,
        unit="1",
        source=f"{RASCH}, Methods, Learning the input range",
        description="pull on a learned input range while few inputs are clipped",
    )
    noise: NoiseSpec | None = Field(None, source=WANG, description="noise on pre-activations while training")
    quantise: QuantiseSpec | None = Field(None, source=WANG, description="quantisation-aware training")
    distill: DistillSpec | None = Field(
        None, source=TEACHER, description="`mho run` and `mho train` only: learn from the digital network too"
    )
    schedule: Schedule | None = Field(
        None, source=EPOCHS, description="when quantisers and noise set in, epochs and learning rate, in one"
    )
    epochs: int | None = Field(
        None, ge=0, unit="1", source="mho", description="passes over the data; none: the task says"
    )
    lr: float | None = Field(None, gt=0, unit="1", source="mho", description="learning rate; none: the task says")
    optimizer: Literal["adam", "adamw", "sgd"] | None = Field(
        None, source="mho", description="torch optimizer; none: the task says"
    )
    weight_decay: float | None = Field(
        None, ge=0, unit="1", source=FACTORS, description="of the optimizer; none: the task says"
    )

    def disagreements(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """A schedule says when noise grows, how long and how fast to learn: nobody else may."""
        if self.auto_scale and self.out_scale in ("fixed", "tile"):
            yield ("auto_scale",), "nothing to scale: it needs 'out_scale: column' or 'out_scale: both'"
        if self.schedule is None:
            return
        given: dict[tuple[str, ...], Any] = {
            ("epochs",): self.epochs,
            ("lr",): self.lr,
            ("inject", "ramp"): self.inject and self.inject.ramp,
            ("noise", "ramp"): self.noise and self.noise.ramp,
        }
        for path, value in given.items():
            if value is not None:
                yield path, "training.schedule says this already; remove one of them"
