"""A device that is a table of measurements: no formula, just g_target, mean and std, and optionally the time.

The CSV has a header `g_target,mean,std` or `g_target,mean,std,t`; conductances in µS, times in s. Between the points the
table is linear in g_target and in log t; outside it stays at the last value.
"""

from __future__ import annotations

import csv
import functools
import math
from pathlib import Path
from typing import Self

import torch
from pydantic import model_validator
from torch import Tensor

from mho import Field, Nonideality, Site, hookimpl

HERE = Path(__file__).parent
Rows = tuple[tuple[float, float, float], ...]  # (g_target, mean, std)


class MeasuredDevice(Nonideality, kind="measured.device"):
    """g(t) = mean(g_target, t) + std(g_target, t) xi, with one xi for each device: a device that is high stays high."""

    source = "the measurements in the file"
    cellwise = True

    file: str = Field("example.csv", description="CSV of the measurements; a bare name may be one that the plugin ships")

    @functools.cached_property
    def tables(self) -> tuple[tuple[float, Rows], ...]:
        return read_table(self.file)

    @model_validator(mode="after")
    def _read(self) -> Self:
        """Read the file together with the hardware file, so that its errors have a place."""
        assert self.tables
        return self

    def program(self, g: Tensor, site: Site) -> Tensor:
        mean, std = self._moments(site.target, 0.0)
        return g + (mean - site.target) + std * self._xi(g, site)

    def age(self, g: Tensor, t: float, site: Site) -> Tensor:
        (mean_0, std_0), (mean_t, std_t) = self._moments(site.target, 0.0), self._moments(site.target, t)
        return g + (mean_t - mean_0) + (std_t - std_0) * self._xi(g, site)

    @staticmethod
    def _xi(g: Tensor, site: Site) -> Tensor:
        return site.randn_like(g, per="chip", name="xi")

    def _moments(self, target: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """Mean and std in µS at t seconds."""
        later = next((table for table in self.tables if table[0] >= t), self.tables[-1])
        earlier = next((table for table in self.tables[::-1] if table[0] <= t), self.tables[0])
        u = 0.0 if earlier[0] == later[0] else math.log(t / earlier[0]) / math.log(later[0] / earlier[0])
        a, b = _interpolated(target, earlier[1]), _interpolated(target, later[1])
        return a[0] + u * (b[0] - a[0]), a[1] + u * (b[1] - a[1])


def read_table(file: str) -> tuple[tuple[float, Rows], ...]:
    """(time, rows in the order of g_target) in the order of time. Without a column t there is one time, 1 s."""
    path = next((p for p in (Path(file), HERE / file) if p.is_file()), None)
    if path is None:
        raise ValueError(f"no file {file!r}; expected a CSV with g_target, mean, std and perhaps t")
    tables: dict[float, list[tuple[float, float, float]]] = {}
    with path.open(newline="") as lines:
        for row in csv.DictReader(lines):
            tables.setdefault(_number(row.get("t", "1"), path), []).append(
                (_number(row.get("g_target"), path), _number(row.get("mean"), path), _number(row.get("std"), path))
            )
    if not tables or any(len(t) < 2 for t in tables.values()):
        raise ValueError(f"{path}: expected at least two values of g_target at every time")
    return tuple((t, tuple(sorted(tables[t]))) for t in sorted(tables))


def _number(text: str | None, path: Path) -> float:
    try:
        return float(text or "")
    except ValueError:
        raise ValueError(f"{path}: expected columns g_target, mean, std and perhaps t, all numbers") from None


def _interpolated(target: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    x, mean, std = (torch.tensor(column, dtype=target.dtype, device=target.device) for column in zip(*rows, strict=True))
    i = torch.searchsorted(x, target.contiguous()).clamp(1, len(x) - 1)
    u = ((target - x[i - 1]) / (x[i] - x[i - 1])).clamp(0, 1)
    return mean[i - 1] + u * (mean[i] - mean[i - 1]), std[i - 1] + u * (std[i] - std[i - 1])


@hookimpl
def mho_nonidealities() -> list[type[Nonideality]]:
    return [MeasuredDevice]
