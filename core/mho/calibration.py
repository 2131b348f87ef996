"""Post-training calibration: choose the input range of every tile from a few batches, without touching a weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mho import noise
from mho.chip import keeping_modes, matrices
from mho.converter import Dac
from mho.errors import MhoError
from mho.run import tile_arrays
from mho.tile import TileArray

Method = Literal["abs_max", "quantile", "mse"]
CAP = 10.0  # R003-62
FACTORS = tuple(2 ** (k / 4) for k in range(-12, 13))  # 1/8 ... 8 in steps of 19 %
VECTORS = 1024  # of each layer that `mse` compares candidates on


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
    mse        starts from abs_max and takes, for each tile, the range with the smallest MVM error (R003 Eq. 20) on the
               inputs seen, ADC and all noise included; never worse than the start on them (Lammie et al., ISCAS 2024)

    Layers compute exact products while they are watched, so that one layer's start value cannot distort the next
    one's inputs. `batches` are passed to `net` as they are; `forward(net, batch)` says otherwise (for pairs of inputs
    and labels the default takes the first).
    """
    if not tile_arrays(net):
        raise MhoError("this model has no analog layers; convert it first: net = mho.to_analog(model, hw)")
    arrays = [a for a in tile_arrays(net) if isinstance(a.spec.dac, Dac) and a.spec.dac.range == "learned"]
    run = forward or (lambda model, batch: model(batch[0] if isinstance(batch, (tuple, list)) else batch))
    seen = {a: Seen(a, dac, quantile) for a in arrays}
    with _watching(net, seen), torch.no_grad():
        for batch in batches:
            run(net, batch)
    if arrays and not any(s.tops for s in seen.values()):
        raise MhoError("calibrate saw no data: `batches` was empty, or no analog layer was called")
    for array, weight in matrices(net):
        if array in seen and seen[array].tops:
            array.input_range.data.copy_(seen[array].range(weight.detach()))
    return {a.name: a.input_range.flatten().tolist() for a in arrays}


class Seen:
    """What one tile array was given while it was watched."""

    def __init__(self, array: TileArray, method: Method, quantile: float) -> None:
        self.array, self.method, self.quantile = array, method, quantile
        self.tops: list[Tensor] = []  # one [tile] per batch
        self.inputs: list[Tensor] = []  # [vector, tile, row], at most VECTORS of them in all

    def note(self, x: Tensor) -> None:
        xs = self.array.cut(x.detach().reshape(-1, self.array.in_features).float())
        if not len(xs):
            return
        if not torch.isfinite(xs).all():
            raise MhoError(f"calibrate met NaN or infinite inputs at layer {self.array.name!r}")
        self.tops.append(self._quantile(xs.abs()) if self.method == "quantile" else xs.abs().amax((0, 2)))
        if self.method == "mse":
            step = -(-len(xs) // 256)
            self.inputs.append(xs[::step])

    def range(self, weight: Tensor) -> Tensor:
        """The input range [tile, 1]."""
        mean = torch.stack(self.tops).mean(0)[:, None]
        start = torch.where(mean > 0, mean, torch.ones_like(mean)).clamp(max=CAP)
        if self.method != "mse":
            return start
        x = torch.cat(self.inputs)
        x = x[:: -(-len(x) // VECTORS)]
        errors = torch.stack([self.array.error_per_tile(x, weight, start * f, noise.key("calibrate")) for f in FACTORS])
        best = torch.tensor(FACTORS, device=x.device)[errors.argmin(0)]
        return start * best[:, None]

    def _quantile(self, x: Tensor) -> Tensor:
        """The quantile of x [vector, tile, row] >= 0 for each tile; padding (zeros) does not count."""
        ordered = x.transpose(0, 1).flatten(1).sort(dim=1, descending=True).values
        rank = ((1 - self.quantile) * self.array.occupied * len(x)).long().clamp(max=ordered.shape[1] - 1)
        return ordered.gather(1, rank[:, None]).squeeze(1)


@contextmanager
def _watching(net: nn.Module, seen: dict[TileArray, Seen]) -> Iterator[None]:
    """Note the inputs of every tile array; evaluation mode and exact products meanwhile."""

    def note(array: nn.Module, args: tuple[Any, ...]) -> None:
        assert isinstance(array, TileArray)
        seen[array].note(args[0])

    hooks = [a.register_forward_pre_hook(note) for a in seen]
    everything = tile_arrays(net)
    try:
        with keeping_modes(net):
            net.eval()
            for a in everything:
                a.exact = True
            yield
    finally:
        for a in everything:
            a.exact = False
        for h in hooks:
            h.remove()
