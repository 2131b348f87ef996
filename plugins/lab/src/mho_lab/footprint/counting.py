"""How much hardware a network needs: tiles, utilisation, MVMs and reuse, as in R003 Table 1 (R003-55).

Counted by running a sample through the converted network and noting every call of every tile array, so shared weights,
recurrences and branches count as often as they really run. Products are exact meanwhile and nothing is drawn; on the
`meta` device (`with torch.device("meta"): model = ...`) no arithmetic is done at all.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn

from mho.config import Hardware, load
from mho.ground import Table, Tabular
from mho.layers import AnalogLayer
from mho.tile import TileArray, tile_arrays
from mho.use import to_analog
from mho_lab.devices import within


@dataclass(frozen=True)
class MatrixFootprint:
    """One weight matrix (of each of `groups` equal ones)."""

    name: str
    type: str
    tile: str
    rows: int
    columns: int
    groups: int
    weights: int
    tiles: int
    cells: int  # of those tiles
    devices: int  # for each weight: 2 where both devices of a pair are there, or as many as the mapping takes
    uses: int  # MVMs with the whole matrix in the sample
    flops: int  # (2 rows + bias) columns, for every use
    lines: int = 1  # columns of one output
    references: int = 0  # devices of reference columns

    @property
    def mvms(self) -> int:
        """MVMs of single tiles."""
        return self.tiles * self.uses


class Footprint(Tabular, tuple[MatrixFootprint, ...]):
    """One entry per weight matrix on tiles; the totals are the columns of R003 Table 1. Print it for a table.

    parameters   all of the model, batch norm and embeddings included
    mapped       weights on tiles, without biases
    utilisation  share of the cells of these tiles that hold a weight
    devices      that hold these weights, and those of reference columns
    mvms         #MVM: how often a tile is used in the sample, summed over tiles
    reuse        #MVM per tile
    flops        operations of the layers on tiles: (2 rows + bias) columns for every use
    """

    parameters: int
    mapped: int
    tiles: int
    utilisation: float
    devices: int
    mvms: int
    reuse: float
    flops: int

    @classmethod
    def of(cls, entries: list[MatrixFootprint], parameters: int) -> Footprint:
        new = cls(entries)
        new.parameters, new.mapped = parameters, sum(e.weights for e in new)
        new.tiles = sum(e.tiles for e in new)
        new.utilisation = sum(e.weights * e.lines for e in new) / max(1, sum(e.cells for e in new))
        new.devices = sum(e.weights * e.devices + e.references for e in new)
        new.mvms = sum(e.mvms for e in new)
        new.reuse, new.flops = new.mvms / max(1, new.tiles), sum(e.flops for e in new)
        return new

    def totals(self) -> dict[str, float]:
        """The row of R003 Table 1."""
        return dict(vars(self))

    def as_table(self) -> Table:
        """What `print` and a notebook show."""
        head = ["matrix", "type", "tile", "groups", "rows", "columns", "tiles", "util %", "devices per weight"]
        head += ["uses", "#MVM", "Mflop"]
        rows = [
            (
                e.name or "(root)", e.type, e.tile, "" if e.groups == 1 else e.groups, e.rows, e.columns, e.tiles,
                f"{100 * e.weights * e.lines / e.cells:.1f}", e.devices, e.uses, e.mvms, f"{e.flops / 1e6:.2f}",
            )
            for e in self
        ]  # fmt: skip
        total = (
            f"{self.parameters:,} parameters, {self.mapped:,} on {self.tiles} tiles "
            f"({self.utilisation:.1%} used, {self.devices:,} devices); "
            f"{self.mvms:,} MVMs, every tile {self.reuse:.1f} times; {self.flops / 1e9:.3g} Gflop"
        )
        return Table(head, rows, right=range(3, 12), note=total)

    def to_json(self) -> str:
        return json.dumps({**self.totals(), "matrices": [asdict(e) for e in self]}, indent=1)


def footprint(
    model: nn.Module,
    sample: Any,
    hw: Hardware | str,
    split: Literal["channel", "row"] | None = None,
    *,
    forward: Callable[[nn.Module, Any], Any] | None = None,
) -> Footprint:
    """What `model` needs on the tiles of `hw` to process `sample`, per weight matrix and in total.

    `split` overrides how rows are cut into tiles: by whole input channels (R003) or anywhere. `sample` goes to
    `forward(model, sample)`; by default a tuple is the arguments and a dict the keyword arguments of the model. Its
    batch counts as it is, so give one sample for figures per inference. A bias is one operation and no cell.
    """
    hw = load(hw)
    hw = load(hw, set=[f"tiles.{name}.split={split}" for name in hw.tiles] if split else ())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        net = to_analog(model, hw).eval()
    uses = tile_uses(net, sample, forward)
    names = {id(spec): name for name, spec in hw.tiles.items()}
    return Footprint.of(_entries(net, uses, names), sum(p.numel() for p in model.parameters()))


def tile_uses(net: nn.Module, sample: Any, forward: Callable[[nn.Module, Any], Any] | None = None) -> Counter[TileArray]:
    """How many vectors every tile array of a converted network multiplies for `sample`. The network stays in mode `exact`."""
    uses: Counter[TileArray] = Counter()

    def note(array: nn.Module, args: tuple[Any, ...]) -> None:
        assert isinstance(array, TileArray)
        uses[array] += args[0].shape[:-1].numel()

    for array in tile_arrays(net):
        array.exact = True
        array.register_forward_pre_hook(note)
    with torch.no_grad():
        if forward is not None:
            forward(net, sample)
        elif isinstance(sample, dict):
            net(**sample)
        else:
            net(*sample) if isinstance(sample, (tuple, list)) else net(sample)
    return uses


def first_sample(batch: Any) -> Any:
    """The first sample of a batch of tensors."""
    if isinstance(batch, torch.Tensor):
        return batch[:1] if batch.dim() else batch
    return within(first_sample, batch)


def _entries(net: nn.Module, uses: Counter[TileArray], names: dict[int, str]) -> list[MatrixFootprint]:
    """One entry per tile array, under the name of the first layer that uses it."""
    entries: dict[TileArray, MatrixFootprint] = {}
    for layer in net.modules():
        if not isinstance(layer, AnalogLayer):
            continue
        for key, a in layer.arrays().items():
            rows, spec = a.layout.in_features // a.layout.groups, a.spec
            entries.setdefault(
                a,
                MatrixFootprint(
                    name=a.name,
                    type=type(layer).__name__.removeprefix("Analog"),
                    tile=names.get(id(spec), ""),
                    rows=rows,
                    columns=a.layout.columns,
                    groups=a.layout.groups,
                    weights=rows * a.layout.columns * a.layout.groups,
                    tiles=a.layout.tile_count,
                    cells=a.layout.tile_count * spec.rows * spec.columns,
                    devices=a.view.slices
                    * len(a.view.target(torch.zeros_like(a.layout.used)[:, None].repeat(1, a.layout.columns, 1))),
                    uses=uses[a],
                    flops=(2 * rows + layer.biased(key)) * a.layout.columns * a.layout.groups * uses[a],
                    lines=a.view.mapping.columns,
                    references=rows * a.lines.references * a.layout.groups,
                ),
            )
    return list(entries.values())
