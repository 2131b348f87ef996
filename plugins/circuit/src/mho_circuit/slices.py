"""Weights that are held by several devices: equal shares, filled in turn, residuals, digits; signed in four ways."""

from collections.abc import Iterator, Mapping as Fields
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from mho import Field
from mho.effects import Geometry, Mapping, TileMax
from mho_circuit.sources import XIAO


class Slices(Mapping):
    """w = offset + sum_k f_k v_k: what the kinds of slices share.

    sign says how a weight below 0 is held, u >= 0 being what one device can hold:

    pair      v_k of either sign, by the two devices of a pair on one column (`device: {pair: active}` or `both`)
    columns   u = max(w, 0) and max(-w, 0) each have slices of their own, f_k and -f_k (`pair: single`)
    offset    u = (1 + w)/2; the digital side subtracts sum_j x_j (`pair: single`)
    reference the same, but sum_j x_j is read from one column of every tile, all of whose devices are at g_max: it drifts and is
              noisy as the others are, and is converted once for all of them (`sum: digital`)

    sum: digital   every slice has a column and an ADC of its own; the digital side multiplies by f_k and adds
    sum: analog    the currents of all slices, weighted by f_k, meet on one column in front of one ADC
    """

    source: ClassVar[str] = "mho"

    sign: Literal["pair", "columns", "offset", "reference"] = Field("pair", source="textbook")
    """how negative weights are held: by pairs, by columns of their own, or by an offset that is computed or read"""
    sum: Literal["digital", "analog"] = Field("digital", source="textbook")
    """convert every slice and add digitally, or add currents in front of one ADC"""
    range: Literal["column", "tile"] = Field("column", source="Rasch et al. 2023")
    """every output, or only the largest weight of a tile, fills the range"""

    @classmethod
    def cross_check(cls, value: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """A reference is converted alone, and so are the columns that it is taken from."""
        if isinstance(value, Fields) and value.get("sign") == "reference" and value.get("sum") == "analog":
            yield ("sum",), "a reference column is subtracted from converted columns: write 'sum: digital', or 'sign: offset'"

    @property
    def reference(self) -> bool:
        return self.sign == "reference"

    @property
    def shifted(self) -> bool:
        """Whether u is never negative thanks to an offset."""
        return self.sign in ("offset", "reference")

    @property
    def shares(self) -> tuple[float, ...]:
        """What each slice of u counts."""
        raise NotImplementedError

    def parts(self, u: Tensor) -> Tensor:
        """The slices [..., slice, row] of u [..., row] in [0, 1]."""
        raise NotImplementedError

    @property
    def apart(self) -> bool:
        return self.sum == "digital"

    @property
    def unsigned(self) -> bool:
        return self.sign != "pair"

    @property
    def factors(self) -> tuple[float, ...]:
        f = self.shares
        if self.sign == "columns":
            return (*f, *(-v for v in f))
        return tuple(2 * v for v in f) if self.shifted else f

    def offset(self, idle: float) -> float:
        return super().offset(idle) - self.shifted

    def split(self, w: Tensor) -> Tensor:
        if self.shifted:
            return self.parts((1 + w) / 2)
        plus, minus = self.parts(w.clamp(min=0)), self.parts((-w).clamp(min=0))
        return torch.cat([plus, minus], -2) if self.sign == "columns" else plus - minus

    def scale(self, w: Tensor, geometry: Geometry) -> Tensor:
        return w.abs().amax(-1) if self.range == "column" else TileMax().scale(w, geometry)


class EqualShares(Slices, kind="circuit.equal_shares"):
    """K devices hold the same: v_k = u, f_k = 1/K. Independent errors fall as 1/sqrt(K), those of the ADC too if each is
    converted."""

    source: ClassVar[str] = "mean of K independent errors"

    devices: int = Field(2, ge=1, le=16, unit="count", description="devices for each sign", source="mho")

    @property
    def shares(self) -> tuple[float, ...]:
        return (1 / self.devices,) * self.devices

    def parts(self, u: Tensor) -> Tensor:
        return torch.stack([u] * self.devices, -2)


class MaxFill(EqualShares, kind="circuit.max_fill"):
    """K devices are filled one after the other: v_k = clip(K u - k, 0, 1), f_k = 1/K. At most one of them is between the ends
    of the range, where programming noise is largest."""

    source: ClassVar[str] = "Vasilopoulos et al. 2023"

    def parts(self, u: Tensor) -> Tensor:
        return torch.stack([(self.devices * u - k).clamp(0, 1) for k in range(self.devices)], -2)


class Residual(EqualShares, kind="circuit.residual"):
    """Every device makes up for the error that those before it have left: v_0 = w and v_k = (w - sum_(j<k) f_j g_j)/f_k, clipped
    to [-1, 1], with g_j as programmed and f_k = ratio^-k. The error falls by about `ratio` with every device until it is read;
    drift and noise of the first one stay as they are.

    With s the largest standard deviation of programming over g_max, about 1/(3.5 s) is best for four, 6.6 for PCM of 25 uS:
    what is beyond 3.5 s is cut and stays for good, and a larger range has coarser errors."""

    source: ClassVar[str] = "Song et al., Science 383 (2024)"

    ratio: float = Field(8.0, gt=1, unit="1", source="mho")
    """what one device counts over the next: its range over its errors"""

    @classmethod
    def cross_check(cls, value: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Residuals have a sign."""
        if isinstance(value, Fields) and value.get("sign") in ("offset", "reference"):
            yield ("sign",), "residuals of either sign need 'sign: pair' or 'columns'"

    @property
    def shares(self) -> tuple[float, ...]:
        return tuple(self.ratio**-k for k in range(self.devices))

    @property
    def again(self) -> int:
        return self.devices - 1

    def parts(self, u: Tensor) -> Tensor:
        return torch.stack([u, *[torch.zeros_like(u)] * self.again], -2)

    def corrected(self, w: Tensor, v: Tensor, now: Tensor, k: int) -> Tensor:
        count, rest = self.devices, w
        for number, f in enumerate(self.factors):
            rest = rest - f * now[..., number, :] if number % count <= k else rest
        rest = (rest / self.shares[k + 1]).clamp(-1, 1)
        new = v.clone()
        if self.sign == "columns":
            new[..., k + 1, :], new[..., count + k + 1, :] = rest.clamp(min=0), (-rest).clamp(min=0)
        else:
            new[..., k + 1, :] = rest
        return new


class Digits(Slices, kind="circuit.digits"):
    """Integers of `bits` bits, sign included, in digits of `digit` bits: of the magnitude n = round(T |w|), T = 2^(bits-1) - 1,
    or with an offset of n + T + 1 = round(T w) + 2^(bits-1). v_k = digit_k/(2^digit - 1), f_k = (2^digit - 1) 2^(digit k)/T.

    sign: twos_complement   bits - 1 bits in digits, and a column that holds the sign bit and counts -2^(bits-1)

    An ADC loses nothing where its step is that of one cell, 1/((2^digit - 1) t) for inputs of t codes, and its bits hold
    rows (2^digit - 1) t such steps and a sign.
    """

    source: ClassVar[str] = "Shafiee et al., ISCA 2016; Xiao et al., arXiv 2109.01262"

    bits: int = Field(8, ge=2, le=16, unit="bit", description="of a weight, sign included", source="Shafiee et al. 2016")
    digit: int = Field(2, ge=1, le=15, unit="bit", description="bits of one device", source="Shafiee et al. 2016")
    sign: Literal["pair", "columns", "offset", "reference", "twos_complement"] = Field("pair", source=XIAO)
    """how negative weights are held"""

    @property
    def top(self) -> int:
        """The largest integer, T."""
        return int(2 ** (self.bits - 1) - 1)

    @property
    def places(self) -> range:
        """The power of 2 of each digit."""
        return range(0, self.bits - (not self.shifted), self.digit)

    @property
    def shares(self) -> tuple[float, ...]:
        return tuple((2**self.digit - 1) * 2.0**place / self.top for place in self.places)

    @property
    def factors(self) -> tuple[float, ...]:
        if self.sign == "twos_complement":
            return (*self.shares, -(self.top + 1) / self.top)
        return self.shares if self.shifted else super().factors

    def offset(self, idle: float) -> float:
        return Mapping.offset(self, idle) - self.shifted * (self.top + 1) / self.top

    def parts(self, u: Tensor) -> Tensor:
        return self._digits((u * self.top).round())

    def _digits(self, n: Tensor) -> Tensor:
        base = 2**self.digit
        return torch.stack([(n / 2**place).floor() % base for place in self.places], -2) / (base - 1)

    def split(self, w: Tensor) -> Tensor:
        if self.sign in ("pair", "columns"):
            return super().split(w)
        n = (w * self.top).round()
        if self.shifted:
            return self._digits(n + self.top + 1)
        negative = (n < 0).to(n)
        return torch.cat([self._digits(n + negative * (self.top + 1)), negative.unsqueeze(-2)], -2)
