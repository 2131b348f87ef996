"""Post-training calibration: choose input ranges of tiles and conductance ranges of columns from a few batches.

No weight is touched and nothing is trained (Lammie et al., ISCAS 2024).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from mho.effects import Dac, QuantiserModule, draws, product, quantisers, unquantised
from mho.effects.quantiser import summary
from mho.ground import MhoError
from mho.ground.arguments import choice, number
from mho.tile import Patches, TileArray, tile_arrays, vectors
from mho.use.chip import keeping_modes, matrices
from mho.use.convert import remark

Method = Literal["max", "quantile", "moving_std", "mse"]
SIGMAS = 3.0  # of `moving_std` (Rasch et al. 2023)
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
    cap: float | None = None,
    forward: Callable[[nn.Module, Any], Any] | None = None,
) -> dict[str, list[float]]:
    """Set the learned input ranges of `net`, and with `columns` its conductance ranges, from example batches. Returns
    the input ranges of every tile, by the name of its weight matrix, in the units of the layer's inputs. Quantisers of
    activations start from the same batches.

    dac: the input range of each tile is
    max          the mean over batches of the largest |x|
    quantile     the mean over batches of this quantile of |x|
    moving_std   the mean over batches of 3 standard deviations of x
    mse          the one with the smallest MVM error (Rasch et al. 2023, Eq. 20) on the inputs seen, with ADC and all noise
                 of a chip right after programming; searched around `max` and never worse there than `max` or the range
                 before
    None         left as it is

    Ranges follow the data however large they are. With `cap` no range that a statistic gives (or that the search of `mse`
    starts from) is larger, and `conversion_report(net)` names the layers whose inputs are cut; Rasch et al. 2023 train with
    `cap=10`.

    columns="grid" then tries, for every column of every tile, to map 1/4 to 2 times the weights that it maps now to the
    full conductance range (a smaller range clips the largest weights and lifts the others out of the noise; a larger one
    keeps the ADC from saturating), and keeps whatever lowers the MVM error of the tile on the inputs seen.

    Layers compute exact products while they are watched, so that one layer's start value cannot distort the next
    one's inputs. A batch is passed to `net` as it is, of a tuple or list (inputs and labels) the first part, a mapping
    as keywords; `forward(net, batch)` says otherwise.

    A warning, and `conversion_report(net)`, name layers that no batch has reached: their ranges stay as they were. Raises
    `MhoError` for a network without analog layers, no data, inputs that are NaN or infinite, or an argument that is none of
    those above.
    """
    choice("dac", dac, (*get_args(Method), None))
    choice("columns", columns, ("grid", None))
    quantile = number("quantile", quantile, 0, 1)
    cap = None if cap is None else number("cap", cap, 0)
    if isinstance(batches, (Tensor, Mapping)):
        raise MhoError("batches must be a list (or a loader) of batches, got a single one; write [x]")
    everything = tile_arrays(net)
    watched = {q: Summaries() for q in quantisers(net) if q.what == "activations"}
    if not everything and not watched:
        raise MhoError("this model has no analog layers; convert it first: net = mho.to_analog(model, hw)")
    learned = [a for a in everything if dac and isinstance(a.spec.dac, Dac) and a.spec.dac.range == "learned"]
    seen = {a: Seen(a, dac, quantile, keep=dac == "mse" or bool(columns)) for a in (everything if columns else learned)}
    corrected = {a: Sample() for a in everything if len(a.corrections)}
    if corrected:
        batches = list(batches)
        with watching(net, corrected), torch.no_grad():
            for batch in batches:
                run_batch(net, batch, forward)
        with keeping_modes(net):
            net.eval()
            for array, weight in matrices(net):
                if array in corrected and corrected[array].inputs:
                    array.fit_corrections(corrected[array].some(), weight.detach())
    with watching(net, {**seen, **watched}), torch.no_grad():
        for batch in batches:
            run_batch(net, batch, forward)
    reached = {a for a, s in seen.items() if s.tops}
    if seen and not reached:
        raise MhoError("calibrate saw no data: `batches` was empty, or no analog layer was called")
    for q, summaries in watched.items():
        summaries.start(q)
    with keeping_modes(net), torch.no_grad():
        net.eval()
        for array, weight in matrices(net):
            if array in reached:
                _set_ranges(array, weight.detach(), seen[array], dac if array in learned else None, columns, cap)
    if seen:
        _tell(net, seen, cap if dac else None)
    return {a.name: a.input_range.flatten().tolist() for a in learned}


def run_batch(net: nn.Module, batch: Any, forward: Callable[[nn.Module, Any], Any] | None = None) -> Any:
    """The outputs of `net` for a batch: of its first part where it is a pair, with keywords where it is a mapping (as Hugging
    Face's are), or as `forward(net, batch)` says."""
    if forward is not None:
        return forward(net, batch)
    if isinstance(batch, Mapping):
        return net(**batch)
    return net(batch[0] if isinstance(batch, (tuple, list)) else batch)


def _tell(net: nn.Module, seen: Mapping[TileArray, Seen], cap: float | None) -> None:
    """Let the report name the layers without data, of which a warning tells too, and those whose inputs are cut."""
    without = {a.name for a, s in seen.items() if not s.tops}
    idle = remark(net, "calibration", without, "no batch of calibration reached it")
    if idle:
        warnings.warn(
            f"no batch of calibration reached {', '.join(idle)}: their ranges stay as they were. Give batches that do, or, if "
            "their weights are read past them (F.linear(x, layer.weight)), call the layers",
            stacklevel=3,
        )
    over = {a.name for a, s in seen.items() if cap is not None and s.tops and bool((s.start() > cap).any())}
    remark(net, "cap", over, f"inputs beyond {cap} are cut: calibration was given this cap")


def _set_ranges(array: TileArray, weight: Tensor, seen: Seen, dac: Method | None, columns: str | None, cap: float | None) -> None:
    """Choose the ranges of one matrix."""
    before = array.input_range.detach().clone()
    if dac is not None:
        array.input_range.data.copy_(seen.start() if cap is None else seen.start().clamp(max=cap))
    if dac != "mse" and not columns:
        return
    trial, chip = Trial(array, weight, seen.some()), array.chip
    if dac == "mse":
        trial.choose_inputs(before)
    if columns:
        trial.choose_columns()
    if dac == "mse" and columns:
        trial.choose_inputs(array.input_range.detach().clone())
    array.chip = chip


class Sample:
    """Some of the inputs of a layer, as vectors."""

    def __init__(self) -> None:
        self.inputs: list[Tensor] = []
        self.batches = 0

    def note(self, x: Tensor | Patches) -> None:
        flat = vectors(x).detach()
        self.keep(flat.reshape(-1, flat.shape[-1]).float())

    def keep(self, x: Tensor) -> None:
        """x [vector, ...]"""
        self.batches += 1
        self.inputs.append(_some(x, VECTORS, self.batches))
        if len(self.inputs) > KEPT:
            self.inputs = [_some(torch.cat(self.inputs), KEPT * VECTORS // 2, self.batches)]

    def some(self) -> Tensor:
        """VECTORS of them, or all where there are fewer."""
        return _some(torch.cat(self.inputs), VECTORS, 0)


class Seen(Sample):
    """What the DACs of one tile array were given while it was watched, [vector, tile, row]."""

    def __init__(self, array: TileArray, method: Method | None, quantile: float, keep: bool) -> None:
        super().__init__()
        self.array, self.method, self.quantile, self.keeps = array, method, quantile, keep
        self.tops: list[Tensor] = []  # one [tile] per batch

    def note(self, x: Tensor | Patches) -> None:
        given = self.array.dac_inputs(x if isinstance(x, Patches) else Patches(x))
        xs = self.array.layout.cut(given.rows().detach().float())
        if not len(xs):
            return
        if not torch.isfinite(xs).all():
            raise MhoError(f"calibrate met NaN or infinite inputs at layer {self.array.name!r}")
        self.tops.append(self._statistic(xs))
        if self.keeps:
            self.keep(xs)

    def start(self) -> Tensor:
        """The input range [tile, 1] by the statistic of the method; 1 where all inputs were 0."""
        mean = torch.stack(self.tops).mean(0)[:, None]
        return torch.where(mean > 0, mean, torch.ones_like(mean))

    def _statistic(self, xs: Tensor) -> Tensor:
        """[tile] of one batch; padding (zeros) does not count."""
        n = self.array.layout.occupied * len(xs)
        if self.method == "quantile":
            ordered = xs.abs().transpose(0, 1).flatten(1).sort(dim=1, descending=True).values
            rank = ((1 - self.quantile) * n).long().clamp(max=ordered.shape[1] - 1)
            return ordered.gather(1, rank[:, None]).squeeze(1)
        if self.method == "moving_std":
            mean = xs.sum((0, 2)) / n
            return SIGMAS * (xs.square().sum((0, 2)) / n - mean.square()).clamp(min=0).sqrt()
        return xs.abs().amax((0, 2))


def _some(x: Tensor, count: int, seed: int) -> Tensor:
    """`count` vectors at random: every so-manieth would pick the same position of every sequence or image."""
    if len(x) <= count:
        return x
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:count]
    return x[chosen.sort().values.to(x.device)]


class Trial:
    """One matrix on trial chips: what its tiles compute for inputs [vector, tile, row], against the exact products.

    Every candidate sees the same chips and the same noise, so the better one wins and not the luckier one. Leaves a trial
    chip on the array.
    """

    def __init__(self, array: TileArray, weight: Tensor, x: Tensor) -> None:
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        self.array, self.weight, self.x = array, weight, x.to(dtype)
        self.exact = product(self.x, array.on_tiles(weight.to(dtype))) * array.output_factor()

    def choose_inputs(self, before: Tensor) -> None:
        """The input range of each tile with the smallest error: a coarse grid around the present one, then a fine one; or
        the one `before` [tile, 1], where none is better."""
        ranges = self.array.input_range
        self._program(0)
        start, best = ranges.detach().clone(), self.errors(before)[0]
        ranges.data.copy_(before)
        for grid in (COARSE, FINE):
            for factor in grid:
                error = self.errors(start * factor)[0]
                better = error < best
                ranges.data.copy_(torch.where(better[:, None], start * factor, ranges))
                best = torch.where(better, error, best)
            start = ranges.detach().clone()

    def choose_columns(self) -> None:
        """The conductance range of each column with the smallest squared error; tiles where the columns chosen do not
        lower the error (of whole vectors) keep what they had."""
        start = self.array.gamma.clone()
        squares = torch.stack([self.over_chips(start * f)[1] for f in COLUMNS])  # [candidate, tile, out]
        chosen = start * torch.tensor(COLUMNS, device=start.device, dtype=start.dtype)[squares.argmin(0)]
        better = self.over_chips(chosen)[0] < self.over_chips(start)[0]
        self.array.gamma.copy_(torch.where(better[:, None], chosen, start))

    def over_chips(self, gamma: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of both `errors` with these conductance ranges [tile, out] over the trial chips."""
        self.array.gamma.copy_(gamma)
        found = []
        for k in range(CHIPS):
            self._program(k)
            found.append(self.errors(self.array.input_range))
        mvm, square = (torch.stack(each).sum(0) / CHIPS for each in zip(*found))
        return mvm, square

    def errors(self, ranges: Tensor) -> tuple[Tensor, Tensor]:
        """Of the trial chip that is on, with these input ranges [tile, 1]: the MVM error mean |y - y~| / mean |y| over
        vectors (Rasch et al. 2023, Eq. 20) [tile], and the mean squared error [tile, out]."""
        x = self.array.layout.join(self.x)
        off = self.array.trace(x, self.weight, "trial", ranges)["digital"] - self.exact
        size = self.exact.norm(dim=-1).mean(0).clamp(min=1e-12)
        return off.norm(dim=-1).mean(0) / size, off.square().mean(0)

    def _program(self, k: int) -> None:
        self.array.program(self.weight, draws.key("calibrate", k))


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
def watching(net: nn.Module, seen: Mapping[Any, Sample | Summaries]) -> Iterator[None]:
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
