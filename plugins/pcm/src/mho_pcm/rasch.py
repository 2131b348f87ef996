"""Programming noise, drift and read noise of a million PCM devices: the standard model of Rasch et al. 2023.

Laws and numbers: Rasch et al. 2023 (R003), Eqs. 7-14 and Table A.1. They are fits in r = g/g_max, made at
g_max = 25 µS; the noise relative to g_max is the same for every g_max.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from mho import Field, Nonideality, Side, Site, StuckAt, magnitude, square
from mho.units import MicroSiemens, Seconds
from torch import Tensor

RASCH = "Rasch et al. 2023"
RASCH_BIBTEX = """@article{rasch2023hardware,
  author  = {Rasch, Malte J. and Mackin, Charles and Le Gallo, Manuel and others},
  title   = {Hardware-aware training for large-scale and diverse deep learning inference workloads using in-memory
             computing-based accelerators},
  journal = {Nature Communications},
  volume  = {14},
  pages   = {5282},
  year    = {2023},
}"""
FITTED_AT = 25.0  # µS, the g_max of the measured devices


class ProgrammingNoise(Nonideality, kind="pcm.programming_noise"):
    """A programmed conductance misses its target by a Gaussian whose width depends on the target (R003-16, Eq. 7).

    sigma(r) = c0 + c1 r + c2 r^2 in µS at g_max = 25 µS, r = g_target/g_max.
    """

    source = f"{RASCH}, Eq. 7"
    bibtex = RASCH_BIBTEX
    cellwise = True

    c0: MicroSiemens = Field(0.26348, description="constant term at g_max = 25 uS", source="R003 Eq. 7")
    c1: MicroSiemens = Field(1.9650, description="linear coefficient in r", source="R003 Eq. 7")
    c2: MicroSiemens = Field(-1.1731, description="quadratic coefficient in r", source="R003 Eq. 7")

    def program(self, g: Tensor, site: Site) -> Tensor:
        r = site.target / site.g_max
        sigma = self.c0 + self.c1 * r + self.c2 * r**2
        return g + sigma.clamp(min=0) * (site.g_max / FITTED_AT) * site.randn_like(g)


class Drift(Nonideality, kind="pcm.drift"):
    """Conductance relaxes as a power law of time: g(t) = g_P ((t + t0)/t0)^-nu (R003-18, R003-19, Eqs. 8, 9).

    nu ~ N(mean(r), std(r)), at least 0, is drawn once per device and belongs to it for the life of the chip:
    mean = clip(-0.0155 ln r + 0.0244, 0.049, 0.1), std = clip(-0.0125 ln r - 0.0059, 0.008, 0.045), r = g_target/g_max.
    """

    source = f"{RASCH}, Eqs. 8, 9"
    bibtex = RASCH_BIBTEX
    cellwise = True
    own_scale = True  # scales nu: the drift in log-log

    t0: Seconds = Field(20.0, gt=0, description="time of the first read after programming", source="R003 Eq. 8")
    nu_mean: float = Field(1.0, ge=0, unit="1", description="factor on the mean of nu", source="mho")
    nu_std: float = Field(1.0, ge=0, unit="1", description="factor on the spread of nu", source="mho")

    def age(self, g: Tensor, t: float, site: Site) -> Tensor:
        nu = self.scale * self.exponent(site)
        return g * ((t + self.t0) / self.t0) ** -nu

    def exponent(self, site: Site) -> Tensor:
        """nu of every device, the same at every time."""
        ln_r = torch.log((site.target / site.g_max).clamp(min=1e-9))
        mean = (-0.0155 * ln_r + 0.0244).clamp(0.049, 0.1) * self.nu_mean
        std = (-0.0125 * ln_r - 0.0059).clamp(0.008, 0.045) * self.nu_std
        return (mean + std * site.randn_like(ln_r, per="chip", name="nu")).clamp(min=0)


class LongTermReadNoise(Nonideality, kind="pcm.read_noise_1f"):
    """1/f noise between programming and evaluation: drawn once per evaluation time, then fixed (R003-20, Eqs. 10, 11).

    sigma = g min(0.0088 (g_P/g_max)^-0.65, 0.2) sqrt(ln((t + t0 + T)/(2 T))), T the duration of a read. g is the
    drifted conductance, g_P the programmed one (PHYSICS.md E3); t0 counts from programming (E4), so that the noise is
    there at age 0 s already.
    """

    source = f"{RASCH}, Eqs. 10, 11"
    bibtex = RASCH_BIBTEX
    cellwise = True

    t0: Seconds = Field(20.0, ge=0, description="time of the first read after programming", source="R003 Eq. 10, E4")
    t_read: Seconds = Field(250e-9, gt=0, description="duration of a read", source="R003 Table A.1")
    conductance: Literal["drifted", "target"] = Field(
        "drifted",
        description="what the noise multiplies: the drifted conductance, or the target as Eq. 10 is printed",
        source="PHYSICS.md E3",
    )

    def age(self, g: Tensor, t: float, site: Site) -> Tensor:
        printed = self.conductance == "target"
        g_q = site.target if printed else site.programmed
        q = (0.0088 * (g_q / site.g_max).clamp(min=1e-9) ** -0.65).clamp(max=0.2)
        spread = math.sqrt(max(0.0, math.log((t + self.t0 + self.t_read) / (2 * self.t_read))))
        return g + (site.target if printed else g) * q * spread * site.randn_like(g)


class ReadNoise(Nonideality, kind="pcm.read_noise"):
    """Short-term read noise, fresh for every MVM, referred to the output: sigma sqrt(sum_j |w_ij| x_j^2) xi_i
    (R003-11, Eq. 14)."""

    source = f"{RASCH}, Eq. 14"
    bibtex = RASCH_BIBTEX
    strength: ClassVar[str] = "sigma"
    sides: ClassVar[dict[str, Side]] = {"s": Side(magnitude, square)}

    sigma: float = Field(
        0.0175,
        ge=0,
        unit="1",
        description="noise of one fully-on row through one full weight",
        source="R003 Table A.1, E15",
    )

    def variance(self, site: Site, s: Tensor) -> Tensor:
        return self.sigma**2 * s


class PcmStuckAt(StuckAt, kind="pcm.stuck_at"):
    """Cells that cannot be programmed: stuck at RESET (0), at SET (g_max), or anywhere between (R003-27)."""

    source = f"{RASCH}, sec. 2.4"
    bibtex = RASCH_BIBTEX
