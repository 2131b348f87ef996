"""Tests that plugin authors inherit: `class TestMyEffect(NonidealityContract): spec = MyEffect(...)`.

One module holds the contract of each kind of part, `checks` what they share, `bench` the tile on which parts are tried.
Names load on first use, so that `mho new` needs no torch.
"""

from mho.ground import offers

__getattr__, __all__ = offers(__name__, __file__)
