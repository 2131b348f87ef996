"""One tile of a chip as a SPICE circuit: devices, wires, drivers and virtual grounds, and what ngspice says of it."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from mho.ground import MhoError
from mho.tile import TileArray

WIRES = ("r_word", "r_bit", "r_driver", "r_sense")
NODAL = "circuit.ir_drop_nodal"  # the effect whose wires are taken where none are given


def netlist(array: TileArray, x: Tensor, *, tile: int = 0, block: int = 0, wires: dict[str, float] | None = None) -> str:
    """The physical tile (row tile, column block) of the chip that is on, with voltages x [row] in V at its word lines.

    Nodes: `wpJ_I`, `wmJ_I` on the word lines at +x and -x and `bJ_I` on the bit line, at row J and column I; drivers feed
    column 0 of a word line through r_driver + r_word, the sense node `sI` of column I is a 0 V source below row 0, behind
    r_sense + r_bit. The current of `VS<I>` is what the ADC of the column sees, in A. `wires` are resistances in ohms
    (default: those of circuit.ir_drop_nodal where the tile has it, else 0). Devices have the conductances that were
    programmed. Raises `MhoError` without a chip, and for another number of voltages.
    """
    if array.chip is None:
        raise MhoError(f"no chip is on layer {array.name!r}; program one first: mho.program(net, seed=0)")
    if array.lines is not array.layout:
        raise MhoError(f"layer {array.name!r} has several columns for an output, which the netlist does not know")
    rows, columns = array.layout.rows_of_tiles[tile], (array.layout.block == block).nonzero().flatten()
    if x.shape != (rows,):
        raise MhoError(f"tile {tile} of layer {array.name!r} has {rows} rows: give as many voltages, got {tuple(x.shape)}")
    nodal = next((e for e in array.spec.nonidealities if e.kind == NODAL), None)
    r = dict.fromkeys(WIRES, 0.0) | ({w: float(getattr(nodal, w)) for w in WIRES} if nodal is not None else {}) | (wires or {})
    g = array.chip.programmed[:, tile, columns, :rows].double() * 1e-6
    sign = array.chip.target[tile, columns, :rows].sign()
    plus, minus = g if len(g) == 2 else (g[0] * (sign > 0), g[0] * (sign < 0))
    lines = [f"* {array.name or 'tile'}: row tile {tile}, column block {block}, {rows} rows, {len(columns)} columns"]
    lines += [".options reltol=1e-12 abstol=1e-24 vntol=1e-18 gmin=1e-30 numdgt=16"]
    for name, devices, voltages in (("p", plus, x.double()), ("m", minus, -x.double())):
        lines += _word_lines(name, devices.tolist(), voltages.tolist(), r)
    for i in range(len(columns)):
        lines += [f"VS{i} s{i} 0 0", _wire(f"s{i}", f"b0_{i}", r["r_sense"] + r["r_bit"])]
        lines += [_wire(f"b{j - 1}_{i}", f"b{j}_{i}", r["r_bit"]) for j in range(1, rows)]
    return "\n".join([*lines, ".end", ""])


def _word_lines(name: str, devices: list[list[float]], voltages: list[float], r: dict[str, float]) -> Iterator[str]:
    """The lines at +x (p) or -x (m) with their devices [column][row] in siemens; a device at 0 is an open circuit."""
    for j, volts in enumerate(voltages):
        yield f"V{name}{j} d{name}{j} 0 {volts!r}"
        for i, column in enumerate(devices):
            before, ohms = (f"w{name}{j}_{i - 1}", r["r_word"]) if i else (f"d{name}{j}", r["r_driver"] + r["r_word"])
            yield _wire(before, f"w{name}{j}_{i}", ohms)
            if column[j]:
                yield f"R{name}{j}_{i} w{name}{j}_{i} b{j}_{i} {1 / column[j]!r}"


def _wire(a: str, b: str, ohms: float) -> str:
    """A resistor, or a 0 V source where it has no resistance."""
    return f"R_{a}_{b} {a} {b} {ohms!r}" if ohms else f"V_{a}_{b} {a} {b} 0"


def solved(circuit: str, timeout: float = 600.0) -> Tensor:
    """The currents [column] in A that ngspice finds for a `netlist`. Raises `MhoError` where it is not installed or fails."""
    ngspice = shutil.which("ngspice")
    if ngspice is None:
        raise MhoError("ngspice is not installed; on Debian: apt-get install ngspice")
    sources = [line.split()[0].lower() for line in circuit.splitlines() if line.startswith("VS")]
    control = [".control", "set numdgt=15", "op", *(f"print i({s})" for s in sources), "quit", ".endc", ".end", ""]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tile.cir"
        file.write_text(circuit.removesuffix(".end\n") + "\n".join(control))
        command = [ngspice, "-b", str(file)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, cwd=folder)  # noqa: S603
    found = dict(line.split(" = ") for line in run.stdout.splitlines() if line.startswith("i(vs"))
    if len(found) != len(sources):
        raise MhoError(f"ngspice found no currents: {(run.stderr or run.stdout).strip()[-500:]}")
    return torch.tensor([float(found[f"i({s})"]) for s in sources], dtype=torch.float64)
