"""Cells whose current is not proportional to the voltage."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from mho import Field, Nonideality, Site
from mho_circuit.sources import XIAO_BIBTEX


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
