"""IR-drop along the bit lines, exact: every bit line is a ladder of wire segments, loaded by its cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from mho import Field, Nonideality, Site, product
from mho.units import MicroSiemens, Ohms
from torch import Tensor

from mho_circuit.crossbar import devices, precise
from mho_circuit.sources import RASCH, RASCH_BIBTEX


class IRDropLadder(Nonideality, kind="circuit.ir_drop_ladder"):
    """Voltage lost along the bit lines, exact (R003-14, Eq. 15). Kirchhoff's law at row j, in units of g_line:

    (u_{j+1} - u_j)/r - (u_j - u_{j-1})/r + w_j x_j - l_j u_j = 0,  u_{-1} = 0,  y = u_0/r,  r = r_wire g_line.

    gated   a row loads the line while its pulse is on. Averaged over the pulse, l_j = |w_j| |x_j|, which is what Eqs.
            16-18 expand; with `slots`, the line is solved in each slot of the pulse window and the drop averaged.
            One solve per vector and column, at every MVM.
    driven  rows are always held at their voltage, l_j = |w_j| (Eq. 15 as printed, docs/physics.md E6). The drop is then
            linear in x: it is put into the weights once after each `age`, so it acts on programmed chips only.

    |w_j| stands for both devices of a weight: where a pair has g_min > 0, the idle device loads the line too.
    """

    source = f"{RASCH}, Eq. 15"
    bibtex = RASCH_BIBTEX

    r_wire: Ohms = Field(0.35, ge=0, description="wire resistance between two cells", source="R003 Table A.1")
    g_line: MicroSiemens = Field(
        5.0, ge=0, description="conductance that stands for w = 1 on the line", source="R003 Eq. 16, E5"
    )
    input_encoding: Literal["gated", "driven"] = Field(
        "gated",
        description="rows conduct only while their pulse is on, or are always held at a voltage",
        source="docs/physics.md E6",
    )
    slots: int | None = Field(
        None,
        ge=1,
        unit="count",
        description="time slots of the pulse window in which gated lines are solved; none: once, with the mean load",
        source="R003 Methods, IR-drop",
    )

    @classmethod
    def cross_check(cls, value: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Driven rows have no pulses."""
        if isinstance(value, Mapping) and value.get("input_encoding") == "driven" and value.get("slots") is not None:
            yield ("slots",), "rows that are always driven have no pulses: slots needs input_encoding: gated"

    @property
    def _r(self) -> float:
        return self.r_wire * self.g_line * 1e-6

    def fold(self, w: Tensor, site: Site) -> Tensor:
        if self.input_encoding == "gated":
            return w
        plus, minus = devices(w, site)
        return ((plus - minus) * attenuation(plus + minus, self._r)).to(w)

    def accumulate(self, y: Tensor, x: Tensor, w: Tensor, site: Site) -> Tensor:
        if self.input_encoding == "driven":
            return y
        plus, minus = devices(w, site)
        drop = self._drop(precise(x), plus - minus, plus + minus)
        return y - drop.to(y)

    def _drop(self, x: Tensor, w: Tensor, load: Tensor) -> Tensor:
        """What is lost of x [vector, tile, row] through w, load [tile, out, row] -> [vector, tile, out]."""
        if self.slots is None:
            return product(x, w) - sensed(x, w, load, self._r)
        drops = torch.zeros((), dtype=x.dtype, device=x.device)
        for k in range(self.slots):
            pulse = x.sign() * (x.abs() * self.slots > k + 0.5)
            drops = drops + product(pulse, w) - sensed(pulse, w, load, self._r)
        return drops / self.slots


def attenuation(load: Tensor, r: float) -> Tensor:
    """Share of the current of every cell that reaches the sense node, for rows held at their voltages.

    load [..., row] in the unit of 1/r. With G_j the conductance seen at node j away from the sense node, a current
    divides as 1 : r G_j at the wire below it, so lambda_j = prod_{k <= j} 1/(1 + r G_k).
    """
    G = torch.zeros_like(load[..., 0])
    step = torch.ones_like(G)
    steps = []
    for cell in reversed(load.unbind(-1)):
        G = cell + G * step
        step = 1 / (1 + r * G)
        steps.append(step)
    return torch.stack(steps[::-1], -1).cumprod(-1)


def sensed(x: Tensor, w: Tensor, load: Tensor, r: float) -> Tensor:
    """Sensed currents of lines that each row loads with load_j |x_j|: x [vector, tile, row], w and load
    [tile, out, row] -> [vector, tile, out].

    From the open end to the sense node, the line so far is a current source with a conductance G beside it (Norton);
    each wire segment scales both by 1/(1 + r G), each cell adds its own.
    """
    x, w, load = x.movedim(-1, 0).unsqueeze(-1), by_row(w), by_row(load)
    current = G = torch.zeros((), dtype=x.dtype, device=x.device)
    for j in reversed(range(len(x))):
        wire = 1 / (1 + r * G)
        current = current * wire + x[j] * w[j]
        G = G * wire + x[j].abs() * load[j]
    return current / (1 + r * G)


def by_row(t: Tensor) -> Tensor:
    """[tile, out, row] -> [row, tile, out], each row in one piece."""
    return t.movedim(-1, 0).contiguous()
