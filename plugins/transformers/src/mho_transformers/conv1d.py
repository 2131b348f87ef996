"""The Conv1D of Hugging Face's GPT-2 family on tiles."""

from typing import Any

import torch
from torch import Tensor, nn

from mho import AnalogLayer


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
