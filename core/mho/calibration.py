"""Post-training calibration: choose the input range of every tile from a few batches, without touching a weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mho.converter import Dac
from mho.errors import MhoError
from mho.run import tile_arrays
from mho.tile import TileArray

Method = Literal["abs_max", "quantile"]
CAP = 10.0  # R003-62


def calibrate(
    net: nn.Module,
    batches: Iterable[Any],
    dac: Method = "abs_max",
    *,
    quantile: float = 0.999,
    forward: Callable[[nn.Module, Any], Any] | None = None,
) -> dict[str, list[float]]:
    """Set the learned input ranges of `net` from example batches; returns them by layer.

    abs_max    the mean over batches of the largest |x| of each tile, capped at 10 (R003-62)
    quantile   the mean over batches of this quantile of |x|

    Layers compute exact products while they are watched, so that one layer's start value cannot distort the next
    one's inputs. `batches` are passed to `net` as they are; `forward(net, batch)` says otherwise (for pairs of inputs
    and labels the default takes the first).
    """
    arrays = [a for a in tile_arrays(net) if isinstance(a.spec.dac, Dac) and a.spec.dac.range == "learned"]
    run = forward or (lambda model, batch: model(batch[0] if isinstance(batch, (tuple, list)) else batch))
    seen: dict[TileArray, list[Tensor]] = {a: [] for a in arrays}
    with _watching(net, seen, dac, quantile), torch.no_grad():
        for batch in batches:
            run(net, batch)
    if not any(seen.values()) and arrays:
        raise MhoError("calibrate saw no data: `batches` was empty, or no analog layer was called")
    for array, tops in seen.items():
        if tops:
            mean = torch.stack(tops).mean(0).clamp(max=CAP)
            array.input_range.data.copy_(torch.where(mean > 0, mean, torch.ones_like(mean)))
    return {a.name: a.input_range.flatten().tolist() for a in arrays}


@contextmanager
def _watching(net: nn.Module, seen: dict[TileArray, list[Tensor]], method: Method, quantile: float) -> Iterator[None]:
    """Note the inputs of every tile array; evaluation mode and exact products meanwhile."""

    def note(array: nn.Module, args: tuple[Any, ...]) -> None:
        assert isinstance(array, TileArray)
        x = array.cut(args[0].detach().reshape(-1, array.in_features).float()).abs()  # [vector, tile, row]
        top = x.amax((0, 2)) if method == "abs_max" else _quantile(x, quantile, array)
        seen[array].append(top[:, None])

    modes = [(m, m.training) for m in net.modules()]
    hooks = [a.register_forward_pre_hook(note) for a in seen]
    everything = tile_arrays(net)
    try:
        net.eval()
        for a in everything:
            a.exact = True
        yield
    finally:
        for a in everything:
            a.exact = False
        for h in hooks:
            h.remove()
        for m, training in modes:
            m.training = training


def _quantile(x: Tensor, q: float, array: TileArray) -> Tensor:
    """The q-quantile of x [vector, tile, row] >= 0 for each tile; padding (zeros) does not count."""
    ordered = x.transpose(0, 1).flatten(1).sort(dim=1, descending=True).values
    rank = ((1 - q) * array.occupied * len(x)).long().clamp(max=ordered.shape[1] - 1)
    return ordered.gather(1, rank[:, None]).squeeze(1)
