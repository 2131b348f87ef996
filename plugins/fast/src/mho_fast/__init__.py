"""The fast path: integer products and one epilogue, for the same effects as the reference path.

The digital inputs of a tile are integers, so its products are integer products; everything behind them is pointwise and
runs over blocks that fit the cache. Effects are written once, as `mho.Nonideality`; the modules here only decide in which
order and in which arithmetic their formulas run:

tier       which arithmetic: a function of hardware file, device and processor
route      what an array computes, resolved once: products, terms, seams, and why something is not fused
codes      inputs and weights as integers, and their products
source     where the vectors of a call come from: rows of the codes, or patches of an image
epilogue   from products to digital outputs
backward   the backward pass
cells      programming and ageing of the cells in one pass each
kernels    the pointwise formulas of all these, compiled
workspace  memory that calls share
"""

from mho_fast.backend import Fast
from mho_fast.epilogue import Conversion
from mho_fast.route import Route, routes
from mho_fast.tier import Precision, chosen_tier
