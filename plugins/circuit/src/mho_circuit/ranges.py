"""Output bounds of ADCs from data: what the columns of a network give for its inputs."""

import math
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from mho import MhoError
from mho.effects import product
from mho.tile import TileArray, vectors
from mho.use import matrices, run_batch

KEPT = 256  # vectors of every call


@torch.no_grad()
def adc_bounds(net: nn.Module, batches: Iterable[Any], method: str = "quantile", quantile: float = 0.999) -> dict[str, float]:
    """The output bound, in analog units, that suits the ADCs of every weight matrix, by its name: found from what the columns
    give for the inputs of these batches, with the weights of the chip that is on, or with target weights. The largest of a
    tile type is one for its hardware file.

    max        the largest |output|
    granular   a step of 2^-k full cells, the smallest that still reaches `max`: ranges then differ by powers of 2
    quantile   this share of |outputs| is not cut
    mse        the smallest mean squared error of clipping and rounding, of 40 bounds up to `max`

    Raises `MhoError` for another method, where nothing runs on tiles, or for matrices without an ADC that rounds.
    """
    if method not in METHODS:
        raise MhoError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    seen: dict[TileArray, list[Tensor]] = {a: [] for a, _ in matrices(net)}

    def hear(array: TileArray, args: tuple[Any, ...]) -> None:
        seen[array].append(vectors(args[0]).flatten(0, -2)[:KEPT])

    with ExitStack() as stack:
        for array in seen:
            stack.callback(array.register_forward_pre_hook(hear).remove)
        for batch in batches:
            run_batch(net, batch)
    if not any(seen.values()):
        raise MhoError("no matrix on tiles has seen inputs: give batches, and a network from mho.to_analog")
    found = {}
    for array, weight in matrices(net):
        adc = array.view.adc
        if adc is None or adc.top is None:
            raise MhoError(f"layer {array.name!r} has no ADC that rounds, so there is no bound to find")
        if seen[array]:
            found[array.name] = METHODS[method](_outputs(array, weight, torch.cat(seen[array])).flatten(), adc.top, quantile)
    return found


def _outputs(array: TileArray, weight: Tensor, x: Tensor) -> Tensor:
    """|products| of all passes [vector, tile, out] for inputs x [vector, in]."""
    traced, dac = array.trace(x, weight), array.view.dac
    if dac is None or len(dac.passes) == 1:
        return traced["analog"].abs()
    assert dac.top and dac.part_top
    codes = (array.layout.cut(x) / traced["range"]).clamp(dac.lowest, 1).mul(dac.top).round()
    return product(torch.cat([dac.part(codes, k) / dac.part_top for k in range(len(dac.passes))]), traced["weights"]).abs()


def _least_error(y: Tensor, top: int, quantile: float) -> float:
    bounds = [float(y.max()) * k / 40 for k in range(1, 41)]
    return min(bounds, key=lambda b: float(((y * top / b).round().clamp(max=top) * b / top - y).square().mean()))


METHODS: dict[str, Callable[[Tensor, int, float], float]] = {
    "max": lambda y, top, quantile: float(y.max()),
    "granular": lambda y, top, quantile: float(top * 2.0 ** math.ceil(math.log2(max(float(y.max()), 1e-12) / top))),
    "quantile": lambda y, top, quantile: float(y.sort().values[min(len(y) - 1, int(quantile * len(y)))]),
    "mse": _least_error,
}
