"""Spread of the conductance from device to device and from cycle to cycle."""

from typing import ClassVar

import torch
from torch import Tensor

from mho import Field, Nonideality, Site
from mho.effects import Column, Measurements, Residuals, normal_distribution


class Variability(Nonideality, kind="rram.variability"):
    """Log-normal spread of the conductance, device to device and cycle to cycle: g exp(s_d(x) xi_d + s_c(x) xi_c).

    s(x) = s_hrs + (s_lrs - s_hrs) x, x = g_target/g_max: from the high-resistance state (x = 0) to the low-resistance
    state (x = 1). The target is the median. Both parts are drawn once per chip, since a chip is programmed once.
    """

    source = "Synaptogen measurements, 65,536 HfO2 cells"
    bibtex = """@misc{synaptogen,
  author = {Hennen, Tyler and others},
  title  = {Synaptogen: a generative model of resistive memory},
  year   = {2025},
}"""
    cellwise = True
    own_scale = True  # scales the exponent

    lrs_d2d: float = Field(0.044, ge=0, unit="1", description="device-to-device spread of ln g at g_max", source="Synaptogen")
    lrs_c2c: float = Field(0.037, ge=0, unit="1", description="cycle-to-cycle spread of ln g at g_max", source="Synaptogen")
    hrs_d2d: float = Field(0.170, ge=0, unit="1", source="Synaptogen")
    """device-to-device spread of ln g at g = 0 (0.074 decades)"""
    hrs_c2c: float = Field(0.433, ge=0, unit="1", source="Synaptogen")
    """cycle-to-cycle spread of ln g at g = 0 (0.188 decades)"""

    def program(self, g: Tensor, site: Site) -> Tensor:
        d2d, c2c = self.spreads(site.target / site.g_max)
        return g * torch.exp(self.scale * (d2d * site.randn_like(g, name="device") + c2c * site.randn_like(g, name="cycle")))

    def spreads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(device-to-device, cycle-to-cycle) standard deviation of ln g."""
        x = x.clamp(0, 1)
        d2d = self.hrs_d2d + (self.lrs_d2d - self.hrs_d2d) * x
        c2c = self.hrs_c2c + (self.lrs_c2c - self.hrs_c2c) * x
        return d2d, c2c

    # --- fit: y = ln(g/g_target) = s_d(x) xi_d + s_c(x) xi_c, one xi_d per device, one xi_c per reading ---

    fit_columns: ClassVar[dict[str, Column]] = {
        "device": Column("", "number or name of the device"),
        "g_target": Column("uS", "target conductance", positive=True),
        "g": Column("uS", "conductance after one programming", positive=True),
    }
    fit_fields: ClassVar[tuple[str, ...]] = ("lrs_d2d", "lrs_c2c", "hrs_d2d", "hrs_c2c")

    def log_prob(self, data: Measurements) -> Tensor:
        """ln N(y; 0, s_d s_d^T + diag(s_c^2)) of every device: the device's own xi_d is integrated out."""
        d, c = self._spreads(data)
        y = torch.log(data["g"] / data["g_target"])
        quadratic = data.sum_by("device", (y / c) ** 2)
        shared = 1 + data.sum_by("device", (d / c) ** 2)
        along = data.sum_by("device", y * d / c**2)
        determinant = data.sum_by("device", 2 * c.log() + torch.full_like(y, 2 * torch.pi).log()) + shared.log()
        return -0.5 * (quadratic - along**2 / shared + determinant)

    def residuals(self, data: Measurements) -> Residuals:
        """Phi of every reading given the earlier readings of its device: independent and U(0, 1)."""
        d, c = self._spreads(data)
        y = torch.log(data["g"] / data["g_target"])
        before = _running(data, (d / c) ** 2)  # information on xi_d so far
        mean = _running(data, y * d / c**2) / (1 + before)
        std = (c**2 + d**2 / (1 + before)).sqrt()
        return Residuals(normal_distribution(y, d * mean, std), data["g_target"], "target conductance, uS")

    def simulate(self, data: Measurements, seed: int) -> dict[str, Tensor]:
        """Programmed conductances `g`, µS, for the targets of the data."""
        site = data.site(self, "program", seed, data["g_target"])
        d, c = self._spreads(data)
        xi = site.randn_like(torch.zeros(int(data["device"].max()) + 1, dtype=torch.float64), name="device")[data["device"]]
        return {"g": data["g_target"] * torch.exp(d * xi + c * site.randn_like(c, name="cycle"))}

    def _spreads(self, data: Measurements) -> tuple[Tensor, Tensor]:
        d, c = self.spreads(data["g_target"] / data.g_max)
        return self.scale * d, (self.scale * c).clamp(min=1e-9)


def _running(data: Measurements, values: Tensor) -> Tensor:
    """Sum of `values` over the earlier rows of the same device."""
    order = data["device"].argsort(stable=True)
    device, v = data["device"][order], values[order]
    total = v.cumsum(0) - v
    first = torch.cat([device.new_ones(1, dtype=torch.bool), device[1:] != device[:-1]])
    start = total[first][first.cumsum(0) - 1]
    return torch.empty_like(v).index_copy(0, order, total - start)
