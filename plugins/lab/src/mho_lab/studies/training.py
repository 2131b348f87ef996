"""Trainings that studies need: a task's plain training, with noise or not, and the states it passes through."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mho_qat import CLOSED, PreactivationNoise
from torch import nn

from mho.config import Hardware
from mho.effects import draws
from mho.ground import write_atomically
from mho.tile import tile_arrays
from mho.use import attach, calibrate, save_model, to_analog
from mho_lab.devices import placed
from mho_lab.measure.identity import identity
from mho_lab.run.loop import Loop
from mho_lab.run.task import Task
from mho_lab.studies.subject import Item, Value, task_of

# Tiles that are nothing but a matrix product.
EXACT = Hardware.from_yaml("mho: 1\ndefault: t\ntiles: {t: {}}\ntraining: {clip: none, inject: none}", "exact tiles")
RAMP = (21 / 300, 121 / 300)  # of a noisy training, in which the noise grows to its full strength (R002-05)
STAGES = (0.0, 0.1, 0.5, 1.0)  # of a training, R000-20


def train(
    task: Task, net: nn.Module, epochs: int, lr: float, seed: int, after: Callable[[int], Any] = lambda epoch: None
) -> nn.Module:
    """The task's own training with a cosine schedule; `after(n)` is called with the number of epochs done."""
    optimizer = task.optimizer([p for p in net.parameters() if p.requires_grad], lr)
    if tile_arrays(net):
        attach(optimizer, net, steps_per_epoch=sum(1 for _ in task.train_batches(0)))
    Loop(task, net, optimizer, epochs, seed, None, loss=task.loss, progress=False, after=after).run()
    return net


def states(item: Item) -> Value:
    """Measure: train a task from scratch and keep the network at some shares of the training, in files named by them."""
    task, net, epochs = _begun(item, "states")
    wanted: dict[int, list[float]] = {}
    for stage in item["stages"]:
        wanted.setdefault(round(stage * epochs), []).append(stage)
    files: dict[str, str] = {}

    def keep(epoch: int) -> None:
        for stage in wanted.get(epoch, ()):
            files[f"{stage:g}"] = _saved(net, item, f"stage-{stage:g}")

    train(task, net, epochs, task.lr, item["seed"], keep)
    return {"files": files}


def noisy_network(item: Item) -> Value:
    """Measure: train a task with noise on all pre-activations (R002-03), ramped up as in R002-05; where the item has a
    `bound`, on tiles whose outputs saturate there (R002-10)."""
    sigma, bound = item["sigma"], item["bound"]
    task, net, epochs = _begun(item, "noisy")
    if bound is not None:
        net = to_analog(net, bounded(Hardware.from_data(item["hardware"]), bound))
        calibrate(net, task.calibration_batches(), cap=task.range_cap, forward=task.predict)
    net = hookable(net)
    noisy = PreactivationNoise(0.0, item["mode"])

    def ramp(epoch: int) -> None:
        noisy.sigma = sigma * min(1.0, max(0.0, (epoch / epochs - RAMP[0]) / (RAMP[1] - RAMP[0])))

    with noisy.on(net):
        train(task, net, epochs, task.lr, item["seed"], ramp)
    return {"file": _saved(net, item, f"noisy-{item['mode']}-{sigma:g}")}


def _begun(item: Item, what: str) -> tuple[Task, nn.Module, int]:
    """The task, a fresh network from a seed of its own, and how many epochs it is to be trained."""
    task = task_of(item["task"])
    torch.manual_seed(draws.words(what, item["seed"])[0] & 0x7FFFFFFF)
    return task, placed(task.model()), task.epochs if item["epochs"] is None else item["epochs"]


def hookable(net: nn.Module) -> nn.Module:
    """The network, or where torch hides pre-activations (recurrent layers, attention) the same on tiles that compute exactly."""
    if tile_arrays(net) or not any(isinstance(m, CLOSED) for m in net.modules()):
        return net
    training = net.training
    return to_analog(net, EXACT).train(training)


def bounded(hw: Hardware, bound: float) -> Hardware:
    """`hw` with exact tiles, but that outputs saturate at the bound."""
    data = hw.varied(only=()).to_data()
    for tile in data["tiles"].values():
        tile["adc"] = {"kind": "mho.adc", "bits": None, "bound": bound}
    return Hardware.from_data(data)


def _saved(net: nn.Module, item: Item, what: str) -> str:
    """The file of a network, named also by a hash of everything that it depends on: no other one overwrites it."""
    about = {k: v for k, v in item.items() if k != "out"}, identity(task_of(item["task"]))
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    return str(write_atomically(Path(item["out"]) / f"{what}-{name}.safetensors", lambda part: save_model(net, part)))
