"""Hardware files: YAML text, schema, units, inheritance, and the plugins that their kinds come from."""

from mho.ground.offers import offers

__getattr__, __all__ = offers(__name__, __file__)
