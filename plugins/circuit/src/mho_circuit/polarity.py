"""Positive and negative inputs that are not treated alike: device polarity, and reads in two phases."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from mho import Field, Nonideality, Site, product
from mho_circuit.sources import RASCH, RASCH_BIBTEX

POLARITY = f"{RASCH}, Methods, PCM polarity"


class PolarityAsymmetry(Nonideality, kind="circuit.polarity_asymmetry"):
    """A device conducts differently when its read current is reversed: negative inputs see w_ij (1 + a_ij),
    a ~ N(0, std), fixed for the chip; positive inputs see w_ij (Rasch et al. 2023, Methods).

    Delta y_i = sum_j w_ij a_ij min(x_j, 0). Of a pair with g_min > 0 each device has an a of its own, and the idle one
    conducts too: w_ij a_ij becomes g+ a+ - g- a-.
    """

    source = POLARITY
    bibtex = RASCH_BIBTEX
    strength: ClassVar[str] = "std"

    std: float = Field(0.05, ge=0, unit="1", source=POLARITY, description="spread sigma_a of the relative difference")

    def accumulate(self, y: Tensor, x: Tensor, w: Tensor, site: Site) -> Tensor:
        a = self.std * site.randn_like(w, per="chip", name="a")
        change = w * a
        if idle := site.geometry.idle:
            a_idle = self.std * site.randn_like(w, per="chip", name="idle")
            change = change + torch.where(w < 0, -idle, idle) * (a - a_idle)
        return y + product(x.clamp(max=0), change)


class TwoPhase(Nonideality, kind="circuit.two_phase"):
    """Positive and negative inputs are applied one after the other (Rasch et al. 2023, Methods).

    Whatever depends on the current of a phase (IR-drop, read noise) happens in each. The phases are summed in analog,
    on the integrator, and converted once; or digitally, each with output noise, S-curve and ADC of its own.
    Without such effects the result is that of one pass.
    """

    source = f"{RASCH}, Methods, tile-size and PCM polarity"
    bibtex = RASCH_BIBTEX
    strength = None

    sum: Literal["analog", "digital"] = Field("analog", source=POLARITY, description="sum phases before the ADC, or convert each")

    @property
    def apart(self) -> bool:
        return self.sum == "digital"

    def passes(self, x: Tensor, site: Site) -> tuple[Tensor, ...]:
        return x.clamp(min=0), x.clamp(max=0)
