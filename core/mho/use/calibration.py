"""Post-training calibration: choose input ranges of tiles and conductance ranges of columns from a few batches.

No weight is touched and nothing is trained (Lammie et al., ISCAS 2024). Statistics of the inputs are here; searches come
through the hook `mho_calibrations`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from mho.config import distributions, registry, suggest
from mho.effects import QuantiserModule, quantisers, unquantised
from mho.effects.quantiser import summary
from mho.ground import MhoError, keeping
from mho.ground.arguments import number
from mho.tile import Patches, TileArray, tile_arrays, unwatched, vectors
from mho.use.chip import NO_LAYERS, hearing, keeping_modes, matrices
from mho.use.convert import remark

Forward = Callable[[nn.Module, Any], Any]  # forward(net, batch)
Method = Callable[[TileArray, Tensor, Tensor, Tensor], Tensor]  # see `mho_calibrations`
SIGMAS = 3.0  # of `moving_std` (Rasch et al. 2023)
VECTORS = 512  # of each layer that methods are given


def calibrate(
    net: nn.Module,
    batches: Iterable[Any],
    dac: str | None = "max",
    *,
    columns: str | None = None,
    quantile: float = 0.999,
    cap: float | None = None,
    forward: Forward | None = None,
    method: str | None = None,
    budget: float = 0.0,
) -> Any:
    """Set the learned input ranges of `net`, and with `columns` its conductance ranges, from example batches. Returns
    the input ranges of every tile, by the name of its weight matrix, in the units of the layer's inputs. Quantisers of
    activations start from the same batches.

    dac: the input range of each tile is
    max          the mean over batches of the largest |x|
    quantile     the mean over batches of this quantile of |x|
    moving_std   the mean over batches of 3 standard deviations of x about 0, where the range is
    mse          (of mho-lab) the one with the smallest MVM error (Rasch et al. 2023, Eq. 20) on the inputs seen, with ADC
                 and all noise of a chip right after programming; searched around `max` and never worse there than `max` or
                 the range before
    None         left as it is

    Ranges follow the data however large they are. With `cap` no range that a statistic gives (or that a search starts
    from) is larger, and `conversion_report(net)` names the layers whose inputs are cut; Rasch et al. 2023 train with
    `cap=10`.

    columns="grid" (of mho-lab) then tries, for every column of every tile, to map 1/4 to 2 times the weights that it maps
    now to the full conductance range (a smaller range clips the largest weights and lifts the others out of the noise; a
    larger one keeps the ADC from saturating), and keeps whatever lowers the MVM error of the tile on the inputs seen. Input
    ranges that are searched are searched once more after it.

    method="auto" (of mho-digital) chooses ranges and digital corrections together, for each layer what lowers the error of
    its outputs on a simulated chip, with at most a share `budget` of the multiply-adds of the network digital; it returns,
    in place of the ranges, a table of what it has done. It is for networks without a chip.

    Further methods of all three come from plugins, through the hook `mho_calibrations`. With a chip on the network only those
    digital corrections are fitted anew that change nothing in front of the tiles.

    Layers compute exact products while they are watched, so that one layer's start value cannot distort the next
    one's inputs. A batch is passed to `net` as it is, of a tuple or list (inputs and labels) the first part, a mapping
    as keywords; `forward(net, batch)` says otherwise.

    A warning, and `conversion_report(net)`, name layers that no batch has reached: their ranges stay as they were. Raises
    `MhoError` for a network without analog layers, no data, inputs that are NaN or infinite, or an argument that is none of
    those above.
    """
    if (budget and method is None) or (method is not None and dac not in ("max", None)):
        raise MhoError("a budget belongs to a method, which chooses input ranges too: give method='auto', and no dac")
    of_all: Any = None if method is None else _method("method", method)
    dac = None if of_all else dac
    of_inputs = None if dac in (None, *STATISTICS) else _method("dac", dac, STATISTICS)
    of_columns = None if columns is None else _method("columns", columns)
    quantile = number("quantile", quantile, 0, 1)
    top = math.inf if cap is None else number("cap", cap, 0)
    if isinstance(batches, (Tensor, Mapping)):
        raise MhoError("batches must be a list (or a loader) of batches, got a single one; write [x]")
    arrays = tile_arrays(net)
    summaries = {q: Summaries() for q in quantisers(net) if q.what == "activations"}
    if not arrays and not summaries:
        raise MhoError(NO_LAYERS)
    learned = [a for a in arrays if dac is not None and a.learns_range]
    seen = {a: Seen(a, dac, quantile, keep=bool(of_inputs or of_columns)) for a in (arrays if columns else learned)}
    corrected = {a: Sample(a.name) for a in arrays if len(a.corrections) or of_all}
    result = None
    with keeping_modes(net), unwatched(), torch.no_grad():
        net.eval()
        if corrected:
            batches = list(batches)
            _watch(net, corrected, batches, forward)
            if not of_all:
                _fit(net, corrected, before=True)
        _watch(net, {**seen, **summaries}, batches, forward)
        if not any(s.tops for s in seen.values()) and (seen or (of_all and not any(s.inputs for s in corrected.values()))):
            raise MhoError("calibrate saw no data: `batches` was empty, or no analog layer was called")
        for quantiser, found in summaries.items():
            found.start(quantiser)
        for array, weight in matrices(net):
            if array in seen and seen[array].tops:
                start = seen[array].start(top) if array in learned else None
                _set_ranges(seen[array], weight.detach(), start, of_inputs, of_columns)
        if of_all:
            result = of_all(net, {a: s.some() for a, s in corrected.items() if s.inputs}, budget)
        _fit(net, corrected, before=False)
    without = {a.name for a, s in seen.items() if not s.tops}
    without |= {a.name for a, s in corrected.items() if of_all and not s.inputs}
    remark(
        net, "calibration", without, "no batch of calibration reached it",
        "no batch of calibration reached {}: their ranges stay as they were. Give batches that do, or, if their weights are "
        "read past them (F.linear(x, layer.weight)), call the layers",
    )  # fmt: skip
    over = {a.name for a in learned if seen[a].tops and bool((seen[a].start() > top).any())}
    remark(net, "cap", over, f"inputs beyond {top} are cut: calibration was given this cap")
    return {a.name: a.input_range.flatten().tolist() for a in learned} if result is None else result


def _fit(net: nn.Module, samples: Mapping[TileArray, Sample], before: bool) -> None:
    for array, weight in matrices(net):
        if array in samples and samples[array].inputs and not (before and array.chip):
            array.fit_corrections(samples[array].some(), weight.detach(), before)
            if array.chip is not None:
                array.age(array.chip.time)  # reads gains and offsets anew


def run_batch(net: nn.Module, batch: Any, forward: Forward | None = None) -> Any:
    """The outputs of `net` for a batch: of its first part where it is a pair, with keywords where it is a mapping (as Hugging
    Face's are), or as `forward(net, batch)` says."""
    if forward is not None:
        return forward(net, batch)
    if isinstance(batch, Mapping):
        return net(**batch)
    return net(batch[0] if isinstance(batch, (tuple, list)) else batch)


def _method(argument: str, name: Any, known: Iterable[str] = ()) -> Method:
    """What a plugin calls `argument.name`. Raises `MhoError` where none does, with what to install or what comes nearest."""
    offered, key = registry.named("calibration", everywhere=True), f"{argument}.{name}"
    if key in offered:
        return cast(Method, registry.thing(offered[key]))
    if distribution := distributions.comes_with(key):
        raise MhoError(f"{argument}={name!r} comes with {distribution}: pip install {distribution}")
    ours = (c for added in distributions.ours().values() for c in added.get("calibrations", ()))
    names = [*known, *(k.partition(".")[2] for k in dict.fromkeys((*offered, *ours)) if k.startswith(f"{argument}.")), "None"]
    raise MhoError(f"{argument} cannot be {name!r}; {suggest(str(name), names, 'known')}")


def _set_ranges(seen: Seen, weight: Tensor, start: Tensor | None, of_inputs: Method | None, of_columns: Method | None) -> None:
    """Choose the ranges of one matrix: its input ranges by the statistic `start` (None: they stay), then by methods. Whatever
    chip these try something on, the one that was on comes back."""
    array, chip, before = seen.array, seen.array.chip, seen.array.input_range.clone()

    def choose(ranges: Tensor, method: Method | None, before: Tensor) -> None:
        if method is not None:
            chosen = method(array, weight, seen.some(), before)
            if chosen.shape != ranges.shape:
                raise MhoError(f"a method of calibrate must return ranges {[*ranges.shape]}, not {[*chosen.shape]}")
            ranges.copy_(chosen)

    if start is not None:
        array.input_range.copy_(start)
        choose(array.input_range, of_inputs, before)
    choose(array.gamma, of_columns, array.gamma.clone())
    if start is not None and of_columns is not None:
        choose(array.input_range, of_inputs, array.input_range.clone())
    array.chip = chip if chip is None or chip.range is None or start is None else replace(chip, range=None)


def _watch(net: nn.Module, seen: Mapping[Any, Any], batches: Iterable[Any], forward: Forward | None) -> None:
    """Note what tile arrays and quantisers are given for the batches; products are exact and nothing is quantised meanwhile."""
    arrays, hear = tile_arrays(net), lambda module, args: seen[module].note(args[0])
    with keeping(arrays, "exact"), unquantised(net), hearing(seen, hear):
        for array in arrays:
            array.exact = True
        for batch in batches:
            run_batch(net, batch, forward)


def quantile_of(x: Tensor, count: Tensor, share: float) -> Tensor:
    ordered = x.abs().transpose(0, 1).flatten(1).sort(dim=1, descending=True).values
    return ordered.gather(1, ((1 - share) * count).long().clamp(max=ordered.shape[1] - 1)[:, None]).squeeze(1)


def sigmas(x: Tensor, count: Tensor, share: float) -> Tensor:
    return SIGMAS * (x.square().sum((0, 2)) / count).sqrt()


# Input ranges [tile] of a batch x [vector, tile, row], in which `count` [tile] values are not padding (zeros).
STATISTICS = {"max": lambda x, *_: x.abs().amax((0, 2)), "quantile": quantile_of, "moving_std": sigmas}


class Sample:
    """Some of the inputs of a layer of this name, as vectors."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.inputs: list[Tensor] = []
        self.batches = self.count = 0

    def note(self, x: Tensor | Patches) -> None:
        flat = vectors(x).detach()
        flat = flat.reshape(-1, flat.shape[-1]).float()
        if not torch.isfinite(flat.square().sum()):
            raise MhoError(f"calibrate met inputs at layer {self.name!r} that are NaN, infinite or too large to be squared")
        if len(flat):
            self.keep(flat)

    def keep(self, x: Tensor) -> None:
        """x [vector, ...]: every batch has its share of the vectors that are kept, however many come."""
        self.batches += 1
        self.count += len(x)
        held = sum(map(len, self.inputs))
        share = min(len(x), max(VECTORS - held, round(VECTORS * len(x) / self.count)))
        before = [_some(torch.cat(self.inputs), VECTORS - share, self.batches)] if held + share > VECTORS else self.inputs
        self.inputs = [*before, _some(x, share, self.batches)]

    def some(self) -> Tensor:
        """VECTORS of them, or all where there are fewer."""
        return torch.cat(self.inputs)


class Seen(Sample):
    """What the DACs of one tile array were given while it was watched, [vector, tile, row]."""

    def __init__(self, array: TileArray, method: str | None, quantile: float, keep: bool) -> None:
        super().__init__(array.name)
        self.array, self.quantile, self.keeps = array, quantile, keep
        self.statistic = STATISTICS.get(method or "max", STATISTICS["max"])  # where searches start
        self.tops: list[Tensor] = []  # one [tile] per batch

    def note(self, x: Tensor | Patches) -> None:
        xs = self.array.layout.cut(self.array.dac_inputs(x if isinstance(x, Patches) else Patches(x)).rows().detach().float())
        if not len(xs):
            return
        if not torch.isfinite(xs).all():
            raise MhoError(f"calibrate met NaN or infinite inputs at layer {self.array.name!r}")
        self.tops.append(self.statistic(xs, self.array.layout.occupied * len(xs), self.quantile))
        if self.keeps:
            self.keep(xs)

    def start(self, cap: float = math.inf) -> Tensor:
        """The input range [tile, 1] by the statistic; 1 where all inputs were 0."""
        mean = torch.stack(self.tops).mean(0)[:, None]
        return torch.where(mean > 0, mean, torch.ones_like(mean)).clamp(max=cap)


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


def _some(x: Tensor, count: int, seed: int) -> Tensor:
    """`count` vectors at random: every so-manieth would pick the same position of every sequence or image."""
    if len(x) <= count:
        return x
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:count]
    return x[chosen.sort().values.to(x.device)]
