"""Hardware files: YAML text, schema, units, inheritance, and the plugins that their kinds come from."""

from mho.config import registry
from mho.config.hardware import DIGITAL, Hardware, LayerRule, TileSpec, load, located
from mho.config.recipe import TrainingHooks, TrainingMethod, TrainingSpec
from mho.config.schema import Field, Kinded, Limits, Strict, kind_form, suggest
from mho.config.slots import Slot
from mho.config.units import MicroSiemens, Ohms, Seconds, Sigmas, Span, format_seconds, seconds
from mho.config.yamltext import flow, parse, parse_value, read, write
