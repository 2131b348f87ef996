"""IR-drop along word and bit lines, exact: nodal analysis of the whole array, folded into the weights."""

import torch
from torch import Tensor

from mho import Field, Nonideality, Site
from mho.config import MicroSiemens, Ohms
from mho_circuit.crossbar import devices, precise
from mho_circuit.sources import EQ_16, RASCH, RASCH_BIBTEX


class IRDropNodal(Nonideality, kind="circuit.ir_drop_nodal"):
    """Voltage lost along word and bit lines, exact, for rows that are always driven (Rasch et al. 2023, Eq. 15, with word lines).

    Every weight is a pair of devices on one bit line, fed by two word lines at +x and -x. Drivers sit at column 0 and
    feed the first cell through r_driver + r_word; the sense node sits below row 0, behind r_sense + r_bit; each further
    cell is one segment r_word or r_bit away. A tile is an array of its own: the rows and columns of one row tile and
    one column block.

    The network is linear, so its effect is one matrix: it is put into the weights once after each `age` (programmed
    chips only), and costs nothing at an MVM. Solved in float64, about n m^3 operations for n rows and m columns.
    """

    source = "Kirchhoff's laws; wire resistance of Rasch et al. 2023"
    bibtex = RASCH_BIBTEX

    r_word: Ohms = Field(0.35, ge=0, source=f"{RASCH}, Table A.1 (bit line)", description="word-line resistance between cells")
    r_bit: Ohms = Field(0.35, ge=0, description="bit-line resistance between two cells", source=f"{RASCH}, Table A.1")
    r_driver: Ohms = Field(0.0, ge=0, description="output resistance of a row driver", source="ideal driver")
    r_sense: Ohms = Field(0.0, ge=0, description="input resistance of a sense amplifier", source="ideal virtual ground")
    g_line: MicroSiemens = Field(5.0, ge=0, description="conductance that stands for w = 1 on the line", source=EQ_16)

    def fold(self, w: Tensor, site: Site) -> Tensor:
        plus, minus = (to_arrays(g, site) for g in devices(precise(w), site))
        unit = self.g_line * 1e-6  # from here on, resistances in units of 1/g_line
        wires = {name: getattr(self, name) * unit for name in ("r_word", "r_bit", "r_driver", "r_sense")}
        return from_arrays(effective(plus, minus, **wires), site).to(w)


def to_arrays(g: Tensor, site: Site) -> Tensor:
    """[tile, out, row] -> [array, row, column], an array for every row tile and column block. Narrow blocks are padded
    with open columns at the far end of the word lines, where they change nothing."""
    where = site.geometry
    padded = g.new_zeros(len(g), where.block_count, where.width, g.shape[-1])
    padded[:, where.blocks.to(g.device), where.place.to(g.device)] = g
    return padded.flatten(0, 1).mT.contiguous()


def from_arrays(w: Tensor, site: Site) -> Tensor:
    """[array, column, row] -> [tile, out, row]."""
    where = site.geometry
    return w.unflatten(0, (-1, where.block_count))[:, where.blocks.to(w.device), where.place.to(w.device)]


def effective(plus: Tensor, minus: Tensor, *, r_word: float, r_bit: float, r_driver: float, r_sense: float) -> Tensor:
    """The matrix [array, column, row] that maps row voltages to sensed currents, for conductances [array, row, column].

    The recursion of a ladder with matrices in place of numbers. Seen from the sense end, the rows so far are current
    sources with an admittance G between bit lines beside them; a row of wire segments scales both by
    (1 + r_bit G)^-1, row j adds its own admittance and currents.
    """
    arrays, n, m = plus.shape
    one = torch.eye(m, dtype=plus.dtype, device=plus.device)
    lines = WordLines(torch.stack([plus, minus]), r_word, r_driver)
    G = plus.new_zeros(arrays, m, m)
    currents = plus.new_zeros(arrays, m, 0)  # column k for the k-th row from the sense end
    for j in reversed(range(n)):
        wire = inverse(one + r_bit * G)
        G = wire @ G + lines.admittance(j)
        currents = torch.cat([lines.currents(j).unsqueeze(-1), wire @ currents], -1)
    return inverse(one + (r_bit + r_sense) * G) @ currents


def inverse(M: Tensor) -> Tensor:
    """Of symmetric positive definite matrices."""
    return torch.cholesky_inverse(torch.linalg.cholesky(M))


class WordLines:
    """What the bit lines see of the word lines: D [sign, array, row, column] are the devices on the lines at +x and -x.

    With the driver at 0 V, a row has the admittance D - D Z D between bit lines, where Z_ab is the voltage at node a
    for a unit current into node b. A word line is a ladder too: with R_a the resistance towards the driver and G_a the
    conductance away from it, the device at a included, Z_aa = R_a/(1 + R_a G_a), and a voltage falls by
    1/(1 + r_word G_b) on its way to the next node b. With the driver at 1 V, the same falls give the voltages v.
    """

    def __init__(self, D: Tensor, r_word: float, r_driver: float) -> None:
        columns = D.shape[-1]
        G = [D[..., -1]]  # from the open end to the driver
        for a in reversed(range(columns - 1)):
            G.append(D[..., a] + G[-1] / (1 + r_word * G[-1]))
        R = [torch.full_like(D[..., 0], r_driver + r_word)]  # from the driver to the open end
        for a in range(columns - 1):
            R.append(r_word + R[-1] / (1 + D[..., a] * R[-1]))
        away, towards = torch.stack(G[::-1], -1), torch.stack(R, -1)
        self.D = D
        self.Z_aa = towards / (1 + towards * away)
        self.log_fall = -torch.log1p(r_word * away).cumsum(-1)
        self.v = (self.log_fall - self.log_fall[..., :1]).exp() / (1 + R[0] * away[..., 0]).unsqueeze(-1)

    def admittance(self, j: int) -> Tensor:
        """Of row j, both lines together, [array, column, column]."""
        D, Z_aa, log_fall = (t[..., j, :] for t in (self.D, self.Z_aa, self.log_fall))
        fall = (log_fall[..., None, :] - log_fall[..., :, None]).clamp(max=0).exp()  # from a to b behind it
        DZD = ((D * Z_aa)[..., :, None] * fall * D[..., None, :]).sum(0)
        return torch.diag_embed(D.sum(0)) - DZD.triu() - DZD.triu(1).mT

    def currents(self, j: int) -> Tensor:
        """Into the bit lines for x_j = 1, with these at 0 V, [array, column]."""
        plus, minus = (self.D * self.v)[..., j, :]
        return plus - minus
