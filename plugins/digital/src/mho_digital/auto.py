"""`mho.calibrate(net, batches, method="auto")`: for every layer, the remedies that lower the error of its outputs on a chip."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from mho import Hardware
from mho.effects import CorrectionModule, draws, product
from mho.ground import MhoError, Table, Tabular, percent
from mho.tile import Patches, TileArray
from mho.use import chip_on, matrices, session_of
from mho_digital import corrections
from mho_digital.choice import macs
from mho_digital.corrections import Affine, ChannelScaling, GainAndOffset, OutlierChannels, Outliers, Scaling

MIGRATIONS = ("0.2", "0.3", "0.4", "0.5")  # lambda of channel scaling (NORA)
BALANCES = ("range", "energy")  # of the inputs, that noise is proportional to
STARTS = (0.0, 0.25, 0.5, 0.75)  # of the descent to balanced scales: lambda of NORA
STEPS, RATE, OUTPUTS = 30, 0.1, 512  # steps of Adam, the first step, outputs that it sees
FACTORS = (6.0, 3.0, 2.0, 1.5)  # of the quantile, from which on channels are digital; rising cost
RANKS = (4, 8, 16)  # of what is read from the chip along the directions of the inputs; rising cost
MARGIN = 0.98  # of the error without, that scaling has to reach: it costs a multiplication for every input
PREFERRED = 0.93  # "energy" counts as so much better: errors of cells are the same for all vectors, fresh noise averages out
STEP = 2**-0.5  # between input ranges, from the largest input down
WORSE = 3  # ranges in a row that may be worse before the search ends
Part = TypeVar("Part", bound=CorrectionModule)
VECTORS = 192  # of the inputs, that ways are compared on
SHARES = (1.0, 0.84, 0.71, 0.59)  # of the conductance range of a column, that are tried
CHIPS = 2  # that they are tried on
SIGMAS = 4.0  # of a column's outputs that must fit the ADC


@dataclass(frozen=True)
class Remedy:
    """What `auto` did to one weight matrix, and the mean of |y - y~|/max(|y|, median |y|) over calibration vectors before and
    after."""

    name: str
    before: float
    after: float
    scaling: str  # of channels: "range", "energy", lambda of NORA, or "" for none
    channels: int  # that are digital
    share: float  # of the multiply-adds of this matrix that are digital
    range: float | None  # the input range as a share of the largest input; None: not changed
    columns: float = 1.0  # the mean share of the largest weight that fills the conductance range
    rank: int = 0  # directions of the inputs whose errors are repaired


class Remedies(Tabular, tuple[Remedy, ...]):
    """One entry for every weight matrix that calibration has reached; print it for a table."""

    share: float = 0.0  # of all multiply-adds that are digital

    def as_table(self) -> Table:
        rows = [
            (
                r.name,
                percent(r.before),
                percent(r.after),
                r.scaling,
                str(r.channels or ""),
                str(r.rank or ""),
                f"{percent(r.share, 2)} %" if r.share else "",
                "" if r.range is None else f"{r.range:.2f} max",
                "" if r.columns == 1 else f"{r.columns:.2f} max",
            )
            for r in self
        ]
        head = ["matrix", "error % before", "after", "scaling", "channels", "rank", "digital", "input range", "conductance range"]
        return Table(head, rows, note=f"{len(self)} weight matrices, {percent(self.share, 2)} % of the multiply-adds digital")


@dataclass(frozen=True)
class Found:
    """A way to run a matrix, its error, and what it costs."""

    tensors: tuple[Tensor, ...]  # those of `_tensors`
    remedy: Remedy
    macs: int  # digital multiply-adds for every vector

    @torch.no_grad()
    def put(self, array: TileArray, weight: Tensor) -> None:
        for now, then in zip(_tensors(array), self.tensors):
            now.copy_(then)
        array.settle(weight)


def auto(net: nn.Module, inputs: dict[TileArray, Tensor], budget: float) -> Remedies:
    """Choose remedies for the arrays whose `inputs` [vector, in] are given: see `mho.calibrate`. Raises `MhoError` for a
    network with a chip, and for a budget that is no share."""
    if torch.is_inference_mode_enabled():
        raise MhoError("method='auto' takes derivatives: not inside torch.inference_mode(), but torch.no_grad() is fine")
    if chip_on(net) is not None:
        raise MhoError("method='auto' changes what is written to the tiles: take the chip off first, mho.unprogram(net)")
    if not (isinstance(budget, (int, float)) and 0 <= budget <= 1):
        raise MhoError(f"budget is a share of the multiply-adds, from 0 to 1, got {budget!r}")
    equip(net, RANKS[-1] if budget else 0)
    hardware = session_of(net).hardware
    time = hardware.times[-1] if hardware is not None else 0.0
    weights = {a: w.detach() for a, w in matrices(net) if a in inputs}
    progress = tqdm(weights.items(), "calibration", leave=False, disable=len(weights) < 50)
    found = {a: list(Search(a, w, inputs[a], time).levels(budget > 0)) for a, w in progress}
    total = sum(macs(a) for a in found)
    chosen = _within(found, budget * total)
    for array, f in chosen.items():
        f.put(array, weights[array])
    made = Remedies(f.remedy for f in chosen.values())
    made.share = sum(f.macs for f in chosen.values()) / max(1, total)
    return made


def equip(net: nn.Module, rank: int) -> None:
    """Give every array the corrections that `auto` sets, where it lacks them, with directions up to a `rank`; the hardware of
    the network says so then."""
    specs: tuple[Any, ...] = OutlierChannels(), ChannelScaling(), Affine(rank=rank)
    missing = set()
    for array, _ in matrices(net):
        for spec in specs:
            if not any(isinstance(c.spec, type(spec)) for c in array.corrections):
                array.corrections.append(spec.module(array.matrix).to(array.gamma.device, array.gamma.dtype))
                missing.add(spec.KIND)
        _part(array, GainAndOffset).rank.zero_()  # directions are bought, whoever listed them
    session = session_of(net)
    if missing and session.hardware is not None:
        data = session.hardware.to_data()
        for tile in data["tiles"].values():
            own = tile.setdefault("corrections", [])
            new = missing.difference(c["kind"] for c in own)
            tile["corrections"] = [*own, *(s.model_dump() for s in specs if s.KIND in new)]
        session.hardware = Hardware.from_data(data)


@dataclass(frozen=True)
class Search:
    """One weight matrix on one trial chip at an age of `time` seconds, and some inputs x [vector, in] of its layer."""

    array: TileArray
    weight: Tensor
    x: Tensor
    time: float

    def levels(self, more: bool) -> Iterator[Found]:
        """The best way without digital operations; and if `more` may be, those with more and more digital channels, then
        directions, that lower the error further."""
        array, outliers, affine = self.array, _part(self.array, Outliers), _part(self.array, GainAndOffset)
        chip, before = array.chip, self.error()
        start = Remedy(array.name, before, before, "", 0, 0.0, None)
        best = self._found(start)
        plain, *scaled = self._scaled(torch.zeros_like(outliers.digital), start)
        best = min(best, plain, key=lambda f: f.remedy.after)
        worth = [f for f in scaled if f.remedy.after < MARGIN * best.remedy.after] or [best]
        best = self._with_columns(min(worth, key=lambda f: f.remedy.after * (PREFERRED if f.remedy.scaling == "energy" else 1)))
        yield best
        for factor in FACTORS if more else ():
            digital = outliers.chosen(self._x(), factor)
            if torch.equal(digital, best.tensors[0]):
                continue
            better = self._with_columns(self._way(digital, best.remedy.scaling, start))
            if better.remedy.after < best.remedy.after:
                best = better
                yield best
        for rank in RANKS if more else ():
            best.put(array, self.weight)
            if int(affine.rank) < rank <= affine.spec.rank:
                affine.rank.fill_(rank)
                better = self._found(replace(best.remedy, after=self.error()))
                if better.remedy.after < best.remedy.after:
                    best = better
                    yield best
        array.chip = chip

    def _scaled(self, digital: Tensor, start: Remedy) -> Iterator[Found]:
        """Without scaling, with balanced channels, and where all vectors share one input range also with the scales of NORA."""
        for scaling in ("", *BALANCES, *(MIGRATIONS if self.array.learns_range else ())):
            yield self._way(digital, scaling, start)

    def _way(self, digital: Tensor, scaling: str, start: Remedy) -> Found:
        """With these digital channels, this scaling, and the best input range."""
        array, outliers = self.array, _part(self.array, Outliers)
        outliers.digital.copy_(digital)
        cells, w = array.matrix.cells, outliers.weights(self._w())
        channels = outliers.inputs(self._x().unflatten(1, (-1, cells)).mT.flatten(0, 1))  # [vector * cell, channel]
        given, scale = channels.unflatten(0, (-1, cells)).mT.flatten(1), _part(array, Scaling).scale
        scale.fill_(1)
        if scaling in BALANCES:
            scale.copy_(balanced(array, given, w, scaling))
        elif scaling:
            scale.copy_(_part(array, Scaling).scales(given, w, float(scaling)))
        array.remap(self.weight)
        return self._ranged(replace(start, scaling=scaling, channels=int(digital.sum())))

    def _ranged(self, about: Remedy) -> Found:
        """With the best input range, where there is one to choose."""
        array = self.array
        given = array.layout.cut(array.dac_inputs(Patches(self._x())).rows())
        top = given.abs().amax((0, 2))[:, None]
        top = torch.where(top > 0, top, torch.ones_like(top))
        self.program()
        if not array.learns_range:
            return self._found(replace(about, after=self.read()))
        errors = [self.read(top)]
        while len(errors) <= (best := errors.index(min(errors))) + WORSE:
            errors.append(self.read(top * STEP ** len(errors)))
        array.input_range.copy_(top * STEP**best)
        return self._found(replace(about, after=errors[best], range=STEP**best))

    def _with_columns(self, best: Found) -> Found:
        """With other conductance ranges: from the statistics of columns where these saturate the ADC, and for every column the
        share of it that leaves the smallest squared error; smaller ranges clip the largest weights, and lift the others."""
        array = self.array
        best.put(array, self.weight)
        x = array.layout.cut(array.dac_inputs(Patches(self._x(1))).rows())  # other vectors and chips than it is judged on
        start = columns(array, self.weight, x, array.gamma.clone())
        factor, errors = array.output_factor(), []
        exact = product(x, array.on_tiles(self._w())) * factor
        weight = corrections.sizes(exact.flatten(1)) ** -2
        for share in SHARES:
            array.gamma.copy_(start * share)
            total, target = torch.zeros_like(start), product(x, array.normalised(self._w())) * (array.gamma * factor)
            for k in range(CHIPS):
                self.program(k + 1)
                y = array.trace(array.layout.join(x), self.weight, "auto")["digital"]
                gain, offset, _ = corrections.fitted(y.flatten(1), target.flatten(1), weight)
                total += ((y.flatten(1) * gain + offset - exact.flatten(1)).square() * weight[:, None]).mean(0).view_as(start)
            errors.append(total)
        chosen = torch.tensor(SHARES, device=start.device, dtype=start.dtype)[torch.stack(errors).argmin(0)]
        array.gamma.copy_(start * chosen)
        found = self._found(replace(best.remedy, after=self.error(), columns=float(chosen.mean())))
        return found if found.remedy.after < best.remedy.after else best

    def _found(self, remedy: Remedy) -> Found:
        affine, tensors = _part(self.array, GainAndOffset), tuple(t.detach().clone() for t in _tensors(self.array))
        operations = _part(self.array, Outliers).operations + affine.operations
        return Found(tensors, replace(remedy, share=operations / macs(self.array), rank=int(affine.rank)), operations)

    # -- measuring ----------------------------------------------------------------------------------------------
    def program(self, k: int = 0) -> None:
        self.array.program(self.weight, draws.key("calibrate", k), self.time)

    def error(self) -> float:
        self.program()
        return self.read()

    def read(self, ranges: Tensor | None = None) -> float:
        """The mean of |y - y~|/max(|y|, median |y|) over vectors: every vector counts alike, however large it is, since layers of
        a transformer normalise what they are given, but for those that are almost 0. Where gains and offsets of one half of
        the vectors lower it on the other, as they will be read from the chip, the error that they leave."""
        array, x, w = self.array, self._x(), self._w()
        given = array.dac_inputs(Patches(x)).rows()
        y = array.trace(given, self.weight, "auto", ranges)["outputs"]
        tiles = product(array.layout.cut(given), array.normalised(w)) * (array.gamma * array.output_factor())
        exact = array.layout.join_groups(array.layout.split_groups(x) @ array.scaled(w).mT)
        for c in (c for c in array.corrections if c.adds):
            exact = c.outputs(exact, lambda: x, w)
        size = corrections.sizes(exact)
        if len(x) < 2:
            return 0.0
        z = x @ corrections.directions(x, int(_part(array, GainAndOffset).rank))
        halves, found = (slice(0, None, 2), slice(1, None, 2)), torch.zeros(2)
        for a, b in (halves, halves[::-1]):
            gain, offset, low = corrections.fitted(y[a], array.layout.add_up(tiles)[a], size[a] ** -2, z[a])
            repaired = self._behind(gain * y + offset + z @ low)
            found += torch.tensor([corrections.relative(z[b], exact[b], size[b]) / 2 for z in (self._behind(y), repaired)])
        return float(found.min())

    def _behind(self, y: Tensor) -> Tensor:
        """The outputs of the layer for those of its tiles."""
        for c in self.array.corrections:
            y = c.outputs(y, self._x, self.array.scaled(self._w()))
        return y

    def _w(self) -> Tensor:
        return self.weight.to(torch.float64 if self.weight.dtype == torch.float64 else torch.float32)

    def _x(self, first: int = 0) -> Tensor:
        return self.x[first :: max(1, len(self.x) // VECTORS)].to(self._w().dtype)


def _within(found: dict[TileArray, list[Found]], macs: float) -> dict[TileArray, Found]:
    """Of every array one way: the upgrades that lower the error most for their cost, as long as all cost at most `macs`."""
    chosen = {a: ways[0] for a, ways in found.items()}
    left = {a: ways[1:] for a, ways in found.items()}

    def worth(array: TileArray) -> float:
        now, then = chosen[array], left[array][0]
        return (now.remedy.after - then.remedy.after) / max(1, then.macs - now.macs)

    while waiting := [a for a in left if left[a]]:
        array = max(waiting, key=lambda a: (worth(a), a.name))
        upgraded = {**chosen, array: left[array].pop(0)}
        if sum(f.macs for f in upgraded.values()) <= macs:
            chosen = upgraded
        else:
            left[array].clear()
    return chosen


def balanced(array: TileArray, x: Tensor, w: Tensor, balance: str) -> Tensor:
    """Scales s [channel] that minimise the power of noise which is proportional to the conductance range of a column and to
    the size of the inputs: the sum over tiles of (sum_j max_k (s_k w_jk)^2) (mean_t a_t^2), with a_t^2 the largest
    (x_tk/s_k)^2 ("range": noise of the periphery) or their sum about the mean ("energy": noise of cells, of which offsets
    repair the mean), of vectors weighted by 1/max(|y|, median |y|)^2."""
    layout, scaling, cells = array.layout, _part(array, Scaling), array.matrix.cells
    size = corrections.sizes(layout.join_groups(layout.split_groups(x) @ w.mT))[:, None]
    if energy := balance == "energy":
        x = x - (x / size**2).sum(0) / (size**-2).sum()
    ws, xs = layout.cut_weight(w).square(), layout.cut(x / size).square()
    if energy:
        xs = xs.mean(0, keepdim=True)
    ws = ws[:, :: max(1, ws.shape[1] // OUTPUTS)]

    def power(u: Tensor) -> Tensor:
        s = layout.cut(u.repeat_interleave(cells)).exp().square()
        inputs = (xs / s).sum(-1) if energy else (xs / s).max(-1).values
        return ((ws * s[:, None]).max(-1).values.sum(1) * inputs.mean(0)).sum()

    start = min((scaling.scales(x, w, m).log() for m in STARTS), key=power)
    with torch.enable_grad():
        u = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([u], lr=RATE)
        for k in range(STEPS):
            optimizer.param_groups[0]["lr"] = RATE * (1 - k / STEPS)
            optimizer.zero_grad()
            power(u).log().backward()
            optimizer.step()
    u = min((start, u.detach() - u.detach().mean()), key=power)
    return u.exp().clamp(corrections.LEAST, corrections.MOST)


def columns(array: TileArray, weight: Tensor, x: Tensor, before: Tensor) -> Tensor:
    """Conductance ranges [tile, out] from the statistics of column outputs (Lammie et al., ISCAS 2024): where
    |mean| + 4 sigma of y/(alpha gamma) is beyond the bound of the ADC, gamma grows until it is not."""
    bound = array.view.geometry.bound
    if bound == float("inf"):
        return before
    dac = array.view.dac
    alpha = before.new_ones(1) if dac is None else dac.used_range(x, array.input_range)
    y = product((x / alpha).to(before.dtype), array.on_tiles(weight.to(before.dtype))) / before
    need = y.mean(0).abs() + SIGMAS * y.std(0)
    return before * (need / bound).clamp(min=1.0)


def _tensors(array: TileArray) -> tuple[Tensor, ...]:
    """Everything about an array that `auto` may change, with the digital channels first."""
    rank = _part(array, GainAndOffset).rank
    return _part(array, Outliers).digital, _part(array, Scaling).scale, array.input_range, array.gamma, rank


def _part(array: TileArray, kind: type[Part]) -> Part:
    return next(c for c in array.corrections if isinstance(c, kind))
