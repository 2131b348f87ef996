"""PCM of the IBM HERMES Project Chip, with one or two devices for each sign of a weight.

Laws and numbers: fits published with IBM/aihwkit (`HermesNoiseModel`) for Le Gallo et al. 2023. They are functions of
x = g_target/g_max, made at g_max = 10.35 µS (one device) and 20.7 µS (two), and scale with the g_max in use.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mho import Field, Nonideality, Site
from mho.config import Seconds
from mho_pcm.rasch import ln

HERMES = "Le Gallo et al. 2023, as in IBM/aihwkit"
HERMES_BIBTEX = """@article{legallo2023core,
  author  = {Le Gallo, Manuel and Khaddam-Aljameh, Riduan and Stanisavljevic, Milos and others},
  title   = {A 64-core mixed-signal in-memory compute chip based on phase-change memory for deep neural network inference},
  journal = {Nature Electronics},
  volume  = {6},
  pages   = {680--693},
  year    = {2023},
}"""


def polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    """sum_k c_k x^k"""
    y = torch.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        y = y * x + c
    return y


class Branches(NamedTuple):
    """clip(slope ln x + offset, low, high) below `edge`, sum_k c_k x^k above."""

    edge: float
    slope: float
    offset: float
    low: float
    high: float
    c: tuple[float, ...]

    def __call__(self, x: Tensor) -> Tensor:
        x = x.clamp(min=1e-9)
        below = (self.slope * x.log() + self.offset).clamp(self.low, self.high)
        return torch.where(x < self.edge, below, polynomial(self.c, x))


class Cell(NamedTuple):
    """What was fitted to a unit cell."""

    g_max: float  # µS, reference of sigma
    t0: float  # s, first read after programming
    sigma: tuple[float, ...]  # µS, programming error: sum_k c_k x^k
    nu_mean: Branches
    nu_std: Branches
    q: Branches  # long-term read noise, of the programmed conductance


NU_MEAN = Branches(0.0945, -0.0387, -0.0182, 0.0720, 0.13, (0.0736, -0.0126, -0.0436))
CELLS = {
    1: Cell(
        g_max=10.35,
        t0=200.0,
        sigma=(0.15782, 2.32444, -2.16311, 0.68842),
        nu_mean=NU_MEAN,
        nu_std=Branches(0.3039, -0.0120, -0.0023, 0.0124, 0.04, (0.0104, 0.0116, -0.0165)),
        q=Branches(0.1591, -0.0078, 0.0038, 0.0179, 0.04, (0.0088, 0.0768, -0.1352, 0.0664)),
    ),
    2: Cell(
        g_max=20.7,
        t0=300.0,
        sigma=(0.16603, 4.71806, -8.48101, 4.68961),
        nu_mean=NU_MEAN,
        nu_std=Branches(0.3055, -0.0117, -0.0057, 0.0091, 0.04, (0.0073, 0.0093, -0.0118)),
        q=Branches(0.16, -0.0117, -0.0069, 0.015, 0.04, (0.0123, 0.0211, -0.0280, 0.0069)),
    ),
}


class HermesEffect(Nonideality):
    """What the three effects of the chip share: how many devices make up a cell."""

    source = HERMES
    bibtex = HERMES_BIBTEX
    cellwise = True

    devices: Literal[1, 2] = Field(2, unit="count", description="PCM devices for each sign of a weight", source=HERMES)

    @property
    def cell(self) -> Cell:
        return CELLS[self.devices]


class HermesProgrammingNoise(HermesEffect, kind="pcm.hermes_programming_noise"):
    """A programmed conductance misses its target by a Gaussian: sigma(x) = sum_k c_k x^k, x = g_target/g_max.

    One device: 0.15782 + 2.32444 x - 2.16311 x^2 + 0.68842 x^3 µS at g_max = 10.35 µS.
    Two: 0.16603 + 4.71806 x - 8.48101 x^2 + 4.68961 x^3 µS at g_max = 20.7 µS, programmed one after the other.
    """

    def program(self, g: Tensor, site: Site) -> Tensor:
        sigma = polynomial(self.cell.sigma, site.target / site.g_max) * (site.g_max / self.cell.g_max)
        return g + sigma * site.randn_like(g)


class HermesDrift(HermesEffect, kind="pcm.hermes_drift"):
    """Conductance relaxes as a power law of time: g(t) = g_P ((t + t0)/t0)^-nu, t0 = 200 s (one device) or 300 s (two).

    nu = |N(mean(x), std(x))| is drawn once per cell and belongs to it for the life of the chip; mean and std are
    logarithms of x below x = 0.09 and 0.3, polynomials above.
    """

    own_scale = True  # scales nu: the drift in log-log

    def age(self, g: Tensor, t: float | Tensor, site: Site) -> Tensor:
        nu = self.scale * self.exponent(site)
        return g * torch.exp(-nu * ln((t + self.cell.t0) / self.cell.t0))

    def exponent(self, site: Site) -> Tensor:
        """nu of every cell, the same at every time."""
        x = site.target / site.g_max
        return (self.cell.nu_mean(x) + self.cell.nu_std(x) * site.randn_like(x, per="chip", name="nu")).abs()


class HermesLongTermReadNoise(HermesEffect, kind="pcm.hermes_read_noise_1f"):
    """1/f noise between programming and evaluation, drawn once per evaluation time, then fixed.

    sigma = g q(g_P/g_max) sqrt(ln((t + t0 + T)/(2 T))), g drifted and g_P programmed conductance, T = 512 ns.
    """

    noise = True

    t_read: Seconds = Field(512e-9, gt=0, description="duration of a read", source=HERMES)

    def age(self, g: Tensor, t: float | Tensor, site: Site) -> Tensor:
        spread = ln((t + self.cell.t0 + self.t_read) / (2 * self.t_read)).clamp(min=0).sqrt()
        return g + g * self.cell.q(site.programmed / site.g_max) * spread * site.randn_like(g)
