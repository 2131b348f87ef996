"""Quantisation-aware and noisy training: methods for the `training:` section, and the same by hand for digital networks."""

from mho import Quantiser, TrainingMethod, hookimpl
from mho.ground import offers

__getattr__, __all__ = offers(__name__, __file__)


@hookimpl
def mho_training() -> list[type[TrainingMethod]]:
    from mho_qat.methods import Distill, Noise, Schedule
    from mho_qat.quantiser import Quantise

    return [Noise, Quantise, Distill, Schedule]


@hookimpl
def mho_quantisers() -> list[type[Quantiser]]:
    from mho_qat.quantiser import Uniform

    return [Uniform]
