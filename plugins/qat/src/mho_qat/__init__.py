"""Quantisation-aware and noisy training: methods for the `training:` section, and the same by hand for digital networks."""

from __future__ import annotations

from mho import Quantiser, TrainingMethod, hookimpl
from mho_qat.distillation import distillation_loss as distillation_loss
from mho_qat.methods import Distill, Noise, Schedule, follow as follow
from mho_qat.preactivation import (
    CLOSED as CLOSED,
    Mode as Mode,
    PreactivationNoise as PreactivationNoise,
    noisy_modules as noisy_modules,
)
from mho_qat.quantiser import Quantise, Uniform, quantise as quantise, unquantise as unquantise


@hookimpl
def mho_training() -> list[type[TrainingMethod]]:
    return [Noise, Quantise, Distill, Schedule]


@hookimpl
def mho_quantisers() -> list[type[Quantiser]]:
    return [Uniform]
