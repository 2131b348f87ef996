"""Analog layers: subclasses of the torch layers they replace, with their weight matrix on tiles.

The trainable `weight` and `bias` are torch's own, in torch's units and shapes, so floating-point checkpoints load
before and after conversion; programming and ageing never touch them. Biases stay digital (R003-08).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mho.errors import MhoError
from mho.tile import TileArray

if TYPE_CHECKING:
    from mho.hardware import Hardware, TileSpec, TrainingSpec


class AnalogLayer(nn.Module):
    """What analog layers have in common. A subclass names the torch layer it replaces and says how its weight is a
    matrix; `mho_layers` registers it.

    torch_type   the torch class that it replaces
    overridable  methods of that class that a user's subclass may not have changed, or its forward would be lost
    """

    torch_type: ClassVar[type[nn.Module]]
    overridable: ClassVar[tuple[str, ...]] = ("forward",)
    weight: Any
    bias: Any
    tiles: TileArray

    @classmethod
    def matrix_of(cls, layer: Any) -> tuple[int, int, int]:
        """(columns, rows, rows per input channel) of the layer's weight matrix."""
        raise NotImplementedError

    @classmethod
    def refuses(cls, layer: nn.Module) -> str | None:
        """Why this layer cannot be converted, or None."""
        return None

    @classmethod
    def from_torch(cls, layer: nn.Module, spec: TileSpec, training: TrainingSpec, name: str = "") -> Self:
        """The analog layer with the same parameters, hooks and attributes as `layer`."""
        new = cls.__new__(cls)
        new.__dict__.update({k: copy.copy(v) for k, v in layer.__dict__.items()})
        new._place(spec, training, name)
        return new

    def _place(self, spec: TileSpec, training: TrainingSpec, name: str = "") -> None:
        """Put the weight matrix on tiles."""
        columns, rows, channel = self.matrix_of(self)
        self.tiles = TileArray(
            columns,
            rows,
            spec,
            training,
            name=name,
            channel=channel,
            device=self.weight.device,
            dtype=self.weight.dtype,
        )
        self.tiles.train(self.training)
        self.tiles.remap(self.matrix)
        self._register_load_state_dict_pre_hook(_fill_in_scales, with_module=True)
        self.register_load_state_dict_post_hook(_remap_after_load)

    def to_torch(self) -> nn.Module:
        """The plain torch layer, with the learned output scales folded into its weight."""
        self.fold_scales()
        new = self.torch_type.__new__(self.torch_type)
        new.__dict__.update({k: copy.copy(v) for k, v in self.__dict__.items()})
        del new._modules["tiles"]
        new._load_state_dict_pre_hooks.clear()
        new._load_state_dict_post_hooks.clear()
        return new

    @property
    def matrix(self) -> Tensor:
        """The weight as [out, in], sharing memory with `weight`."""
        return self.weight.flatten(1)

    def matrices(self) -> Iterator[tuple[TileArray, Tensor]]:
        """Every (tile array, weight matrix) of the layer."""
        yield self.tiles, self.matrix

    @torch.no_grad()
    def fold_scales(self) -> None:
        """Multiply the learned output scales into weight and gamma (R003-74); the function stays."""
        for array, matrix in self.matrices():
            matrix.mul_(array.spread(array.out_scale))
            array.gamma.mul_(array.out_scale.abs())
            array.out_scale.fill_(1.0)


def _fill_in_scales(layer: AnalogLayer, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """A plain torch checkpoint has no analog scales: they keep their defaults, and gamma is mapped anew."""
    own = {f"{prefix}tiles.{k}": v for k, v in layer.tiles.state_dict().items()}
    layer.tiles.remap_after_load = not any(k in state for k in own)
    if layer.tiles.remap_after_load:
        state.update(own)


def _remap_after_load(layer: nn.Module, _: Any) -> None:
    assert isinstance(layer, AnalogLayer)
    if layer.tiles.remap_after_load:
        layer.tiles.remap(layer.matrix)
        layer.tiles.remap_after_load = False


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
        self._place(hw.tile(tile or hw.default), hw.training)

    @classmethod
    def matrix_of(cls, layer: nn.Linear) -> tuple[int, int, int]:
        return layer.out_features, layer.in_features, 1

    def forward(self, input: Tensor) -> Tensor:
        y = self.tiles(input, self.weight)
        return y if self.bias is None else y + self.bias


class AnalogConv2d(AnalogLayer, nn.Conv2d):
    """`nn.Conv2d` on analog tiles: the kernel is a matrix [out_channels, in_channels * kh * kw], and every output pixel
    is one MVM. x [batch, channel, height, width] or [channel, height, width]."""

    torch_type = nn.Conv2d
    overridable = ("forward", "_conv_forward")

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
        nn.Conv2d.__init__(self, in_channels, out_channels, kernel_size, *args, **kwargs)
        if reason := self.refuses(self):
            raise MhoError(reason)
        self._place(hw.tile(tile or hw.default), hw.training)

    @classmethod
    def matrix_of(cls, layer: nn.Conv2d) -> tuple[int, int, int]:
        kernel = layer.kernel_size[0] * layer.kernel_size[1]
        return layer.out_channels, layer.in_channels * kernel, kernel

    @classmethod
    def refuses(cls, layer: nn.Module) -> str | None:
        assert isinstance(layer, nn.Conv2d)
        return None if layer.groups == 1 else f"convolutions with groups={layer.groups} are not on tiles yet"

    def forward(self, input: Tensor) -> Tensor:
        single = input.dim() == 3
        x = input.unsqueeze(0) if single else input
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        x = F.pad(x, self._reversed_padding_repeated_twice, mode=mode)
        size = [
            (x.shape[i + 2] - self.dilation[i] * (self.kernel_size[i] - 1) - 1) // self.stride[i] + 1 for i in (0, 1)
        ]
        patches = F.unfold(x, self.kernel_size, self.dilation, 0, self.stride).transpose(1, 2)  # [batch, pixel, row]
        y = self.tiles(patches, self.matrix)
        if self.bias is not None:
            y = y + self.bias
        y = y.transpose(1, 2).unflatten(2, size)
        return y.squeeze(0) if single else y


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
