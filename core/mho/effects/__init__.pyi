"""Names for type checkers and, imported on first use, for `__init__.py`."""

from mho.effects.compensation import Compensation as Compensation, GlobalDrift as GlobalDrift, ratio as ratio
from mho.effects.converter import Adc as Adc, Converter as Converter, Dac as Dac
from mho.effects.gradient import straight as straight
from mho.effects.mapping import Mapping as Mapping, TileMax as TileMax
from mho.effects.correction import Correction as Correction, CorrectionModule as CorrectionModule, Matrix as Matrix
from mho.effects.correction import Outputs as Outputs, Read as Read
from mho.effects.measurements import Column as Column, Measurements as Measurements, Residuals as Residuals
from mho.effects.measurements import normal_distribution as normal_distribution
from mho.effects.measurements import normal_log_density as normal_log_density
from mho.effects.nonideality import TERMS as TERMS, Nonideality as Nonideality, Side as Side, absolute as absolute
from mho.effects.nonideality import by_depth as by_depth, conductance as conductance, linear as linear
from mho.effects.nonideality import magnitude as magnitude, product as product, signed as signed, square as square
from mho.effects.quantiser import Quantiser as Quantiser, QuantiserModule as QuantiserModule, What as What
from mho.effects.quantiser import quantisers as quantisers, unquantised as unquantised
from mho.effects.site import Geometry as Geometry, Per as Per, Rows as Rows, Site as Site, Stream as Stream
from mho.effects.stages import STAGES as STAGES, Rounding as Rounding, TABLE as TABLE, Stage as Stage
from mho.effects.surrogate import Surrogate as Surrogate
from mho.effects.arithmetic import float_product as float_product, possible as possible, transformed as transformed
from mho.effects.circuits import with_circuits as with_circuits
from mho.effects.encoding import clipping as clipping, outside as outside, range_gradient as range_gradient
from mho.effects.encoding import range_step as range_step
from mho.effects.site import Half as Half, RowWords as RowWords
