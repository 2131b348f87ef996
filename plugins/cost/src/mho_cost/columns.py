"""Columns of sweeps: energy, latency, interval and area of a network on the hardware of each point, by a cost table."""

import functools
from typing import Any

from mho_lab import first_sample, task_of

from mho.config import Hardware
from mho.ground import MhoError
from mho_cost.estimate import Cost, cost


@functools.lru_cache(256)
def _cost(task: str, hw: Hardware, table: str) -> Cost:
    if not table:
        raise MhoError("a column of costs needs a table, e.g. energy:components32; `mho cost --table` has the names")
    owner = task_of(task)
    found = cost(owner.model(), first_sample(next(iter(owner.calibration_batches()))), hw, table, forward=owner.predict)
    if "multiply_add" in found.missing:
        raise MhoError(f"cost table {table!r} has no row per multiply_add, so that digital layers would be free; include one")
    return found


def energy(task: str, hw: Hardware, table: str) -> dict[str, Any]:
    """nJ for a sample."""
    found = _cost(task, hw, table)
    low, high = found.band
    return {"value": found.energy * 1e9, "low": low * 1e9, "high": high * 1e9, "unit": "nJ"}


def latency(task: str, hw: Hardware, table: str) -> dict[str, Any]:
    """µs for a sample, nothing overlaps."""
    return {"value": _cost(task, hw, table).latency * 1e6, "unit": "µs"}


def interval(task: str, hw: Hardware, table: str) -> dict[str, Any]:
    """µs between samples of a full pipeline."""
    return {"value": _cost(task, hw, table).interval * 1e6, "unit": "µs"}


def area(task: str, hw: Hardware, table: str) -> dict[str, Any]:
    """mm²."""
    return {"value": _cost(task, hw, table).area * 1e6, "unit": "mm²"}


for column in (energy, latency, interval, area):
    column.example = "components32"  # type: ignore[attr-defined]  # the text with which `mho test` tries it
