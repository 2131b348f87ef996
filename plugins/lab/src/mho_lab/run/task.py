"""What a task is: a network, its data, its loss and its score. Built-in ones by name, yours as a Python file."""

from __future__ import annotations

import hashlib
import math
import os
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mho.config import Hardware, load, registry, suggest
from mho.ground import MhoError
from mho_lab.measure.identity import files_of

FAMILY = "lab"  # of tasks without a dot in their name


class Score(float):
    """A score with further figures of the same network, each a column of its own in tables and reports.

    >>> s = Score(0.61, perplexity=3.4)
    >>> s + 0, s.extra
    (0.61, {'perplexity': 3.4})
    """

    extra: dict[str, float]

    def __new__(cls, value: float, **extra: float) -> Score:
        made = super().__new__(cls, value)
        made.extra = {name.replace("_", " "): float(v) for name, v in extra.items()}
        return made


class Task:
    """Subclass it, in a file of your own, and `mho run my_task.py hardware.yaml` does the rest.

    Required: `model`, `train_batches`, `score`. The rest has defaults for classification with (inputs, labels) batches.

    chance         the score of guessing, for normalised accuracy (R003 Eq. 1)
    epochs, lr     plain training; `hwa_epochs`, `hwa_lr` hardware-aware training; `training:` in YAML overrides the latter
    range_cap      no input range that is set from data is larger, see `mho.calibrate`; Rasch et al. 2023 use 10
    remedies       None, or deployment without training is `mho.calibrate(method="auto")` with this budget of digital operations
    lean           what chips keep in memory while they are scored, see `mho.program`
    data_version   changes when the data do, so that old results are not mixed with new ones
    """

    name: ClassVar[str] = ""
    chance: float = 0.0
    epochs: int = 20
    lr: float = 1e-3
    hwa_epochs: int = 20
    hwa_lr: float = 1e-3
    range_cap: float | None = None
    remedies: float | None = None
    lean: bool | str = False
    data_version: str = "1"

    def model(self) -> nn.Module:
        """A fresh network; its initial weights come from torch's generator."""
        raise NotImplementedError

    def train_batches(self, seed: int) -> Iterable[Any]:
        """One epoch of batches, shuffled by `seed`."""
        raise NotImplementedError

    def score(self, model: nn.Module) -> float:
        """A fraction, higher is better, on held-out data; a `mho.Score` carries further figures beside it."""
        raise NotImplementedError

    def checked_score(self, model: nn.Module) -> Score:
        """`score`, which must be a fraction: anything else would become a wrong accuracy somewhere in a table."""
        value = self.score(model)
        try:
            found = float(value)
        except (TypeError, ValueError, RuntimeError):
            found = math.nan
        if not 0 <= found <= 1:
            said = value.tolist() if isinstance(value, Tensor) else value
            hint = "; divide percent by 100" if 1 < found <= 100 else ""
            raise MhoError(
                f"score of task {self.name or type(self).__name__} must return a number from 0 to 1, got {said!r}{hint}"
            )
        return value if isinstance(value, Score) else Score(found)

    def predict(self, model: nn.Module, batch: Any) -> Any:
        """The outputs of the model for a batch."""
        return model(batch[0])

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        """The training loss of these outputs."""
        return F.cross_entropy(outputs, batch[1])

    def logits(self, outputs: Any) -> Tensor:
        """The logits [..., classes] in these outputs, for distillation from the digital network."""
        if not isinstance(outputs, Tensor):
            raise MhoError(
                f"task {self.name!r}: distillation needs logits, but predict returns {type(outputs).__name__}; write "
                "logits(self, outputs) in the task"
            )
        return outputs

    def optimizer(self, params: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        """The optimizer of both trainings."""
        return torch.optim.Adam(params, lr=lr)

    def calibration_batches(self) -> Iterator[Any]:
        """Batches that input ranges are calibrated on."""
        return islice(iter(self.train_batches(0)), 10)

    def fingerprint(self) -> str:
        """A hash of the code and the data version: part of the key of every result. The code is the file of the task, of
        its parent classes, and every module in their folders that they import; data files count by `data_version` only."""
        kinds = type(self).__mro__[: type(self).__mro__.index(Task)]
        modules = dict.fromkeys(c.__module__ for c in kinds)
        code = b"".join(f.read_bytes() for m in modules for f in files_of(sys.modules[m]).values())
        return hashlib.sha256(code + self.data_version.encode()).hexdigest()[:16]


def load_task(name: str | Path | Task) -> Task:
    """A task of a plugin by its name (`lab.digits`, or `digits` for those of mho-lab), or the one `Task` subclass that a
    Python file defines. Raises `MhoError` where there is no such task, or where it cannot be used."""
    if isinstance(name, Task):
        return name
    path = Path(name)
    if path.suffix == ".py":
        if not os.path.isfile(path):  # unlike Path.is_file, quiet about impossible names
            raise MhoError(f"no such task file: {path}")
        return _from_file(path)
    maker, _, argument = str(name).partition(":")
    if argument:
        return _made_for(maker, argument)
    full = str(name) if "." in str(name) else f"{FAMILY}.{name}"
    tasks = _offered(full.partition(".")[0])
    if full not in tasks:
        known = sorted(t.removeprefix(f"{FAMILY}.") for t in tasks)  # whatever was loaded first
        raise MhoError(f"no task {str(name)!r}; {suggest(str(name), known, 'tasks')}; or give a Python file with a mho.Task")
    return _made(registry.thing(tasks[full]), full, f"task {full!r}")


def _made_for(family: str, argument: str) -> Task:
    """FAMILY:ARGUMENT is what the task FAMILY.model of a plugin makes of the argument."""
    offered = _offered(family).get(f"{family}.model")
    if offered is None:
        raise MhoError(f"no plugin makes tasks of {family}:...; mho-transformers knows hf:FOLDER")
    made = registry.thing(offered)(argument)
    if not isinstance(made, Task):
        raise MhoError(f"{family}.model must make a mho.Task, got {made!r}")
    return made


def _offered(family: str) -> dict[str, Any]:
    """All tasks that are known once this family is loaded."""
    if family in registry.default().claims:
        registry.default().load(family)
    return registry.named("task")


def task_and_hardware(task: str, hw: str, changes: Iterable[str] = ()) -> tuple[Task, Hardware]:
    """What the arguments TASK and HW of a verb stand for. Raises `MhoError` where they are swapped."""

    def describes_hardware(name: str) -> bool:
        return name.endswith((".yaml", ".yml")) or name in registry.presets()

    if describes_hardware(task) and not describes_hardware(hw):
        raise MhoError(f"TASK comes first, then HW; expected: {hw} {task}")
    hardware = load(hw, set=changes)
    return load_task(task), hardware


def _from_file(path: Path) -> Task:
    module = registry.default().run_file(path, "task")
    found = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Task) and c.__module__ == module.__name__]
    if len(found) != 1:
        names = ", ".join(c.__name__ for c in found) or "none"
        raise MhoError(f"{path} must define exactly one subclass of mho.Task, found: {names}")
    return _made(found[0], path.stem, str(path))


def _made(cls: Any, name: str, where: str) -> Task:
    """An instance of a class of a plugin or file, which must be a whole task; `name` where it has none."""
    if not (isinstance(cls, type) and issubclass(cls, Task)):
        raise MhoError(f"{where}: expected a subclass of mho.Task, got {cls!r}")
    missing = [m for m in ("model", "train_batches", "score") if getattr(cls, m) is getattr(Task, m)]
    if missing:
        raise MhoError(f"{where}: {cls.__name__} does not write {', '.join(missing)}; see mho.Task")
    cls.name = cls.name or name
    return cls()
