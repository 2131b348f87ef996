"""Resistive memory (RRAM): programming noise that contains relaxation, device variability, stuck cells.

Conductances in µS, x = g_target/g_max. Laws are fits at a reference g_max and scale with the g_max in use.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from mho import Field, MhoError, Nonideality, Site, StuckAt, hookimpl
from torch import Tensor

DAY = 86_400.0
WAN_G_MAX = 40.0  # µS, the reference range of the NeuRRAM fits
# sigma(x) = sum_k c_k x^k in µS at g_max = 40 µS, by time after programming in seconds.
WAN_POLYNOMIALS = {
    1.0: (0.348, 16.030, -43.853, 45.393, -16.815),
    DAY: (0.701, 22.086, -50.773, 47.095, -16.458),
    2 * DAY: (0.782, 20.274, -43.507, 37.062, -11.934),
}
# sigma(g) one second after programming, g in µS: another reading of the same data.
WAN_CUBIC = (1.053, 0.2374, -1.167e-2, 1.536e-4)


def polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    """sum_k c_k x^k."""
    y = torch.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        y = y * x + c
    return y


class ProgrammingNoise(Nonideality, kind="rram.programming_noise"):
    """Deviation from the target conductance, growing with time as the cell relaxes.

    wan2022: total deviation sigma(x, t) of the NeuRRAM chip, measured at 1 s, 1 day and 2 days and interpolated in log t;
    earlier times mean 1 s, later ones are refused. Programming adds sigma(x, 1 s) xi_1, ageing adds
    sqrt(max(sigma(x, t)^2 - sigma(x, 1 s)^2, 0)) xi_2, with one xi_1 and one xi_2 per device for the life of the chip.
    It contains relaxation already.
    """

    source = "Wan et al., Nature 608 (2022)"
    bibtex = """@article{wan2022neurram,
  author  = {Wan, Weier and Kubendran, Rajkumar and Schaefer, Clemens and others},
  title   = {A compute-in-memory chip based on resistive random-access memory},
  journal = {Nature},
  volume  = {608},
  pages   = {504--512},
  year    = {2022},
}"""
    cellwise = True

    law: Literal["wan2022"] = Field("wan2022", description="which measured law", source="PHYSICS.md 6")
    one_second: Literal["cubic", "polynomial"] = Field(
        "cubic",
        description="reading of the data at 1 s: cubic in g, or the polynomial in x that also gives the growth with time",
        source="PHYSICS.md 6.1",
    )

    def program(self, g: Tensor, site: Site) -> Tensor:
        return g + self.sigma(site, 1.0) * site.randn_like(g)

    def age(self, g: Tensor, t: float, site: Site) -> Tensor:
        if t <= 1.0:
            return g
        growth = (self.sigma(site, t) ** 2 - self.sigma(site, 1.0) ** 2).clamp(min=0).sqrt()
        return g + growth * site.randn_like(g, per="chip", name="relaxation")

    def sigma(self, site: Site, t: float) -> Tensor:
        """Total deviation in µS at t seconds, for the targets of the site."""
        x = site.target / site.g_max
        now = polynomial(_wan_coefficients(t), x).clamp(min=0)
        if self.one_second == "cubic":
            start = polynomial(WAN_POLYNOMIALS[1.0], x).clamp(min=1e-3)
            now = polynomial(WAN_CUBIC, WAN_G_MAX * x) * now / start
        return now * (site.g_max / WAN_G_MAX)


def _wan_coefficients(t: float) -> tuple[float, ...]:
    """Coefficients at time t, linear in log t between the measured times."""
    times = sorted(WAN_POLYNOMIALS)
    t = max(t, times[0])
    if t > times[-1]:
        raise MhoError(
            f"rram.programming_noise with law wan2022 was measured up to 2 days after programming, asked for {t / DAY:.3g} days; "
            "set `times:` in the hardware file, e.g. times: [1 s, 1 h, 1 day, 2 days]"
        )
    upper = next(i for i, v in enumerate(times) if t <= v) or 1
    a, b = times[upper - 1], times[upper]
    u = math.log(t / a) / math.log(b / a)
    return tuple((1 - u) * p + u * q for p, q in zip(WAN_POLYNOMIALS[a], WAN_POLYNOMIALS[b]))


class Variability(Nonideality, kind="rram.variability"):
    """Log-normal spread of the conductance, device to device and cycle to cycle: g exp(s_d xi_d + s_c xi_c).

    The spreads go linearly from those of the high-resistance state (x = 0) to those of the low-resistance state (x = 1).
    The target is the median. Both parts are drawn once per chip, since a chip is programmed once.
    """

    source = "Synaptogen measurements, 65,536 HfO2 cells (PHYSICS.md 6.1)"
    bibtex = """@misc{synaptogen,
  author = {Hennen, Tyler and others},
  title  = {Synaptogen: a generative model of resistive memory},
  year   = {2025},
}"""
    cellwise = True
    own_scale = True  # scales the exponent

    lrs_d2d: float = Field(0.044, ge=0, unit="1", description="device-to-device spread of ln g, low-resistance state", source="PHYSICS.md 6.1")
    lrs_c2c: float = Field(0.037, ge=0, unit="1", description="cycle-to-cycle spread of ln g, low-resistance state", source="PHYSICS.md 6.1")
    hrs_d2d: float = Field(0.170, ge=0, unit="1", description="the same, high-resistance state (0.074 decades)", source="PHYSICS.md 6.1")
    hrs_c2c: float = Field(0.433, ge=0, unit="1", description="the same, high-resistance state (0.188 decades)", source="PHYSICS.md 6.1")

    def program(self, g: Tensor, site: Site) -> Tensor:
        x = (site.target / site.g_max).clamp(0, 1)
        d2d = (self.hrs_d2d + (self.lrs_d2d - self.hrs_d2d) * x) * site.randn_like(g, name="device")
        c2c = (self.hrs_c2c + (self.lrs_c2c - self.hrs_c2c) * x) * site.randn_like(g, name="cycle")
        return g * torch.exp(self.scale * (d2d + c2c))


class RramStuckAt(StuckAt, kind="rram.stuck_at"):
    """Faulty cells: stuck off (high resistance) or stuck on (low resistance). List it after everything that ages."""

    source = "Chen et al. 2015, 4 Mb HfO2 macro, as commonly cited"
    off: float = Field(0.0904, ge=0, le=1, unit="1", description="share of cells stuck at the lowest conductance", source="Chen et al. 2015, as cited")
    on: float = Field(0.0175, ge=0, le=1, unit="1", description="share of cells stuck at g_max", source="Chen et al. 2015, as cited")


@hookimpl
def mho_nonidealities() -> list[type[Nonideality]]:
    return [ProgrammingNoise, Variability, RramStuckAt]
