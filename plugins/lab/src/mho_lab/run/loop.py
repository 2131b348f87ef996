"""The training loop of a task. Killed at any moment and started again, it ends with the same bits."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from mho.effects import draws
from mho.ground import MhoError
from mho.use import Attached, session_of
from mho_lab.devices import moved
from mho_lab.run import ranks
from mho_lab.run.kept import keep_state, kept_state
from mho_lab.run.task import Task


@dataclass
class Loop:
    """Epochs of `task` with `net` and `optimizer`; `loss(outputs, batch)` is minimised.

    After every epoch, and `every` so many steps, everything that goes on from there is written to `file`, in one piece: weights,
    optimizer, learning rate, training methods, generators. `run` goes on from there, with any number of processes; `done`
    removes the file. Without a file nothing is kept.
    """

    task: Task
    net: nn.Module
    optimizer: torch.optim.Optimizer
    epochs: int
    seed: int
    file: Path | None
    loss: Callable[[Any, Any], Tensor]
    cosine: bool = True  # let the learning rate fall to 0; otherwise somebody else sets it
    what: str = "training"
    progress: bool = True
    after: Callable[[int], Any] = lambda epochs: None  # told how many epochs are done, 0 first
    every: int | None = None
    attached: Attached | None = None  # what training methods remember
    curve: list[tuple[float, float | None]] = field(default_factory=list)  # of each epoch: loss, accuracy; means over its batches

    def run(self) -> None:
        """Train until the last epoch is done."""
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, max(1, self.epochs)) if self.cosine else None
        first, left = self._resume(decay)
        self.after(first)
        self.net.train()
        called = ranks.together(self.net)
        with tqdm(range(self.epochs), self.what, initial=first, disable=not self.progress, leave=False) as bar:
            for epoch in range(first, self.epochs):
                self.curve.append(self._epoch(epoch, called, decay, left))
                left = None
                bar.set_postfix(loss=f"{self.curve[-1][0]:.4f}")
                bar.update()
                if decay is not None:
                    decay.step()
                self._keep(epoch + 1, decay)
                self.after(epoch + 1)
        self.net.eval()

    def done(self) -> None:
        """The result is safe elsewhere: the state between epochs is not needed any more."""
        if self.file is not None and ranks.is_first():
            self.file.unlink(missing_ok=True)

    def _epoch(self, epoch: int, called: nn.Module, decay: Any, left: Left | None) -> tuple[float, float | None]:
        """All steps of an epoch, or those behind the `left` ones; its mean loss, and accuracy where there are labels."""
        if left is not None:
            set_generator_states(left.begun)
        session, begun, sums = session_of(self.net), generator_states() if self.every else {}, None if left is None else left.sums
        batches = enumerate(self.task.train_batches(draws.words("epoch", self.seed, epoch)[0] & 0x7FFFFFFF), 1)
        for step, whole in batches:
            if left is not None and step <= left.steps:
                if step == left.steps:
                    set_generator_states(left.now)
                continue
            batch, session.before, weight = ranks.part_of(moved(whole))
            self.optimizer.zero_grad()
            outputs = self.task.predict(called, batch)
            loss = self.loss(outputs, batch)
            (loss if weight == 1 else loss * weight).backward()
            self.optimizer.step()
            found = torch.stack([loss.detach().float(), accuracy(outputs, batch).to(loss.device), loss.new_ones(()).float()])
            sums = found if sums is None else sums.to(found.device) + found
            if self.every and step % self.every == 0:
                self._keep(epoch, decay, {"steps": step, "begun": begun, "sums": sums})
        session.before = None
        if sums is None:
            raise MhoError(f"task {self.task.name!r}: train_batches gave no batch")
        mean_loss, right = (sums[:2] / sums[2]).tolist()
        return mean_loss, None if math.isnan(right) else right

    def _keep(self, epoch: int, decay: Any, left: dict[str, Any] | None = None) -> None:
        if self.file is None:
            return
        state = {name: ranks.gathered(part.state_dict()) for name, part in self._parts(decay).items()}
        about = {"epoch": epoch, "generators": generator_states(), "left": left, "curve": self.curve}
        if ranks.is_first():
            keep_state({**state, **about}, self.file)

    def _parts(self, decay: Any) -> dict[str, Any]:
        """Everything that has a state of its own."""
        parts = {"net": self.net, "optimizer": self.optimizer, "decay": decay, "methods": self.attached}
        return {name: part for name, part in parts.items() if part is not None}

    def _resume(self, decay: Any) -> tuple[int, Left | None]:
        """Epochs that are done already, and where the next one was left."""
        if self.file is None or not self.file.exists():
            return 0, None
        state = kept_state(self.file)
        for name, part in self._parts(decay).items():
            ranks.load(part, state[name])
        set_generator_states(state["generators"])
        self.curve, left = state.get("curve", []), state.get("left")
        return int(state["epoch"]), Left(**left, now=state["generators"]) if left else None


class Left(NamedTuple):
    """Where an epoch was left: after how many steps; the states of the generators when it began, and then."""

    steps: int
    begun: dict[str, Any]
    sums: Tensor  # of loss, accuracy and batches
    now: dict[str, Any]


def accuracy(outputs: Any, batch: Any) -> Tensor:
    """The share of the labels of a batch (inputs, labels) that have the largest output; classes are the second or the last
    axis of the outputs. nan where there are no labels, or where it is not clear which axis."""
    labels = batch[1] if isinstance(batch, (tuple, list)) and len(batch) == 2 else None
    known = isinstance(outputs, Tensor) and isinstance(labels, Tensor) and not labels.is_floating_point()
    shape = tuple(outputs.shape) if known else ()
    axes = (
        {d for d in (1, len(shape) - 1) if d > 0 and shape[d] > 1 and shape[:d] + shape[d + 1 :] == labels.shape} if known else ()
    )
    if len(axes) != 1:
        return torch.tensor(math.nan)
    return (outputs.detach().argmax(*axes) == labels).float().mean()


def seed_all(seed: int) -> None:
    """Seed every default random generator: data augmentation may use any of them."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def generator_states() -> dict[str, Any]:
    """The states of all default random generators: torch's (with those of GPUs), numpy's and Python's."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "python": random.getstate(),
    }


def set_generator_states(states: dict[str, Any]) -> None:
    """Back to `generator_states`."""
    torch.set_rng_state(states["torch"].cpu())
    for number, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state.cpu(), number)
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    random.setstate(states["python"])
