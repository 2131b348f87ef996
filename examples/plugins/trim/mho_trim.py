"""Read-out columns with errors of their own, and trims that learn to cancel them: an effect with parameters.

`trim.mismatch` gives the amplifier of every column of a chip another gain and offset. `trim.columns` is the remedy: a
gain and an offset for every column, of limited range, that are trained like weights. After programming, a few
steps with the network in eval mode trim one chip; during training, they learn what all chips have in common.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from mho import Field, Nonideality, Site, hookimpl


class Mismatch(Nonideality, kind="trim.mismatch"):
    """The amplifier of a column gives (1 + gain xi) y + offset xi', xi and xi' drawn once for every column of a chip."""

    source = "textbook: device mismatch in column amplifiers"

    gain: float = Field(0.05, ge=0, unit="1", source="an example", description="spread of the gains")
    offset: float = Field(0.05, ge=0, unit="1", source="an example", description="spread of the offsets, analog units")

    def prepare(self, site: Site) -> None:
        column = torch.empty(len(site.rows.n), site.columns, device=site.rows.n.device)
        site.gain_error = self.gain * site.randn_like(column, name="gain")
        site.offset_error = self.offset * site.randn_like(column, name="offset")

    def output(self, y: Tensor, site: Site) -> Tensor:
        return y * (1 + site.gain_error.to(y.dtype)) + site.offset_error.to(y.dtype)


class Trim(nn.Module):
    """What is learned: settings a, b of every column of every tile; 0 leaves the column as it is."""

    def __init__(self, tiles: int, columns: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(tiles, columns))
        self.b = nn.Parameter(torch.zeros(tiles, columns))


class TrimmedColumns(Nonideality, kind="trim.columns"):
    """y (1 + r tanh a) + r tanh b with settings a, b learned for every column; r is the range of the trim."""

    source = "an example; trimmed column amplifiers"
    strength: ClassVar[str] = "span"

    span: float = Field(
        0.25, ge=0, lt=1, unit="1", source="an example", description="range r of the trims, of gain 1 and in analog units"
    )

    def build(self, site: Site) -> nn.Module:
        return Trim(len(site.rows.n), site.columns)

    def output(self, y: Tensor, site: Site) -> Tensor:
        a, b = site.module.a, site.module.b
        return y * (1 + self.span * torch.tanh(a)) + self.span * torch.tanh(b)


@hookimpl
def mho_nonidealities() -> list[type[Nonideality]]:
    return [Mismatch, TrimmedColumns]
