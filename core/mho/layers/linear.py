"""Analog Linear layers: torch's, and Hugging Face's Conv1D."""

from __future__ import annotations

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


class AnalogConv1D(AnalogLayer):
    """The `Conv1D` of Hugging Face's GPT-2 family, a Linear layer whose weight is stored [in, out]: y = x W + b,
    x [..., in] -> [..., out].

    It is recognised by name and shapes, so `transformers` need not be installed, and copies of the class work too.
    """

    torch_type = nn.Module
    overridable = ()
    nf: int

    @classmethod
    def takes(cls, layer: nn.Module) -> bool:
        weight = getattr(layer, "weight", None) if type(layer).__name__ == "Conv1D" else None
        return isinstance(weight, Tensor) and weight.dim() == 2 and weight.shape[-1] == getattr(layer, "nf", None)

    @classmethod
    def example(cls) -> tuple[nn.Module, tuple[Any, ...]]:
        from transformers.pytorch_utils import Conv1D  # which need not be installed

        return Conv1D(5, 17), (torch.rand(6, 17),)

    def views(self) -> dict[str, Tensor]:
        return {"": self.weight.t()}

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.tiles(x, self.matrix)
        return y if self.bias is None else y + self.bias
