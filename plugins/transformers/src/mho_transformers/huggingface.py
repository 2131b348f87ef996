"""Hardware-aware training in the Trainer of Hugging Face transformers, unmodified.

Trainer(model=mho.to_analog(model, hw), callbacks=[AnalogCallback()], ...).train()
"""

import math
from typing import Any

from mho.ground import MhoError
from mho.use import Attached, attach
from mho_transformers.drift import DriftScore

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise MhoError("mho.huggingface needs transformers: pip install transformers accelerate") from error


class AnalogCallback(TrainerCallback):
    """Attaches the optimizer that the Trainer makes when training begins: clip, remap and ramp follow its steps.

    drift   what to measure on simulated chips at every evaluation of the Trainer; it goes to the Trainer's log
    """

    def __init__(self, drift: DriftScore | None = None) -> None:
        self.drift = drift
        self.attached: Attached | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **has: Any) -> None:
        self.attached = attach(has["optimizer"], has["model"], steps_per_epoch=_steps_per_epoch(args, has))

    def on_train_end(self, args: Any, state: Any, control: Any, **has: Any) -> None:
        if self.attached is not None:
            self.attached.detach()

    def on_evaluate(self, args: Any, state: Any, control: Any, **has: Any) -> None:
        if self.drift is None:
            return
        found = self.drift(getattr(has["model"], "module", has["model"]))
        has["metrics"].update(found)
        state.log_history.append({"step": state.global_step, **found})


def _steps_per_epoch(args: Any, has: dict[str, Any]) -> int | None:
    """Optimizer steps of one pass over the data; None where that has no length."""
    try:
        return max(1, math.ceil(len(has["train_dataloader"]) / args.gradient_accumulation_steps))
    except TypeError:
        return None
