"""The analog Linear layer."""

from typing import Any

import torch
from torch import Tensor, nn

from mho.layers.base import AnalogLayer


class AnalogLinear(AnalogLayer, nn.Linear):
    """`nn.Linear` on analog tiles: y = x W^T + b, with the analog product of the tiles (Rasch et al. 2023, Eq. 3) in place
    of x W^T; b [out_features] is added digitally.

    `AnalogLinear(in_features, out_features, bias=True, hw=HARDWARE, tile=NAME)`; x [..., in_features] ->
    [..., out_features], in the units of the torch layer. A call with integers or another number of features raises
    `MhoError`.
    """

    torch_type = nn.Linear

    @classmethod
    def example(cls) -> tuple[nn.Module, tuple[Any, ...]]:
        return nn.Linear(17, 5), (torch.rand(6, 17),)

    def forward(self, input: Tensor) -> Tensor:
        y = self.tiles(input, self.weight)
        return y if self.bias is None else y + self.bias
