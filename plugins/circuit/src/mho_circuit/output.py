"""The output stage of a tile: noise and curvature in front of the ADC."""

import math
from typing import Any, ClassVar, Literal

from torch import Tensor

from mho import Field, MhoError, Nonideality, Site
from mho_circuit.sources import RASCH, RASCH_BIBTEX, XIAO_BIBTEX

EQ_19 = f"{RASCH}, Eq. 19"


class AdcSCurve(Nonideality, kind="circuit.adc_s_curve"):
    """Saturating ADC, one curvature per column, fixed for the chip (Rasch et al. 2023, Eq. 19).

    corrected  f(y) = (1 + mean|zeta|/2)^2 y / (1 + |zeta_i z|): slope 1 at half the output bound (docs/physics.md E8)
    printed    f(y) = (1 + 2 mean|zeta|)^2 y / (1 + |zeta_i z|)

    with zeta_i = mean (1 + std xi_i), mean|zeta| over the columns of the tile, and z = y/b_out, or y itself as printed.
    At mean = 1/4 the printed form exceeds the full scale by 80 % (z = y/b_out) or misses it by 36 % (z = y).
    """

    source = EQ_19
    bibtex = RASCH_BIBTEX
    strength: ClassVar[str] = "mean"

    mean: float = Field(0.25, ge=0, unit="1", description="mean curvature mu_zeta", source=EQ_19)
    std: float = Field(0.0, ge=0, unit="1", description="spread sigma_zeta between columns, relative to the mean", source=EQ_19)
    form: Literal["corrected", "printed"] = Field("corrected", source=EQ_19)
    """prefactor that keeps the full scale, or the one that Eq. 19 prints"""
    argument: Literal["relative", "raw"] = Field("relative", source=EQ_19)
    """what zeta multiplies: the output over its bound, or the output"""

    def prepare(self, site: Site) -> None:
        if self.argument == "relative" and not math.isfinite(site.bound):
            raise MhoError("circuit.adc_s_curve bends relative to the output bound: give the tile an adc with a bound")
        like = site.rows.n[:, None].expand(-1, site.columns)  # [tile, out]
        site.zeta = self.mean * (1 + self.std * site.randn_like(like))

    def transfer(self, y: Tensor, site: Site) -> Tensor:
        share = 0.5 if self.form == "corrected" else 2.0
        gain = (1 + share * site.over_tile(site.zeta.abs())) ** 2
        z = y / site.bound if self.argument == "relative" else y
        return gain * y / (1 + (site.zeta * z).abs())


class OutputNoise(Nonideality, kind="circuit.output_noise"):
    """Additive Gaussian noise in front of the ADC, fresh for every output (Rasch et al. 2023, Eq. 6)."""

    source = f"{RASCH}, Table A.1"
    bibtex = RASCH_BIBTEX
    strength: ClassVar[str] = "std"

    std: float = Field(0.04, ge=0, unit="1", description="standard deviation in analog units", source=f"{RASCH}, Table A.1")

    def variance(self, site: Site) -> float:
        return self.std**2


class CurrentLimit(Nonideality, kind="circuit.current_limit"):
    """Outputs that can carry no more than a current: clip(y, -limit, limit), in front of the ADC."""

    source: ClassVar[str] = "an output stage with a compliance"
    bibtex: ClassVar[str] = XIAO_BIBTEX
    strength = None
    example: ClassVar[dict[str, Any]] = {"limit": 0.5}

    limit: float = Field(20.0, gt=0, unit="1", description="largest output in analog units", source="assumption")

    def transfer(self, y: Tensor, site: Site) -> Tensor:
        return y.clamp(-self.limit, self.limit)
