"""Random telegraph noise: a trap beside the filament changes the resistance while it is filled."""

import torch
from torch import Tensor

from mho import Field, Nonideality, Site
from mho.config import MicroSiemens


class TelegraphNoise(Nonideality, kind="rram.telegraph_noise"):
    """A trap in the cell is filled at a share p of the reads and changes the resistance by dR/R = b + a R, that is

        dG = G x/(G - x),   x = a + b G   (at most G),

    5.5 % of G at 3.3 µS, 1.8 % at 10 µS, 0.32 % at 100 µS. The programmed conductance is the mean over both states, as
    a write-verify loop sees it: G + dG (p - filled). Drawn for every forward call, once for its whole batch, and
    independently from call to call: the times between jumps are not modelled. Of a pair with g_min > 0 the idle device
    has a trap of its own.
    """

    source = "amplitude law as fitted in PytorX"
    cellwise = True
    straight = True  # backward: autograd takes the true derivative, 1 + d dG/dg (p - filled)

    a: MicroSiemens = Field(0.1662, ge=0, unit="uS", source="PytorX", description="part of the amplitude growing with resistance")
    b: float = Field(0.0015, ge=0, lt=1, unit="1", description="relative amplitude at low resistance", source="PytorX")
    occupancy: float = Field(0.5, ge=0, le=1, unit="1", description="chance that the trap is filled at a read", source="PytorX")

    def read(self, w: Tensor, site: Site) -> Tensor:
        span = site.g_max - site.g_min
        negative = w < 0
        active = self._jump(site.g_min + torch.where(negative, -w, w) * span, site, "active")
        idle = self._jump(torch.full_like(w, site.g_min), site, "idle") if site.g_min > 0 else 0.0
        jump = (active - idle) / span
        return w + torch.where(negative, -jump, jump)

    def _jump(self, g: Tensor, site: Site, name: str) -> Tensor:
        """dG (p - filled), µS."""
        filled = (site.rand_like(g, name=name) < self.occupancy).to(g.dtype)
        return self.amplitude(g) * (self.occupancy - filled)

    def amplitude(self, g: Tensor) -> Tensor:
        """dG in µS of cells that conduct g µS."""
        x = self.a + self.b * g
        large = g > 2 * x
        rest = torch.where(large, g - x, torch.ones_like(g))  # nothing is divided by 0, so that derivatives are finite
        return torch.where(large, g * x / rest, g)
