"""A training hook runs behind any optimizer once its plugin is loaded."""

from pathlib import Path

import torch
from mho_kit import TrainingContract
from mho_shrink import PruneBelowNoise

import mho
from mho.config import registry

FILE = Path(__file__).parents[1] / "mho_shrink.py"


class TestPruneBelowNoise(TrainingContract):
    hook = PruneBelowNoise


def train(steps):
    torch.manual_seed(0)
    net = mho.to_analog(torch.nn.Sequential(torch.nn.Linear(50, 20, bias=False)), mho.load("ideal.exact"))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    attached = mho.attach(optimizer, net)
    for _ in range(steps):
        net(torch.ones(2, 50)).sum().backward()
        optimizer.step()
    attached.detach()
    return net[0].weight.detach().clone()


def test_small_weights_shrink_every_tenth_step_and_large_ones_stay():
    before = train(1)
    registry.load_file(FILE)
    assert torch.equal(train(9), before)
    after = train(10)
    changed = after != before
    assert changed.any() and not changed.all()
    assert torch.allclose(after[changed], before[changed] * 0.9)
    assert before[changed].abs().max() < before[~changed].abs().min() * 1.5


def test_without_the_plugin_nothing_happens():
    assert torch.equal(train(10), train(1))
