"""Analog convolutions: every output pixel (of a transposed one: every input pixel) is one MVM.

Groups are matrices of their own, [out/groups, in/groups * kernel] each, on tiles of their own: the physical truth of a
crossbar, where a block-diagonal matrix would only store zeros. A depth-wise layer of 1,000 channels thus takes 1,000
nearly empty tiles, and `mho footprint` shows it; in the simulation they are one batched product.
"""

import math
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mho.ground import MhoError
from mho.layers.base import AnalogLayer
from mho.tile import Patches
from mho.tile.patches import Window


class _AnalogConv(AnalogLayer):
    """The kernel as a matrix [out, in * kernel] per group. x [batch, channel, ...size] or [channel, ...size]."""

    overridable: ClassVar[tuple[str, ...]] = ("forward", "_conv_forward")
    order = "leading"
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    padding_mode: Any
    _reversed_padding_repeated_twice: Any

    @classmethod
    def example(cls) -> tuple[nn.Module, tuple[Any, ...]]:
        layer = cast(Any, cls.torch_type)(4, 6, 2, groups=2)
        return layer, (torch.rand(6, 4, *[3] * len(layer.kernel_size)),)

    def views(self) -> dict[str, Tensor]:
        matrix = self.weight.flatten(1)
        return {"": matrix if self.groups == 1 else matrix.unflatten(0, (self.groups, -1))}

    def channel(self) -> int:
        return math.prod(self.kernel_size)

    @property
    def window(self) -> Window:
        """How the kernel moves over the image."""
        return Window(self.kernel_size, self.dilation, self.stride)

    def forward(self, input: Tensor) -> Tensor:
        x = self._batched(input)
        if any(self._reversed_padding_repeated_twice):
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x = F.pad(x, self._reversed_padding_repeated_twice, mode=mode)
        if min(self.window.positions(x.shape[2:])) < 1:
            raise MhoError(
                f"layer {self.tiles.name!r}: its kernel {self.kernel_size} does not fit an image of {tuple(x.shape[2:])} pixels, "
                "padding included"
            )
        return self._as_torch(self.tiles(Patches(x.movedim(1, -1), self.window), self.matrix), input)

    def _batched(self, x: Tensor) -> Tensor:
        """x with its batch axis, [batch, channel, ...size]."""
        return x.unsqueeze(0) if x.dim() == len(self.kernel_size) + 1 else x

    def _as_torch(self, y: Tensor, x: Tensor) -> Tensor:
        """y [batch, ...size, out] with its bias, as torch returns it for x: with or without a batch axis, and contiguous
        unless x has its channels last in memory too."""
        y = (y if self.bias is None else y + self.bias).movedim(-1, 1)
        y = y if (x.dim() == y.dim() and x.stride(1) == 1 and not x.is_contiguous()) else y.contiguous()
        return y if x.dim() == y.dim() else y.squeeze(0)


class AnalogConv1d(_AnalogConv, nn.Conv1d):
    """`nn.Conv1d` on analog tiles: one MVM per position, with the matrix [out, in * kernel] of each group.

    x [batch, in, size] or [in, size]; shapes, units and padding as in torch. Raises `MhoError` where the kernel does not
    fit the padded input.
    """

    torch_type = nn.Conv1d


class AnalogConv2d(_AnalogConv, nn.Conv2d):
    """`nn.Conv2d` on analog tiles: one MVM per pixel, with the matrix [out, in * kernel] of each group.

    x [batch, in, height, width] or [in, height, width]; as `AnalogConv1d` otherwise.
    """

    torch_type = nn.Conv2d


class AnalogConv3d(_AnalogConv, nn.Conv3d):
    """`nn.Conv3d` on analog tiles: one MVM per voxel, with the matrix [out, in * kernel] of each group.

    x [batch, in, depth, height, width] or [in, depth, height, width]; as `AnalogConv1d` otherwise.
    """

    torch_type = nn.Conv3d


class _AnalogConvTranspose(_AnalogConv):
    """Every input pixel is one MVM with the matrix [out * kernel, in] per group; the products are added up where their
    kernels overlap, digitally. No row is spent on the zeros that a stride would put between the pixels."""

    overridable = ("forward",)
    padding: Any
    _output_padding: Any

    def views(self) -> dict[str, Tensor]:
        matrix = self.weight.flatten(1)  # [in, out/groups * kernel]
        return {"": matrix.t() if self.groups == 1 else matrix.unflatten(0, (self.groups, -1)).mT}

    def channel(self) -> int:
        return 1

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        x, dims = self._batched(input), len(self.kernel_size)
        more = self._output_padding(x, output_size, self.stride, self.padding, self.kernel_size, dims, self.dilation)
        y = self.tiles(x.movedim(1, -1), self.matrix).unflatten(-1, (-1, *self.kernel_size))
        y = y.movedim(-1 - dims, -1)  # [batch, ...size, ...kernel, out]
        reach = [(n - 1) * s + d * (k - 1) + 1 for n, k, d, s in zip(x.shape[2:], *self.window)]
        total = y.new_zeros(len(y), *reach, y.shape[-1])
        self.window.add_to(total, y)
        cut = [n for p, o in zip(reversed(self.padding), reversed(more)) for n in (-p, o - p)]
        return self._as_torch(F.pad(total, [0, 0, *cut]), input)


class AnalogConvTranspose1d(_AnalogConvTranspose, nn.ConvTranspose1d):
    """`nn.ConvTranspose1d` on analog tiles: one MVM per input position, with the matrix [out * kernel, in] of each group;
    overlapping products are added digitally. x [batch, in, size] or [in, size]."""

    torch_type = nn.ConvTranspose1d


class AnalogConvTranspose2d(_AnalogConvTranspose, nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` on analog tiles, see `AnalogConvTranspose1d`; x [batch, in, height, width] or without batch."""

    torch_type = nn.ConvTranspose2d


class AnalogConvTranspose3d(_AnalogConvTranspose, nn.ConvTranspose3d):
    """`nn.ConvTranspose3d` on analog tiles, see `AnalogConvTranspose1d`; x [batch, in, depth, height, width] or without
    batch."""

    torch_type = nn.ConvTranspose3d
