"""One training by several processes: the numbers of one process, saved once, resumed by any count of them."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from mho_lab.run import ranks
from mho_lab.run.kept import kept_state
from mho_lab.run.loop import Loop
from mho_lab.run.task import load_task
from safetensors.torch import load_file

import mho
from mho.cli import main

# The last mini-batch has one sample, so that a rank is without; STOP ends the process after so many losses.
TASK = """
import os
import numpy as np, torch, mho
from torch import nn

class Blobs(mho.Task):
    chance, epochs, hwa_epochs, left = 1 / 3, 2, 2, int(os.environ.get("STOP", "-1"))

    def __init__(self):
        g = torch.Generator().manual_seed(0)
        self.y = torch.arange(91) % 3
        self.x = torch.randn(3, 6, generator=g)[self.y] + 0.3 * torch.randn(91, 6, generator=g)

    def model(self):
        return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))

    def optimizer(self, params, lr):
        return torch.optim.SGD(params, lr=0.05, momentum=0.9)

    def train_batches(self, seed):
        for part in torch.randperm(91, generator=torch.Generator().manual_seed(seed)).split(30):
            yield self.x[part] + 0.01 * np.random.rand(), self.y[part]

    def loss(self, outputs, batch):
        if self.left == 0:
            os._exit(9)
        self.left -= 1
        return super().loss(outputs, batch)

    def score(self, model):
        return float((model(self.x).argmax(1) == self.y).double().mean())
"""
CHANGES = ["training.inject.scale=3", "training.backward=ste", "tiles.pcm.rows=4", "training.remap=3 steps"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "blobs.py").write_text(TASK)
    return tmp_path


def train(folder, out, processes=1, stop=-1, *more):
    """The exit status of `mho train`."""
    many = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, "-W", "ignore", *(many if processes > 1 else []), "-m", "mho", "train", "blobs.py", "pcm.standard"]
    command += [*(f"--set={c}" for c in CHANGES), "--out", out, "--save-every", "1", *more]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "STOP": str(stop)}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False).returncode


def assert_same(folder, a, b):
    for name in ("digital", "trained"):
        one, other = (load_file(folder / f / f"{name}.safetensors") for f in (a, b))
        assert one.keys() == other.keys()
        for k, v in one.items():
            assert torch.allclose(v, other[k], rtol=1e-4, atol=1e-6), (name, k)


def test_processes_compute_what_one_computes_and_another_count_goes_on(folder):
    """Noise of weights, of reads and of outputs, ranges that follow the inputs, and a mini-batch of one sample: same numbers up
    to rounding. Two processes die in the second epoch of the second training, and one goes on from there."""
    assert train(folder, "one") == 0
    assert train(folder, "two", 2, stop=8 + 6) != 0
    assert (folder / "two" / "digital.safetensors").exists() and (folder / "two" / "trained.part.safetensors").exists()
    state = kept_state(folder / "two" / "trained.part.safetensors")
    assert state["epoch"] == 1 and state["left"]["steps"] in (1, 2)
    assert train(folder, "two") == 0
    assert_same(folder, "one", "two")
    assert sorted(f.name for f in (folder / "two").iterdir()) == sorted(f.name for f in (folder / "one").iterdir())


@pytest.mark.slow
def test_processes_that_share_parameters_compute_what_one_computes_and_another_count_goes_on(folder):
    """FSDP2: weights, momentum and what clips and remaps see are whole where it matters. Two processes die in the second epoch
    of the second training; one goes on from there, and from where that dies, two again"""
    assert train(folder, "one") == 0
    assert train(folder, "two", 2, 8 + 6, "--fsdp") != 0
    state = kept_state(folder / "two" / "trained.part.safetensors")
    sizes = {k: v.shape for k, v in load_file(folder / "one" / "trained.safetensors").items()}
    assert {k: v.shape for k, v in state["net"].items()} == sizes
    assert train(folder, "two", 1, 1) != 0
    assert kept_state(folder / "two" / "trained.part.safetensors")["left"]["steps"] == state["left"]["steps"] + 1
    assert train(folder, "two", 2, -1, "--fsdp") == 0
    assert_same(folder, "one", "two")
    assert sorted(f.name for f in (folder / "two").iterdir()) == sorted(f.name for f in (folder / "one").iterdir())


def test_one_process_has_nothing_to_share(folder):
    result = CliRunner().invoke(main, ["train", str(folder / "blobs.py"), "pcm.standard", "--out", str(folder / "out"), "--fsdp"])
    assert isinstance(result.exception, mho.MhoError) or result.exit_code
    assert "start them with torchrun" in f"{result.output}{result.exception}"


@pytest.mark.slow
def test_one_process_dies_and_three_go_on(folder):
    assert train(folder, "one") == 0
    assert train(folder, "three", stop=3) != 0
    assert train(folder, "three", 3) == 0
    assert_same(folder, "one", "three")


def test_a_training_goes_on_in_the_middle_of_an_epoch_to_the_bit(folder):
    """Batches that draw from numpy's generator are made again up to where the epoch was left"""
    task = load_task(folder / "blobs.py")

    def trained(file, stop=None):
        torch.manual_seed(0), np.random.seed(0)
        net = task.model()
        seen = []

        def loss(outputs, batch):
            seen.append(batch)
            if len(seen) == stop:
                raise KeyboardInterrupt
            return mho.Task.loss(task, outputs, batch)

        loop = Loop(task, net, task.optimizer(net.parameters(), 0.1), 2, 0, file, loss, progress=False, every=1)
        try:
            loop.run()
        except KeyboardInterrupt:
            return trained(file)
        curves.append(loop.curve)
        return net.state_dict()

    curves = []
    whole, resumed = trained(folder / "a"), trained(folder / "b", stop=7)
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
    assert curves[0] == curves[1] and len(curves[0]) == 2


def test_every_sample_is_computed_once(monkeypatch):
    """Parts of 1 to 9 samples among 4 ranks: mean losses times their factors are the mean of the whole"""
    for total in range(1, 10):
        x, found, before = torch.arange(float(total)), [], []
        for rank in range(4):
            monkeypatch.setattr(ranks.dist, "is_initialized", lambda: True)
            monkeypatch.setattr(ranks.dist, "get_world_size", lambda: 4)
            monkeypatch.setattr(ranks.dist, "get_rank", lambda rank=rank: rank)
            part, first, factor = ranks.part_of({"x": (x, "a name"), "of all": torch.ones(50)})
            assert len(part["of all"]) == 50 and part["x"][1] == "a name" and len(part["x"][0]) >= 1
            found.append(float(part["x"][0].mean()) * factor)
            before += [] if not factor else [first]
            assert not factor or part["x"][0][0] == first
        assert sum(found) / 4 == pytest.approx(float(x.mean()))


def test_a_batch_without_samples_cannot_be_shared(monkeypatch):
    monkeypatch.setattr(ranks, "count", lambda: 2)
    monkeypatch.setattr(ranks.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(ranks.dist, "get_rank", lambda: 0)
    with pytest.raises(mho.MhoError, match="along the first axis"):
        ranks.part_of({"seed": 3})
