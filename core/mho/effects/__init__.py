"""The contract: effects, converters, mappings and compensations, and what they may know of a tile."""

from mho.ground.offers import offers

__getattr__, __all__ = offers(__name__, __file__)
