"""Analog Linear layers, and one matrix on its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from mho.errors import MhoError
from mho.layers.base import AnalogLayer

if TYPE_CHECKING:
    from mho.hardware import Hardware


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

    def views(self) -> dict[str, Tensor]:
        return {"": self.weight.t()}

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.tiles(x, self.weight.t())
        return y if self.bias is None else y + self.bias


class Tile(AnalogLinear):
    """A matrix on analog tiles, for those who only want an MVM.

    >>> t = mho.Tile(W, hw)          # W [out, in]
    >>> t.program(seed=0); t.age("1 h")
    >>> y = t(x)                     # x [..., in] -> [..., out]
    """

    def __init__(self, weight: Tensor, hw: Hardware | str, *, tile: str | None = None) -> None:
        from mho.hardware import load

        if weight.dim() != 2:
            raise MhoError(f"a tile needs a matrix [out, in], got shape {tuple(weight.shape)}")
        out_features, in_features = weight.shape
        super().__init__(
            in_features, out_features, bias=False, hw=load(hw), tile=tile, device=weight.device, dtype=weight.dtype
        )
        with torch.no_grad():
            self.weight.copy_(weight)
        self.tiles.remap(self.weight)
        self.eval()

    def program(self, seed: int) -> Self:
        """Write the matrix to the chip `seed`, at age 0 s."""
        from mho.chip import program

        program(self, seed=seed)
        return self

    def age(self, t: Any) -> Self:
        """Let the chip age to t after programming ("1 h", seconds)."""
        from mho.chip import age

        age(self, t)
        return self
