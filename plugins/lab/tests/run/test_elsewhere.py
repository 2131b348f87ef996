"""Chips of a run or an evaluation that are scored by shards and on clusters: the same numbers."""

import json

import pytest
import torch
from click.testing import CliRunner
from mho_lab import devices
from mho_lab.options import shard_of
from torch import nn

import mho
from mho.cli import main

TASK = """
import torch, mho
from torch import nn

class Blobs(mho.Task):
    chance, epochs, hwa_epochs = 1 / 3, 1, 1

    def __init__(self):
        g = torch.Generator().manual_seed(0)
        self.y = torch.arange(60) % 3
        self.x = torch.randn(3, 6, generator=g)[self.y] + 0.3 * torch.randn(60, 6, generator=g)

    def model(self):
        return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))

    def train_batches(self, seed):
        for part in torch.randperm(60, generator=torch.Generator().manual_seed(seed)).split(20):
            yield self.x[part], self.y[part]

    def score(self, model):
        right = (model(self.x).argmax(1) == self.y).double()
        return mho.Score(float(right.mean()), zeros=float(right[::3].mean()))
"""


@pytest.fixture
def mho_line(tmp_path, monkeypatch):
    """What a command line prints; Python's exceptions are as they are."""
    (tmp_path / "blobs.py").write_text(TASK)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    mho.save_model(net, tmp_path / "net.safetensors")

    def run(*line):
        result = CliRunner().invoke(main, [*map(str, line)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    return run


EVALUATE = ("evaluate", "net.safetensors", "blobs.py", "pcm.standard", "--chips", 3, "--time", "1 h", "--json")


def test_shards_of_an_evaluation_give_its_numbers(mho_line):
    whole = json.loads(mho_line(*EVALUATE))
    said = mho_line(*EVALUATE, "--shard", "1/2", "--out", "there")
    assert "2 of 3 chips are done in there" in said
    assert json.loads(mho_line(*EVALUATE, "--shard", "2/2", "--out", "there")) == whole
    assert json.loads(mho_line(*EVALUATE, "--executor", "process", "--out", "there")) == whole  # all are there


def test_another_checkpoint_in_the_same_folder_is_another_evaluation(mho_line, tmp_path):
    first = json.loads(mho_line(*EVALUATE, "--shard", "1/1", "--out", "there"))
    torch.manual_seed(1)
    mho.save_model(nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)), tmp_path / "net.safetensors")
    again = json.loads(mho_line(*EVALUATE, "--shard", "1/1", "--out", "there"))
    assert again["scores"] != first["scores"] and again == json.loads(mho_line(*EVALUATE))


def test_another_calibration_in_the_same_folder_is_another_evaluation(mho_line, tmp_path):
    """Input ranges come from the task: its file has changed, and not the checkpoint."""
    line = (*EVALUATE, "--shard", "1/1", "--out", "there")
    first = json.loads(mho_line(*line))
    (tmp_path / "blobs.py").write_text(TASK.replace("hwa_epochs = 1 / 3, 1, 1", "hwa_epochs, range_cap = 1 / 3, 1, 1, 0.1"))
    with pytest.warns(UserWarning, match="blobs.py has changed"):
        again = json.loads(mho_line(*line))
    assert again == json.loads(mho_line(*EVALUATE)) != first


def test_a_shard_is_two_numbers():
    assert shard_of("2/8") == (2, 8) and shard_of(None) is None
    with pytest.raises(mho.MhoError, match="expected I/N"):
        shard_of("two of eight")


def summary(folder):
    found = json.loads((folder / "summary.json").read_text())
    return {k: v for k, v in found.items() if k not in ("command", "seconds")}


@pytest.mark.slow
def test_a_cluster_gives_the_numbers_of_this_process(mho_line, tmp_path):
    distributed = pytest.importorskip("distributed")
    line = ("run", "blobs.py", "pcm.standard", "--chips", 3, "--no-report", "--out")
    mho_line(*line, "here")
    local = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "local_directory": str(tmp_path / "dask")}
    with distributed.LocalCluster(**local) as cluster:
        mho_line(*line, "there", "--dask", cluster.scheduler_address)
        curve = json.loads(mho_line(*EVALUATE, "--dask", cluster.scheduler_address, "--out", "others"))
    assert summary(tmp_path / "here") == summary(tmp_path / "there")
    assert [json.loads(r) for r in (tmp_path / "here" / "results.jsonl").read_text().splitlines()] == [
        json.loads(r) for r in (tmp_path / "there" / "results.jsonl").read_text().splitlines()
    ]
    assert curve == json.loads(mho_line(*EVALUATE))


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_told(mho_line):
    pytest.importorskip("distributed")
    result = CliRunner().invoke(main, [*map(str, EVALUATE), "--dask", "tcp://127.0.0.1:9"])
    assert result.exit_code and "no Dask scheduler at tcp://127.0.0.1:9" in result.output


# -- devices --------------------------------------------------------------------------------------------------------
class Accelerators:
    """In place of torch.accelerator: a machine with two."""

    @staticmethod
    def current_accelerator(check_available=False):
        return torch.device("cuda")

    @staticmethod
    def device_count():
        return 2


def test_a_device_that_is_not_there_is_told(monkeypatch):
    with pytest.raises(mho.MhoError, match=r"cpu, cuda, cuda:N, mps or auto"):
        devices.chosen("graphics")
    monkeypatch.setattr(torch, "accelerator", Accelerators)
    assert devices.chosen("cuda:1") == torch.device("cuda", 1)
    for name in ("mps", "cuda:2"):
        with pytest.raises(mho.MhoError, match=f"--device {name}: torch .* finds 2 x cuda"):
            devices.chosen(name)


@pytest.mark.parametrize(("name", "number"), [("MainProcess", 0), ("LokyProcess-3", 1), ("LokyProcess-12", 0)])
def test_every_worker_has_a_device_of_its_own(monkeypatch, name, number):
    monkeypatch.setattr(torch, "accelerator", Accelerators)
    monkeypatch.setattr(devices.multiprocessing.current_process(), "_name", name)
    assert devices.chosen("auto") == devices.chosen("cuda") == torch.device("cuda", number)


def test_every_rank_has_a_device_of_its_own(monkeypatch):
    monkeypatch.setattr(torch, "accelerator", Accelerators)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert devices.chosen("cuda") == torch.device("cuda", 1)


def test_auto_is_the_processor_where_there_is_nothing_else(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    assert devices.chosen("auto") == torch.device("cpu")
    with pytest.raises(mho.MhoError, match="finds no accelerator on this machine"):
        devices.chosen("cuda")
