"""What a weight matrix loses at the edges of its converters and devices: inputs beyond their range, outputs that saturate the
ADC, weights beyond gamma. Looked at in evaluation only, at calls 1, 2, 4, 8, ... since a range or the weights have changed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import Tensor

from mho.ground import keeping
from mho.tile.mapped import version
from mho.tile.patches import Patches

if TYPE_CHECKING:
    from mho.tile.array import TileArray

VECTORS = 64  # of a call that are looked at
LOST = 0.15  # of the signal: more is warned about. Learned input ranges come to rest where 5 % are clipped (0.11 of a Gaussian)
FEW = 1 / 16  # of their range that calibrated inputs do not stay below

ADVICE = {
    "inputs clipped": "inputs beyond the input range of the DAC are cut at {}. Calibrate (mho.calibrate(net, batches)), or give "
    "a larger dac.range",
    "inputs small": "inputs fill little of the input range of the DAC, which has few levels for them, at {}. Calibrate "
    "(mho.calibrate(net, batches)), or give a smaller dac.range",
    "outputs saturated": "outputs saturate the ADC at {}. Give a larger adc.bound, or dac.halvings, or fewer rows",
    "weights clipped": "weights beyond the range of their devices are cut at {}. Map them anew "
    "(layer.tiles.remap(layer.weight)), or give a wider mapping",
}


class Beyond(NamedTuple):
    """How many of `total` values lie beyond their limit, how much of the sum of squares is lost there, and the largest value in
    units of the limit."""

    over: float = 0.0
    total: float = 1e-9
    lost: float = 0.0
    power: float = 1e-99
    top: float = 0.0

    @property
    def share(self) -> float:
        """Of the values."""
        return self.over / self.total

    @property
    def loss(self) -> float:
        """Relative error that the cut makes."""
        return math.sqrt(self.lost / self.power)


class Watch:
    """What was found at one tile array since its ranges changed."""

    off: ClassVar[bool] = False  # see `unwatched`

    def __init__(self) -> None:
        self.calls = 0
        self.about: tuple[object, ...] = ()
        self.found: dict[str, Beyond] = {}
        self.chosen = False  # whether input ranges come from data

    def due(self, array: TileArray) -> bool:
        """Whether this call is looked at; none on an accelerator, which would have to be waited for."""
        if self.off or (array.chip is not None and array.chip.programmed is None):  # its cells are forgotten
            return False
        about = version(array.input_range), version(array.gamma), array.known, array.chip is None
        if about != self.about:
            self.about, self.calls = about, 0
            self.found = {k: v for k, v in self.found.items() if k == "weights clipped" and array.chip is not None}
        self.calls += 1
        return array.device.type == "cpu" and self.calls & (self.calls - 1) == 0

    @torch.no_grad()
    def look(self, array: TileArray, x: Patches, weight: Tensor) -> None:
        """Some vectors of a call through the reference path, stage by stage."""
        rows = (x.with_image(x.image[:1]) if x.window.kernel else x).rows()
        kind = weight.dtype if weight.dtype == torch.float64 else torch.float32
        rows, weight = rows[:: max(1, len(rows) // VECTORS)][:VECTORS].to(kind), weight.to(kind)
        if not rows.numel() or not weight.numel() or (rows.is_cuda and torch.cuda.is_current_stream_capturing()):
            return
        layout, dac, adc = array.layout, array.view.dac, array.view.adc
        seen = {} if dac is None and adc is None else array.trace(rows, weight, "watch")
        if dac is not None and dac.range != "dynamic":
            self.note("inputs clipped", layout.cut(rows), seen["range"], dac.lowest, float(layout.used.mean()))
            self.chosen = array.learns_range and bool((seen["range"] != dac.start).any())
        if adc is not None and "analog" in seen and not (array.view.plan.passes or (dac is not None and dac.halvings)):
            self.note("outputs saturated", seen["analog"], adc.limit)
        if array.chip is None:
            self.weights(array, weight)
        for what, found in self.found.items():
            if found.loss > LOST and not (what == "weights clipped" and array.narrowed):
                array.session.find(what, ADVICE[what], f"{array.name or '(root)'} ({found.share:.0%})")
            elif what == "inputs clipped" and not self.chosen and 0 < found.top < FEW:
                array.session.find("inputs small", ADVICE["inputs small"], f"{array.name or '(root)'} ({found.top:.1%})")

    @torch.no_grad()
    def weights(self, array: TileArray, weight: Tensor) -> None:
        """The weights [out, in] that are used, or written to a chip."""
        if array.device.type == "cpu" and not self.off:
            self.found.pop("weights clipped", None)
            self.note("weights clipped", array.on_tiles(weight), array.gamma[..., None], used=float(array.layout.used.mean()))

    def note(self, what: str, v: Tensor, limit: Tensor | float, lowest: float = -1.0, used: float = 1.0) -> None:
        """Values v of which the share `used` is no padding, in [lowest limit, limit]."""
        if v.numel():
            v, before = v / limit, self.found.get(what, Beyond())
            cut = v - v.clamp(lowest, 1)
            sums = torch.stack([(cut.abs() > 1e-6).sum(), cut.square().sum(), v.square().sum(), v.abs().amax()]).tolist()
            over, total, lost, power = (a + b for a, b in zip(before, (sums[0], used * v.numel(), *sums[1:3])))
            self.found[what] = Beyond(over, total, lost, power, max(before.top, sums[3]))

    def texts(self) -> list[str]:
        """For the report: what is beyond its limit."""
        return [f"{what}: {found.share:.2%}" for what, found in self.found.items() if found.over]


@contextmanager
def unwatched() -> Iterator[None]:
    """Inside, no call of any network is looked at: searches try what they do not keep."""
    with keeping([Watch], "off"):
        Watch.off = True
        yield
