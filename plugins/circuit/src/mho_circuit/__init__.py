"""Circuit effects around the devices: wire resistance, noise and nonlinearity of the output stage.

Analog units: one row fully on (x = 1) through one weight at g_max (w = 1) gives y = 1.
"""

from __future__ import annotations

import math
from typing import ClassVar

from mho import Field, MhoError, Nonideality, Side, Site, absolute, by_depth, hookimpl, linear, magnitude
from mho.units import MicroSiemens, Ohms
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


class IRDrop(Nonideality, kind="circuit.ir_drop"):
    """Voltage lost along the bit lines, fast approximation (R003-12, Eqs. 16-18).

    a_i = R g n sum_j |w_ij| |x_j|,  c_i = 0.05 a^3 - 0.2 a^2 + 0.5 a,
    Delta y_i = -scale c_i sum_j w_ij x_j (1 - (1 - j/n)^2),  j = 0 next to the sense node, n occupied rows.

    The conductance in the ratio R g is a setting of its own, 5 µS: the mean conductance of a loaded line, not the
    g_max of the device (PHYSICS.md E5).
    """

    source = f"{RASCH}, Eqs. 16-18"
    bibtex = RASCH_BIBTEX
    sides = {"a": Side(magnitude, absolute), "p": Side(by_depth, linear)}

    r_wire: Ohms = Field(0.35, ge=0, description="wire resistance between two cells", source="R003 Table A.1")
    g_line: MicroSiemens = Field(
        5.0, ge=0, description="conductance that stands for w = 1 on the line", source="R003 Eq. 16, E5"
    )

    def shift(self, site: Site, a: Tensor, p: Tensor) -> Tensor:
        a = a * (self.r_wire * self.g_line * 1e-6) * site.rows.n[:, None]
        return -(0.05 * a**3 - 0.2 * a**2 + 0.5 * a) * p


class AdcSCurve(Nonideality, kind="circuit.adc_s_curve"):
    """Saturating ADC, one curvature per column, fixed for the chip (R003-28, Eq. 19 as corrected in PHYSICS.md E8).

    f(y) = (1 + mean|zeta|/2)^2 y / (1 + |zeta_i y / b_out|),  zeta_i = mean (1 + std xi_i),
    the mean over the columns of the tile. The slope is 1 at half the output bound.
    """

    source = f"{RASCH}, Eq. 19"
    bibtex = RASCH_BIBTEX
    strength: ClassVar[str] = "mean"

    mean: float = Field(0.25, ge=0, unit="1", description="mean curvature", source="R003 Eq. 19, E9")
    std: float = Field(
        0.0, ge=0, unit="1", description="spread of the curvature between columns, relative", source="R003 Eq. 19, E9"
    )

    def prepare(self, site: Site) -> None:
        if not math.isfinite(site.bound):
            raise MhoError("circuit.adc_s_curve bends relative to the output bound: give the tile an adc with a bound")
        like = site.rows.n[:, None].expand(-1, site.columns)  # [tile, out]
        site.zeta = self.mean * (1 + self.std * site.randn_like(like))

    def transfer(self, y: Tensor, site: Site) -> Tensor:
        gain = (1 + site.over_tile(site.zeta.abs()) / 2) ** 2
        return gain * y / (1 + (site.zeta * y / site.bound).abs())


class OutputNoise(Nonideality, kind="circuit.output_noise"):
    """Additive Gaussian noise in front of the ADC, fresh for every output (R003-10)."""

    source = f"{RASCH}, Table A.1"
    bibtex = RASCH_BIBTEX
    strength: ClassVar[str] = "std"

    std: float = Field(0.04, ge=0, unit="1", description="standard deviation in analog units", source="R003 Table A.1")

    def variance(self, site: Site) -> float:
        return self.std**2


@hookimpl
def mho_nonidealities() -> list[type[Nonideality]]:
    return [IRDrop, AdcSCurve, OutputNoise]
