"""Hugging Face and Lightning for mho: language models on analog tiles, and callbacks for their trainers, unmodified.

hf:FOLDER        a pretrained model as a task of `mho run`; Conv1D and mixtures of experts on tiles; `own_text`
AnalogCallback   for the `Trainer` of Hugging Face transformers; `mho_transformers.lightning` has one of the same name
DriftScore       what both can measure while a training goes on: a score on simulated chips over drift time

`huggingface` and `lightning` are modules that need those packages; nothing here imports them before it is asked for.
"""

from mho import AnalogLayer, TrainingMethod, hookimpl
from mho.ground import offers

__getattr__, __all__ = offers(__name__, __file__)


@hookimpl
def mho_layers() -> list[type[AnalogLayer]]:
    from mho_transformers.conv1d import AnalogConv1D
    from mho_transformers.experts import AnalogExperts

    return [AnalogConv1D, AnalogExperts]


@hookimpl
def mho_tasks() -> dict[str, str]:
    """`mho run hf:FOLDER HW --text FILE`."""
    return {"hf.model": "mho_transformers.language:task_of"}


@hookimpl
def mho_training() -> list[type[TrainingMethod]]:
    from mho_transformers.recipe import ChannelClip

    return [ChannelClip]
