"""mho: simulate analog in-memory computing hardware inside PyTorch, and train networks to survive it.

Everything public is a name of this package. Names load on first use, so that commands which need no torch stay fast.
Plugins add names through the entry-point group `mho.names`: `quantise = "mho_qat:quantise"` is `mho.quantise`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mho.ground.renames import Renamed as Renamed, present

__version__ = "0.1.0"

# Former public names, which work for one more minor version: Renamed("convert", "to_analog", since="0.2").
RENAMED: tuple[Renamed, ...] = ()

# module -> names; the type checker reads the imports below instead.
_HOME = {
    "config.hardware": ("Hardware", "load"),
    "config.hooks": ("hookimpl",),
    "config.recipe": ("TrainingHooks", "TrainingMethod"),
    "config.registry": ("register",),
    "config.schema": ("Field",),
    "effects.compensation": ("Compensation",),
    "effects.converter": ("Adc", "Dac"),
    "effects.mapping": ("Mapping",),
    "effects.nonideality": (
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
    "effects.quantiser": ("Quantiser", "QuantiserModule"),
    "effects.site": ("Site",),
    "effects.stuck": ("StuckAt",),
    "effects.surrogate": ("Surrogate",),
    "fast.route": ("Route", "routes"),
    "ground.errors": ("ConfigError", "MhoError", "PluginError"),
    "ground.renames": ("Renamed",),
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
    "use.adapt": ("adapt_batch_norm", "tune_digital"),
    "use.calibration": ("calibrate",),
    "use.checkpoint": ("load_model", "save_model"),
    "use.chip": ("Chip", "age", "chip_on", "load_chip", "program", "unprogram"),
    "use.convert": ("ConversionReport", "conversion_report", "to_analog", "to_digital"),
    "use.evaluation": ("Evaluation", "evaluate", "normalised_accuracy"),
    "use.matrix": ("Tile",),
    "use.metrics": ("MvmExperiment", "mvm_error", "standard_mvm_error"),
    "use.training": ("attach",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE_OF)  # noqa: PLE0605 (the names below)

if TYPE_CHECKING:
    from mho.config.hardware import Hardware as Hardware, load as load
    from mho.config.hooks import hookimpl as hookimpl
    from mho.config.recipe import TrainingHooks as TrainingHooks, TrainingMethod as TrainingMethod
    from mho.config.registry import register as register
    from mho.config.schema import Field as Field
    from mho.effects.compensation import Compensation as Compensation
    from mho.effects.converter import Adc as Adc, Dac as Dac
    from mho.effects.mapping import Mapping as Mapping
    from mho.effects.nonideality import (
        Nonideality as Nonideality,
        Side as Side,
        absolute as absolute,
        by_depth as by_depth,
        linear as linear,
        magnitude as magnitude,
        product as product,
        signed as signed,
        square as square,
    )
    from mho.effects.quantiser import Quantiser as Quantiser, QuantiserModule as QuantiserModule
    from mho.effects.site import Site as Site
    from mho.effects.stuck import StuckAt as StuckAt
    from mho.effects.surrogate import Surrogate as Surrogate
    from mho.fast.route import Route as Route, routes as routes
    from mho.ground.errors import ConfigError as ConfigError, MhoError as MhoError, PluginError as PluginError
    from mho.layers import (
        AnalogConv1D as AnalogConv1D,
        AnalogConv1d as AnalogConv1d,
        AnalogConv2d as AnalogConv2d,
        AnalogConv3d as AnalogConv3d,
        AnalogConvTranspose1d as AnalogConvTranspose1d,
        AnalogConvTranspose2d as AnalogConvTranspose2d,
        AnalogConvTranspose3d as AnalogConvTranspose3d,
        AnalogGRU as AnalogGRU,
        AnalogGRUCell as AnalogGRUCell,
        AnalogLayer as AnalogLayer,
        AnalogLinear as AnalogLinear,
        AnalogLSTM as AnalogLSTM,
        AnalogLSTMCell as AnalogLSTMCell,
        AnalogMultiheadAttention as AnalogMultiheadAttention,
        AnalogRNN as AnalogRNN,
        AnalogRNNCell as AnalogRNNCell,
    )
    from mho.use.adapt import adapt_batch_norm as adapt_batch_norm, tune_digital as tune_digital
    from mho.use.calibration import calibrate as calibrate
    from mho.use.checkpoint import load_model as load_model, save_model as save_model
    from mho.use.chip import (
        Chip as Chip,
        age as age,
        chip_on as chip_on,
        load_chip as load_chip,
        program as program,
        unprogram as unprogram,
    )
    from mho.use.convert import (
        ConversionReport as ConversionReport,
        conversion_report as conversion_report,
        to_analog as to_analog,
        to_digital as to_digital,
    )
    from mho.use.evaluation import (
        Evaluation as Evaluation,
        evaluate as evaluate,
        normalised_accuracy as normalised_accuracy,
    )
    from mho.use.matrix import Tile as Tile
    from mho.use.metrics import (
        MvmExperiment as MvmExperiment,
        mvm_error as mvm_error,
        standard_mvm_error as standard_mvm_error,
    )
    from mho.use.training import attach as attach


def __getattr__(name: str) -> Any:
    if not name.startswith("_"):
        name = present(name, RENAMED)
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"mho.{_MODULE_OF[name]}"), name)
    from mho.config import distributions

    return distributions.public_name(name)


def __dir__() -> list[str]:
    from mho.config import distributions

    return sorted([*globals(), *_MODULE_OF, *distributions.entry_points(distributions.NAMES)])
