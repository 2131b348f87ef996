"""A task of 400 points in four classes and a small network, trained once: what the studies are tested on."""

import pytest
import torch
from mho_lab.studies.subject import Subject, task_of
from mho_lab.studies.training import train

import mho

TASK = '''
import mho
import torch
from torch import nn


class Blobs(mho.Task):
    """Four clouds in eight dimensions."""

    chance = 0.25
    epochs, hwa_epochs, lr = 12, 4, 1e-2

    def __init__(self):
        g = torch.Generator().manual_seed(0)
        self.y = torch.arange(800) % 4
        self.x = (1.2 * torch.randn(4, 8, generator=g))[self.y] + torch.randn(800, 8, generator=g)

    def model(self):
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))

    def train_batches(self, seed):
        for part in torch.randperm(400, generator=torch.Generator().manual_seed(seed)).split(50):
            yield self.x[part], self.y[part]

    def score(self, model):
        return float((model(self.x[400:]).argmax(1) == self.y[400:]).double().mean())
'''


@pytest.fixture(scope="session")
def blobs(tmp_path_factory):
    """The trained network as a Subject; its files are in a folder of their own."""
    folder = tmp_path_factory.mktemp("blobs")
    (folder / "blobs.py").write_text(TASK)
    task = task_of(str(folder / "blobs.py"))
    torch.manual_seed(0)
    net = train(task, task.model(), task.epochs, task.lr, 0)
    mho.save_model(net, folder / "digital.safetensors")
    return Subject(str(folder / "blobs.py"), str(folder / "digital.safetensors"))


@pytest.fixture(scope="session")
def standard():
    return mho.load("pcm.standard", set=["tiles.pcm.rows=64", "tiles.pcm.columns=64"])
