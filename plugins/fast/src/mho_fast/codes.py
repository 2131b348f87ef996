"""Inputs and weights as integers.

Inputs are the DAC's own codes. Weights are two int8 planes, w = (256 hi + lo) bound/32512 with `bound` the largest |w| of a
tile: 15 bits and a sign, an error of at most bound/65024. Side products need less: phi(w) and psi(x) are rounded to 1/127 of
their ranges, those of `bounds_of` and 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mho.effects import Dac, Site, conductance, outside
from mho.tile import Constants, TileView, blocks
from mho_fast.kernels import Kernels
from mho_fast.route import Route
from mho_fast.terms import Terms
from mho_fast.tier import pack
from mho_fast.workspace import workspace

HIGH, LOW = 256, 32512  # 32512 = 127 * 256
SIDE = 127
ALONE = 8  # tiles: a kernel treats no more one by one
SMALLEST = 1e-30  # largest |w| of a tile without weights


class Packed(dict[str, list[Tensor]]):
    """The planes of every product and tile, packed (`tier.pack`) when few vectors first ask for them. Copies begin anew."""

    def __reduce__(self) -> Any:
        return Packed, ()

    def of(self, product: str, planes: Tensor, sizes: Sequence[int]) -> list[Tensor]:
        """Those of a product with planes [tile, out, row]."""
        if product not in self:
            self[product] = [pack(w[:, :rows]) for w, rows in zip(planes, sizes)]
        return self[product]


class Planes(NamedTuple):
    """What the products of an array need of its weights.

    planes   [tile, plane * out, row] integers: hi and lo of w (tier int8), then every phi(w); fp32 values in tier fp32
    bound    [1 + phi, tile] largest |w| of every tile, and in integer tiers the range of every phi(w)
    packed   the same planes as few vectors want them, or None where planes are used once
    """

    planes: Tensor
    bound: Tensor
    packed: Packed | None = None


class Inputs(NamedTuple):
    """The inputs of one call.

    main     [vector, in] of the main product: int8 codes (tier int8), or the values that they stand for, fp32
    sides    [vector, in] for every psi of side products with other inputs: int8 codes, or values (tier fp32)
    clipped  [vector, in] 1 where x was above the input range, -1 where it was below, else 0; None where nobody needs it
    poison   [vector, 1] nan for vectors that hold a nan, which integers cannot carry, else 0
    """

    main: Tensor
    sides: list[Tensor]
    clipped: Tensor | None
    poison: Tensor

    def of(self, b: slice) -> Inputs:
        """Those of some vectors."""
        clipped = None if self.clipped is None else self.clipped[b]
        return Inputs(self.main[b], [s[b] for s in self.sides], clipped, self.poison[b])


def code_weights(w: Tensor, terms: Terms, kernels: Kernels, shared: bool) -> Planes:
    """w [tile, out, row] as planes, in memory of their own or `shared` with other calls. Every phi is asked for with the site of
    an effect."""
    route = terms.route
    kind = torch.float32 if route.tier == "fp32" else torch.int8
    (tiles, outputs, rows), count = w.shape, route.mains + len(route.phis)
    shape = (tiles, count * outputs, rows)
    whole = workspace("planes", shape, kind, w.device) if shared else torch.empty(shape, dtype=kind, device=w.device)
    planes = list(whole.unflatten(1, (count, outputs)).unbind(1))

    def make(view: TileView) -> Callable[..., Tensor]:
        def kernel(w: Tensor, planes: Sequence[Sequence[Tensor]], constants: Constants) -> Tensor:
            sites = Terms(view, route, None, constants).phi_sites()
            bound = bounds_of(w, w.abs().amax((1, 2)), sites, route)
            for parts, codes in zip(planes, codes_of(w, bound, sites, route)):
                for part, mine in zip(parts, codes.reshape(len(parts), *parts[0].shape)):
                    part.copy_(mine)
            return bound

        return kernel

    def eager() -> Tensor:
        bound = bounds_of(w, torch.stack([torch.stack(tile.aminmax()).abs().amax() for tile in w]), terms.phi_sites(), route)
        alone = all(p.owner is None for p in route.phis)  # mho's own phis look at single cells
        for part in blocks(w.shape[1], w.shape[0] * w.shape[2], w.device) if alone else [slice(0, w.shape[1])]:
            for plane, codes in zip(planes, codes_of(w[:, part], bound, terms.phi_sites(), route)):
                plane[:, part].copy_(codes)
        return bound

    # A compiler must see that planes do not overlap: of two axes it does. It works row after row where tiles come alone.
    parts = [p.unbind() if tiles <= ALONE else (p.flatten(1),) for p in planes]
    return Planes(whole, kernels.run("weight codes", make, (w, parts, terms.constants), eager))


def bounds_of(w: Tensor, largest: Tensor, sites: list[Site], route: Route) -> Tensor:
    """`Planes.bound` of w [tile, out, row], whose `largest` |w| [tile] are known. What a plugin's phi makes of weights may be
    much smaller than they are, or larger where a weight of 0 conducts: its range is looked for."""
    bounds = [largest]
    for weighing, site in zip(route.phis if route.tier != "fp32" else (), sites):
        own = weighing.owner is not None
        idle = 2 * site.geometry.idle if weighing.phi is conductance else 0.0
        bounds.append(weighing.phi(w, site).abs().amax((1, 2)) if own else largest.clamp(min=SMALLEST) + idle)
    return torch.stack(bounds).clamp(min=SMALLEST)


def codes_of(w: Tensor, bound: Tensor, sites: list[Site], route: Route) -> Iterator[Tensor]:
    """The planes [tile, out, row] of some outputs, one after the other."""
    per = bound[..., None, None].reciprocal()
    if route.mains:
        q = (w * (per[0] * LOW)).round_()
        high = (q * (1 / HIGH)).add_(0.5).floor_()  # lo in -128 ... 127
        yield high
        yield q.sub_(high, alpha=HIGH)
    for k, (weighing, site) in enumerate(zip(route.phis, sites)):
        phi = weighing.phi(w, site)
        yield phi if route.tier == "fp32" else (phi * (per[1 + k] * SIDE)).round_()


def code_inputs(
    x: Tensor, span: Tensor, dac: Dac, route: Route, kernels: Kernels, keep: bool, number: int | None = None
) -> Inputs:
    """x [vector, in] through the DAC, or the part of it with this number; `span` [in] or [vector, in] is the input range of each
    element.

    The codes are those of `Dac.encode`, bit by bit.
    """
    main = torch.empty(x.shape, dtype=torch.int8 if route.tier == "int8" else x.dtype, device=x.device)
    kind = torch.float32 if route.tier == "fp32" else torch.int8
    sides = [workspace(f"side {k}", tuple(x.shape), kind, x.device) for k in range(len(route.psis))]
    clipped = torch.empty(x.shape, dtype=torch.int8, device=x.device) if keep else None
    inputs = Inputs(main, sides, clipped, x.new_empty(len(x), 1))

    def kernel(x: Tensor, span: Tensor, inputs: Inputs) -> None:
        code(x, span, inputs, dac, route, number)

    def eager() -> None:
        parts = list(blocks(*x.shape, x.device))
        for b in parts:
            mine = (x, span, inputs) if len(parts) == 1 else (x[b], span if span.dim() == 1 else span[b], inputs.of(b))
            code(*mine, dac, route, number)

    kernels.run("DAC" if number is None else f"DAC part {number}", lambda _: kernel, (x, span, inputs), eager, x.numel())
    return inputs


def code(x: Tensor, span: Tensor, inputs: Inputs, dac: Dac, route: Route, number: int | None = None) -> None:
    """Fill the inputs of some vectors."""
    top = dac.top
    assert top is not None
    if inputs.clipped is not None:
        inputs.clipped.copy_(torch.where(outside(x, span, dac.lowest), x.sign(), 0.0))
    q = (x / span).clamp_(dac.lowest, 1).mul_(top).round_()
    total = q.sum(1, keepdim=True)
    inputs.poison.copy_(total - total)
    if number is not None:
        q, top = dac.part(q, number), dac.part_top
        assert top is not None
    if route.tier == "int8":
        inputs.main.copy_(q)
    q = q.div_(top)
    if route.tier != "int8":
        inputs.main.copy_(q)
    code_sides(inputs.sides, q, route)


def code_sides(sides: list[Tensor], x: Tensor, route: Route) -> None:
    """Fill the codes of psi(x) for values x in [-1, 1] behind the DAC."""
    for side, psi in zip(sides, route.psis):
        value = psi(x)
        side.copy_(value if route.tier == "fp32" else (value * SIDE).round_().clamp_(-SIDE, SIDE))
