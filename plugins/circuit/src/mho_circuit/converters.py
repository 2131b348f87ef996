"""Circuits of ADCs: what successive approximation, ramps and 1.5-bit stages make of their components, and tables of levels.

All are declared: `transfer` gives the level that the circuit decides for, which the ideal rounding behind it keeps.
"""

import csv
import functools
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from pydantic import model_validator
from torch import Tensor

from mho import Field, Site
from mho.effects import Adc, straight

XIAO = "Spear et al., JxCDC 2023, as in Sandia's CrossSim"
FIRST, SECOND = 0.25, -0.25  # thresholds of a 1.5-bit stage


class AdcCircuit(Adc):
    """What circuits share: each ADC converts `columns` neighbouring columns of a tile, and has a gain and an offset of its own,
    y -> (1 + gain xi) y + offset eta bound, which calibration trims to the nearest multiple of `trim`.
    """

    columns: int = Field(1, ge=1, unit="count", description="columns that share an ADC", source=XIAO)
    gain: float = Field(0.0, ge=0, lt=0.5, unit="1", description="standard deviation of the gain", source="assumption")
    offset: float = Field(0.0, ge=0, lt=0.5, unit="1", description="standard deviation of the offset, of the bound", source=XIAO)
    trim: float | None = Field(None, gt=0, unit="1", source="assumption")
    """step of the trimming of gain and offset; none: not calibrated"""

    @classmethod
    def cross_check(cls, value: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Circuits decide for levels within a range."""
        yield from super().cross_check(value)
        if isinstance(value, Mapping) and value.get("bound", 1.0) is None:
            yield ("bound",), "the circuit of an ADC has a range: give a bound"

    @property
    def full(self) -> float:
        """The bound."""
        return self.bound or 1.0

    def prepare(self, site: Site) -> None:
        site.gain = 1 + self._trimmed(self.gain * self.drawn(site, "gain"))
        site.offset = self.full * self._trimmed(self.offset * self.drawn(site, "offset"))

    def transfer(self, v: Tensor, site: Site) -> Tensor:
        y = v * site.gain + site.offset
        return straight(y, self.decided(y.detach(), site))

    def decided(self, y: Tensor, site: Site) -> Tensor:
        """The level for y, in the same units."""
        return y

    def _trimmed(self, error: Tensor) -> Tensor:
        return error if self.trim is None else error - (error / self.trim).round() * self.trim

    def drawn(self, site: Site, name: str, *components: int) -> Tensor:
        """Normal numbers [*components, tile, out], the same for all columns of an ADC."""
        each = -(-site.columns // self.columns)  # of a tile, at most
        like = site.rows.n.new_empty(*components, len(site.rows.n), site.geometry.block_count * each)
        number = site.geometry.blocks * each + site.geometry.place // self.columns
        return site.randn_like(like, per="chip", name=name)[..., number]


class ColumnAdc(AdcCircuit, kind="circuit.column_adc"):
    """An ideal ADC behind a gain and an offset of its own."""

    source: ClassVar[str] = "Khaddam-Aljameh et al., JSSC 2022: gains spread by 21 % before and 7 % after calibration"

    gain: float = Field(0.07, ge=0, lt=0.5, unit="1", description="standard deviation of the gain", source="JSSC 2022")


class SarAdc(AdcCircuit, kind="circuit.sar_adc"):
    """Successive approximation of |y|, sign first: capacitor k is 2^k + mismatch sqrt(2^k) xi_k units, bit after bit is kept
    while the charge is at most |y|, and the digital side believes in 2^k."""

    source: ClassVar[str] = XIAO

    mismatch: float = Field(0.01, ge=0, lt=0.5, unit="1", description="spread of a unit capacitor", source=XIAO)

    def prepare(self, site: Site) -> None:
        super().prepare(site)
        k = torch.arange((self.bits or 8) - 1, device=site.rows.n.device)[:, None, None]
        site.capacitors = 2.0**k + self.mismatch * 2.0 ** (k / 2) * self.drawn(site, "capacitors", len(k))

    def decided(self, y: Tensor, site: Site) -> Tensor:
        if self.top is None:
            return y
        step = self.full / self.top
        left, code = y.abs() / step + 0.5, torch.zeros_like(y)
        for k in reversed(range(len(site.capacitors))):
            keep = left >= site.capacitors[k]
            left, code = left - keep * site.capacitors[k], code + keep * 2.0**k
        return code.copysign(y) * step


class RampAdc(AdcCircuit, kind="circuit.ramp_adc"):
    """One ramp for all columns of a tile, whose slope is (1 + slope xi) and whose steps have a spread `steps` of one; every
    column has a comparator, whose `offset` counts as that of an ADC. The code is the number of steps that are below y."""

    source: ClassVar[str] = XIAO

    slope: float = Field(0.0, ge=0, lt=0.5, unit="1", description="spread of the slope between tiles", source="assumption")
    steps: float = Field(0.05, ge=0, lt=0.5, unit="1", description="spread of a step of the ramp", source="assumption")
    bits: int | None = Field(8, ge=2, le=12, unit="bit", description="b bits are 2^b - 1 levels; none: no rounding", source=XIAO)

    def prepare(self, site: Site) -> None:
        super().prepare(site)
        blocks, tiles, n = site.geometry.blocks, len(site.rows.n), 2 * (self.top or 1)
        like = site.rows.n.new_empty(tiles, site.geometry.block_count, n)
        rise = 1 + self.steps * site.randn_like(like, per="chip", name="steps")
        slope = 1 + self.slope * site.randn_like(like[..., :1], per="chip", name="slope")
        ramp = slope * (rise.clamp(min=0).cumsum(-1) - n / 2 - 0.5)  # edges, in steps
        site.ramp = ramp[:, blocks]  # [tile, out, edge]

    def decided(self, y: Tensor, site: Site) -> Tensor:
        if self.top is None:
            return y
        step, values = self.full / self.top, y.permute(1, 2, 0).contiguous()
        code = torch.searchsorted(site.ramp.contiguous(), values / step)
        return ((code - self.top) * step).to(y).permute(2, 0, 1)


class CyclicAdc(AdcCircuit, kind="circuit.cyclic_adc"):
    """Stages of 1.5 bits: with d = -1, 0 or 1 for thresholds at -1/4 and 1/4 of the range, missed by `threshold` xi, the next
    stage sees ((2 + e) v - (1 + e) d)/(1 + loss), e = `mismatch` eta, and the digital side adds up d 2^-k. A cyclic ADC has one
    such stage, a pipeline one for each bit."""

    source: ClassVar[str] = XIAO

    mismatch: float = Field(0.005, ge=0, lt=0.5, unit="1", description="spread of the ratio of two capacitors", source=XIAO)
    threshold: float = Field(0.02, ge=0, lt=0.2, unit="1", description="spread of the thresholds, of the range", source=XIAO)
    loss: float = Field(0.0, ge=0, lt=0.1, unit="1", description="lost to the finite gain of the amplifier", source=XIAO)
    pipeline: bool = Field(False, description="a stage for each bit instead of one for all", source=XIAO)

    def prepare(self, site: Site) -> None:
        super().prepare(site)
        stages = self.bits or 8 if self.pipeline else 1
        site.ratio = self.mismatch * self.drawn(site, "ratio", stages)
        site.over = self.threshold * self.drawn(site, "over", stages)
        site.under = self.threshold * self.drawn(site, "under", stages)

    def decided(self, y: Tensor, site: Site) -> Tensor:
        if self.top is None:
            return y
        v, code = y / self.full, torch.zeros_like(y)
        for k in range(1, self.bits or 8):
            e, over, under = (t[k - 1 if self.pipeline else 0] for t in (site.ratio, site.over, site.under))
            d = (v > FIRST + over).to(v) - (v < SECOND + under).to(v)
            v, code = ((2 + e) * v - (1 + e) * d) / (1 + self.loss), code + d * 2.0**-k
        return (code + v.clamp(-1, 1) * 2.0 ** -(self.bits or 8)) * self.full  # the last comparison rounds


class TableAdc(AdcCircuit, kind="circuit.table_adc"):
    """Levels from a CSV with a column `level`, in units of the bound and in ascending order, and, if it says so, the `edge` above
    each; else edges lie in the middle. For quantisers that follow the outputs, such as those of k-means."""

    source: ClassVar[str] = "the levels in the file"

    bits: int | None = Field(None, le=0, unit="bit", description="none: the table has the levels", source="mho")
    file: str = Field("", description="CSV of the levels, in the working directory", source="the user")

    @functools.cached_property
    def table(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Levels, and the edges between them. Raises `ValueError` for a file that has none."""
        try:
            rows = list(csv.DictReader(Path(self.file).read_text().splitlines())) if self.file else []
            levels = [float(r["level"]) for r in rows] if self.file else [k / 7 for k in range(-7, 8)]  # even, to look at
            edges = [float(r["edge"]) for r in rows[:-1] if r.get("edge")]
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f"{self.file}: expected a CSV with a column 'level' of numbers ({error})") from None
        edges = edges or [(a + b) / 2 for a, b in itertools.pairwise(levels)]
        if len(levels) < 2 or len(edges) != len(levels) - 1 or levels != sorted(set(levels)) or edges != sorted(edges):
            raise ValueError(f"{self.file}: expected two or more ascending levels, and edges between all or none of them")
        return tuple(levels), tuple(edges)

    @model_validator(mode="after")
    def _read(self) -> Self:
        assert self.table
        return self

    def decided(self, y: Tensor, site: Site) -> Tensor:
        levels, edges = self.table
        found = torch.full_like(y, levels[0])
        for level, edge in zip(levels[1:], edges):
            found = torch.where(y > edge * self.full, level, found)
        return found * self.full
