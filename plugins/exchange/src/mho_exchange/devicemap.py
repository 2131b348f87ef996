"""What was measured of the single devices of one physical chip, as an effect: whatever is programmed there meets it."""

import functools
from pathlib import Path

import torch
from torch import Tensor

from mho import Field, Nonideality, Site
from mho.effects import draws
from mho.ground import MhoError
from mho_exchange.tables import Columns, placed, read_table


class DeviceMap(Nonideality, kind="exchange.device_map"):
    """Devices that cannot reach every conductance: g = clamp(g + error, low, high), device by device.

    A table (see `mho_exchange.tables`) gives the place of a device and any of the columns `error_uS`, `low_uS`, `high_uS`; a
    stuck device has low = high. Devices that are not named are as the other effects leave them. Every layer on such a tile
    has at least one row, so that a misspelt layer is no healthy one; a layer without faults has a row without numbers.
    """

    source = "measurements of the devices in use"
    strength = None
    final = True
    expected_failed_checks = {"returns_a_new_value": "without a file it does nothing; its tests have files"}

    file: str = Field("", source="mho", description=".csv, .npz or .parquet, relative to the working directory; empty: nothing")

    def program(self, g: Tensor, site: Site) -> Tensor:
        if not self.file:
            return g
        path = Path(self.file)
        if not path.is_file():
            raise MhoError(f"{self.kind}: no file {path.resolve()}")
        error, low, high = (t.to(g) for t in _limits(str(path.resolve()), path.stat().st_mtime_ns, site.path, g.shape))
        return torch.minimum(torch.maximum(g + error, low), high)


@functools.lru_cache(8)
def _table(file: str, changed: int) -> Columns:
    columns = read_table(file)
    low, high = columns.get("low_uS"), columns.get("high_uS")
    if low is not None and high is not None and (low > high).any():
        k = int((low > high).nonzero()[0][0])
        raise MhoError(f"{file}, row {k + 1}: low_uS {low[k]:g} is above high_uS {high[k]:g}")
    return columns


@functools.lru_cache(64)
@torch.inference_mode(False)
def _limits(file: str, changed: int, path: tuple[int, int], shape: torch.Size) -> tuple[Tensor, Tensor, Tensor]:
    """Error, lowest and highest conductance of every device of the layer whose random numbers `path` names."""
    columns = _table(file, changed)
    layers = sorted(set(columns["layer"].tolist()))
    layer = next((n for n in layers for k in range(4) if draws.words(n, DeviceMap.KIND, k) == path), None)
    if layer is None:
        raise MhoError(f"{file} has no row for a layer with {DeviceMap.KIND}; it has rows for {', '.join(layers) or 'none'}")
    error, low, high = placed(file, columns, layer, shape, ("error_uS", "low_uS", "high_uS"))
    return error.nan_to_num(0.0), low.nan_to_num(0.0), high.nan_to_num(torch.inf)
