"""Names for type checkers and, imported on first use, for `__init__.py`."""

from mho.config.hardware import DIGITAL as DIGITAL, Hardware as Hardware, LayerRule as LayerRule, TileSpec as TileSpec
from mho.config.hardware import load as load, validated as validated
from mho.config.hooks import hookimpl as hookimpl
from mho.config.recipe import Backward as Backward, TrainingHooks as TrainingHooks, TrainingMethod as TrainingMethod
from mho.config.recipe import TrainingSpec as TrainingSpec
from mho.config.schema import Field as Field, Kinded as Kinded, Limits as Limits, Strict as Strict
from mho.config.schema import kind_form as kind_form, suggest as suggest
from mho.config.slots import Slot as Slot
from mho.config.units import MicroSiemens as MicroSiemens, Ohms as Ohms, Seconds as Seconds, Sigmas as Sigmas
from mho.config.units import Span as Span, format_seconds as format_seconds, seconds as seconds
from mho.config.yamltext import flow as flow, parse as parse, parse_value as parse_value, read as read, write as write
