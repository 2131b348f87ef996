"""rram.telegraph_noise against the amplitudes worked out from its law. n = 524,288 reads."""

import pytest
import torch
from mho_rram.telegraph import TelegraphNoise

import mho


@pytest.mark.parametrize(("g", "share"), [(3.3, 0.055), (10.0, 0.018), (100.0, 0.0032)])
def test_the_relative_amplitude_is_that_of_the_table(g, share):
    """5.5 % at 3.3 uS, 1.8 % at 10 uS, 0.32 % at 100 uS, two digits."""
    amplitude = TelegraphNoise().amplitude(torch.tensor(g, dtype=torch.float64)) / g
    assert float(amplitude) == pytest.approx(share, abs=0.5 * 10 ** (-3 if share > 0.01 else -4))


def test_the_change_of_resistance_is_linear_in_the_resistance():
    """dR/R = b + a R, in units of MOhm, for g well above a."""
    g = torch.tensor([2.0, 10.0, 40.0], dtype=torch.float64)
    jumped = g + TelegraphNoise().amplitude(g)
    assert torch.allclose((1 / g - 1 / jumped) * g, 0.0015 + 0.1662 / g)


def test_no_cell_jumps_by_more_than_it_conducts():
    g = torch.linspace(0, 1, 1000, dtype=torch.float64)
    amplitude = TelegraphNoise().amplitude(g)
    assert (amplitude <= g).all() and (amplitude >= 0).all()


def reads(device, w, effect=None, **kwargs):
    effect = effect or TelegraphNoise()
    devices = device(effect, 20.0, **kwargs)
    return effect.read(torch.full((1, 512, 1024), w, dtype=torch.float64), devices.site("read"))


@pytest.mark.parametrize("w", [0.5, -0.5])
def test_a_weight_takes_two_values_around_its_programmed_one(w, device, stats):
    read = reads(device, w)
    x = 0.1662 + 0.0015 * 20
    jump = 20 * x / (20 - x) / 40
    low, high = read.abs().unique().tolist()
    assert high - low == pytest.approx(jump) and 0.5 * (low + high) == pytest.approx(0.5)
    stats.has_share(read.abs() == low, 0.5)
    stats.has_mean(read, w)


def test_the_share_of_filled_traps_is_the_occupancy_and_the_mean_stays(device, stats):
    read = reads(device, 0.5, TelegraphNoise(occupancy=0.1))
    stats.has_share(read == read.min(), 0.1)
    stats.has_mean(read, 0.5)


def test_the_idle_device_of_a_pair_has_a_trap_of_its_own(device):
    assert len(reads(device, 0.5, g_min=5.0).unique()) == 4


def test_a_weight_of_zero_stays_zero(device):
    assert (reads(device, 0.0) == 0).all()


def test_gradients_pass_through(device):
    effect = TelegraphNoise()
    w = torch.full((1, 512, 1024), 0.3, requires_grad=True)
    effect.read(w, device(effect, 20.0).site("read")).sum().backward()
    assert torch.equal(w.grad, torch.ones_like(w))


def test_every_forward_call_of_a_chip_reads_anew():
    hardware = mho.Hardware.from_yaml(
        "mho: 1\ndefault: t\ntiles:\n  t:\n    device: {g_max: 40 uS}\n    nonidealities: [rram.telegraph_noise]\n"
    )
    tile = mho.Tile(torch.randn(8, 16, generator=torch.Generator().manual_seed(0)), hardware).program(seed=0)
    x = torch.ones(1, 16)
    first, second = tile(x), tile(x)
    assert not torch.equal(first, second)
    tile.program(seed=0)
    assert torch.equal(tile(x), first) and torch.equal(tile(x), second)
