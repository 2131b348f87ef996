"""Digital corrections: what the digital side does around a tile array to repair it."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from mho.config import Kinded

Outputs = Callable[[], Tensor]


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


class CorrectionModule(nn.Module):
    """One correction of one weight matrix. Its parameters and buffers are saved with the network; parameters are trained with it.

    y = outputs(tiles(inputs(x), weights(W)), x, W). With ideal tiles the layer computes x W^T as without it: whatever `inputs`
    does to x, `weights` or `outputs` undoes. Override what is needed; new modules change nothing.
    """

    def __init__(self, spec: Correction, matrix: Matrix) -> None:
        super().__init__()
        self.spec, self.matrix = spec, matrix

    def inputs(self, x: Tensor) -> Tensor:
        """x [..., channel] in front of the DAC (and of the quantiser of inputs)."""
        return x

    def weights(self, w: Tensor) -> Tensor:
        """w [out, in] or [group, out, in], the weights of the layer, as they are written to the tiles; `in` is
        [channel * cells]."""
        return w

    def outputs(self, y: Tensor, x: Outputs, w: Tensor) -> Tensor:
        """y [vector, out], the digital outputs of the tiles; x() [vector, in] are the inputs of the layer, w its weights."""
        return y

    def fit(self, x: Tensor, w: Tensor, y: Outputs) -> None:
        """Set the tensors from inputs x [vector, in] of the layer and its weights w; y() [vector, out] is what the tiles give
        for them as they are now, on the chip that is on or with target weights, in front of `outputs` of corrections. The
        mapping follows new `weights` after `fit`, so ask for y() before a tensor changes."""

    @property
    def operations(self) -> int:
        """Digital multiply-adds for every vector."""
        return 0
