"""The contract: effects, converters, mappings and compensations, and what they may know of a tile."""

from mho.effects import draws
from mho.effects.compensation import Compensation
from mho.effects.converter import Adc, Converter, Dac, Rounding
from mho.effects.gradient import straight
from mho.effects.mapping import Mapping
from mho.effects.measurements import Column, Measurements, Residuals, normal_distribution, normal_log_density
from mho.effects.nonideality import (
    STAGES,
    TERMS,
    Nonideality,
    Side,
    absolute,
    by_depth,
    linear,
    magnitude,
    product,
    signed,
    square,
)
from mho.effects.quantiser import Quantiser, QuantiserModule, What, quantisers, unquantised
from mho.effects.site import PER_STAGE, Geometry, Per, Rows, Site, Stream
from mho.effects.stuck import StuckAt
from mho.effects.surrogate import Surrogate
