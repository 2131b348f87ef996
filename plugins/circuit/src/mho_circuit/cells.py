"""Cells whose current is not proportional to the voltage."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from mho import Field, Nonideality, Side, Site, absolute, conductance
from mho_circuit.sources import NYQUIST_BIBTEX, XIAO_BIBTEX

BOLTZMANN, CHARGE = 1.380649e-23, 1.602176634e-19  # J/K, C


def held(x: Tensor) -> Tensor:
    """1 for every row, whatever its voltage."""
    return torch.ones_like(x)


class ThermalNoise(Nonideality, kind="circuit.thermal_noise"):
    """Thermal noise and shot noise of every device while it is read, fresh for every output: in a bandwidth B its current has the
    variance B G (4 k T + 2 q |V|), V = v_read x. In analog units, with the mapped range g = g_max - g_min,

    var y_i = B/(v_read^2 g) sum_j l_ij (4 k T + 2 q v_read |x_j|),  l_ij = |w_ij| + 2 g_min/g (both devices of a pair).

    Rows at 0 V are held there, and have thermal noise too.
    """

    source: ClassVar[str] = "Nyquist, Phys. Rev. 32 (1928); Schottky, Ann. Phys. 362 (1918)"
    bibtex: ClassVar[str] = NYQUIST_BIBTEX
    sides: ClassVar[dict[str, Side]] = {"thermal": Side(conductance, held), "shot": Side(conductance, absolute)}

    temperature: float = Field(300.0, gt=0, le=1000, unit="K", description="T of the array", source="room temperature")
    bandwidth: float = Field(1e8, gt=0, unit="Hz", description="B of the read", source="Synaptogen")
    v_read: float = Field(0.2, gt=0, le=2, unit="V", description="largest voltage", source="Synaptogen")

    def variance(self, site: Site, thermal: Tensor, shot: Tensor) -> Tensor:
        noise = 4 * BOLTZMANN * self.temperature * thermal + 2 * CHARGE * self.v_read * shot
        return self.bandwidth / (self.v_read**2 * 1e-6 * (site.g_max - site.g_min)) * noise


class CellCurve(Nonideality, kind="circuit.cell_curve"):
    """A cell conducts I = G f(V), at the voltage V = v_read x that the DAC applies. Its conductance was read at v_read, so that
    the array sees inputs f(v_read x)/f(v_read):

    cubic   f(V) = V - c3 V^3
    sinh    f(V) = v_0 sinh(V/v_0)

    encoding: amplitude     the DAC's levels are voltages
    encoding: pulse_width   they are times at v_read: every cell is linear then, and so it is for inputs of one bit
    """

    source: ClassVar[str] = "Sandia's CrossSim (cubic); Stanford-PKU model (sinh)"
    bibtex: ClassVar[str] = XIAO_BIBTEX
    straight: ClassVar[bool] = True

    law: Literal["cubic", "sinh"] = Field("sinh", description="how the current grows with the voltage", source="see the law")
    v_read: float = Field(0.2, gt=0, le=2, unit="V", description="largest voltage", source="assumption")
    c3: float = Field(0.25, ge=0, unit="1/V^2", description="of the cubic law", source="Sandia's CrossSim")
    v_0: float = Field(0.25, gt=0, unit="V", description="of the law of sinh", source="Stanford-PKU model")
    encoding: Literal["amplitude", "pulse_width"] = Field("amplitude", description="what an input is", source="textbook")

    @classmethod
    def cross_check(cls, value: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Currents grow with voltages."""
        if isinstance(value, Mapping) and value.get("law") == "cubic":
            v, c3 = (value.get(n, cls.model_fields[n].default) for n in ("v_read", "c3"))
            if isinstance(v, (int, float)) and isinstance(c3, (int, float)) and 3 * c3 * v * v >= 1:
                yield ("v_read",), f"the cubic law falls above {1 / math.sqrt(3 * c3):.3g} V; choose a lower voltage"

    def input(self, x: Tensor, site: Site) -> Tensor:
        if self.encoding == "pulse_width":
            return x
        if self.law == "sinh":
            return torch.sinh(x * (self.v_read / self.v_0)) / math.sinh(self.v_read / self.v_0)
        bend = self.c3 * self.v_read**2
        return (x - bend * x**3) / (1 - bend)
