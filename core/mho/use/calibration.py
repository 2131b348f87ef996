"""Post-training calibration: choose input ranges of tiles and conductance ranges of columns from a few batches.

No weight is touched and nothing is trained (Lammie et al., ISCAS 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mho.effects import draws
from mho.effects.converter import RANGE_CAP, Dac
from mho.effects.nonideality import product
from mho.effects.quantiser import QuantiserModule, quantisers, summary, unquantised
from mho.ground.errors import MhoError
from mho.tile.array import TileArray
from mho.tile.patches import vectors
from mho.tile.session import tile_arrays
from mho.use.chip import keeping_modes, matrices

Method = Literal["max", "quantile", "moving_std", "mse"]
SIGMAS = 3.0  # R003-62
COARSE = tuple(2 ** (k / 2) for k in range(-6, 7))  # of the start: 1/8 ... 8
FINE = tuple(2 ** (k / 16) for k in range(-7, 8))  # of the best of those, in steps of 4 %
COLUMNS = tuple(2 ** (k / 4) for k in range(-8, 5))  # of a column's range: 1/4 ... 2
VECTORS = 512  # of each layer that candidates are compared on
KEPT = 16  # batches whose vectors are kept before they are thinned
CHIPS = 4  # that column ranges are compared on


def calibrate(
    net: nn.Module,
    batches: Iterable[Any],
    dac: Method | None = "max",
    *,
    columns: Literal["grid"] | None = None,
    quantile: float = 0.999,
    forward: Callable[[nn.Module, Any], Any] | None = None,
) -> dict[str, list[float]]:
    """Set the learned input ranges of `net`, and with `columns` its conductance ranges, from example batches. Returns
    the input ranges by layer. Quantisers of activations start from the same batches (R002-02).

    dac: the input range of each tile is
    max          the mean over batches of the largest |x|, capped at 10 (R003-62)
    quantile     the mean over batches of this quantile of |x|, capped
    moving_std   the mean over batches of 3 standard deviations of x, capped (R003-62)
    mse          the one with the smallest MVM error (R003 Eq. 20) on the inputs seen, with ADC and all noise of a chip
                 right after programming; searched around `max` and never worse there than `max` or the range before
    None         left as it is

    columns="grid" then tries, for every column of every tile, to map 1/4 to 2 times the weights that it maps now to the
    full conductance range (a smaller range clips the largest weights and lifts the others out of the noise; a larger one
    keeps the ADC from saturating), and keeps whatever lowers the MVM error of the tile on the inputs seen.

    Layers compute exact products while they are watched, so that one layer's start value cannot distort the next
    one's inputs. `batches` are passed to `net` as they are; `forward(net, batch)` says otherwise (for pairs of inputs
    and labels the default takes the first).
    """
    everything = tile_arrays(net)
    watched = {q: Summaries() for q in quantisers(net) if q.what == "activations"}
    if not everything and not watched:
        raise MhoError("this model has no analog layers; convert it first: net = mho.to_analog(model, hw)")
    learned = [a for a in everything if dac and isinstance(a.spec.dac, Dac) and a.spec.dac.range == "learned"]
    seen = {a: Seen(a, dac, quantile, keep=dac == "mse" or bool(columns)) for a in (everything if columns else learned)}
    with _watching(net, {**seen, **watched}), torch.no_grad():
        for batch in batches:
            run_batch(net, batch, forward)
    if seen and not any(s.tops for s in seen.values()):
        raise MhoError("calibrate saw no data: `batches` was empty, or no analog layer was called")
    for q, summaries in watched.items():
        summaries.start(q)
    with keeping_modes(net), torch.no_grad():
        net.eval()
        for array, weight in matrices(net):
            if array in seen and seen[array].tops:
                _set_ranges(array, weight.detach(), seen[array], dac if array in learned else None, bool(columns))
    return {a.name: a.input_range.flatten().tolist() for a in learned}


def run_batch(net: nn.Module, batch: Any, forward: Callable[[nn.Module, Any], Any] | None = None) -> Any:
    """The outputs of `net` for a batch: of its first part where it is a pair, or as `forward(net, batch)` says."""
    if forward is not None:
        return forward(net, batch)
    return net(batch[0] if isinstance(batch, (tuple, list)) else batch)


def _set_ranges(array: TileArray, weight: Tensor, seen: Seen, dac: Method | None, columns: bool) -> None:
    """Choose the ranges of one matrix."""
    before = array.input_range.detach().clone()
    if dac is not None:
        array.input_range.data.copy_(seen.start())
    if dac != "mse" and not columns:
        return
    with _Trial(array, weight, seen.sample()) as trial:
        if dac == "mse":
            trial.choose_inputs(before)
        if columns:
            trial.choose_columns()
        if dac == "mse" and columns:
            trial.choose_inputs(array.input_range.detach().clone())


class Seen:
    """What one tile array was given while it was watched."""

    def __init__(self, array: TileArray, method: Method | None, quantile: float, keep: bool) -> None:
        self.array, self.method, self.quantile, self.keep = array, method, quantile, keep
        self.tops: list[Tensor] = []  # one [tile] per batch
        self.inputs: list[Tensor] = []  # [vector, tile, row]

    def note(self, x: Tensor) -> None:
        xs = self.array.cut(x.detach().reshape(-1, self.array.in_features).float())
        if not len(xs):
            return
        if not torch.isfinite(xs).all():
            raise MhoError(f"calibrate met NaN or infinite inputs at layer {self.array.name!r}")
        self.tops.append(self._statistic(xs))
        if self.keep:
            self.inputs.append(_some(xs, VECTORS, len(self.tops)))
            if len(self.inputs) > KEPT:
                self.inputs = [_some(torch.cat(self.inputs), KEPT * VECTORS // 2, len(self.tops))]

    def sample(self) -> Tensor:
        """VECTORS of the inputs, [vector, tile, row], or all where there are fewer."""
        return _some(torch.cat(self.inputs), VECTORS, 0)

    def start(self) -> Tensor:
        """The input range [tile, 1] by the statistic of the method."""
        mean = torch.stack(self.tops).mean(0)[:, None]
        return torch.where(mean > 0, mean, torch.ones_like(mean)).clamp(max=RANGE_CAP)

    def _statistic(self, xs: Tensor) -> Tensor:
        """[tile] of one batch; padding (zeros) does not count."""
        if self.method == "quantile":
            return self._quantile(xs.abs())
        if self.method != "moving_std":
            return xs.abs().amax((0, 2))
        n = self.array.occupied * len(xs)
        mean = xs.sum((0, 2)) / n
        return SIGMAS * (xs.square().sum((0, 2)) / n - mean.square()).clamp(min=0).sqrt()

    def _quantile(self, x: Tensor) -> Tensor:
        """The quantile of x [vector, tile, row] >= 0 for each tile."""
        ordered = x.transpose(0, 1).flatten(1).sort(dim=1, descending=True).values
        rank = ((1 - self.quantile) * self.array.occupied * len(x)).long().clamp(max=ordered.shape[1] - 1)
        return ordered.gather(1, rank[:, None]).squeeze(1)


def _some(x: Tensor, count: int, seed: int) -> Tensor:
    """`count` vectors at random: every so-manieth would pick the same position of every sequence or image."""
    if len(x) <= count:
        return x
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:count]
    return x[chosen.sort().values.to(x.device)]


class _Trial:
    """One matrix on trial chips: what its tiles compute for inputs [vector, tile, row], against the exact products.

    Every candidate sees the same chips and the same noise, so the better one wins and not the luckier one.
    """

    def __init__(self, array: TileArray, weight: Tensor, x: Tensor) -> None:
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        self.array, self.weight, self.x = array, weight, x.to(dtype)
        self.exact = product(self.x, array.cut_weight(array.stored(weight.to(dtype)))) * array.output_factor()

    def __enter__(self) -> _Trial:
        self.chip = self.array.chip_state()
        return self

    def __exit__(self, *_: object) -> None:
        self.array.put_chip_state(self.chip)

    def choose_inputs(self, before: Tensor) -> None:
        """The input range of each tile with the smallest error: a coarse grid around the present one, then a fine one."""
        a = self.array
        self._program(0)
        start, best = a.input_range.detach().clone(), self._error(before)
        a.input_range.data.copy_(before)
        for grid in (COARSE, FINE):
            for factor in grid:
                best = self._keep_better(start * factor, best)
            start = a.input_range.detach().clone()

    def _keep_better(self, ranges: Tensor, best: Tensor) -> Tensor:
        error = self._error(ranges)
        better = error < best
        self.array.input_range.data.copy_(torch.where(better[:, None], ranges, self.array.input_range))
        return torch.where(better, error, best)

    def choose_columns(self) -> None:
        """The conductance range of each column with the smallest squared error; tiles where the columns chosen do not
        lower the error (of whole vectors) keep what they had."""
        start = self.array.gamma.clone()
        errors = torch.stack([self._column_errors(start * f) for f in COLUMNS])  # [candidate, tile, out]
        chosen = start * torch.tensor(COLUMNS, device=start.device, dtype=start.dtype)[errors.argmin(0)]
        better = self._tile_errors(chosen) < self._tile_errors(start)
        self.array.gamma.copy_(torch.where(better[:, None], chosen, start))

    def _column_errors(self, gamma: Tensor) -> Tensor:
        """Mean squared error [tile, out] with these conductance ranges."""
        return self._over_chips(gamma, lambda y: (y - self.exact).square().mean(0))

    def _tile_errors(self, gamma: Tensor) -> Tensor:
        """MVM error [tile] with these conductance ranges."""
        return self._over_chips(gamma, self._mvm_error)

    def _over_chips(self, gamma: Tensor, error: Callable[[Tensor], Tensor]) -> Tensor:
        self.array.gamma.copy_(gamma)
        total = torch.zeros(())
        for k in range(CHIPS):
            self._program(k)
            total = total.to(gamma.device) + error(self.array.trial(self.x, self.array.input_range))
        return total / CHIPS

    def _program(self, k: int) -> None:
        self.array.program(self.weight, draws.key("calibrate", k))

    def _error(self, ranges: Tensor) -> Tensor:
        """MVM error [tile] with these input ranges [tile, 1], on the chip that is on."""
        return self._mvm_error(self.array.trial(self.x, ranges))

    def _mvm_error(self, y: Tensor) -> Tensor:
        """R003 Eq. 20 of every tile [tile], y [vector, tile, out]."""
        size = self.exact.norm(dim=-1).mean(0).clamp(min=1e-12)
        return (y - self.exact).norm(dim=-1).mean(0) / size


class Summaries:
    """What a quantiser of activations was given."""

    def __init__(self) -> None:
        self.batches: list[tuple[Tensor, Tensor, Tensor]] = []

    def note(self, x: Tensor) -> None:
        if x.numel():
            self.batches.append(summary(x.detach()))

    def start(self, quantiser: QuantiserModule) -> None:
        if self.batches:
            means, tops, lowest = (torch.stack(v) for v in zip(*self.batches))
            quantiser.start_from(means.mean(), tops.mean(), lowest.amin())


@contextmanager
def _watching(net: nn.Module, seen: Mapping[Any, Seen | Summaries]) -> Iterator[None]:
    """Note the inputs of tile arrays and quantisers; evaluation mode, exact products and no quantisation meanwhile."""

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        seen[module].note(vectors(args[0]))

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
