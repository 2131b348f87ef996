"""Analog layers: subclasses of the torch layers they replace, with their weight matrices on tiles.

The trainable parameters are torch's own, in torch's names, units and shapes, so floating-point checkpoints load before
and after conversion; programming and ageing never touch them. Biases stay digital.
"""

from mho.layers.attention import AnalogMultiheadAttention, close_fast_paths, open_fast_paths, order_projections
from mho.layers.base import AnalogLayer, Placement, lost
from mho.layers.conv import (
    AnalogConv1d,
    AnalogConv2d,
    AnalogConv3d,
    AnalogConvTranspose1d,
    AnalogConvTranspose2d,
    AnalogConvTranspose3d,
)
from mho.layers.linear import AnalogConv1D, AnalogLinear
from mho.layers.recurrent import AnalogGRU, AnalogGRUCell, AnalogLSTM, AnalogLSTMCell, AnalogRNN, AnalogRNNCell

LAYERS = (
    AnalogLinear,
    AnalogConv1d,
    AnalogConv2d,
    AnalogConv3d,
    AnalogConvTranspose1d,
    AnalogConvTranspose2d,
    AnalogConvTranspose3d,
    AnalogLSTM,
    AnalogGRU,
    AnalogRNN,
    AnalogLSTMCell,
    AnalogGRUCell,
    AnalogRNNCell,
    AnalogMultiheadAttention,
    AnalogConv1D,
)
