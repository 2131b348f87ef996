"""Tables of devices as CSV, npz or parquet: one row for each device, the place of which is (layer, tile, column, row, device).

layer    name of the weight matrix, as in a saved chip
tile     row tile: the inputs of a matrix are cut into as many (groups of a convolution one behind the other)
column   output of the matrix (of its group), over all physical tiles side by side
row      of the tile, 0 next to the sense node
device   0, or 1 for the device that subtracts, with `pair: both`
"""

import csv
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mho.ground import MhoError, needed, write_atomically

PLACE = ("layer", "tile", "column", "row", "device")
AXES = ("device", "tile", "column", "row")  # of the tensors of a layer
Columns = dict[str, np.ndarray]


def write_table(columns: Columns, file: str | Path) -> Path:
    """Write columns of one length to .csv, .npz or .parquet (needs pyarrow). Numbers come back to the bit."""
    file = Path(file)
    pyarrow = None if file.suffix in (".csv", ".npz") else _pyarrow(file)

    def write(path: Path) -> None:
        if pyarrow is not None:
            pyarrow.parquet.write_table(pyarrow.table(columns), path)
        elif file.suffix == ".npz":
            with path.open("wb") as f:
                np.savez_compressed(f, **columns)  # type: ignore[arg-type]
        else:
            with path.open("w", newline="", encoding="utf-8") as text:
                csv.writer(text, lineterminator="\n").writerows([columns, *zip(*(c.tolist() for c in columns.values()))])

    return write_atomically(file, write)


def read_table(file: str | Path, required: tuple[str, ...] = PLACE) -> Columns:
    """The columns of a file of `write_table`, or of anybody's with the columns `required`. Raises `MhoError` for a file that
    cannot be read (npz: nothing is unpickled), lacks a column, or has a cell that is no finite number."""
    file = Path(file)
    try:
        if file.suffix == ".csv":
            with file.open(newline="", encoding="utf-8") as f:
                head, *rows = list(csv.reader(f)) or [[]]
            if any(len(row) != len(head) for row in rows):
                raise MhoError(f"{file}: every line must have the {len(head)} cells of the first one")
            columns = {n: np.array(c) for n, c in zip(head, list(zip(*rows)) or [()] * len(head))}
        elif file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as data:
                columns = dict(data)
        else:
            table = _pyarrow(file).parquet.read_table(file)
            columns = {n: table.column(n).to_numpy() for n in table.column_names}
    except (OSError, ValueError, UnicodeDecodeError) as e:
        raise MhoError(f"cannot read {file}: {e}") from None
    if missing := [n for n in required if n not in columns]:
        raise MhoError(f"{file} has no column {', '.join(map(repr, missing))}; it has {', '.join(columns) or 'none'}")
    if len({len(c) for c in columns.values()}) > 1:
        raise MhoError(f"{file}: its columns differ in length")
    return {n: c.astype(str) if n == "layer" else _numbers(file, n, c) for n, c in columns.items()}


def _numbers(file: Path, name: str, column: np.ndarray) -> np.ndarray:
    """As numbers: whole ones for places."""
    try:
        found = np.where(column == "", "nan", column).astype(float) if column.dtype.kind in "USO" else column.astype(float)
    except ValueError as e:
        raise MhoError(f"{file}: column {name!r} holds numbers only: {e}") from None
    wrong = (found != found.round()) | (found < 0) if name in PLACE else np.isinf(found)
    if wrong.any():
        k = int(np.flatnonzero(wrong)[0])
        expected = "a whole number from 0 on" if name in PLACE else "a number"
        raise MhoError(f"{file}, row {k + 1}: expected {expected} in column {name!r}, got {column[k]}")
    return found.astype(np.int64) if name in PLACE else found


def placed(file: str | Path, columns: Columns, layer: str, shape: torch.Size, names: tuple[str, ...]) -> Iterator[Tensor]:
    """The columns `names` for one layer as tensors of this shape [dev, tile, out, row], nan where the table says nothing.
    Raises `MhoError` for places outside of the layer and for a device that comes twice."""
    here = np.flatnonzero(columns["layer"] == layer)
    at = [columns[n][here] for n in AXES]
    for n, index, size in zip(AXES, at, shape):
        if (index >= size).any():
            k = int(here[np.flatnonzero(index >= size)[0]])
            raise MhoError(f"{file}, row {k + 1}: layer {layer!r} has {n} 0 to {size - 1}, got {columns[n][k]}")
    flat = np.ravel_multi_index(at, tuple(shape)) if len(here) else np.zeros(0, int)
    if len(unique := np.unique(flat, return_index=True)[1]) < len(flat):
        k = int(here[np.setdiff1d(np.arange(len(flat)), unique)[0]])
        raise MhoError(f"{file}, row {k + 1}: this device of layer {layer!r} comes twice")
    for n in names:
        found = np.full(shape.numel(), np.nan)
        if n in columns:
            found[flat] = columns[n][here]
        yield torch.from_numpy(found).view(shape)


def _pyarrow(file: Path) -> Any:
    if file.suffix != ".parquet":
        raise MhoError(f"{file}: expected a file name that ends in .csv, .npz or .parquet")
    needed("pyarrow.parquet", "parquet needs pyarrow", "'mho-exchange[parquet]'")
    return importlib.import_module("pyarrow")
