"""A training method runs behind any optimizer where the hardware file lists it."""

from pathlib import Path

import torch
from mho_kit import TrainingContract
from mho_shrink import PruneBelowNoise

import mho
from mho.config import registry

FILE = Path(__file__).parents[1] / "mho_shrink.py"


class TestPruneBelowNoise(TrainingContract):
    spec = PruneBelowNoise()


def train(steps, *methods):
    torch.manual_seed(0)
    hw = mho.load("ideal.exact", set=[f"training.methods=[{', '.join(methods)}]"])
    net = mho.to_analog(torch.nn.Sequential(torch.nn.Linear(50, 20, bias=False)), hw)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    attached = mho.attach(optimizer, net)
    for _ in range(steps):
        net(torch.ones(2, 50)).sum().backward()
        optimizer.step()
    attached.detach()
    return net[0].weight.detach().clone()


def test_small_weights_shrink_every_tenth_step_and_large_ones_stay():
    registry.load_file(FILE)
    before = train(9, "shrink.below_noise")
    assert torch.equal(before, train(10))
    for method, factor in (("shrink.below_noise", 0.9), ("{kind: shrink.below_noise, factor: 0.5, every: 5}", 0.25)):
        after = train(10, method)
        changed = after != before
        assert changed.any() and not changed.all()
        assert torch.allclose(after[changed], before[changed] * factor)
        assert before[changed].abs().max() < before[~changed].abs().min() * 1.5
