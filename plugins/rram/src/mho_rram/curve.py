"""The measured current-voltage curve of RRAM cells."""

from typing import ClassVar

import torch
from mho_circuit.crossbar import devices
from torch import Tensor

from mho import Field, Nonideality, Side, Site, square
from mho_rram.programming import polynomial

SECOND = (7.063e-3, 5.711e-3, 1.541e-3, 1.388e-4)  # A/V^2 over log10(G/S), lowest power first
THIRD = (1.2968e-3, 6.7919e-4, 8.871e-5)  # A/V^3
LOWEST = 50.0  # µS: below it, the share of the nonlinear current is that at 50 µS


def cube(x: Tensor) -> Tensor:
    """x^3"""
    return x**3


def _current(w: Tensor, site: Site, coefficients: tuple[float, ...], power: int) -> tuple[Tensor, Tensor]:
    """What both devices of a weight conduct of V^power, in analog units at x = 1."""
    span = site.g_max - site.g_min
    currents = []
    for g in (share * span for share in devices(w, site)):
        sure = g.clamp(min=LOWEST)
        current = polynomial(coefficients, (sure * 1e-6).log10()) * 1e6 * (g / sure)
        currents.append(current * site.v_read ** (power - 1) / span)
    return currents[0], currents[1]


def even(w: Tensor, site: Site) -> Tensor:
    """the quadratic current of both devices, which inputs of opposite signs do not cancel"""
    plus, minus = _current(w, site, SECOND, 2)
    return plus + minus


def odd(w: Tensor, site: Site) -> Tensor:
    """the cubic current of the pair"""
    plus, minus = _current(w, site, THIRD, 3)
    return plus - minus


class Curve(Nonideality, kind="rram.iv_curve"):
    """I = G V + a_2(G) V^2 + a_3(G) V^3 at V = v_read x, with a_2 and a_3 polynomials in log10 G: a cell of 100 µS conducts 1.6 %
    less at 0.2 V and 1.6 % more at -0.2 V. Measured up to 0.5 V, surest from 62.5 to 110 µS. The devices of a pair are fed with
    opposite voltages, so that quadratic currents add up."""

    source = "Milo et al., IRPS 2021, as fitted in Sandia's CrossSim"
    example_tile = "device: {g_min: 50 uS, g_max: 225 uS, pair: both}"
    sides: ClassVar[dict[str, Side]] = {"two": Side(even, square), "three": Side(odd, cube)}

    v_read: float = Field(0.2, gt=0, le=0.5, unit="V", description="voltage of the largest input", source="assumption")

    def prepare(self, site: Site) -> None:
        site.v_read = torch.full((1,), self.v_read, device=site.rows.n.device)

    def shift(self, site: Site, two: Tensor, three: Tensor) -> Tensor:
        return two + three
