"""Analog layers: subclasses of the torch layers they replace, with their weight matrices on tiles.

The trainable parameters are torch's own, in torch's names, units and shapes, so floating-point checkpoints load before
and after conversion; programming and ageing never touch them. Biases stay digital.
"""

from mho.ground.offers import offers

__getattr__, __all__ = offers(__name__, __file__)
