"""DAC and ADC: quantise and saturate at the edges of a tile (R003 Eqs. 3-5)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from mho.config import Field, Kinded

if TYPE_CHECKING:
    from torch import Tensor

    from mho.effects.site import Site
    from mho.effects.stages import Rounding


class Converter(Kinded):
    """A data converter. `bits: none` keeps the saturation and drops the rounding; the whole converter `none` is ideal.

    A plugin's converter speaks one of two languages, as effects do:

    declared   `transfer`, pointwise, says how the circuit departs from the ideal one: of a DAC v -> what the analog output
               is for the ideal value v in [-1, 1]; of an ADC y -> what it sees in place of y, in analog units. Constants of
               the chip (gains and offsets of single converters) are set in `prepare`. The fast path runs it. Gradients pass
               it straight through.
    plain      `encode` (DAC) or `convert` (ADC), with any torch code: on the reference path.

    `site` is what the core tells it about the layer and the chip, as it does effects.
    """

    bits: int | None = Field(8, ge=2, le=24, unit="bit", source="Rasch et al. 2023, Table A.1")
    """resolution: b bits are 2^b - 1 levels; none: no rounding"""

    @property
    def top(self) -> int | None:
        """The largest code, 2^(b-1) - 1: 127 for 8 bits (R003-02); None without rounding."""
        return None if self.bits is None else 2 ** (self.bits - 1) - 1

    def prepare(self, site: Site) -> None:
        """Set constants of the chip, e.g. `site.offset = ...` [tile, out]; they come back as `site.offset` in `transfer`."""

    def transfer(self, v: Tensor, site: Site) -> Tensor:
        """v [vector, tile, row] (DAC) or [vector, tile, out] (ADC) as the circuit has it, pointwise."""
        return v

    @property
    def declares(self) -> bool:
        """Whether the class writes a `transfer`."""
        return type(self).transfer is not Converter.transfer


class Dac(Converter, kind="mho.dac"):
    """Input side: x is scaled by the input range alpha, clipped to [-1, 1] and rounded (Rasch et al. 2023, Eqs. 4-6).

    Declared besides `transfer`: `lowest`, for inputs that are not symmetric about 0; and `passes`, for inputs that are applied
    part after part.
    """

    CATEGORY: ClassVar[str] = "dac"
    source: ClassVar[str] = "Rasch et al. 2023, Eqs. 3-4"

    range: float | Literal["learned", "dynamic"] = Field("learned", gt=0, unit="1", source="Rasch et al. 2023, Eq. 3")
    """input range: learned (by calibration and training), dynamic (abs-max of each vector), or a number"""

    noise_management: bool = Field(False, source="Rasch et al. 2023, A.1")
    """vectors whose largest input is below the range take that input as their range"""

    halvings: int = Field(0, ge=0, le=16, unit="count", source="Rasch et al. 2023, A.1")
    """bound management: how often the inputs of a vector may be halved while an output saturates the ADC"""

    @classmethod
    def cross_check(cls, value: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """A dynamic range is noise management already."""
        if isinstance(value, Mapping) and value.get("range") == "dynamic" and value.get("noise_management"):
            yield ("noise_management",), "'range: dynamic' takes the largest input of every vector already; remove this"

    @property
    def lowest(self) -> float:
        """The smallest value, in units of the input range, from -1 to 0: inputs below lowest * alpha are clipped. 0 is an
        unsigned DAC."""
        return -1.0

    @property
    def passes(self) -> tuple[float, ...]:
        """What each part of an input counts, x = sum_k passes_k part_k: the tile is read once for each, with noise of its own.
        Where they meet says `apart`."""
        return (1.0,)

    @property
    def apart(self) -> bool:
        """Whether the parts are converted each and meet on the digital side, else in front of the output stage."""
        return True

    @property
    def part_top(self) -> int | None:
        """The largest code of a part."""
        return self.top

    def part(self, code: Tensor, k: int) -> Tensor:
        """Part k of inputs, as codes up to `part_top`; `code` are those of the whole input, up to `top`."""
        return code

    @property
    def start(self) -> float:
        """alpha before any calibration."""
        return self.range if isinstance(self.range, float) else 1.0

    def used_range(self, x: Tensor, alpha: Tensor) -> Tensor:
        """The range of x [vector, tile, row], given that of the tiles alpha [tile, 1]: alpha, or [vector, tile, 1] where it
        follows the largest input max|x| of each vector, which is min(alpha, max|x|) with noise management (R003-54)."""
        if self.range != "dynamic" and not self.noise_management:
            return alpha
        top = x.detach().abs().amax(-1, keepdim=True)
        if self.range == "dynamic":
            return torch.where(top > 0, top, torch.ones_like(top))
        return torch.where((top > 0) & (top < alpha), top, alpha)

    def encode(self, x: Tensor, alpha: Tensor, decay: float, rows: Tensor | None = None, site: Site | None = None) -> Tensor:
        """x [vector, tile, row] -> analog inputs in [-1, 1], straight through the rounding; alpha [tile, 1], or
        [vector, tile, 1] from `used_range`, learns as in R003-70."""
        from mho.effects.encoding import EncodeInput

        return EncodeInput.apply(x, alpha, self.top, self.lowest, decay, rows)[0]

    def encode_exactly(self, x: Tensor, alpha: Tensor, rounding: Rounding, site: Site | None = None) -> Tensor:
        """The same values with the true derivative in x and alpha (mode `autograd`)."""
        from mho.effects.encoding import quantise

        return quantise(x / alpha, 1.0, self.top, rounding, self.lowest)


class Adc(Converter, kind="mho.adc"):
    """Output side: saturates at `bound` and rounds (Rasch et al. 2023, Eqs. 4-6)."""

    CATEGORY: ClassVar[str] = "adc"
    source: ClassVar[str] = "Rasch et al. 2023, Eq. 5"

    bound: float | None = Field(10.0, gt=0, unit="1", source="Rasch et al. 2023, Table A.1")
    """output bound: that many fully-on rows of full weights saturate the ADC"""

    @classmethod
    def cross_check(cls, value: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Rounding needs a range to round in."""
        if isinstance(value, Mapping) and value.get("bound", 1.0) is None and value.get("bits", 8) is not None:
            yield ("bound",), "an ADC without a bound cannot round: write 'bits: none' too, or give a bound"

    @property
    def limit(self) -> float:
        """The largest output, in analog units; inf without a bound."""
        return math.inf if self.bound is None else self.bound

    def convert(self, y: Tensor, rounding: Rounding = "through", site: Site | None = None) -> Tensor:
        """y [vector, tile, out] in analog units -> digital value in the same units."""
        from mho.effects.encoding import quantise

        return y if self.bound is None else quantise(y, self.bound, self.top, rounding)
