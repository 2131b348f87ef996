"""The chip that is on a network as a table, and a table of measured conductances as a chip."""

from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import mho
from mho.ground import MhoError
from mho.tile import TileArray, tile_arrays
from mho.use import Chip, chip_on
from mho_exchange.tables import AXES, PLACE, Columns, placed, read_table, write_table


def chip_table(net: nn.Module, bits: int = 8) -> Columns:
    """Every device of the chip that is on: its place (see `tables`), and

    block          physical tile, side by side along the outputs
    input, output  of the matrix of the layer
    target_uS      what was to be programmed
    g_uS           what was programmed
    code           the target weight as a whole number, w (2^(bits-1) - 1)
    weight         what its pair stands for now, 1 = the mapped range, at the chip's age, losses of driven lines included

    Raises `MhoError` where no chip is on the network.
    """
    if chip_on(net) is None:
        raise MhoError("no chip is on this network; program one first: mho.program(net, seed=0)")
    parts = [_rows(array, 2 ** (bits - 1) - 1) for array in tile_arrays(net)]
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def write_chip(net: nn.Module, file: str | Path, bits: int = 8) -> Path:
    """Write `chip_table` to a .csv, .npz or .parquet file."""
    return write_table(chip_table(net, bits), file)


def _rows(array: TileArray, top: int) -> Columns:
    chip, layout = array.chip, array.layout
    assert chip is not None
    if array.lines is not layout or array.view.mapping.sliced:
        raise MhoError(f"layer {array.name!r}: its weights are sliced, for which a table has no columns")
    at = (layout.used[:, None, :] > 0).expand_as(chip.programmed).nonzero().unbind(1)  # [device, tile, column, row] each
    device, tile, column, row = at
    first = torch.tensor([0, *layout.rows_of_tiles], device=tile.device).cumsum(0)
    found = {
        "tile": tile, "column": column, "row": row, "device": device,
        "block": layout.block[column], "input": first[tile] + row, "output": tile // len(layout.sizes) * layout.columns + column,
        "target_uS": array.view.target(chip.target)[at], "g_uS": chip.programmed[at],
        "code": (chip.target * top).round().int()[at[1:]], "weight": chip.weights[at[1:]],
    }  # fmt: skip
    return {"layer": np.full(len(tile), array.name)} | {n: v.cpu().numpy() for n, v in found.items()}


def measured_chip(net: nn.Module, table: str | Path, file: str | Path, *, seed: int = 0, partial: bool = False) -> Chip:
    """A chip whose conductances `g_uS` were measured: on the network now, and kept in `file` as `Chip.save` would, so that
    `mho.load_chip` brings it back. It ages, and is read, like any other; the random numbers of that are those of the seed.

    The conductances are taken to be those of the weights that the network has: write the targets with `write_chip`, program
    them, measure. With `partial`, devices that the table does not name are simulated; otherwise that is an error. Raises
    `MhoError` also for layers, places and conductances that cannot be.
    """
    columns = read_table(table, (*PLACE, "g_uS"))
    chip, file = mho.program(net, seed), Path(file)
    arrays = {a.name: a for a in tile_arrays(net)}
    if unknown := set(columns["layer"].tolist()) - set(arrays):
        raise MhoError(f"{table}: the network has no layer {sorted(unknown)[0]!r}; its layers: {', '.join(arrays)}")
    if len(bad := np.flatnonzero(~(columns["g_uS"] >= 0))):
        raise MhoError(f"{table}, row {bad[0] + 1}: a conductance is a number of µS, at least 0; got {columns['g_uS'][bad[0]]}")
    chip.save(file)
    state = load_file(str(file))
    with safe_open(str(file), "pt") as f:
        about = f.metadata()
    for name, array in arrays.items():
        state[f"{name}|programmed"] = _replaced(table, columns, array, partial)
    save_file(state, str(file), metadata=about)
    return mho.load_chip(net, file)


def _replaced(table: str | Path, columns: Columns, array: TileArray, partial: bool) -> Tensor:
    """The conductances of a layer with those that were measured."""
    assert array.chip is not None
    before = array.chip.programmed
    (g,) = placed(table, columns, array.name, before.shape, ("g_uS",))
    unknown = g.isnan() & (array.layout.used[:, None, :].cpu() > 0)
    if unknown.any() and not partial:
        place = dict(zip(AXES, unknown.nonzero()[0].tolist()))
        raise MhoError(f"{table} lacks {int(unknown.sum())} devices of layer {array.name!r}, e.g. {place}; or say partial=True")
    return torch.where(g.isnan(), before.cpu().double(), g).to(before.dtype)
