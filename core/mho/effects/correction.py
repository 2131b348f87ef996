"""Digital corrections: what the digital side does around a tile array to repair it."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from mho.config import Kinded

Outputs = Callable[[], Tensor]
Read = Callable[[Tensor], dict[str, Tensor]]


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

    adds   True: what `outputs` adds is part of what the layer computes (an adapter), linear in x; nothing undoes it
    """

    adds: ClassVar[bool] = False

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
        """y [vector, out], the digital outputs of the tiles; x() [vector, in] are the inputs of the layer, w its weights,
        learned output scales included."""
        return y

    def fit(self, x: Tensor, w: Tensor, y: Outputs) -> None:
        """Set the tensors from inputs x [vector, in] and weights w of the layer (as in `outputs` for what acts behind tiles);
        y() [vector, out] is what the tiles give for x as they are now, on the chip that is on or with target weights, in front of
        `outputs` of corrections. Corrections that write `inputs` or `weights` are fitted before input ranges are chosen, with
        no chip, to x and w as those listed before leave them; the mapping follows new `weights` after `fit`, so ask for y()
        before a tensor changes."""

    def repair(self, read: Read) -> tuple[Tensor, ...] | None:
        """What `repaired` has to know of one chip, asked for when it has been programmed and whenever it has aged; it goes with
        the chip. None: nothing. read(x) is the trace of its tiles (`TileArray.trace`) for inputs x [vector, in] of the layer,
        with `given` [vector, tile, row], the inputs of the DACs, and `exact` [vector, out], what ideal tiles would give. Of
        several corrections the last that says something counts."""
        return None

    def repaired(self, y: Tensor, x: Outputs, found: tuple[Tensor, ...]) -> Tensor:
        """y [vector, out], the digital outputs of the tiles, with what `repair` found for this chip, by default gain and offset
        [out]; x() as in `outputs`, which comes next."""
        gain, offset = found
        return y * gain.to(y.dtype) + offset.to(y.dtype)

    @property
    def acts_before(self) -> bool:
        """Whether it changes what the tiles are given or hold."""
        own, base = type(self), CorrectionModule
        return own.inputs is not base.inputs or own.weights is not base.weights

    @property
    def operations(self) -> int:
        """Digital multiply-adds for every vector."""
        return 0
