"""A SAR ADC: ideal without mismatch, and with it wrong by what the mismatch says."""

import mho
import mho_sar
import pytest
import torch
from mho.converter import Adc
from mho_sar import SarAdc

HW = "mho: 1\ndefault: t\ntiles:\n  t:\n    adc: {kind: sar.adc, bits: 6, sigma: 0.02}\n"


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_without_mismatch_it_is_the_ideal_adc(bits):
    y = torch.linspace(-13, 13, 4001, dtype=torch.float64)[:, None]
    ours, ideal = SarAdc(bits=bits, sigma=0.0).convert(y), Adc(bits=bits).convert(y)
    on_the_edge = ((y.abs() * (2 ** (bits - 1) - 1) / 10) % 1 - 0.5).abs() < 1e-6
    assert torch.allclose(ours[~on_the_edge], ideal[~on_the_edge])


def test_mismatch_makes_errors_of_about_its_size():
    """The error of the largest capacitor, sigma sqrt(2^(b-2)) steps, dominates."""
    y = torch.rand(2000, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 20 - 10
    small, large = (float((SarAdc(sigma=s).convert(y) - Adc().convert(y)).std()) / (10 / 127) for s in (0.02, 0.08))
    assert 0.05 < small < 0.5 and 2 < large / small < 6


def test_the_gradient_passes_where_it_is_not_saturated():
    y = torch.tensor([[0.3, -5.0, 40.0]], requires_grad=True)
    SarAdc().convert(y).sum().backward()
    assert y.grad.tolist() == [[1.0, 1.0, 0.0]]


def test_it_runs_from_yaml_in_a_tile_and_compiles():
    mho.register(mho_sar.SarAdc)
    tile = mho.Tile(torch.eye(6), mho.Hardware.from_yaml(HW)).program(seed=0)
    x = torch.rand(3, 6, generator=torch.Generator().manual_seed(0))
    assert 0 < float((tile(x) - x).norm()) < 1
