"""mho: simulate analog in-memory computing hardware inside PyTorch, and train networks to survive it.

Everything public is a name of this package. Names load on first use, so that commands which need no torch stay fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mho.renames import Renamed as Renamed
from mho.renames import present

__version__ = "0.1.0"

# Former public names, which work for one more minor version: Renamed("convert", "to_analog", since="0.2").
RENAMED: tuple[Renamed, ...] = ()

# name -> module; the type checker reads the imports below instead.
_HOME = {
    "hardware": ("Hardware", "load"),
    "errors": ("MhoError", "ConfigError", "PluginError"),
    "schema": ("Field",),
    "hooks": ("hookimpl",),
    "registry": ("register",),
    "renames": ("Renamed",),
    "nonideality": (
        "Nonideality",
        "Side",
        "absolute",
        "by_depth",
        "linear",
        "magnitude",
        "product",
        "signed",
        "square",
    ),
    "stuck": ("StuckAt",),
    "site": ("Site",),
    "mapping": ("Mapping",),
    "converter": ("Adc", "Dac"),
    "compensation": ("Compensation",),
    "layers": (
        "AnalogConv1D",
        "AnalogConv1d",
        "AnalogConv2d",
        "AnalogConv3d",
        "AnalogConvTranspose1d",
        "AnalogConvTranspose2d",
        "AnalogConvTranspose3d",
        "AnalogGRU",
        "AnalogGRUCell",
        "AnalogLSTM",
        "AnalogLSTMCell",
        "AnalogLayer",
        "AnalogLinear",
        "AnalogMultiheadAttention",
        "AnalogRNN",
        "AnalogRNNCell",
    ),
    "footprints": ("Footprint", "footprint"),
    "convert": ("ConversionReport", "conversion_report", "to_analog", "to_digital"),
    "matrix": ("Tile",),
    "chip": ("Chip", "age", "chip_on", "load_chip", "program", "unprogram"),
    "calibration": ("calibrate",),
    "training": ("attach", "follow"),
    "recipe": ("Schedule",),
    "quantiser": ("quantise", "unquantise"),
    "distillation": ("distillation_loss",),
    "direct": ("adapt_batch_norm", "tune_digital"),
    "surrogate": ("Surrogate",),
    "preactivation": ("PreactivationNoise",),
    "analysis.gradients": ("Directions", "gradient_directions"),
    "drift": ("DriftScore",),
    "evaluation": ("Evaluation", "evaluate", "normalised_accuracy"),
    "fused.route": ("Route", "routes"),
    "metrics": ("MvmExperiment", "mvm_error", "standard_mvm_error"),
    "inspection": ("Inspection", "inspect_layers"),
    "checkpoint": ("load_model", "save_model"),
    "task": ("Score", "Task"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE_OF)  # noqa: PLE0605 (the names below)

if TYPE_CHECKING:
    from mho.analysis.gradients import Directions as Directions
    from mho.analysis.gradients import gradient_directions as gradient_directions
    from mho.calibration import calibrate as calibrate
    from mho.checkpoint import load_model as load_model
    from mho.checkpoint import save_model as save_model
    from mho.chip import Chip as Chip
    from mho.chip import age as age
    from mho.chip import chip_on as chip_on
    from mho.chip import load_chip as load_chip
    from mho.chip import program as program
    from mho.chip import unprogram as unprogram
    from mho.compensation import Compensation as Compensation
    from mho.convert import ConversionReport as ConversionReport
    from mho.convert import conversion_report as conversion_report
    from mho.convert import to_analog as to_analog
    from mho.convert import to_digital as to_digital
    from mho.converter import Adc as Adc
    from mho.converter import Dac as Dac
    from mho.direct import adapt_batch_norm as adapt_batch_norm
    from mho.direct import tune_digital as tune_digital
    from mho.distillation import distillation_loss as distillation_loss
    from mho.drift import DriftScore as DriftScore
    from mho.errors import ConfigError as ConfigError
    from mho.errors import MhoError as MhoError
    from mho.errors import PluginError as PluginError
    from mho.evaluation import Evaluation as Evaluation
    from mho.evaluation import evaluate as evaluate
    from mho.evaluation import normalised_accuracy as normalised_accuracy
    from mho.footprints import Footprint as Footprint
    from mho.footprints import footprint as footprint
    from mho.fused.route import Route as Route
    from mho.fused.route import routes as routes
    from mho.hardware import Hardware as Hardware
    from mho.hardware import load as load
    from mho.hooks import hookimpl as hookimpl
    from mho.inspection import Inspection as Inspection
    from mho.inspection import inspect_layers as inspect_layers
    from mho.layers import AnalogConv1D as AnalogConv1D
    from mho.layers import AnalogConv1d as AnalogConv1d
    from mho.layers import AnalogConv2d as AnalogConv2d
    from mho.layers import AnalogConv3d as AnalogConv3d
    from mho.layers import AnalogConvTranspose1d as AnalogConvTranspose1d
    from mho.layers import AnalogConvTranspose2d as AnalogConvTranspose2d
    from mho.layers import AnalogConvTranspose3d as AnalogConvTranspose3d
    from mho.layers import AnalogGRU as AnalogGRU
    from mho.layers import AnalogGRUCell as AnalogGRUCell
    from mho.layers import AnalogLayer as AnalogLayer
    from mho.layers import AnalogLinear as AnalogLinear
    from mho.layers import AnalogLSTM as AnalogLSTM
    from mho.layers import AnalogLSTMCell as AnalogLSTMCell
    from mho.layers import AnalogMultiheadAttention as AnalogMultiheadAttention
    from mho.layers import AnalogRNN as AnalogRNN
    from mho.layers import AnalogRNNCell as AnalogRNNCell
    from mho.mapping import Mapping as Mapping
    from mho.matrix import Tile as Tile
    from mho.metrics import MvmExperiment as MvmExperiment
    from mho.metrics import mvm_error as mvm_error
    from mho.metrics import standard_mvm_error as standard_mvm_error
    from mho.nonideality import Nonideality as Nonideality
    from mho.nonideality import Side as Side
    from mho.nonideality import absolute as absolute
    from mho.nonideality import by_depth as by_depth
    from mho.nonideality import linear as linear
    from mho.nonideality import magnitude as magnitude
    from mho.nonideality import product as product
    from mho.nonideality import signed as signed
    from mho.nonideality import square as square
    from mho.preactivation import PreactivationNoise as PreactivationNoise
    from mho.quantiser import quantise as quantise
    from mho.quantiser import unquantise as unquantise
    from mho.recipe import Schedule as Schedule
    from mho.registry import register as register
    from mho.schema import Field as Field
    from mho.site import Site as Site
    from mho.stuck import StuckAt as StuckAt
    from mho.surrogate import Surrogate as Surrogate
    from mho.task import Score as Score
    from mho.task import Task as Task
    from mho.training import attach as attach
    from mho.training import follow as follow


def __getattr__(name: str) -> Any:
    if not name.startswith("_"):
        name = present(name, RENAMED)
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'mho' has no attribute {name!r}")
    return getattr(importlib.import_module(f"mho.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])
