"""A successive-approximation ADC whose capacitors are not exactly powers of two.

Each column has a converter of its own: capacitor k of b-1 is 2^k (1 + sigma xi / sqrt(2^k)) unit capacitors, since
2^k units average their errors. The comparator decides bit after bit against these; the digital side believes in 2^k.
"""

from __future__ import annotations

import torch
from mho import Field, hookimpl
from mho.converter import Adc, Rounding
from mho.gradient import straight
from mho.noise import key, normal, rows_of
from torch import Tensor


class SarAdc(Adc, kind="sar.adc"):
    """SAR ADC, sign and magnitude, with mismatch of the unit capacitors; sigma = 0 is the ideal ADC."""

    source = "textbook: mismatch of a binary capacitor array"

    bits: int | None = Field(8, ge=2, le=16, unit="bit", description="resolution: b bits are 2^b - 1 levels")
    sigma: float = Field(0.01, ge=0, lt=1, unit="1", description="relative mismatch of a unit capacitor")
    seed: int = Field(0, ge=0, unit="1", description="which converters; converters know no chip, all chips have these")

    def convert(self, y: Tensor, rounding: Rounding = "through") -> Tensor:
        if self.bound is None or self.top is None:
            return super().convert(y, rounding)
        step = self.bound / self.top
        code = self._codes(y.abs() / step, self._capacitors(y))
        value = torch.where(y < 0, -code, code) * step
        saturated = code.detach() >= self.top
        return value.detach() if rounding == "zero" else straight(torch.where(saturated, y.detach(), y), value)

    def _capacitors(self, y: Tensor) -> Tensor:
        """[bit, out], largest first, in units."""
        n = int(self.bits or 2) - 1
        ideal = 2.0 ** torch.arange(n - 1, -1, -1, dtype=y.dtype, device=y.device)[:, None]
        rows = rows_of(key("sar", self.seed), torch.arange(n, dtype=torch.int32, device=y.device))
        return ideal * (1 + self.sigma * normal(rows, y.shape[-1]).to(y.dtype) / ideal.sqrt())

    @staticmethod
    def _codes(magnitude: Tensor, capacitors: Tensor) -> Tensor:
        """Bit after bit: keep a capacitor if the charge is still at most the input, half a step rounded."""
        charge, code = torch.zeros_like(magnitude), torch.zeros_like(magnitude)
        for k, capacitor in enumerate(capacitors):
            keep = charge + capacitor <= magnitude + 0.5
            charge = torch.where(keep, charge + capacitor, charge)
            code = torch.where(keep, code + 2.0 ** (len(capacitors) - 1 - k), code)
        return code


@hookimpl
def mho_converters() -> list[type]:
    return [SarAdc]
