"""Networks of checkpoints, kept from item to item in every process that measures; and the chips of one, wherever they are
scored."""

import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn

from mho.config import Hardware
from mho.ground import MhoError
from mho.use import load_model, one_chip, to_analog
from mho_lab.devices import current, placed
from mho_lab.measure import engine
from mho_lab.measure.identity import digest, identity
from mho_lab.measure.pools import connected
from mho_lab.measure.state import Item
from mho_lab.run.task import Score, Task, load_task

Value = dict[str, Any]


def task_of(name: str) -> Task:
    """The task of that name or file, once per process (it may hold data), and again when its file has changed."""
    file = Path(name)
    return _task_of(str(file.resolve()), changed(file)) if file.is_file() else _task_of(name, 0)


@functools.lru_cache(8)
def _task_of(name: str, changed: int) -> Task:
    return load_task(name)


def trained(task: str, checkpoint: str) -> nn.Module:
    """The network of a checkpoint: on the hardware that it was trained for where the file says so, else plain torch. Do not
    change it; it is kept for the next item."""
    return _trained(task_of(task), checkpoint, changed(checkpoint), str(current()))


@functools.lru_cache(4)
def _trained(task: Task, checkpoint: str, changed: int, device: str) -> nn.Module:
    model, hw = placed(task.model()), hardware_of(checkpoint)
    return load_model(model if hw is None else to_analog(model, hw), checkpoint).eval()


def hardware_of(checkpoint: str | Path) -> Hardware | None:
    """The hardware that a checkpoint was trained for; None for a plain digital one."""
    changed(checkpoint)
    with safe_open(str(checkpoint), "pt") as f:
        about = json.loads((f.metadata() or {}).get("mho", "{}"))
        analog = any(name.endswith("tiles.input_range") or ".tiles." in name for name in f.keys())  # noqa: SIM118
    if analog and not about.get("hardware"):
        raise MhoError(f"{checkpoint} does not say which hardware it is for; files of mho.save_model do")
    return Hardware.from_yaml(about["hardware"], str(checkpoint)) if analog else None


def changed(checkpoint: str | Path) -> int:
    """When a file was last written: what is kept of it is not used for another one."""
    try:
        return Path(checkpoint).stat().st_mtime_ns
    except OSError as error:
        raise MhoError(f"cannot read {checkpoint}: {error.strerror}") from None


# -- chips ------------------------------------------------------------------------------------------------------
def chip(item: Item) -> Value:
    """Measure: the scores of one chip of a network on its hardware, and the figures beside them, at every time."""
    taken = chip_scores(trained(item["task"], item["checkpoint"]), item)
    return {"scores": [float(s) for s in taken], "extra": {name: [s.extra[name] for s in taken] for name in taken[0].extra}}


def chip_scores(net: nn.Module, item: Item) -> Sequence[Score]:
    """The scores of one chip of a network at all times of an item."""
    task, taken = task_of(item["task"]), list[Score]()

    def score(net: nn.Module) -> float:
        taken.append(task.checked_score(net))
        return taken[-1]

    one_chip(net, score, tuple(item["times"]), item["seed"], item["chip"], task.lean)
    return taken


@dataclass(frozen=True)
class Elsewhere:
    """Chips that an executor scores, as those of a sweep: see `mho.sweep.run`. `task` is the name or file of the task."""

    task: str
    folder: Path
    executor: str = "serial"
    scheduler: str | None = None
    workers: int | None = None
    shard: tuple[int, int] | None = None
    progress: bool = False

    def chips(self, network: Path, times: Iterable[float], seed: int, chips: int) -> dict[int, Value]:
        """Number of a chip -> what `chip` measures, of those that are there now. Raises `MhoError` where one fails."""
        about = {"task": self.task, "checkpoint": str(network.resolve()), "seed": seed, "times": list(times)}
        items = [{**about, "bytes": digest(network), "chip": k} for k in range(chips)]
        on = identity(task_of(self.task), hardware=hardware_of(network))
        options: dict[str, Any] = {"shard": self.shard, "workers": self.workers, "progress": self.progress}
        with connected(self.scheduler):
            engine.run(items, chip, self.folder, self.executor, identity=on, **options)
        found = engine.records(items, chip, self.folder, on)
        for r in found:
            if error := r.get("error"):
                raise MhoError(f"chip {r['item']['chip']} failed ({error['type']}): {error['message']}; see {self.folder}")
        return {r["item"]["chip"]: r["value"] for r in found}
