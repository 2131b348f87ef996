"""What a study is about: a task's trained network, and the hardware that it is put on."""

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mho.config import Hardware
from mho.effects import Dac
from mho.tile import TileArray, tile_arrays
from mho.use import calibrate, one_chip, to_analog, to_digital
from mho_lab.measure.identity import digest
from mho_lab.run.networks import Item, Value, changed, task_of, trained

Measure = Callable[[Item], Value]
Measurer = Callable[[list[Item], Measure], list[Value]]  # measures items, remembers what it has measured


@dataclass(frozen=True)
class Subject:
    """A trained network of a task: the checkpoint is a file of `mho train` or a plain digital one."""

    task: str
    checkpoint: str
    seed: int = 0

    def item(self, hw: Hardware | None, **more: Any) -> Item:
        """Plain data that name this network on `hw` (None: digital); `bytes` is what the checkpoint holds now."""
        data = None if hw is None else hw.to_data()
        file, held = self.checkpoint, _digest(self.checkpoint, changed(self.checkpoint))
        return {"task": self.task, "checkpoint": file, "bytes": held, "seed": self.seed, "hardware": data, **more}

    def chips(self, hw: Hardware, first: int, last: int, *times: float) -> Item:
        """The item of `scores`: chips first ... last - 1 at these times."""
        return self.item(hw, chips=[first, last], times=list(times))

    @property
    def chance(self) -> float:
        return task_of(self.task).chance


def scores(item: Item) -> Value:
    """Measure: {"scores": [chip][time]} of programmed chips; without hardware that of the digital network."""
    task, net = task_of(item["task"]), network(item)
    if item["hardware"] is None:
        with torch.no_grad():
            return {"scores": [[float(task.checked_score(net))]]}
    first, last = item["chips"]
    times = tuple(item["times"])
    return {"scores": [list(one_chip(net, task.checked_score, times, item["seed"], k)) for k in range(first, last)]}


def network(item: Item) -> nn.Module:
    """The network of an item in eval mode, a copy of its own: a plain torch one, or one on the tiles of its hardware."""
    base = trained(item["task"], item["checkpoint"])
    if item["hardware"] is None:
        return (to_digital(base) if tile_arrays(base) else copy.deepcopy(base)).eval()
    return carried(item["task"], item["checkpoint"], Hardware.from_data(item["hardware"])).eval()


def carried(task: str, checkpoint: str, hw: Hardware) -> nn.Module:
    """The trained network on other hardware, its weights untouched.

    Scales and input ranges stay what training made them wherever a matrix is cut and mapped as before; otherwise it is
    mapped anew, and its input ranges are calibrated on the task's calibration batches.
    """
    base = trained(task, checkpoint)
    before = {a.name: a for a in tile_arrays(base)}
    net = to_analog(to_digital(base) if before else base, hw)
    new = [a for a in tile_arrays(net) if not _taken_over(a, before.get(a.name))]
    if any(isinstance(a.spec.dac, Dac) and a.spec.dac.range == "learned" for a in new):
        ranges = _calibrated(task, checkpoint, changed(checkpoint), hw)
        for array in new:
            if array.name in ranges:
                array.input_range.data.copy_(torch.tensor(ranges[array.name]).view_as(array.input_range))
    return net


@torch.no_grad()
def _taken_over(array: TileArray, before: TileArray | None) -> bool:
    """Give an array the scales and input ranges that it had; False where they do not fit."""
    if before is None or before.layout.sizes != array.layout.sizes or before.view.mapping != array.view.mapping:
        return False
    array.gamma.copy_(before.gamma * before.output_factor().abs())  # as folding the scales does
    kept = isinstance(before.spec.dac, Dac)
    if kept:
        array.input_range.data.copy_(before.input_range)
    return kept


@functools.lru_cache(64)
def _calibrated(task: str, checkpoint: str, changed: int, hw: Hardware) -> dict[str, list[float]]:
    base = trained(task, checkpoint)
    net, owner = to_analog(to_digital(base) if tile_arrays(base) else base, hw), task_of(task)
    return calibrate(net, owner.calibration_batches(), cap=owner.range_cap, forward=owner.predict)


@functools.lru_cache(64)
def _digest(checkpoint: str, changed: int) -> str:
    return digest(checkpoint)


# --- one number of a result ---


def column(values: list[Value], time: int = 0) -> list[float]:
    """The scores of all chips of some results at the n-th time."""
    return [row[time] for value in values for row in value["scores"]]
