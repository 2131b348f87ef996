"""The public names of mho, for type checkers and, with the module that each is imported from on first use, for `__init__.py`."""

from typing import Any

from mho.config.hardware import Hardware as Hardware, load as load
from mho.config.hooks import hookimpl as hookimpl
from mho.config.recipe import TrainingHooks as TrainingHooks, TrainingMethod as TrainingMethod
from mho.config.registry import register as register
from mho.config.schema import Field as Field
from mho.effects.compensation import Compensation as Compensation
from mho.effects.correction import Correction as Correction
from mho.effects.converter import Adc as Adc, Dac as Dac
from mho.effects.mapping import Mapping as Mapping
from mho.effects.nonideality import Nonideality as Nonideality, Side as Side, absolute as absolute, by_depth as by_depth
from mho.effects.nonideality import conductance as conductance
from mho.effects.nonideality import linear as linear, magnitude as magnitude, product as product, signed as signed
from mho.effects.nonideality import square as square
from mho.effects.quantiser import Quantiser as Quantiser, QuantiserModule as QuantiserModule
from mho.effects.site import Site as Site
from mho.effects.surrogate import Surrogate as Surrogate
from mho.ground.errors import ConfigError as ConfigError, MhoError as MhoError, PluginError as PluginError
from mho.ground.renames import Renamed as Renamed
from mho.layers import AnalogConv1D as AnalogConv1D, AnalogConv1d as AnalogConv1d, AnalogConv2d as AnalogConv2d
from mho.layers import AnalogConv3d as AnalogConv3d, AnalogConvTranspose1d as AnalogConvTranspose1d
from mho.layers import AnalogConvTranspose2d as AnalogConvTranspose2d, AnalogConvTranspose3d as AnalogConvTranspose3d
from mho.layers import AnalogGRU as AnalogGRU, AnalogGRUCell as AnalogGRUCell, AnalogLayer as AnalogLayer
from mho.layers import AnalogLinear as AnalogLinear, AnalogLSTM as AnalogLSTM, AnalogLSTMCell as AnalogLSTMCell
from mho.layers import AnalogMultiheadAttention as AnalogMultiheadAttention, AnalogRNN as AnalogRNN
from mho.layers import AnalogRNNCell as AnalogRNNCell
from mho.use.calibration import calibrate as calibrate
from mho.use.checkpoint import load_model as load_model, save_model as save_model
from mho.use.chip import Chip as Chip, age as age, chip_on as chip_on, load_chip as load_chip, program as program
from mho.use.chip import unprogram as unprogram
from mho.use.convert import ConversionReport as ConversionReport, conversion_report as conversion_report
from mho.use.convert import to_analog as to_analog, to_digital as to_digital
from mho.use.evaluation import Evaluation as Evaluation, evaluate as evaluate
from mho.use.evaluation import normalised_accuracy as normalised_accuracy
from mho.use.matrix import Tile as Tile
from mho.use.metrics import mvm_error as mvm_error
from mho.use.training import attach as attach

__version__: str
RENAMED: tuple[Renamed, ...]

def __getattr__(name: str) -> Any: ...  # names of plugins, entry-point group `mho.names`
