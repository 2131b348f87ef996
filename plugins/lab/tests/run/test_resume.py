"""A training that is killed goes on where it was, to the bit."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mho_lab.run.job import Job
from mho_lab.run.loop import Loop, accuracy, generator_states, set_generator_states
from mho_lab.run.task import load_task
from safetensors.torch import load_file

import mho
from mho.config import registry

# The loss is dragged out, so that a kill lands inside a training; dropout, numpy and Python's generator have a state too.
TASK = """
import os, random, time
import numpy as np, torch, mho
from torch import nn

class Blobs(mho.Task):
    chance, epochs, hwa_epochs = 1 / 3, 3, 4

    def __init__(self):
        g = torch.Generator().manual_seed(0)
        self.y = torch.arange(120) % 3
        self.x = torch.randn(3, 6, generator=g)[self.y] + 0.3 * torch.randn(120, 6, generator=g)

    def model(self):
        return nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, 3))

    def train_batches(self, seed):
        for part in torch.randperm(120, generator=torch.Generator().manual_seed(seed)).split(30):
            yield self.x[part] + 0.01 * (np.random.rand() + random.random()), self.y[part]

    def loss(self, outputs, batch):
        time.sleep(float(os.environ.get("SLOW", "0")))
        return super().loss(outputs, batch)

    def score(self, model):
        return float((model(self.x).argmax(1) == self.y).double().mean())
"""
PLUGIN = """
import mho

class Follow(mho.TrainingMethod, kind="blobs.follow"):
    '''Weights are pulled to a running mean of themselves.'''

    source = "a test"

    def start(self, training):
        return Mean()

class Mean(mho.TrainingHooks):
    def __init__(self):
        self.means = {}

    def after_step(self, array, weight, step):
        mean = self.means.setdefault(array.name, weight.detach().clone()).lerp_(weight, 0.1)
        weight.lerp_(mean, 0.2)

    def state_dict(self):
        return self.means

    def load_state_dict(self, state):
        self.means = state

@mho.hookimpl
def mho_training():
    return [Follow]
"""
HW = """
mho: 1
like: pcm.standard
times: [1 s]
training:
  inject: {scale: 2, ramp: 2 epochs}
  backward: ste
  remap: 3 steps
  out_scale: both
  noise: {sigma: 0.1, ramp: 6 steps}
  quantise: {activations: {bits: 6}}
  distill: {temperature: 4}
  weight_decay: 0.01
  methods: [blobs.follow]
"""


@pytest.fixture
def files(tmp_path):
    (tmp_path / "blobs.py").write_text(TASK)
    (tmp_path / "hw.yaml").write_text(HW)
    (tmp_path / "follow.py").write_text(PLUGIN)
    with registry.using(registry.Registry()):
        yield tmp_path


def train(files, out, **env):
    command = [str(Path(sys.executable).with_name("mho")), "--plugin", "follow.py", "train", "blobs.py", "hw.yaml", "--out", out]
    with (files / "log").open("a") as log:
        return subprocess.Popen(
            command, cwd=files, env={**os.environ, "OMP_NUM_THREADS": "1", **env}, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip


def wait_for(file, process, seconds=120):
    end = time.monotonic() + seconds
    while not file.exists():
        assert process.poll() is None, (file.parents[1] / "log").read_text()
        assert time.monotonic() < end, f"{file} did not come"
        time.sleep(0.01)


@pytest.mark.slow
def test_a_killed_training_ends_with_the_bits_of_an_uninterrupted_one(files):
    """Killed with SIGKILL in the middle of the digital training and twice in the hardware-aware one."""
    whole = train(files, "whole")
    for name, wait in (("digital.part.safetensors", 0.1), ("trained.part.safetensors", 0.15), ("trained.part.safetensors", 0.5)):
        process = train(files, "parts", SLOW="0.1")
        wait_for(files / "parts" / name, process)
        time.sleep(wait)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (files / "parts" / "trained.safetensors").exists()
    last = train(files, "parts")
    assert last.wait() == 0, (files / "log").read_text()
    assert whole.wait() == 0, (files / "log").read_text()
    for name in ("digital.safetensors", "trained.safetensors"):
        one, other = load_file(files / "whole" / name), load_file(files / "parts" / name)
        assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    assert not list((files / "parts").glob("*.part.safetensors"))


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_loop_goes_on_after_its_last_whole_epoch(files, stop, monkeypatch):
    """The same in one process, after every epoch."""
    monkeypatch.chdir(files)
    hw = mho.load("hw.yaml", plugins=["follow.py"])

    def job(out):
        return Job(load_task("blobs.py"), hw, files / out, progress=False)

    job("whole").train()
    keep = Loop._keep

    def keep_and_stop(self, epoch, decay):
        keep(self, epoch, decay)
        if epoch == stop and self.epochs == 4:
            self.net[0].weight.data.fill_(7.0)  # whatever happens after the last checkpoint is lost
            random.random(), np.random.rand(), torch.rand(1)
            raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(Loop, "_keep", keep_and_stop)
        with pytest.raises(KeyboardInterrupt):
            job("parts").train()
    random.seed(99)
    job("parts").train()
    one, other = (load_file(files / f / "trained.safetensors") for f in ("whole", "parts"))
    assert all(torch.equal(one[k], other[k]) for k in one)
    assert json.loads((files / "parts" / "key.json").read_text())["seed"] == 0


def test_all_generators_come_back():
    states = generator_states()
    first = torch.rand(3), np.random.rand(3), random.random()
    set_generator_states(states)
    second = torch.rand(3), np.random.rand(3), random.random()
    assert torch.equal(first[0], second[0]) and (first[1] == second[1]).all() and first[2] == second[2]


@pytest.mark.parametrize(
    "outputs, batch, right",
    [
        (torch.eye(3), (None, torch.tensor([0, 1, 0])), 2 / 3),
        (torch.eye(3)[None].expand(2, 3, 3)[..., :2], (None, torch.tensor([[0, 1, 1]] * 2)), 1.0 - 1 / 6 * 2),  # [.., class]
        (torch.eye(4)[None, :3], (None, torch.tensor([[0, 1, 2, 1]])), 3 / 4),  # [batch, class, place]
        (torch.zeros(2, 3, 3), (None, torch.zeros(2, 3, dtype=torch.long)), None),  # either
        (torch.zeros(2, 1), (None, torch.tensor([0, 1])), None),
        (torch.zeros(2), (None, torch.tensor([0.5, 1.0])), None),
        ({"logits": torch.zeros(2, 2)}, {"x": torch.zeros(2)}, None),
    ],
)
def test_accuracy_is_that_of_labels_where_there_are_some(outputs, batch, right):
    found = float(accuracy(outputs, batch))
    assert math.isnan(found) if right is None else found == pytest.approx(right)
