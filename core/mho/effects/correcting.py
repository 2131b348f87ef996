"""Digital corrections at work in one layer."""

from __future__ import annotations

from torch import Tensor, nn

from mho.effects.correction import Correction, Matrix, Outputs


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
        for them as they are now, on the chip that is on or with target weights, in front of `outputs` of corrections."""

    @property
    def operations(self) -> int:
        """Digital multiply-adds for every vector."""
        return 0
