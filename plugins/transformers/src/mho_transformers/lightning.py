"""Hardware-aware training in a Lightning Trainer, unmodified.

Trainer(callbacks=[AnalogCallback()], ...).fit(module)      # module.net = mho.to_analog(model, hw)
"""

import math
from typing import Any

from mho.ground import MhoError
from mho.use import Attached, attach
from mho_transformers.drift import DriftScore

try:
    from lightning.pytorch import Callback
except ImportError as error:
    raise MhoError("mho.lightning needs Lightning: pip install lightning") from error


class AnalogCallback(Callback):
    """Attaches the module's optimizer when training begins: clip, remap and ramp follow its steps.

    drift   what to measure on simulated chips after every `every_n_epochs` epochs; it goes to the module's log
    """

    def __init__(self, drift: DriftScore | None = None, every_n_epochs: int = 1) -> None:
        self.drift, self.every_n_epochs = drift, every_n_epochs
        self.attached: Attached | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if len(trainer.optimizers) != 1:
            raise MhoError(
                f"this module has {len(trainer.optimizers)} optimizers; call mho.attach(optimizer, net) in its "
                "on_train_start for the one that trains the analog layers"
            )
        batches = trainer.num_training_batches  # inf where the data have no length
        steps = None if math.isinf(batches) else math.ceil(batches / trainer.accumulate_grad_batches)
        self.attached = attach(trainer.optimizers[0], pl_module, steps_per_epoch=steps)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self.attached is not None:
            self.attached.detach()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if self.drift is not None and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            pl_module.log_dict(self.drift(pl_module))
