"""Names for type checkers and, imported on first use, for `__init__.py`."""

__all__: list[str]

from mho.layers.attention import AnalogMultiheadAttention as AnalogMultiheadAttention, close_fast_paths as close_fast_paths
from mho.layers.attention import open_fast_paths as open_fast_paths, order_projections as order_projections
from mho.layers.base import AnalogLayer as AnalogLayer, Placement as Placement, lost as lost
from mho.layers.conv import AnalogConv1d as AnalogConv1d, AnalogConv2d as AnalogConv2d, AnalogConv3d as AnalogConv3d
from mho.layers.conv import AnalogConvTranspose1d as AnalogConvTranspose1d, AnalogConvTranspose2d as AnalogConvTranspose2d
from mho.layers.conv import AnalogConvTranspose3d as AnalogConvTranspose3d
from mho.layers.linear import AnalogLinear as AnalogLinear
from mho.layers.recurrent import AnalogGRU as AnalogGRU, AnalogGRUCell as AnalogGRUCell, AnalogLSTM as AnalogLSTM
from mho.layers.recurrent import AnalogLSTMCell as AnalogLSTMCell, AnalogRNN as AnalogRNN, AnalogRNNCell as AnalogRNNCell
