"""Inputs that are applied in parts: bit after bit, or digit after digit."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from mho import Field
from mho.effects import Dac
from mho_circuit.sources import XIAO


class SerialDac(Dac, kind="circuit.serial_dac"):
    """The code n of an input, |n| <= T = 2^(bits-1) - 1, digit after digit, `digit` bits each: the tile is read once for each,
    with full amplitudes digit_k/(2^digit - 1), noise of its own, and the weight (2^digit - 1) 2^(digit k)/T.

    sign: magnitude         digits of |n|, applied with the sign of n
    sign: twos_complement   digits of n mod 2^(bits-1), then the sign bits, which count -2^(bits-1)
    sum: digital            every pass is converted, the digital side shifts and adds
    sum: analog             an integrator halves what it holds before the next bit (divides by 2^digit): one conversion
    """

    source: ClassVar[str] = "Shafiee et al., ISCA 2016"

    bits: int | None = Field(8, ge=2, le=16, unit="bit", source="Shafiee et al. 2016", description="of an input, sign included")
    digit: int = Field(1, ge=1, le=7, unit="bit", source="Shafiee et al. 2016", description="bits of one pass")
    sign: Literal["magnitude", "twos_complement"] = Field("magnitude", source=XIAO, description="how negative inputs are applied")
    sum: Literal["digital", "analog"] = Field("digital", source=XIAO, description="where passes are added up")

    @classmethod
    def cross_check(cls, value: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Digits are those of an integer."""
        yield from super().cross_check(value)
        if isinstance(value, Mapping) and value.get("bits", 8) is None:
            yield ("bits",), "digits are those of an integer: say how many bits an input has"

    @property
    def apart(self) -> bool:
        return self.sum == "digital"

    @property
    def part_top(self) -> int:
        return int(2**self.digit - 1)

    @property
    def _places(self) -> range:
        return range(0, (self.bits or 8) - 1, self.digit)

    @property
    def passes(self) -> tuple[float, ...]:
        top = self.top or 127
        f = tuple(self.part_top * 2.0**place / top for place in self._places)
        return (*f, -(top + 1) / top) if self.sign == "twos_complement" else f

    def part(self, code: Tensor, k: int) -> Tensor:
        if k == len(self._places):
            return (code < 0).to(code) * self.part_top
        twos, place, base = self.sign == "twos_complement", 2 ** self._places[k], 2**self.digit
        n = torch.where(code < 0, code + ((self.top or 127) + 1), code) if twos else code.abs()
        digit = (n / place).floor_().sub_((n / (place * base)).floor_(), alpha=base)  # `%` takes five times as long
        return digit if twos else digit * code.sign()
