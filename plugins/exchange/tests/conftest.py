"""A small network on tiles with everything that the exchange knows: several row tiles and column blocks, both converters."""

import pytest
import torch
from torch import nn

import mho

HARDWARE = """
mho: 1
default: t
tiles:
  t:
    rows: 12
    columns: 5
    device: {g_min: 1 uS, g_max: 25 uS, pair: both}
    dac: {bits: 8}
    adc: {bits: 8, bound: 4}
    nonidealities: []
training: {inject: {scale: 1}}
"""


@pytest.fixture
def network():
    """network(change=value, ...) -> Linear, ReLU, Conv2d and Linear on tiles, calibrated, in eval mode."""

    def make(*changes):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(16, 18),
            nn.ReLU(),
            nn.Unflatten(1, (2, 3, 3)),
            nn.Conv2d(2, 3, 2, padding=1),
            nn.Flatten(),
            nn.Linear(48, 4),
        )  # fmt: skip
        net = mho.to_analog(model, mho.load(mho.Hardware.from_yaml(HARDWARE), set=changes)).eval()
        mho.calibrate(net, [inputs()])
        return net

    return make


@pytest.fixture
def x():
    return inputs()


def inputs(n=32):
    return torch.randn(n, 16, generator=torch.Generator().manual_seed(1))
