"""rram.iv_curve against the polynomials, cell by cell."""

import numpy as np
import pytest
import torch
from mho_kit import NonidealityContract
from mho_rram.curve import Curve

import mho


@pytest.mark.slow
class TestCurve(NonidealityContract):
    spec = Curve()


HW = """\
mho: 1
default: t
tiles:
  t:
    device: {g_min: 50 uS, g_max: 225 uS, pair: both}
    mapping: mho.direct
    nonidealities: [{kind: rram.iv_curve, v_read: 0.3}]
"""


def current(g, v):
    """A of cells of g S at v V (Milo et al. 2021, as fitted in CrossSim)."""
    log = np.log10(g)
    second = np.polyval([1.388e-4, 1.541e-3, 5.711e-3, 7.063e-3], log)
    third = np.polyval([8.871e-5, 6.7919e-4, 1.2968e-3], log)
    return g * v + second * v**2 + third * v**3


def test_currents_are_those_of_the_polynomials():
    g = torch.Generator().manual_seed(0)
    w, x = (2 * torch.rand(n, 30, generator=g, dtype=torch.float64) - 1 for n in (5, 8))
    plus, minus = ((50 + 175 * (s * w).clamp(min=0).numpy()) * 1e-6 for s in (1, -1))
    v = 0.3 * x.numpy()[:, None]
    sensed = (current(plus, v) + current(minus, -v)).sum(-1) / (0.3 * 175e-6)
    found = mho.Tile(w, mho.Hardware.from_yaml(HW)).program(seed=0)(x).detach().numpy()
    assert np.abs(found - sensed).max() < 1e-6
    assert np.abs(found - (x @ w.T).numpy()).max() > 0.05
