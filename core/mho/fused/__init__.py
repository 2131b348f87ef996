"""The fast path: integer products and one epilogue, for the same effects as the reference path.

The digital inputs of a tile are integers, so its products are integer products; everything behind them is pointwise and
runs over blocks that fit the cache. Effects are written once, in `mho.nonideality`; the modules here only decide in which
order and in which arithmetic their formulas run:

tier       which arithmetic: a function of hardware file, device and processor
route      what an array computes, resolved once: products, terms, seams, and why something is not fused
codes      inputs and weights as integers, and their products
epilogue   from products to digital outputs
function   the forward and backward pass as one `torch.autograd.Function`
"""
