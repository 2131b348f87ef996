"""A layer from outside core: converted, exact on an exact device, trained, and put back."""

from pathlib import Path

import pytest
import torch
from mho_bilinear import AnalogBilinear
from mho_kit import LayerContract

import mho
from mho.config import registry

FILE = Path(__file__).parents[1] / "mho_bilinear.py"


class TestAnalogBilinear(LayerContract):
    layer = AnalogBilinear


class Pair(torch.nn.Module):
    """Scores two vectors."""

    def __init__(self):
        super().__init__()
        self.score = torch.nn.Bilinear(6, 7, 5)

    def forward(self, a, b):
        return self.score(a, b)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Pair(), torch.rand(4, 6), torch.rand(4, 7)


def test_without_the_plugin_the_layer_stays_digital(model):
    with pytest.raises(mho.MhoError, match="a bilinear form multiplies two inputs"):
        mho.to_analog(model[0], "ideal.exact")


def test_on_an_exact_device_it_computes_the_same(model):
    registry.load_file(FILE)
    net = mho.to_analog(model[0], mho.load("ideal.exact"))
    assert type(net.score).__name__ == "AnalogBilinear"
    mho.program(net.eval(), seed=0)
    assert torch.allclose(net(*model[1:]), model[0](*model[1:]), atol=1e-5)
    assert torch.allclose(mho.to_digital(net)(*model[1:]), model[0](*model[1:]), atol=1e-5)


def test_it_trains(model):
    registry.load_file(FILE)
    net = mho.to_analog(model[0], mho.load("pcm.standard"))
    mho.attach(torch.optim.SGD(net.parameters(), lr=0.1), net, steps_per_epoch=10)
    net.train()(*model[1:]).square().sum().backward()
    assert net.score.weight.grad.abs().sum() > 0
