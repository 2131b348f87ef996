"""Programming and ageing as compiled kernels: one of each for all arrays of a kind, for all chips and all times.

Keys, the names of effects in a layer and the time are arguments. A kernel works on the two halves of the rows at once, since
`draws.normal` draws both from the same hashes; rows of odd length have room for one number more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mho.config import TileSpec
from mho.effects import Geometry, Half, Rows, RowWords, Site, Stream, draws
from mho.tile import Devices, Placed, Plan, Programmed, TileView, keys_at
from mho_fast.kernels import Kernels

Halves = tuple[Tensor, Tensor]


class Kind(NamedTuple):
    """What arrays that share a kernel have in common; the geometry of the halves of their rows."""

    plan: Plan
    spec: TileSpec
    shape: tuple[int, int, int]  # [tile, out, half]
    halves: tuple[Geometry, Geometry]

    @classmethod
    def of(cls, view: TileView) -> Kind:
        geometry, half = view.geometry, _half(view.layout.height)
        parts = [
            geometry._replace(rows=Rows(geometry.rows.n, *(_padded(v)[:, part].clone() for v in geometry.rows[1:])))
            for part in (slice(0, half), slice(half, None))
        ]
        return cls(view.plan, view.spec, (view.layout.row_tiles, view.layout.columns, half), (parts[0], parts[1]))


class HalfRows(Devices):
    """The cells of one half of the rows inside a kernel: `words` are those of `_words`, `shared` what both halves have drawn."""

    def __init__(self, kind: Kind, number: int, words: Tensor, shared: dict[int, RowWords]) -> None:
        self.plan, self.spec = kind.plan, kind.spec
        self.number, self.words, self.shared, self.part = number, words, shared, kind.halves[number]

    @property
    def geometry(self) -> Geometry:
        return self.part

    @property
    def stream(self) -> Stream:
        chip, time = draws.Key(self.words[0], self.words[1]), draws.Key(self.words[2], self.words[3])
        return Stream(chip, chip, time)

    def in_rows(self, w: Tensor) -> Tensor:
        return w  # cells are alone, so nobody sees what is computed in the padding

    def site(self, placed: Placed, stage: str, stream: Stream, **about: Any) -> Site:
        first, half = 4 + 2 * placed.number, Half(self.number, self.shared[placed.number])
        path = (self.words[first], self.words[first + 1])
        return Site(self.geometry, stream, path, stage, half=half, **about)  # type: ignore[arg-type]


def _pair(kind: Kind, words: Tensor) -> tuple[HalfRows, HalfRows]:
    shared: dict[int, RowWords] = {p.number: {} for p in kind.plan.effects}
    return HalfRows(kind, 0, words, shared), HalfRows(kind, 1, words, shared)


def programmed(kernels: Kernels, target: Tensor, key: draws.Key) -> Tensor | None:
    """Conductances [dev, tile, out, row] of the normalised weights `target`; None where no kernel makes them."""
    plan, pairs = kernels.view.plan, (2 if kernels.view.spec.device.pair == "both" else 1,)

    def make(view: TileView) -> Callable[..., None]:
        kind = Kind.of(view)

        def kernel(out: Halves, target: Halves, words: Tensor) -> None:
            for half, w, to in zip(_pair(kind, words), target, out):
                to.copy_(half.programmed(w.view(kind.shape), half.stream).reshape(to.shape))

        return kernel

    return _run(kernels, "programming", plan.program, make, pairs + target.shape, (target,), _words(kernels, key, 0.0))


def aged(kernels: Kernels, chip: Programmed, t: float) -> Tensor | None:
    """Weights [tile, out, row] of a chip at t seconds; None where no kernel makes them."""
    plan = kernels.view.plan

    def make(view: TileView) -> Callable[..., None]:
        kind = Kind.of(view)

        def kernel(out: Halves, target: Halves, g: Halves, words: Tensor, t: Tensor) -> None:
            for half, w, start, to in zip(_pair(kind, words), target, g, out):
                to.copy_(half.aged(start.view(-1, *kind.shape), w.view(kind.shape), t, half.stream).reshape(to.shape))

        return kernel

    cells, time = (chip.target, chip.programmed), torch.tensor(t, dtype=torch.float32)
    words = _words(kernels, chip.key, t)
    return _run(kernels, "ageing", (*plan.age, *plan.fold), make, chip.target.shape, cells, words, time)


def _run(
    kernels: Kernels, name: str, effects: tuple[Placed, ...], make: Callable[[TileView], Callable[..., None]],
    shape: tuple[int, ...], cells: tuple[Tensor, ...], *others: Tensor,
) -> Tensor | None:  # fmt: skip
    """What the kernel `make(view)` writes for these `cells` [..., row], its halves as arguments, and `others`."""
    if not kernels.wants() or name in kernels.refused or not _alone(kernels.view, effects, cells[0]):
        return None
    out = _roomy(shape, cells[0])
    done = kernels.run(name, make, (_halves(out), *map(_halves, cells), *others), lambda: False)
    return _emptied(out, kernels.view) if done is None else None


def _emptied(t: Tensor, view: TileView) -> Tensor:
    """t [..., tile, out, row] with nothing in the padding."""
    for tile, rows in enumerate(view.layout.rows_of_tiles if not view.layout.full else ()):
        t[..., tile, :, rows:] = 0
    return t


def _alone(view: TileView, effects: tuple[Placed, ...], target: Tensor) -> bool:
    """Whether every cell is computed alone, in fp32, from nothing but its conductances."""
    own = any(p.effect.writes("prepare") or p.effect.writes("build") for p in effects)
    return view.cellwise(effects) and not own and target.dtype == torch.float32


def _words(kernels: Kernels, key: draws.Key, t: float) -> Tensor:
    """The words of a chip, of its draws at time t, and of every effect in this layer: int32 [4 + 2 effect]."""
    chip, _, time = keys_at(key, t)
    paths = [word for p in kernels.view.plan.effects for word in p.path]
    return draws.as_tensor([*chip, *time, *paths], kernels.view.layout.used.device)


# -- halves of rows ---------------------------------------------------------------------------------------------
def _half(rows: int) -> int:
    return (rows + 1) // 2


def _padded(t: Tensor) -> Tensor:
    return torch.nn.functional.pad(t, (0, t.shape[-1] % 2))


def laid_out(kernels: Kernels, t: Tensor) -> Tensor:
    """t [tile, out, row] as kernels want it, or else in one piece, as a saved chip has it: same layout, same bits."""
    return _roomy(t.shape, t).copy_(t) if kernels.wants() else t.contiguous()


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
