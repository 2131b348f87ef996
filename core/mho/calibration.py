"""Post-training calibration: choose the input range of every tile from a few batches, without touching a weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mho import noise
from mho.chip import keeping_modes, matrices
from mho.converter import RANGE_CAP, Dac
from mho.errors import MhoError
from mho.quantiser import Quantiser, quantisers, summary, unquantised
from mho.run import tile_arrays
from mho.tile import TileArray

Method = Literal["abs_max", "quantile", "mse"]
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
    """Set the learned input ranges of `net` from example batches; returns them by layer. Quantisers of activations start
    from the same batches (R002-02).

    abs_max    the mean over batches of the largest |x| of each tile, capped at 10 (R003-62)
    quantile   the mean over batches of this quantile of |x|
    mse        starts from abs_max and takes, for each tile, the range with the smallest MVM error (R003 Eq. 20) on the
               inputs seen, ADC and all noise included; never worse than the start on them (Lammie et al., ISCAS 2024)

    Layers compute exact products while they are watched, so that one layer's start value cannot distort the next
    one's inputs. `batches` are passed to `net` as they are; `forward(net, batch)` says otherwise (for pairs of inputs
    and labels the default takes the first).
    """
    watched = {q: Summaries() for q in quantisers(net) if q.what == "activations"}
    if not tile_arrays(net) and not watched:
        raise MhoError("this model has no analog layers; convert it first: net = mho.to_analog(model, hw)")
    arrays = [a for a in tile_arrays(net) if isinstance(a.spec.dac, Dac) and a.spec.dac.range == "learned"]
    seen = {a: Seen(a, dac, quantile) for a in arrays}
    with _watching(net, {**seen, **watched}), torch.no_grad():
        for batch in batches:
            run_batch(net, batch, forward)
    if arrays and not any(s.tops for s in seen.values()):
        raise MhoError("calibrate saw no data: `batches` was empty, or no analog layer was called")
    for q, summaries in watched.items():
        summaries.start(q)
    for array, weight in matrices(net):
        if array in seen and seen[array].tops:
            array.input_range.data.copy_(seen[array].range(weight.detach()))
    return {a.name: a.input_range.flatten().tolist() for a in arrays}


def run_batch(net: nn.Module, batch: Any, forward: Callable[[nn.Module, Any], Any] | None = None) -> Any:
    """The outputs of `net` for a batch: of its first part where it is a pair, or as `forward(net, batch)` says."""
    if forward is not None:
        return forward(net, batch)
    return net(batch[0] if isinstance(batch, (tuple, list)) else batch)


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
        start = torch.where(mean > 0, mean, torch.ones_like(mean)).clamp(max=RANGE_CAP)
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


class Summaries:
    """What a quantiser of activations was given."""

    def __init__(self) -> None:
        self.batches: list[tuple[Tensor, Tensor, Tensor]] = []

    def note(self, x: Tensor) -> None:
        if x.numel():
            self.batches.append(summary(x.detach()))

    def start(self, quantiser: Quantiser) -> None:
        if self.batches:
            means, tops, lowest = (torch.stack(v) for v in zip(*self.batches))
            quantiser.start_from(means.mean(), tops.mean(), lowest.amin())


@contextmanager
def _watching(net: nn.Module, seen: Mapping[Any, Seen | Summaries]) -> Iterator[None]:
    """Note the inputs of tile arrays and quantisers; evaluation mode, exact products and no quantisation meanwhile."""

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        seen[module].note(args[0])

    hooks = [a.register_forward_pre_hook(note) for a in seen]
    everything = tile_arrays(net)
    try:
        with keeping_modes(net), unquantised(net):
            net.eval()
            for a in everything:
                a.exact = True
            yield
    finally:
        for a in everything:
            a.exact = False
        for h in hooks:
            h.remove()
