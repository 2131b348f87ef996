"""rram.stuck_at: shares of Chen et al. 2015 (9.04 % high-, 1.75 % low-resistance). n = 524,288 devices."""

import torch
from mho_rram.stuck import RramStuckAt


def test_the_shares_of_stuck_cells_are_binomial(device, stats):
    g = device(RramStuckAt(), 20.0, g_max=40.0, g_min=2.0).program()
    stats.has_share(g == 2.0, 0.0904)
    stats.has_share(g == 40.0, 0.0175)
    stats.has_share(g == 20.0, 1 - 0.0904 - 0.0175)


def test_the_same_cells_are_stuck_after_ageing(device):
    devices = device(RramStuckAt(), 20.0)
    stuck = devices.program() != devices.target
    drifted = devices.age(torch.full_like(devices.target, 15.0), 3600.0)
    assert torch.equal(drifted != 15.0, stuck)


def test_another_chip_has_other_stuck_cells(device, stats):
    first, second = (device(RramStuckAt(), 20.0, seed=s).program() != 20.0 for s in (0, 1))
    stats.uncorrelated(first.double(), second.double())


def test_scale_multiplies_the_shares(device, stats):
    g = device(RramStuckAt(scale=0.5), 20.0).program()
    stats.has_share(g == 0.0, 0.0452)
