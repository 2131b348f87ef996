"""IR-drop along the bit lines, exact: every bit line is a ladder of wire segments, loaded by its cells."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from mho import Field, Nonideality, Site, conductance, product
from mho.config import MicroSiemens, Ohms
from mho.tile import blocks
from mho_circuit.crossbar import precise
from mho_circuit.sources import EQ_16, RASCH, RASCH_BIBTEX

CHUNK = 16  # cells between two divisions


class IRDropLadder(Nonideality, kind="circuit.ir_drop_ladder"):
    """Voltage lost along the bit lines, exact (Rasch et al. 2023, Eq. 15). Kirchhoff's law at row j, in units of g_line:

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

    r_wire: Ohms = Field(0.35, ge=0, description="wire resistance between two cells", source=f"{RASCH}, Table A.1")
    g_line: MicroSiemens = Field(5.0, ge=0, description="conductance that stands for w = 1 on the line", source=EQ_16)
    input_encoding: Literal["gated", "driven"] = Field("gated", source=f"{RASCH}, Eq. 16 (gated), Eq. 15 (driven)")
    """rows conduct only while their pulse is on, or are always held at a voltage"""
    slots: int | None = Field(None, ge=1, unit="count", source=f"{RASCH}, Methods, IR-drop")
    """time slots of the pulse window in which gated lines are solved; none: once, with the mean load"""

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
        exact = precise(w)
        return (exact * attenuation(conductance(exact, site), self._r)).to(w)

    def accumulate(self, y: Tensor, x: Tensor, w: Tensor, site: Site) -> Tensor:
        return y if self.input_encoding == "driven" else y - self._drop(x, w, conductance(w, site), site)

    def _drop(self, x: Tensor, w: Tensor, load: Tensor, site: Site) -> Tensor:
        """What is lost of x [vector, tile, row] through w, load [tile, out, row] -> [vector, tile, out]."""
        if self.slots is None:
            return product(x, w) - sensed(x, w, load, self._r, site)
        drops = torch.zeros((), dtype=x.dtype, device=x.device)
        for k in range(self.slots):
            pulse = x.sign() * (x.abs() * self.slots > k + 0.5)
            drops = drops + product(pulse, w) - sensed(pulse, w, load, self._r, site)
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


def sensed(x: Tensor, w: Tensor, load: Tensor, r: float, site: Site | None = None) -> Tensor:
    """Sensed currents of lines that each row loads with load_j |x_j|: x [vector, tile, row], w and load
    [tile, out, row] -> [vector, tile, out].

    From the open end to the sense node, the line so far is a current source J with a conductance beside it (Norton), here
    G in units of 1/r. `site` compiles the work where the hardware file says `compile: true`.
    """
    shape = (*x.shape[:-1], w.shape[-2])
    chunks = list(zip(*(_in_chunks(v) for v in (x.unsqueeze(-2), w, r * load))))[::-1]
    by: Callable[..., tuple[Tensor, Tensor]] = passed
    if not _watched(x, w, load):
        if site is None or not site.compiles:
            return _in_place(chunks, x.new_empty(shape))
        by = functools.partial(site.kernel, passed)
    J, G = x.new_zeros(2, *shape)
    for chunk in chunks:
        J, G = by(J, G, *chunk)
    return J


def passed(J: Tensor, G: Tensor, x: Tensor, w: Tensor, load: Tensor) -> tuple[Tensor, Tensor]:
    """Norton's J and G [vector, tile, out] behind some more cells and the wires below them: x [cell, vector, tile, 1],
    w and load [cell, tile, out], the last cell first.

    A cell adds x w and |x| load, a wire divides both by 1 + G. With J = C/D, G = N/D it only adds N to D.
    """
    C, N, D = J, G, torch.ones_like(J)
    for x_j, w_j, load_j in reversed([*zip(x, w, load)]):
        C = C + D * (x_j * w_j)
        N = N + D * (x_j.abs() * load_j)
        D = D + N
    return C / D, N / D


def passed_(J: Tensor, G: Tensor, D: Tensor, current: Tensor, x: Tensor, w: Tensor, load: Tensor) -> None:
    """The same in place; D and `current` are memory to work in."""
    D.fill_(1)
    for x_j, w_j, load_j in reversed([*zip(x, w, load)]):
        torch.mul(D, x_j, out=current)
        J.addcmul_(current, w_j)
        G.addcmul_(current.abs_(), load_j)
        D.add_(G)
    J.div_(D)
    G.div_(D)


def _in_place(chunks: Sequence[tuple[Tensor, ...]], out: Tensor) -> Tensor:
    """All chunks for some vectors at a time, whose four tensors stay in the cache."""
    for b in blocks(len(out), 4 * out.shape[1:].numel()):
        J, G, D, current = out.new_zeros(4, *out[b].shape)
        for x, w, load in chunks:
            passed_(J, G, D, current, x[:, b], w, load)
        out[b] = J
    return out


def _in_chunks(t: Tensor) -> tuple[Tensor, ...]:
    """[..., row] -> [CHUNK, ...] each; empty cells behind the open end fill the last one."""
    missing = -t.shape[-1] % CHUNK
    return (pad(t, (0, missing)) if missing else t).movedim(-1, 0).contiguous().split(CHUNK)


def _watched(*tensors: Tensor) -> bool:
    """Whether autograd, torch.func or a compiler follows what is done with these tensors: nothing is done in place then."""
    follows = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    return follows or (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
