"""Measure many things, on one machine or a cluster, in a folder that survives every interruption.

`run` measures items, `read` gives all results of a folder as a `Table`, `identity` says what results depend on besides the
item; `folder` is for measure functions that share files.
"""

from mho.ground import offers

__getattr__, __all__ = offers(__name__, __file__)
