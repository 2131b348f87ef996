"""Fixtures of the RRAM tests: a site to run one effect on, without a tile around it."""

from types import SimpleNamespace

import pytest
import torch

from mho.effects import draws
from mho.effects.site import Geometry, Rows, Site, Stream

SHAPE = (1, 1, 512, 1024)  # n = 524,288 devices


@pytest.fixture
def device():
    """device(effect, g, g_max=…) -> programs and ages devices with target conductance g (a number, or a tensor)."""

    def make(effect, g, *, g_max=40.0, g_min=0.0, seed=0):
        target = torch.full(SHAPE, g, dtype=torch.float64) if isinstance(g, float) else g
        tiles, out, rows = target.shape[1:]
        ones = torch.ones(tiles, rows)
        geometry = Geometry(
            Rows(torch.full((tiles,), float(rows)), ones, ones),
            out,
            torch.zeros(out, dtype=torch.long),
            1,
            g_min,
            g_max,
            float("inf"),
        )
        chip, path = draws.key("chip", seed), draws.words("layer", effect.kind, 0)

        def site(stage, t=0.0, programmed=None):
            return Site(geometry, Stream(chip, chip, t), path, stage, target=target, programmed=programmed)

        def program(start=None):
            return effect.program(target if start is None else start, site("program"))

        def age(programmed, t):
            return effect.age(programmed, t, site("age", t, programmed))

        return SimpleNamespace(target=target, site=site, program=program, age=age)

    return make


class Statistics:
    """Tests at alpha = 1e-5, two-sided: fixed seeds, so that a failure means a wrong law and not bad luck."""

    Z = 4.42

    @classmethod
    def has_mean(cls, v, mean):
        assert abs(v.mean() - mean) < cls.Z * v.std() / v.numel() ** 0.5, f"mean {v.mean():.6g}, expected {mean:.6g}"

    @classmethod
    def has_std(cls, v, std):
        """For normal v: the standard error of a standard deviation is std/sqrt(2n)."""
        error = cls.Z * std / (2 * v.numel()) ** 0.5
        assert abs(v.std() - std) < error, f"std {v.std():.6g}, expected {std:.6g} +- {error:.2g}"

    @classmethod
    def uncorrelated(cls, a, b):
        r = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
        assert abs(r) < cls.Z / a.numel() ** 0.5, f"correlation {r:.3g}"

    @classmethod
    def has_share(cls, mask, p):
        """A binomial share."""
        assert abs(mask.double().mean() - p) < cls.Z * (p * (1 - p) / mask.numel()) ** 0.5


@pytest.fixture
def stats():
    return Statistics
