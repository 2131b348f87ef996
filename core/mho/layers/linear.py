"""Analog Linear layers: torch's, and Hugging Face's Conv1D."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mho.layers.base import AnalogLayer

if TYPE_CHECKING:
    from mho.config.hardware import Hardware


class AnalogLinear(AnalogLayer, nn.Linear):
    """`nn.Linear` on analog tiles: y = x W^T + b with R003 Eq. 3 in place of the product.

    x [..., in_features] -> [..., out_features]. `hw` is a `Hardware`; `tile` names one of its tiles (default: its default).
    """

    torch_type = nn.Linear

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        hw: Hardware,
        tile: str | None = None,
        **factory: Any,
    ) -> None:
        nn.Linear.__init__(self, in_features, out_features, bias, **factory)
        self._place_by_hand(hw, tile)

    @classmethod
    def example(cls) -> tuple[nn.Module, tuple[Any, ...]]:
        return nn.Linear(17, 5), (torch.rand(6, 17),)

    def forward(self, input: Tensor) -> Tensor:
        y = self.tiles(input, self.weight)
        return y if self.bias is None else y + self.bias


class AnalogConv1D(AnalogLayer):
    """The `Conv1D` of Hugging Face's GPT-2 family, a Linear layer whose weight is stored [in, out]: y = x W + b.

    It is recognised by name and shapes, so `transformers` need not be installed, and copies of the class work too.
    """

    torch_type = nn.Module
    overridable = ()
    nf: int

    @classmethod
    def takes(cls, layer: nn.Module) -> bool:
        shape = tuple(getattr(getattr(layer, "weight", None), "shape", ()))
        return type(layer).__name__ == "Conv1D" and len(shape) == 2 and shape[-1] == getattr(layer, "nf", None)

    @classmethod
    def example(cls) -> tuple[nn.Module, tuple[Any, ...]]:
        from transformers.pytorch_utils import Conv1D

        return Conv1D(5, 17), (torch.rand(6, 17),)

    def views(self) -> dict[str, Tensor]:
        return {"": self.weight.t()}

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.tiles(x, self.weight.t())
        return y if self.bias is None else y + self.bias
