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


def test_a_weight_of_zero_on_devices_above_zero_has_the_traps_of_both(device, stats):
    """The difference of two independent jumps around 0."""
    read = reads(device, 0.0, g_min=5.0)
    jump = float(TelegraphNoise().amplitude(torch.tensor(5.0, dtype=torch.float64))) / 35
    assert read.unique().tolist() == pytest.approx([-jump, 0.0, jump], abs=1e-12)
    stats.has_share(read.abs() < jump / 2, 0.5)


@pytest.mark.parametrize("g_min", [0.0, 2.0])
@pytest.mark.parametrize("w", [0.02, -0.02, 0.005, 0.3, -1.0, 0.0])
def test_the_derivative_is_that_of_finite_differences(w, g_min, device):
    """d/dw (w + jump(w)) on either side of the bound of the jump, 2 x = 0.33 uS; symmetric around 0."""
    effect = TelegraphNoise()
    site = device(effect, 20.0, g_max=25.0, g_min=g_min).site("read")
    weight = torch.full((1, 4, 8), w, dtype=torch.float64, requires_grad=True)
    effect.read(weight, site).sum().backward()
    h = 1e-6
    up, down = w + h, (w if w == 0 and g_min else w - h)  # with idle devices at g_min the jump has a sign: from above
    low, high = (effect.read(torch.full_like(weight, v), site) for v in (down, up))
    assert torch.allclose(weight.grad, ((high - low) / (up - down)).detach(), atol=1e-5)


@pytest.mark.parametrize("dac", ["none", "{bits: 8, range: 1.0}"])  # reference path, fast path
def test_mode_autograd_trains_with_the_derivative_of_the_amplitude(dac):
    """At w = 0.02 (0.5 uS): d dG/dg = -0.2477, so 1.124 where the trap is filled, 0.876 where it is not; through: 1."""
    text = (
        "mho: 1\ndefault: t\ntiles:\n  t:\n    device: {g_max: 25 uS}\n    mapping: mho.direct\n"
        f"    dac: {dac}\n    nonidealities: [rram.telegraph_noise]\n"
        "training: {inject: none, backward: BACKWARD}\n"
    )
    seen = {}
    for mode in ("autograd", "through"):
        torch.manual_seed(0)
        net = mho.to_analog(torch.nn.Linear(8, 8, bias=False), mho.Hardware.from_yaml(text.replace("BACKWARD", mode)))
        with torch.no_grad():
            net.weight.fill_(0.02)
        net.train()(torch.ones(1, 8)).sum().backward()
        seen[mode] = net.weight.grad
    assert seen["autograd"].unique().tolist() == pytest.approx([0.876, 1.124], abs=5e-4)
    assert torch.equal(seen["through"], torch.ones(8, 8))


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
