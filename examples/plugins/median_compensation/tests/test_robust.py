"""The median compensates drift as well as the mean, and better where a few columns are dead."""

import torch
from mho_kit import CompensationContract
from mho_robust import MedianDrift

import mho

HW = """\
mho: 1
default: t
tiles:
  t:
    device: {{g_max: 25 uS}}
    nonidealities: [{{kind: pcm.drift, nu_std: 0}}]
    compensation: {kind}
"""


class TestMedianDrift(CompensationContract):
    spec = MedianDrift()


def tile(kind):
    mho.register(MedianDrift)
    w = torch.randn(30, 50, generator=torch.Generator().manual_seed(0))
    return w, mho.Tile(w, mho.Hardware.from_yaml(HW.format(kind=kind))).program(seed=0)


def error(kind, age="1 day"):
    w, t = tile(kind)
    return float((t.age(age)(torch.eye(50)) - w.T).norm() / w.norm())


def test_drift_is_compensated():
    assert error("robust.median") < 0.3 * error("none")


def test_the_gain_is_one_at_age_zero():
    assert error("robust.median", 0) < 1e-5


def test_dead_columns_do_not_move_the_gain():
    reference = torch.ones(4, 2, 10)
    now = 0.5 * reference
    now[:, :, :3] = 0  # three columns died
    gain = MedianDrift().gain(reference, now, tile("none")[1].tiles.view.geometry)
    assert torch.equal(gain, torch.full((2, 10), 2.0))
