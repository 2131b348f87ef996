"""Noisy training as training methods: the sections `noise`, `distill` and `schedule` (`quantise` is in `quantiser`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from mho import Field, TrainingHooks, TrainingMethod
from mho.config import Span
from mho.effects import quantisers
from mho.ground import MhoError
from mho.tile import tile_arrays
from mho_qat.distillation import distillation_loss
from mho_qat.preactivation import PreactivationNoise

# Where the methods and their defaults come from.
RASCH = "Rasch et al. 2023"
WANG = "Wang et al. 2025"
INJECTION = f"{RASCH}, Methods, Re-training with weight noise injection"
TEACHER = f"{RASCH}, Methods, Distilling with floating-point teacher"
VARIANCE_AWARE = f"variance-aware noisy training, by the group of {WANG}"
EPOCHS = f"schedule of the group of {WANG}"


class Noise(TrainingMethod, kind="qat.noise"):
    """Gaussian noise on pre-activations while training: noisy training, and variance-aware training with alpha and theta."""

    source: ClassVar[str] = "Wang et al. 2025"
    sigma: float = Field(0.1, ge=0, unit="1", source=WANG, description="standard deviation, in units of the pre-activation")
    mode: Literal["additive", "multiplicative", "mixed"] = Field("additive", source=WANG)
    """y + sigma xi, y (1 + sigma xi), or both with draws of their own"""
    layers: str | tuple[str, ...] = Field("all", source=WANG, description="all (global), or names or patterns of noisy layers")
    alpha: float = Field(1.0, ge=0, unit="1", source=VARIANCE_AWARE, description="each sample draws N(alpha sigma, theta^2)")
    theta: float = Field(0.0, ge=0, unit="1", source=VARIANCE_AWARE, description="spread of the drawn standard deviation")
    ramp: Span | None = Field(None, source=INJECTION, description="grow linearly from 0 over this time, e.g. '1 epoch'")

    def start(self, training: Any) -> TrainingHooks:
        ramp = 0.0 if self.ramp is None else training.steps(self.ramp, "training.noise.ramp")
        about = {"alpha": self.alpha, "theta": self.theta, "training_only": True}
        return Noisy(PreactivationNoise(self.sigma, self.mode, self.layers, **about).attach(training.net), ramp)


@dataclass
class Noisy(TrainingHooks):
    """Noise on a network in training, which grows over the first `ramp` steps."""

    noise: PreactivationNoise
    ramp: float

    def before_forward(self, step: int) -> None:
        if self.ramp:
            self.noise.share = min(1.0, step / self.ramp)

    def detach(self) -> None:
        self.noise.detach()


class Distill(TrainingMethod, kind="qat.distill"):
    """A digital teacher beside the labels, see `mho.distillation_loss`."""

    source: ClassVar[str] = "Hinton et al. 2015"
    temperature: float = Field(10.0, gt=0, unit="1", source=TEACHER, description="softens both distributions")
    weight: float = Field(0.75, ge=0, le=1, unit="1", source=TEACHER, description="share of the teacher; the rest is the task's")

    def loss(self, value: Tensor, logits: Callable[[], Tensor], teacher: Callable[[], Tensor]) -> Tensor:
        soft = teacher()
        return distillation_loss(logits(), soft, value, temperature=self.temperature, weight=self.weight)


class Schedule(TrainingMethod, kind="qat.schedule"):
    """When quantisation and noise begin, and the learning rate: a published schedule of noisy training.

    The fields count epochs from 1, as papers do; the methods take `done`, the epochs finished so far (with fractions):

    >>> s = mho.Schedule()
    >>> s.quantised(10), s.noise(70), s.rate(0)     # epochs 11, 71 and 1 begin
    (True, 0.5, 0.001)

    Batches of 128 and Adam complete the recipe. Injected weight noise grows with the noise on pre-activations.
    """

    source: ClassVar[str] = "Wang et al. 2025"
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
        """The same shape over another number of epochs, at least 1: less raises `MhoError`."""
        if epochs < 1:
            raise MhoError(f"a schedule needs at least 1 epoch, got {epochs}")
        f = epochs / self.epochs
        moved = {n: round((getattr(self, n) - 1) * f) + 1 for n in ("quantise_from", "noise_from", "noise_full")}
        return self.model_copy(update={**moved, "epochs": epochs})

    def decides(self) -> dict[str, Any]:
        ramp = f"from epoch {self.noise_from} to {self.noise_full}"
        return {"epochs": self.epochs, "lr": self.lr, "inject.ramp": ramp, "noise.ramp": ramp}

    def start(self, training: Any) -> TrainingHooks:
        epoch = training.steps(Span(1, "epochs"), "training.schedule")
        for array in tile_arrays(training.net):
            array.ramp = (self.noise_from - 1) * epoch, (self.noise_full - self.noise_from) * epoch
        return Following(self, training, epoch)


@dataclass
class Following(TrainingHooks):
    """A training that follows a schedule."""

    schedule: Schedule
    training: Any
    epoch: float  # optimizer steps

    def before_forward(self, step: int) -> None:
        noise = next((m.noise for m in self.training.methods if isinstance(m, Noisy)), None)
        follow(self.schedule, step / self.epoch, self.training.optimizer, self.training.net, noise)

    def detach(self) -> None:
        for q in quantisers(self.training.net):
            q.on = True  # a finished network is a quantised one, as after loading it


def follow(
    schedule: Schedule,
    done: float,
    optimizer: torch.optim.Optimizer | None = None,
    net: nn.Module | None = None,
    noise: PreactivationNoise | None = None,
) -> None:
    """Bring a learning rate, the quantisers of a network and the noise on its pre-activations to where `schedule` has
    them after `done` epochs (R002-05): for loops of your own on digital networks. `mho.attach` does it on analog ones."""
    for group in optimizer.param_groups if optimizer is not None else ():
        group["lr"] = schedule.rate(done)
    for q in quantisers(net) if net is not None else ():
        q.on = schedule.quantised(done)
    if noise is not None:
        noise.share = schedule.noise(done)
