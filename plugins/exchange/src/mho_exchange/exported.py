"""A network on tiles as a plain torch model of quantisers, products and scales, which `torch.export` and ONNX understand."""

import copy
from pathlib import Path
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # registers the operators that torch.export and ONNX know
from torch import Tensor, nn

import mho
from mho.effects import Adc, Dac
from mho.ground import MhoError, needed
from mho.layers import AnalogLayer
from mho.tile import TileArray

PLAIN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
RECURRENT = (nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell)


class QuantisedLayer(nn.Module):
    """y = bias + Σ over row tiles of s α ADC(W DAC(x/α)): one torch layer for each row tile, its other inputs at weight 0.

    8-bit converters are pairs of QuantizeLinear and DequantizeLinear in ONNX; others are written out.
    """

    def __init__(self, array: TileArray, matrix: Tensor, layer: Any) -> None:
        super().__init__()
        layout, shape = array.layout, layer.weight.shape
        w = array.normalised(matrix) if array.chip is None else array.chip.weights
        self.bits, self.bound = [getattr(c, "bits", None) for c in (array.view.dac, array.view.adc)], array.view.geometry.bound
        self.ranged, self.bias = array.view.dac is not None, None if layer.bias is None else layer.bias.detach().clone()
        self.parts, self.dims = nn.ModuleList(), len(shape) - 2
        scale = array.digital_scale() * array.input_range if self.ranged else array.digital_scale()
        self.register_buffer("alpha", array.input_range.detach().flatten().clone())
        self.register_buffer("scale", scale.detach().clone())  # [tile, out]
        at = 0
        for t, rows in enumerate(layout.rows_of_tiles):
            part = copy.deepcopy(layer).requires_grad_(False)
            whole = torch.zeros(layout.out_features, layout.in_features, dtype=w.dtype)
            whole[:, at : at + rows] = w[t, :, :rows]
            part.weight, part.bias, at = nn.Parameter(whole.view(shape).to(layer.weight), False), None, at + rows
            self.parts.append(part)

    def forward(self, x: Tensor) -> Tensor:
        y: Any = 0
        for t, part in enumerate(self.parts):
            out = part(rounded((x / self.alpha[t]).clamp(-1, 1), 1.0, self.bits[0]) if self.ranged else x)
            if self.bound != float("inf"):
                out = rounded(out.clamp(-self.bound, self.bound), self.bound, self.bits[1])
            y = y + out * self.scale[t].view(-1, *[1] * self.dims)
        return y if self.bias is None else y + self.bias.view(-1, *[1] * self.dims)


class QuantisedMatrix(QuantisedLayer):
    """In place of a tile array of a recurrent layer, which asks for its products step by step."""

    def __init__(self, array: TileArray, matrix: Tensor) -> None:
        super().__init__(array, matrix, nn.Linear(*reversed(matrix.shape), bias=False, device=matrix.device, dtype=matrix.dtype))

    def forward(self, x: Tensor, weight: Any = None, drawn: Any = None) -> Tensor:
        return super().forward(x)

    def draw(self, weight: Tensor) -> None:
        """Nothing is drawn."""


def rounded(v: Tensor, bound: float, bits: int | None) -> Tensor:
    """v, from -bound to bound, on 2^bits - 1 levels; as it is where bits is None."""
    if bits is None:
        return v
    step = bound / (2 ** (bits - 1) - 1)
    if bits != 8:
        return (v / step).round() * step
    about = step, 0, -128, 127, torch.int8
    code = torch.ops.quantized_decomposed.quantize_per_tensor(v, *about)
    return torch.ops.quantized_decomposed.dequantize_per_tensor(code, *about)


def quantised(net: nn.Module) -> nn.Module:
    """`mho.to_digital(net)` with the converters of its tiles in it, and the weights of the chip that is on, if there is one,
    at its age. What happens anew in every product (noise, voltages that fall with the current) is not in it.

    Linear layers, convolutions without groups and recurrent layers, with mho's own DAC and ADC and fixed input ranges; anything
    else on tiles raises `MhoError`, which names the layer: give it a rule that keeps it digital. Recurrent layers become as many
    steps as the example that is exported has.
    """
    net = copy.deepcopy(net).eval()
    digital = mho.to_digital(net).eval()
    for name, layer in net.named_modules():
        if not isinstance(layer, AnalogLayer):
            continue
        if complaint := _refused(layer):
            raise MhoError(f"layer {name!r} cannot be exported with its converters: {complaint}")
        if layer.torch_type in PLAIN:
            made: nn.Module = QuantisedLayer(layer.tiles, layer.matrix.detach(), digital.get_submodule(name))
        else:  # the same steps, around products of another kind
            made, views = digital.get_submodule(name), layer.views()
            parts = {key: QuantisedMatrix(array, views[key].detach()) for key, array in layer.arrays().items()}
            made.__class__ = type(f"Quantised{type(layer).__name__}", (type(layer),), {"arrays": lambda self: {}})
            made.tiles = parts[""] if set(parts) == {""} else nn.ModuleDict(parts)
        if not name:
            return made
        digital.set_submodule(name, made)
    return digital


def _refused(layer: AnalogLayer) -> str:
    if layer.torch_type not in (*PLAIN, *RECURRENT):
        return f"{layer.torch_class.__name__} is no linear, convolutional or recurrent layer"
    return next(filter(None, map(_strange, layer.arrays().values())), "")


def _strange(array: TileArray) -> str:
    if array.layout.groups > 1:
        return "it is no convolution of one group"
    if array.view.mapping.sliced or array.view.offset:
        return "its weights are sliced, or have an offset"
    dac, adc = array.view.dac, array.view.adc
    if type(dac) not in (Dac, type(None)) or type(adc) not in (Adc, type(None)):
        return "its converters are not mho.dac and mho.adc"
    if dac is not None and (dac.range == "dynamic" or dac.noise_management or dac.halvings):
        return "its input range changes from vector to vector"
    if len(array.corrections) or array.weight_quantiser is not None or array.input_quantiser is not None:
        return "it has digital corrections or quantisers"
    return ""


def export_onnx(model: nn.Module, example: Tensor, file: str | Path) -> Path:
    """Write a torch model, such as `mho.to_digital(net)` or `quantised(net)`, as ONNX for any batch size. Raises `MhoError`
    where onnx and onnxscript are not installed."""
    needed("onnxscript", "this needs onnx and onnxscript", "'mho-exchange[onnx]'")
    shapes = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(model.eval(), (example,), str(file), dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False)
    return Path(file)
