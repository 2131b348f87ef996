"""How a weight matrix lies on tiles: cut along its inputs into row tiles, which are a batch axis of every tensor.

Columns do not interact in the analog product, so the output axis stays whole, and `Geometry.blocks` says which physical
tile an output sits on where that matters (R003-23, R003-24).
"""

import math
from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor, nn


def split_evenly(n: int, limit: int, unit: int = 1) -> list[int]:
    """Cut n rows into the fewest parts of at most `limit`, as equal as they go, each a multiple of `unit`
    (the rows of one input channel). 1300 rows of 512 -> 434, 433, 433 (R003-23)."""
    unit = unit if unit <= limit else 1  # a channel larger than a tile has to be cut
    items = n // unit
    parts = max(1, math.ceil(items / (limit // unit)))
    small, extra = divmod(items, parts)
    return [(small + (i < extra)) * unit for i in range(parts)]


BLOCK = 1 << 18  # elements that are worked on at a time: temporaries stay in the cache


def blocks(count: int, width: int, on: torch.device | None = None) -> Iterator[slice]:
    """Slices of `count` rows of `width` elements that fit the cache; one for a compiler, which fuses them, and `on` an
    accelerator."""
    step = max(1, count if torch.compiler.is_compiling() or getattr(on, "type", "cpu") != "cpu" else BLOCK // max(1, width))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


class Layout(nn.Module):
    """Where the weights of one matrix [out, in], or of `groups` equal ones side by side (grouped convolutions), lie.

    Every group is a matrix with tiles of its own: no tile holds two of them, and no cell stands idle between them. The
    groups lie along the tile axis like row tiles, so thousands of them are one batched product.
    Tiles have at most `rows` x `columns` devices; rows are cut in multiples of `unit` (the rows of one input channel), and
    columns in multiples of `lines` (the slices of one output).

    sizes       rows of each row tile of a group; `height` is the largest, the others are padded to it
    row_tiles   the length of the tile axis: row tiles of all groups
    columns     outputs of a group; `block_count` physical tiles lie side by side to hold them
    references  columns behind these that are no outputs: one of each physical tile, or none
    """

    block: Tensor  # [out] number of the column block
    used: Tensor  # [tile, row] 1 where a row is occupied, 0 in the padding
    depth: Tensor  # [tile, row] j/n
    occupied: Tensor  # [tile] rows in use
    tile_of: Tensor  # [in] number of the tile an input feeds

    def __init__(
        self, out_features: int, in_features: int, *,
        rows: int, columns: int, unit: int, groups: int, lines: int = 1, reference: bool = False, device: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.groups, self.in_features = groups, in_features
        self.sizes = split_evenly(in_features // groups, rows, unit)
        self.row_tiles = len(self.sizes) * groups
        self.height = max(self.sizes)
        self.full = len(set(self.sizes)) == 1  # no padding
        self.block_sizes = split_evenly(out_features // groups, columns, lines)
        self.block_count = len(self.block_sizes)
        self.references = self.block_count if reference else 0
        self.columns = out_features // groups + self.references
        self.out_features = groups * self.columns
        self._lay_out(device)

    def _lay_out(self, device: Any) -> None:
        """Tensors of the geometry. They follow from the sizes, so they are no state."""
        n = torch.tensor(self.rows_of_tiles, dtype=torch.float32, device="cpu")
        j = torch.arange(self.height, dtype=torch.float32, device="cpu")
        used = (j < n[:, None]).float()
        buffers = {
            "occupied": n,
            "depth": j / n[:, None] * used,
            "used": used,
            "block": torch.cat([_numbered(self.block_sizes), _numbered([1] * self.references)]),
            "tile_of": _numbered(self.rows_of_tiles),
        }
        for name, value in buffers.items():
            self.register_buffer(name, value.to(device), persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Wherever the array goes: exact, and right also where memory comes without values (`to_empty`)."""
        super()._apply(fn, recurse)
        self._lay_out(self.used.device)
        return self

    @property
    def rows_of_tiles(self) -> list[int]:
        """Rows in use of every tile, of all groups."""
        return self.sizes * self.groups

    def outputs(self, tile: int) -> slice:
        """The outputs that a tile has a part in: those of its group."""
        start = tile // len(self.sizes) * self.columns
        return slice(start, start + self.columns)

    def cut(self, v: Tensor) -> Tensor:
        """Inputs [..., in] -> [..., tile, row], padded with zeros."""
        if self.groups == 1:
            return self._cut(v)
        return self._cut(v.unflatten(-1, (self.groups, -1))).flatten(-3, -2)

    def join(self, v: Tensor) -> Tensor:
        """Inputs [..., tile, row] -> [..., in]: back from `cut`."""
        return torch.cat([v[..., t, :n] for t, n in enumerate(self.rows_of_tiles)], -1)

    def add_up(self, y: Tensor) -> Tensor:
        """Partial sums [vector, tile, out] -> [vector, out]."""
        return y.sum(-2) if self.groups == 1 else y.unflatten(-2, (self.groups, -1)).sum(-2).flatten(1)

    def in_rows(self, w: Tensor) -> Tensor:
        """w [..., tile, out, row] with nothing in the padding, whatever an effect did there."""
        return w if self.full else w * self.used[:, None, :]

    def cut_weight(self, weight: Tensor) -> Tensor:
        """[out, in] or [group, out, in] -> [tile, out, row]."""
        w = self._cut(weight).transpose(-3, -2)
        return w if self.groups == 1 else w.flatten(0, 1)

    def _cut(self, v: Tensor) -> Tensor:
        """The same for one group."""
        if self.full:
            return v.unflatten(-1, (len(self.sizes), self.height))
        missing = [(part, self.height - part.shape[-1]) for part in v.split(self.sizes, -1)]
        return torch.stack([nn.functional.pad(part, (0, n)) if n else part for part, n in missing], -2)

    def spread(self, v: Tensor) -> Tensor:
        """[tile, out] -> the shape of the weight: the value that belongs to every weight."""
        parts = v.t() if self.groups == 1 else v.unflatten(0, (self.groups, -1)).transpose(1, 2)
        return parts.index_select(-1, self.tile_of[: sum(self.sizes)])

    def split_groups(self, v: Tensor) -> Tensor:
        """[vector, group * n] -> [group, vector, n]; unchanged where there is one group."""
        return v if self.groups == 1 else v.unflatten(-1, (self.groups, -1)).transpose(0, 1)

    def join_groups(self, v: Tensor) -> Tensor:
        """Back from `split_groups`."""
        return v if self.groups == 1 else v.transpose(0, 1).flatten(1)

    @property
    def tile_count(self) -> int:
        """Physical tiles: row tiles of all groups times column blocks."""
        return self.row_tiles * self.block_count


def _numbered(sizes: list[int]) -> Tensor:
    """0 as often as the first size says, then 1, and so on."""
    return torch.tensor([number for number, size in enumerate(sizes) for _ in range(size)], dtype=torch.long, device="cpu")
