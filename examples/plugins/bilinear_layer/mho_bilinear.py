"""`torch.nn.Bilinear` on analog tiles: y = x1^T W x2 + b is one product with the outer product of the inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mho import AnalogLayer, hookimpl


class AnalogBilinear(AnalogLayer, nn.Bilinear):
    """The weight [out, in1, in2] is a matrix [out, in1 * in2]; its input is x1 x2^T, computed digitally.

    x1 [..., in1], x2 [..., in2] -> [..., out]
    """

    torch_type = nn.Bilinear

    @classmethod
    def example(cls) -> tuple[nn.Module, tuple[Tensor, ...]]:
        return nn.Bilinear(5, 4, 3), (torch.rand(6, 5), torch.rand(6, 4))

    def views(self) -> dict[str, Tensor]:
        return {"": self.weight.flatten(1)}

    def channel(self) -> int:
        return self.in2_features

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        outer = (input1.unsqueeze(-1) * input2.unsqueeze(-2)).flatten(-2)
        y = self.tiles(outer, self.matrix)
        return y if self.bias is None else y + self.bias


@hookimpl
def mho_layers() -> list[type]:
    return [AnalogBilinear]
