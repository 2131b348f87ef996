"""Back-ends: other ways to compute what `Mvm` and `Devices` say.

A distribution offers one in the entry-point group `mho.backends` (`fast = "mho_fast:Fast"`). It is given views and tensors, never
an array, and says by itself which calls it takes; all others, and all without a back-end, go stage after stage.
"""

import functools
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from mho.config import Hardware, distributions
from mho.effects import draws
from mho.ground import MhoError, PluginError
from mho.tile.mvm import Call
from mho.tile.patches import Patches
from mho.tile.programmed import Programmed
from mho.tile.view import TileView


class Drawn(NamedTuple):
    """The normalised weights w [tile, out, row] of a root forward, and what a back-end has made of them."""

    w: Tensor
    coded: Any = None


class Backend(Protocol):
    """What an array asks of its back-end, made as `cls(view, precision, compiled)`. None is an answer: "do it yourself".

    quick     whether normal numbers of training have 16 bits (`draws.quick_normal`), on the reference path too
    kernels   what `site.kernel` of effects uses, or None
    """

    quick: bool
    kernels: Any

    def takes(self, call: Call, weight: Tensor, differentiated: bool) -> bool:
        """Whether it computes this call; `weight` as the layer has it, `differentiated`: a gradient will be asked for."""

    def drawn(self, call: Call, weight: Tensor) -> Drawn:
        """The weights of a root forward from weight [tile, out, row], for layers that use them at every time step."""

    def outputs(self, call: Call, x: Patches, weight: Tensor | None, drawn: Drawn | None, differentiated: bool) -> Tensor:
        """x of [vector, in] -> [vector, out], for weight [tile, out, row] (None on a chip, or where they are `drawn`)."""

    def read_out(self, call: Call, x: Tensor) -> Tensor | None:
        """Converted outputs [vector, tile, out] of the chip that is on for x [vector, tile, row] in DAC units, or None."""

    def laid_out(self, target: Tensor) -> Tensor:
        """Normalised targets [tile, out, row], the same values, in the order in memory that it prefers."""

    def programmed(self, target: Tensor, key: draws.Key) -> Tensor | None:
        """Conductances [dev, tile, out, row] in µS of the chip with this key, or None."""

    def aged(self, chip: Programmed, t: float) -> Tensor | None:
        """Normalised weights [tile, out, row] of the chip t seconds after programming, or None."""

    @classmethod
    def explain(cls, hardware: Hardware) -> dict[str, list[tuple[str, str]]]:
        """Tile -> (part, how it is computed on this machine), for `mho show`."""


@functools.cache
def installed() -> Any:
    """The class of the back-end that is installed, None if there is none. Raises PluginError where there are several."""
    points = [p for found in distributions.entry_points(distributions.BACKENDS).values() for p in found]
    if len(points) > 1:
        raise PluginError(f"{distributions.owners(points)} are back-ends of tiles; uninstall all but one")
    return points[0].load() if points else None


def backend_for(view: TileView, precision: str, compiled: bool) -> Backend | None:
    """The back-end of a new array, None for the reference path. Raises MhoError where a hardware file asks for what only a
    back-end can do and none is installed."""
    if (cls := installed()) is not None:
        return cls(view, precision, compiled)
    if compiled or precision not in ("auto", "reference"):
        asked = "compile: true" if compiled else f"precision: {precision}"
        raise MhoError(f"'{asked}' comes with mho-fast: pip install mho-fast")
    return None
