"""What one effect knows in one layer: geometry, conductances, and random numbers that belong to their place.

A site is made for one stage and one call and then thrown away; what stays is the key (which names the chip or the
mini-batch) and the constants that `prepare` computed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from mho.effects import draws, stages
from mho.effects.draws import Key
from mho.effects.stages import Per
from mho.ground import MhoError

T = TypeVar("T")


class Rows(NamedTuple):
    """Rows of the tiles that one weight matrix is cut into. Tiles are padded to the same height; padding is not counted."""

    n: Tensor  # [tile] occupied rows, float
    depth: Tensor  # [tile, row] j/n, 0 next to the sense node
    used: Tensor  # [tile, row] 1 where a row is occupied, 0 in the padding


class Geometry(NamedTuple):
    """What the effects of a layer may know of its tiles."""

    rows: Rows
    columns: int  # outputs of the layer
    blocks: Tensor  # [out] number of the physical tile (column block) an output belongs to
    block_count: int
    g_min: float  # µS
    g_max: float  # µS
    bound: float  # output bound of the ADC in analog units; inf without one
    single: bool = False  # one device, whose weight is all that it conducts
    width: int = 1  # columns of the widest physical tile

    @property
    def idle(self) -> float:
        """Conductance of a device at g_min in units of the mapped range, g_min/(g_max - g_min): what the idle device of a
        pair conducts, where the other one conducts |w| + idle; 0 where there is no pair."""
        return 0.0 if self.single else self.g_min / (self.g_max - self.g_min)

    @property
    def place(self) -> Tensor:
        """[out] the number of every column inside its physical tile."""
        member = torch.nn.functional.one_hot(self.blocks, self.block_count)
        return (member.cumsum(0) * member).sum(1) - 1

    def over_tile(self, v: Tensor) -> Tensor:
        """The mean of v [..., out] over the outputs of each physical tile, at every output again."""
        if self.block_count == 1:
            return v.mean(-1, keepdim=True).expand_as(v)
        member = torch.nn.functional.one_hot(self.blocks, self.block_count).to(v.dtype)  # [out, block]
        return (v @ member / member.sum(0)) @ member.T


class Vectors(NamedTuple):
    """Which vectors a call sees: the first sample's number, samples, positions inside each sample.

    In memory they lie as [again, outer, sample, inner] with outer * inner positions: sample by sample where outer is 1, step by
    step where time comes first; the same ones `again` and again, so that settings can be compared in one call.
    """

    first: int | Tensor  # a tensor in a compiled graph, which so serves all batches
    samples: int
    positions: int
    outer: int = 1
    before: int = 0  # samples of the same mini-batch that other processes compute
    again: int = 1

    def numbers(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The sample and the position of every vector, [vector] as they lie in memory."""
        kept = not torch.compiler.is_compiling()  # a graph must not contain tensors that somebody else keeps
        number = _kept_numbers if kept else _numbers
        sample, position = number(self.samples, self.positions, self.outer, self.again, device)
        return sample + (self.first + self.before), position

    def words(self, k: Key, rest: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Hash words [vector, rest] of a stream: functions of the sample and the position, not of the batch."""
        sample, position = self.numbers(device)
        return draws.rows_at(k, sample[:, None], position[:, None], draws.count(rest, device))


ONE_VECTOR = Vectors(0, 1, 1)


@dataclass(frozen=True)
class Stream:
    """The keys a layer call draws from. In training they come from torch's generator, for a chip from its seed."""

    chip: Key  # one chip, or one mini-batch
    call: Key  # one layer call
    time: float | Key = 0.0  # seconds after programming, or the key of that
    vectors: Vectors = ONE_VECTOR
    quick: bool = False  # normal numbers of 16 bits (`draws.quick_normal`)

    def key(self, per: Per) -> Key:
        """The key of numbers that change with the `chip`, the `time`, the `call`, or (`vector`) with every vector of a call."""
        if per == "chip":
            return self.chip
        if per == "time":
            return self.time if isinstance(self.time, Key) else draws.fold(self.chip, "time", self.time)
        if per == "call":  # a chip's call key is the same for every batch; the batch is told by its first sample
            return draws.fold_words(draws.fold(self.call, "first"), (self.vectors.first, 0))
        return self.call

    def of_sample(self, k: int, vectors: int) -> Stream:
        """The keys of the k-th sample alone, with a chip of its own."""
        chip, call = draws.fold(self.chip, "sample", k), draws.fold(self.call, "sample", k)
        return Stream(chip, call, self.time, Vectors(0, vectors, 1))

    def of_pass(self, k: int) -> Stream:
        """The keys of the k-th pass of an MVM that is read in several: noise per vector is fresh in each."""
        return replace(self, call=draws.fold(self.call, "pass", k))


RowWords = dict[tuple[Per, str], tuple[Tensor, Tensor]]  # hash words of the rows, by `per` and name of a draw


class Half(NamedTuple):
    """One half of the rows, which a kernel of the cells sees: the first (0) or the second (1). Both draw from the same words."""

    number: int
    words: RowWords


@dataclass
class Site:
    """Handed to every method of an effect, and to converters.

    rows, columns, blocks, g_min, g_max, bound   geometry and device range (see `Rows`, `Geometry`)
    target, programmed                           conductances in µS, in `program` and `age`
    zeta, ...                                    whatever `prepare` has set
    module                                       what `build` has returned: the same in every chip, and trained
    """

    geometry: Geometry
    stream: Stream
    path: tuple[int, int]  # hash words of (layer, effect kind, occurrence)
    stage: str
    target: Tensor | None = None
    programmed: Tensor | None = None
    constants: dict[str, Tensor] = field(default_factory=dict)
    part: slice | None = None  # the vectors, or in stages of the weights the outputs, that this call sees; None: all
    half: Half | None = None  # in a kernel of the cells
    module: Any = None  # torch.nn.Module
    kernels: Any = None  # mho_fast.kernels.Kernels of the layer, in stages of the forward pass

    @property
    def rows(self) -> Rows:
        """Rows of every tile: `n` [tile] in use, `depth` [tile, row] = j/n, `used` [tile, row] 1 or 0."""
        return self.geometry.rows

    @property
    def columns(self) -> int:
        """Outputs of a tile, in all its column blocks."""
        return self.geometry.columns

    @property
    def g_max(self) -> float:
        """The largest conductance that is programmed, µS."""
        return self.geometry.g_max

    @property
    def g_min(self) -> float:
        """The smallest conductance that is programmed, µS."""
        return self.geometry.g_min

    @property
    def bound(self) -> float:
        """The largest output of the ADC, in units of one full row; inf without a bound."""
        return self.geometry.bound

    def randn_like(self, t: Tensor, per: Per | None = None, name: str = "") -> Tensor:
        """Standard normal numbers shaped like `t`. `per` says how often they change (default: by stage), `name` tells
        apart several draws of one effect. Asked again with the same `per` and `name`, the numbers are the same."""
        rows, columns = self._rows(t, per, name), t.shape[-1]
        if self.half is not None:
            return draws.normal_half(rows, columns, self.half.number).to(t.dtype)
        z = draws.quick_normal(draws.joined(rows), columns) if self.stream.quick else draws.normal(rows, columns)
        return z.to(t.dtype)

    def rand_like(self, t: Tensor, per: Per | None = None, name: str = "") -> Tensor:
        """Uniform numbers in (0, 1) shaped like `t`; see `randn_like`."""
        rows, columns = self._rows(t, per, name), t.shape[-1]
        if self.half is None:
            return draws.uniform(rows, columns).to(t.dtype)
        return draws.uniform(rows, 2 * columns).split(columns, -1)[self.half.number].to(t.dtype)

    @property
    def compiles(self) -> bool:
        """Whether the hardware file says `compile: true`."""
        return self.kernels is not None and self.kernels.wanted

    def kernel(self, function: Callable[..., T], *args: Any) -> T:
        """`function(*args)`, as a kernel that torch.compile makes where the hardware file says `compile: true`. It must be a
        function of the module that takes tensors only, and not be differentiated."""
        if self.kernels is None:
            return function(*args)
        name = f"kernel {function.__module__}.{function.__qualname__}"
        return self.kernels.run(name, lambda _: function, args, lambda: function(*args), max(t.numel() for t in args))

    def over_tile(self, v: Tensor) -> Tensor:
        """The mean of v [..., out] over the outputs of each physical tile (column block), at every output again."""
        return self.geometry.over_tile(v)

    def _rows(self, t: Tensor, per: Per | None, name: str) -> tuple[Tensor, Tensor]:
        """Hash words of every row of t [..., row]."""
        per = per or stages.TABLE[self.stage].per
        if self.half is None or per == "vector":
            return _reshape(self._words(t, per, name), t.shape[:-1])
        if (per, name) not in self.half.words:
            self.half.words[per, name] = draws.rows_in_front(self.stream.key(per), self.path, (per, name), t.shape[:-1].numel())
        return _reshape(self.half.words[per, name], t.shape[:-1])

    def _words(self, t: Tensor, per: Per, name: str) -> tuple[Tensor, Tensor]:
        k = draws.fold(draws.fold_words(self.stream.key(per), self.path), per, name)
        if per != "vector":
            return draws.rows_of(k, self._cells(t))
        v = self.stream.vectors
        count = v.samples * v.positions * v.again
        if t.shape[0] != (count if self.part is None else len(range(*self.part.indices(count)))):
            raise MhoError(
                f"a draw per vector needs a tensor whose first axis is the {count} vectors of this call, "
                f"got {tuple(t.shape)}; for constants of the chip say per='chip'"
            )
        words = v.words(k, t.shape[1:-1].numel(), t.device)
        return words if self.part is None else (words[0][self.part], words[1][self.part])

    def _cells(self, t: Tensor) -> Tensor:
        """The numbers of the rows of draws for t: all of them, or of a part of the outputs in t [..., out, row]."""
        if self.part is None or not stages.TABLE[self.stage].cells:
            return draws.count(t.shape[:-1].numel(), t.device)
        inside = draws.count(self.columns, t.device)[self.part]
        if t.dim() < 3 or t.shape[-2] != len(inside):
            raise MhoError(
                f"an effect that says cellwise = True draws numbers shaped like its cells, [..., tile, out, row], got "
                f"{tuple(t.shape)}; drop cellwise if a draw is shared by several cells"
            )
        return (draws.count(t.shape[:-2].numel(), t.device)[:, None] * self.columns + inside).flatten()

    def __getattr__(self, name: str) -> Tensor:
        constants: dict[str, Tensor] = self.__dict__.get("constants", {})
        if name in constants:
            return constants[name]
        raise AttributeError(f"site has no {name!r}; constants of a chip are set in prepare(site)")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dataclass_fields__:
            object.__setattr__(self, name, value)
            return
        if self.stage != "prepare" or not isinstance(value, Tensor):
            raise MhoError(
                f"site.{name} can only be set in prepare(site), and to a tensor: effects keep no state, "
                "and random numbers need none (ask again for the same draw)"
            )
        self.constants[name] = value


def _numbers(samples: int, positions: int, outer: int, again: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """See `Vectors.numbers`; the first sample is 0."""
    v, inner = draws.count(samples * positions, device).repeat(again), positions // outer
    sample = v // inner % samples
    return sample, v // (inner * samples) * inner + v % inner


@functools.lru_cache(64)
@torch.inference_mode(False)  # what is kept serves calls outside of it too
def _kept_numbers(samples: int, positions: int, outer: int, again: int, device: torch.device) -> tuple[Tensor, Tensor]:
    return _numbers(samples, positions, outer, again, device)


def _reshape(words: tuple[Tensor, Tensor], shape: torch.Size) -> tuple[Tensor, Tensor]:
    return words[0].reshape(shape), words[1].reshape(shape)
