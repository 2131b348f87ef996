"""The page of a footprint: what a network needs on tiles, drawn."""

import math
from pathlib import Path

from mho.config import Hardware
from mho_lab.footprint.counting import Footprint, MatrixFootprint
from mho_lab.report.blocks import code, facts, shown, table, tiles, write_page
from mho_lab.report.figures import TileGrid


def write_footprint(file: Path, found: Footprint, hw: Hardware, task: str, command: str = "") -> Path:
    """Tile map, matrices and totals (Rasch et al. 2023, Table 1), kept for `mho report` too."""
    counted = found.as_table()
    head = [name[:1].upper() + name[1:] for name in counted.head]
    totals = found.totals() | {"utilisation": shown(found.utilisation, percent=True)}
    blocks = [
        tiles("Tiles", [_grid(e, hw) for e in found], note="One square is one tile; filled: what holds weights."),
        table("Matrices", head, counted.rows, note="Rows are inputs, columns outputs; uses and flops are of one sample."),
        facts("Totals", totals),
        code("The hardware", hw.to_yaml(), summary="Resolved hardware file"),
    ]
    headline = (
        f"{task} needs {found.tiles:,} tiles, {shown(found.utilisation, percent=True)} of their cells used, and "
        f"{found.mvms:,} matrix-vector products for a sample."
    )
    if command:
        blocks.append(code("To get this again", command))
    return write_page(file, f"Footprint of {task} on: {hw.description or hw.default}", blocks, headline=headline, keep=True)


def _grid(e: MatrixFootprint, hw: Hardware) -> TileGrid:
    spec = hw.tile(e.tile)
    across = e.groups * math.ceil(e.columns / ((spec.columns - bool(e.references)) // e.lines))
    down = e.tiles // across
    return TileGrid.of(e.name or "(root)", e.groups, e.columns * e.lines, e.rows, down, across, spec.rows, spec.columns)
