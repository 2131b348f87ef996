"""A SAR ADC: ideal without mismatch, and with it wrong by what the mismatch says, in every chip differently."""

import mho_sar
import pytest
import torch
from mho_kit import Bench, ConverterContract
from mho_sar import SarAdc

import mho
from mho.effects import Adc

HW = "mho: 1\ndefault: t\ntiles:\n  t:\n    adc: {kind: sar.adc, bits: 6, sigma: 0.02}\n"


class TestSarAdc(ConverterContract):
    spec = SarAdc(sigma=0.05)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_without_mismatch_it_is_the_ideal_adc(bits):
    y = torch.linspace(-13, 13, 4001, dtype=torch.float64)[:, None, None]
    site = Bench().converter_site(SarAdc())
    ours, ideal = SarAdc(bits=bits, sigma=0.0).convert(y, site=site), Adc(bits=bits).convert(y)
    on_the_edge = ((y.abs() * (2 ** (bits - 1) - 1) / 10) % 1 - 0.5).abs() < 1e-6
    assert torch.allclose(ours[~on_the_edge], ideal[~on_the_edge])


def test_capacitors_are_spread_as_the_mismatch_says():
    """std of capacitor k is sigma sqrt(2^k) units; n = 40,000 converters, five sigma of the standard deviation."""
    y = torch.zeros(1, 4, 10_000, dtype=torch.float64)
    capacitors = SarAdc(bits=6, sigma=0.04)._capacitors(y, Bench().converter_site(SarAdc()))
    for k, found in zip((4, 3, 2, 1, 0), capacitors):
        assert float(found.mean()) == pytest.approx(2.0**k, abs=5 * 0.04 * 2 ** (k / 2) / 200)
        assert float(found.std()) == pytest.approx(0.04 * 2 ** (k / 2), rel=5 / (2**0.5 * 200))


def test_mismatch_makes_errors_of_about_its_size():
    """The error of the largest capacitor, sigma sqrt(2^(b-2)) steps, dominates."""
    y = torch.rand(2000, 1, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 20 - 10
    site = Bench().converter_site(SarAdc())
    errors = [SarAdc(sigma=s).convert(y, site=site) - Adc().convert(y) for s in (0.02, 0.08)]
    small, large = (float(e.std()) / (10 / 127) for e in errors)
    assert 0.05 < small < 0.5 and 2 < large / small < 6


def test_the_gradient_passes_where_it_is_not_saturated():
    y = torch.tensor([[[0.3, -5.0, 40.0]]], requires_grad=True)
    SarAdc().convert(y).sum().backward()
    assert y.grad.tolist() == [[[1.0, 1.0, 0.0]]]


def test_every_chip_has_converters_of_its_own():
    mho.register(mho_sar.SarAdc)
    tile = mho.Tile(torch.eye(6) * torch.linspace(0.3, 1, 6), mho.Hardware.from_yaml(HW))
    x = torch.rand(40, 6, generator=torch.Generator().manual_seed(0))
    first, again, other = (tile.program(seed=s)(x) for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(first, tile.program(seed=0).age("1 year")(x))  # mismatch does not age
    assert 0 < float((first - x * torch.linspace(0.3, 1, 6)).norm()) < 4
