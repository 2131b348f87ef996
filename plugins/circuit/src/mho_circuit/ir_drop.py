"""IR-drop along the bit lines, fast approximation: three matrix products."""

from typing import ClassVar

from torch import Tensor

from mho import Field, Nonideality, Side, Site, absolute, by_depth, conductance, linear
from mho.config import MicroSiemens, Ohms
from mho_circuit.sources import EQ_16, RASCH, RASCH_BIBTEX


class IRDrop(Nonideality, kind="circuit.ir_drop"):
    """Voltage lost along the bit lines, fast approximation (Rasch et al. 2023, Eqs. 16-18).

    a_i = R g n sum_j l_ij |x_j|,  l_ij = |w_ij| + 2 g_min/(g_max - g_min),  c_i = 0.05 a^3 - 0.2 a^2 + 0.5 a,
    Delta y_i = -scale c_i sum_j w_ij x_j (1 - (1 - j/n)^2),  j = 0 next to the sense node, n occupied rows.

    l is what the cell loads the line with: both devices of a pair, of which the idle one conducts g_min (0 in the paper).
    Rows in use lie next to the sense node, and unused ones are not counted in n, so a column gives the same on a
    taller tile.

    It follows `circuit.ir_drop_ladder` with gated rows to 3 % of the drop up to a = 0.5. The conductance in R g is a
    setting of its own, 5 µS, and not the g_max of the device (docs/physics.md E5).
    """

    source = f"{RASCH}, Eqs. 16-18"
    bibtex = RASCH_BIBTEX
    sides: ClassVar[dict[str, Side]] = {"a": Side(conductance, absolute), "p": Side(by_depth, linear)}

    r_wire: Ohms = Field(0.35, ge=0, description="wire resistance between two cells", source=f"{RASCH}, Table A.1")
    g_line: MicroSiemens = Field(5.0, ge=0, description="conductance that stands for w = 1 on the line", source=EQ_16)

    def shift(self, site: Site, a: Tensor, p: Tensor) -> Tensor:
        a = a * (self.r_wire * self.g_line * 1e-6 * site.rows.n[:, None])
        return (a * -0.05).add_(0.2).mul_(a).sub_(0.5).mul_(a).mul_(p)  # -c p; in place, which takes half the time
