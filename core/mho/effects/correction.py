"""Digital corrections: what the digital side does around a tile array to repair it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from mho.config.schema import Kinded

if TYPE_CHECKING:
    from torch import Tensor

    from mho.effects.correcting import CorrectionModule


class Matrix(NamedTuple):
    """The weight matrix that a correction is for: [outputs, inputs], or `groups` of them; an input channel has `cells` rows
    (the size of a kernel), one behind the other."""

    outputs: int
    inputs: int
    groups: int
    cells: int

    @property
    def channels(self) -> int:
        """Input channels of all groups."""
        return self.inputs // self.cells


class Correction(Kinded):
    """A correction as YAML describes it, in `corrections:` of a tile; `mho_corrections` offers it.

    It may change the inputs of a layer in front of the DAC and the weights against it, and the outputs behind the ADC; what
    it needs to know it keeps in tensors, fitted by `mho.calibrate`. `module` gives the part that does so in one layer.
    """

    CATEGORY: ClassVar[str] = "correction"

    def module(self, matrix: Matrix) -> CorrectionModule:
        """The correction of one weight matrix, without an effect until it is fitted."""
        raise NotImplementedError(f"{type(self).__name__} must write module(matrix)")


Outputs = Callable[[], "Tensor"]
