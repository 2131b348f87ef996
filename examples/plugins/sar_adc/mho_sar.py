"""A successive-approximation ADC whose capacitors are not exactly powers of two.

Each column has a converter of its own: capacitor k of b-1 is 2^k (1 + sigma xi / sqrt(2^k)) unit capacitors, since
2^k units average their errors. The comparator decides bit after bit against these; the digital side believes in 2^k.
The xi belong to the chip: nothing is stored, the site gives the same ones whenever it is asked.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mho import Field, Site, hookimpl
from mho.effects import Adc, Rounding, straight


class SarAdc(Adc, kind="sar.adc"):
    """SAR ADC, sign and magnitude, with mismatch of the unit capacitors; sigma = 0 is the ideal ADC."""

    source = "textbook: mismatch of a binary capacitor array"

    bits: int | None = Field(8, ge=2, le=16, unit="bit", description="resolution: b bits are 2^b - 1 levels")
    sigma: float = Field(0.01, ge=0, lt=1, unit="1", description="relative mismatch of a unit capacitor")

    def convert(self, y: Tensor, rounding: Rounding = "through", site: Site | None = None) -> Tensor:
        if self.bound is None or self.top is None:
            return super().convert(y, rounding)
        step = self.bound / self.top
        code = self._codes(y.abs() / step, self._capacitors(y, site))
        value = torch.where(y < 0, -code, code) * step
        saturated = code.detach() >= self.top
        return value.detach() if rounding == "zero" else straight(torch.where(saturated, y.detach(), y), value)

    def _capacitors(self, y: Tensor, site: Site | None) -> Tensor:
        """[bit, tile, out], largest first, in units; the nominal ones where there is no chip to ask."""
        n = int(self.bits or 2) - 1
        ideal = 2.0 ** torch.arange(n - 1, -1, -1, dtype=y.dtype, device=y.device)[:, None, None]
        if site is None:
            return ideal
        xi = site.randn_like(y.new_empty(n, *y.shape[-2:]), per="chip", name="capacitors")
        return ideal * (1 + self.sigma * xi / ideal.sqrt())

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
