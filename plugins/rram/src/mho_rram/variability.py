"""Spread of the conductance from device to device and from cycle to cycle."""

from __future__ import annotations

import torch
from mho import Field, Nonideality, Site
from torch import Tensor


class Variability(Nonideality, kind="rram.variability"):
    """Log-normal spread of the conductance, device to device and cycle to cycle: g exp(s_d(x) xi_d + s_c(x) xi_c).

    s(x) = s_hrs + (s_lrs - s_hrs) x, x = g_target/g_max: from the high-resistance state (x = 0) to the low-resistance
    state (x = 1). The target is the median. Both parts are drawn once per chip, since a chip is programmed once.
    """

    source = "Synaptogen measurements, 65,536 HfO2 cells (PHYSICS.md 6.1)"
    bibtex = """@misc{synaptogen,
  author = {Hennen, Tyler and others},
  title  = {Synaptogen: a generative model of resistive memory},
  year   = {2025},
}"""
    cellwise = True
    own_scale = True  # scales the exponent

    lrs_d2d: float = Field(
        0.044, ge=0, unit="1", description="device-to-device spread of ln g at g_max", source="PHYSICS.md 6.1"
    )
    lrs_c2c: float = Field(
        0.037, ge=0, unit="1", description="cycle-to-cycle spread of ln g at g_max", source="PHYSICS.md 6.1"
    )
    hrs_d2d: float = Field(
        0.170,
        ge=0,
        unit="1",
        description="device-to-device spread of ln g at g = 0 (0.074 decades)",
        source="PHYSICS.md 6.1",
    )
    hrs_c2c: float = Field(
        0.433,
        ge=0,
        unit="1",
        description="cycle-to-cycle spread of ln g at g = 0 (0.188 decades)",
        source="PHYSICS.md 6.1",
    )

    def program(self, g: Tensor, site: Site) -> Tensor:
        d2d, c2c = self.spreads(site.target / site.g_max)
        return g * torch.exp(
            self.scale * (d2d * site.randn_like(g, name="device") + c2c * site.randn_like(g, name="cycle"))
        )

    def spreads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(device-to-device, cycle-to-cycle) standard deviation of ln g."""
        x = x.clamp(0, 1)
        d2d = self.hrs_d2d + (self.lrs_d2d - self.hrs_d2d) * x
        c2c = self.hrs_c2c + (self.lrs_c2c - self.hrs_c2c) * x
        return d2d, c2c
