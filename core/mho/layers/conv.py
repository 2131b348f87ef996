"""Analog convolutions: every output pixel (of a transposed one: every input pixel) is one MVM.

Groups are matrices of their own, [out/groups, in/groups * kernel] each, on tiles of their own: the physical truth of a
crossbar, where a block-diagonal matrix would only store zeros. A depth-wise layer of 1,000 channels thus takes 1,000
nearly empty tiles, and `mho footprint` shows it; in the simulation they are one batched product.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mho.ground.errors import MhoError
from mho.layers.base import AnalogLayer
from mho.tile.patches import Patches, Window

if TYPE_CHECKING:
    from mho.config.hardware import Hardware


class _AnalogConv(AnalogLayer):
    """The kernel as a matrix [out, in * kernel] per group. x [batch, channel, ...size] or [channel, ...size]."""

    overridable = ("forward", "_conv_forward")
    order = "leading"
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    padding_mode: Any
    _reversed_padding_repeated_twice: Any

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        *args: Any,
        hw: Hardware,
        tile: str | None = None,
        **kwargs: Any,
    ) -> None:
        cast(Any, self.torch_type).__init__(self, in_channels, out_channels, kernel_size, *args, **kwargs)
        self._place_by_hand(hw, tile)

    @classmethod
    def example(cls) -> tuple[nn.Module, tuple[Any, ...]]:
        return _example(cls)

    def views(self) -> dict[str, Tensor]:
        matrix = self.weight.flatten(1)
        return {"": matrix if self.groups == 1 else matrix.unflatten(0, (self.groups, -1))}

    def channel(self) -> int:
        return math.prod(self.kernel_size)

    def forward(self, input: Tensor) -> Tensor:
        single = input.dim() == len(self.kernel_size) + 1
        x = input.unsqueeze(0) if single else input
        if any(self._reversed_padding_repeated_twice):
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x = F.pad(x, self._reversed_padding_repeated_twice, mode=mode)
        window = Window(self.kernel_size, self.dilation, self.stride)
        if min(window.positions(x.shape[2:])) < 1:
            raise MhoError(
                f"layer {self.tiles.name!r}: its kernel {self.kernel_size} does not fit an image of {tuple(x.shape[2:])} pixels, "
                "padding included"
            )
        y = self.tiles(Patches(x.movedim(1, -1), window), self.matrix)  # [batch, ...position, out]
        if self.bias is not None:
            y = y + self.bias
        y = _laid_out_as(input, y.movedim(-1, 1))
        return y.squeeze(0) if single else y


def _laid_out_as(x: Tensor, y: Tensor) -> Tensor:
    """y, channels last in memory, as torch would return it for x: contiguous, unless x has its channels last too."""
    last = x.dim() == y.dim() and x.stride(1) == 1 and not x.is_contiguous()
    return y if last else y.contiguous()


def _example(cls: type[AnalogLayer]) -> tuple[nn.Module, tuple[Any, ...]]:
    layer = cast(Any, cls.torch_type)(4, 6, 2, groups=2)
    return layer, (torch.rand(6, 4, *[3] * len(layer.kernel_size)),)


class AnalogConv1d(_AnalogConv, nn.Conv1d):
    """`nn.Conv1d` on analog tiles."""

    torch_type = nn.Conv1d


class AnalogConv2d(_AnalogConv, nn.Conv2d):
    """`nn.Conv2d` on analog tiles."""

    torch_type = nn.Conv2d


class AnalogConv3d(_AnalogConv, nn.Conv3d):
    """`nn.Conv3d` on analog tiles."""

    torch_type = nn.Conv3d


class _AnalogConvTranspose(AnalogLayer):
    """Every input pixel is one MVM with the matrix [out * kernel, in] per group; the products are added up where their
    kernels overlap, digitally. No row is spent on the zeros that a stride would put between the pixels."""

    order = "leading"
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Any
    dilation: tuple[int, ...]
    groups: int
    _output_padding: Any

    __init__ = _AnalogConv.__init__

    @classmethod
    def example(cls) -> tuple[nn.Module, tuple[Any, ...]]:
        return _example(cls)

    def views(self) -> dict[str, Tensor]:
        matrix = self.weight.flatten(1)  # [in, out/groups * kernel]
        return {"": matrix.t() if self.groups == 1 else matrix.unflatten(0, (self.groups, -1)).mT}

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        dims = len(self.kernel_size)
        single = input.dim() == dims + 1
        x = input.unsqueeze(0) if single else input
        more = self._output_padding(x, output_size, self.stride, self.padding, self.kernel_size, dims, self.dilation)
        y = self._add_up(self.tiles(x.movedim(1, -1), self.matrix))
        y = F.pad(y, [n for p, o in zip(reversed(self.padding), reversed(more)) for n in (-p, o - p)])
        if self.bias is not None:
            y = y + self.bias.view(-1, *[1] * dims)
        y = _laid_out_as(input, y)
        return y.squeeze(0) if single else y

    def _add_up(self, y: Tensor) -> Tensor:
        """[batch, ...size, out * kernel] -> [batch, out, ...size], before any padding is cut off."""
        window, dims = Window(self.kernel_size, self.dilation, self.stride), len(self.kernel_size)
        y = y.unflatten(-1, (-1, *self.kernel_size)).movedim(-1 - dims, -1)  # [batch, ...size, ...kernel, out]
        size = [(n - 1) * s + d * (k - 1) + 1 for n, k, d, s in zip(y.shape[1:], *window)]
        total = y.new_zeros(len(y), *size, y.shape[-1])
        window.add_to(total, y)
        return total.movedim(-1, 1)


class AnalogConvTranspose1d(_AnalogConvTranspose, nn.ConvTranspose1d):
    """`nn.ConvTranspose1d` on analog tiles."""

    torch_type = nn.ConvTranspose1d


class AnalogConvTranspose2d(_AnalogConvTranspose, nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` on analog tiles."""

    torch_type = nn.ConvTranspose2d


class AnalogConvTranspose3d(_AnalogConvTranspose, nn.ConvTranspose3d):
    """`nn.ConvTranspose3d` on analog tiles."""

    torch_type = nn.ConvTranspose3d
