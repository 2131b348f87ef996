"""A 4-bit flash device keeps the contract, has 16 levels and loses charge with log time."""

import pytest
import torch
from mho_flash4 import ChargeLoss, Levels
from mho_kit import Bench, NonidealityContract


class TestLevels(NonidealityContract):
    spec = Levels()
    expected = {"program": lambda g, site: ((g / site.g_max * 15).round() * site.g_max / 15, 0.1 * site.g_max / 15)}


class TestChargeLoss(NonidealityContract):
    spec = ChargeLoss()


def test_there_are_sixteen_levels():
    g = torch.linspace(0, 25, 1000, dtype=torch.float64).view(1, 1, 1, -1)
    exact = Levels(residue=0.0)
    assert exact.program(g, Bench().site(exact, "program", target=g)).unique().numel() == 16


@pytest.mark.parametrize("decades", [2, 5])
def test_the_loss_grows_with_the_logarithm_of_time(decades):
    g = torch.full((1, 1, 200, 200), 20.0, dtype=torch.float64)
    spec = ChargeLoss(spread=0.0)
    aged = spec.age(g, 10.0**decades - 1, Bench().site(spec, "age", target=g))
    assert torch.allclose(aged, g * (1 - 0.005 * decades))
