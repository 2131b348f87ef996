"""Programming and ageing as compiled kernels: one of each for all arrays of a kind, for all chips and all times.

Keys, the names of effects in a layer and the time are arguments. A kernel works on the two halves of the rows at once, since
`draws.normal` draws both from the same hashes; rows of odd length have room for one number more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from mho.effects import draws
from mho.effects.site import Geometry, Half, Rows, RowWords, Site, Stream
from mho.tile.devices import Stages
from mho.tile.plan import Placed, Plan

if TYPE_CHECKING:
    from mho.config.hardware import TileSpec
    from mho.tile.cells import Cells

Halves = tuple[Tensor, Tensor]


class Kind(NamedTuple):
    """What arrays that share a kernel have in common; the geometry of the halves of their rows."""

    plan: Plan
    spec: TileSpec
    shape: tuple[int, int, int]  # [tile, out, half]
    halves: tuple[Geometry, Geometry]

    @classmethod
    def of(cls, array: Cells) -> Kind:
        geometry, half = array.geometry, _half(array.height)
        parts = [
            geometry._replace(rows=Rows(geometry.rows.n, *(_padded(v)[:, part].clone() for v in geometry.rows[1:])))
            for part in (slice(0, half), slice(half, None))
        ]
        shape = (array.row_tiles, array.columns, half)
        return cls(array.plan, array.spec, shape, (parts[0], parts[1]))


class HalfRows(Stages):
    """The cells of one half of the rows inside a kernel: `words` are those of `_words`, `draws` what both halves share."""

    full = True  # cells are alone, so nobody sees what is computed in the padding

    def __init__(self, kind: Kind, number: int, words: Tensor, draws: dict[int, RowWords]) -> None:
        self.plan, self.spec = kind.plan, kind.spec
        self.number, self.words, self.draws, self.part = number, words, draws, kind.halves[number]

    @property
    def geometry(self) -> Geometry:
        return self.part

    @property
    def stream(self) -> Stream:
        chip, time = draws.Key(self.words[0], self.words[1]), draws.Key(self.words[2], self.words[3])
        return Stream(chip, chip, time)

    def _site(self, placed: Placed, stage: str, stream: Stream, **about: Any) -> Site:
        first, half = 4 + 2 * placed.number, Half(self.number, self.draws[placed.number])
        path = (self.words[first], self.words[first + 1])
        return Site(self.geometry, stream, path, stage, half=half, **about)  # type: ignore[arg-type]


def _pair(kind: Kind, words: Tensor) -> tuple[HalfRows, HalfRows]:
    draws: dict[int, RowWords] = {p.number: {} for p in kind.plan.effects}
    return HalfRows(kind, 0, words, draws), HalfRows(kind, 1, words, draws)


def programmed(array: Cells, eager: Callable[[], Tensor]) -> Tensor:
    """Conductances [dev, tile, out, row] of the target that is on, by a kernel or by `eager`."""
    pairs = (2 if array.spec.device.pair == "both" else 1,)

    def make(kind: Kind) -> Callable[..., None]:
        def kernel(out: Halves, target: Halves, words: Tensor) -> None:
            for cells, w, to in zip(_pair(kind, words), target, out):
                new = cells._programmed(cells._target(w.view(kind.shape)), cells.stream)
                to.copy_(new.reshape(to.shape))

        return kernel

    return _run(array, "programming", array.plan.program, make, pairs + array.target.shape, (array.target,), (), eager)


def aged(array: Cells, eager: Callable[[], Tensor]) -> Tensor:
    """Weights [tile, out, row] at the time of the array."""

    def make(kind: Kind) -> Callable[..., None]:
        def kernel(out: Halves, target: Halves, g: Halves, words: Tensor, t: Tensor) -> None:
            for cells, w, start, to in zip(_pair(kind, words), target, g, out):
                new = cells._aged(start.view(-1, *kind.shape), w.view(kind.shape), t, cells.stream)
                to.copy_(new.reshape(to.shape))

        return kernel

    effects, time = (*array.plan.age, *array.plan.fold), torch.tensor(array.time, dtype=torch.float32)
    cells = (array.target, array.programmed)
    return _run(array, "ageing", effects, make, array.target.shape, cells, (time,), eager)


def _run(
    array: Cells,
    name: str,
    effects: tuple[Placed, ...],
    make: Callable[[Kind], Callable[..., None]],
    shape: tuple[int, ...],
    cells: tuple[Tensor, ...],
    others: tuple[Tensor, ...],
    eager: Callable[[], Tensor],
) -> Tensor:
    """What the kernel `make(kind)` writes for these `cells` [..., row], its halves as arguments, and `others`."""
    if not array.kernels.wants() or name in array.kernels.refused or not _alone(array, effects):
        return eager()
    out = _roomy(shape, array.target)
    arguments = (_halves(out), *map(_halves, cells), _words(array), *others)
    found: Tensor | None = array.kernels.run(name, lambda array: make(Kind.of(array)), arguments, eager)
    return _emptied(out, array) if found is None else found


def _emptied(t: Tensor, array: Cells) -> Tensor:
    """t [..., tile, out, row] with nothing in the padding."""
    for tile, rows in enumerate(array.rows_of_tiles if not array.full else ()):
        t[..., tile, :, rows:] = 0
    return t


def _alone(array: Cells, effects: tuple[Placed, ...]) -> bool:
    """Whether every cell is computed alone, in fp32, from nothing but its conductances."""
    own = any(p.effect.writes("prepare") or p.effect.writes("build") for p in effects)
    return array.cellwise(effects) and not own and array.target.dtype == torch.float32


def _words(array: Cells) -> Tensor:
    """The words of the chip, of its draws at this time, and of every effect in this layer: int32 [4 + 2 effect]."""
    chip, _, time = array._keys_at(array.time)
    paths = [word for p in array.plan.effects for word in p.path]
    return torch.tensor([*chip, *time, *paths], dtype=torch.int32, device=array.gamma.device)


# -- halves of rows ---------------------------------------------------------------------------------------------
def _half(rows: int) -> int:
    return (rows + 1) // 2


def _padded(t: Tensor) -> Tensor:
    return torch.nn.functional.pad(t, (0, t.shape[-1] % 2))


def laid_out(array: Cells, t: Tensor) -> Tensor:
    """t [tile, out, row] as kernels want it, or else in one piece, as a saved chip has it: same layout, same bits."""
    return _roomy(t.shape, t).copy_(t) if array.kernels.wants() else t.contiguous()


def _roomy(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """An empty tensor whose rows, if they are odd, have room for one number more."""
    return like.new_empty(*shape[:-1], 2 * _half(shape[-1]))[..., : shape[-1]]


def _halves(t: Tensor) -> Halves:
    """Both halves of the rows of t [..., row], as [..., half] in two dimensions; of a copy, if t has no room for that."""
    half, count = _half(t.shape[-1]), math.prod(t.shape[:-1])
    room = torch.empty(*t.shape[:-1], 2 * half, device="meta").stride()
    if t.stride() != room or t.untyped_storage().nbytes() < (t.storage_offset() + 2 * half * count) * t.element_size():
        t = _padded(t).contiguous()
    whole = t.as_strided((count, 2 * half), (2 * half, 1))
    return whole[:, :half], whole[:, half:]
