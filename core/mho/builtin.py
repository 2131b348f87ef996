"""Core's own parts, registered through the same hooks as anybody's plugin."""

from mho.config import hookimpl
from mho.effects import Adc, Dac
from mho.effects.compensation import ColumnDrift, GlobalDrift, LeastSquaresDrift
from mho.effects.mapping import Direct, PerColumn, TileMax
from mho.effects.surrogate import Saturating


@hookimpl
def mho_mappings() -> list[type]:
    return [PerColumn, TileMax, Direct]


@hookimpl
def mho_converters() -> list[type]:
    return [Dac, Adc]


@hookimpl
def mho_compensations() -> list[type]:
    return [GlobalDrift, ColumnDrift, LeastSquaresDrift]


@hookimpl
def mho_surrogates() -> list[type]:
    return [Saturating]


@hookimpl
def mho_layers() -> list[type]:
    from mho import layers

    return [cls for name in layers.__all__ if hasattr(cls := getattr(layers, name), "torch_type")]
