"""Energy, latency and area of a network: its counts times the rows of a cost table, with bands."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from mho.config import Hardware
from mho.ground import NONE, MhoError, Table, Tabular, json_text
from mho_cost.counts import COUNTED, Counts, LayerCounts, counts
from mho_cost.tables import INSIDE, MACRO, CostRow, CostTable, table_of

BASES = ("measured", "simulated", "projected")
SCALES = (("", 1.0), ("m", 1e-3), ("µ", 1e-6), ("n", 1e-9), ("p", 1e-12), ("f", 1e-15))


def prefix(value: float) -> tuple[str, float]:
    """The prefix with which a value is read best, and its factor."""
    return next((scale for scale in SCALES if abs(value) >= scale[1]), SCALES[-1 if value else 0])


def si(value: float, unit: str) -> str:
    """Three digits with a prefix.

    >>> si(1.2345e-8, "J")
    '12.3 nJ'
    """
    name, factor = prefix(value)
    return f"{value / factor:.3g} {name}{unit}"


def square(value: float) -> str:
    """An area in m^2, as mm² or µm²."""
    return f"{value * 1e6:.3g} mm²" if value >= 1e-8 else f"{value * 1e12:.3g} µm²"


@dataclass(frozen=True)
class Share:
    """What one component of one layer takes in a sample: J and s, m^2 on the chip; `programming` is paid once, not for a sample.

    low, high  energy that the band leaves open; for a macro that is not full, low is also as if idle cells took nothing
    latency    of all uses one after the other; None where the table has no time
    """

    layer: str
    component: str
    energy: float
    low: float
    high: float
    latency: float | None
    area: float | None
    basis: str
    programming: bool = False


@dataclass(frozen=True)
class Cost(Tabular):
    """Cost of a network for one sample; totals are sums over `shares`. Print it for a table."""

    counts: Counts
    table: CostTable
    shares: tuple[Share, ...]
    missing: dict[str, int]  # what is counted and no row is for

    def _running(self) -> list[Share]:
        return [s for s in self.shares if not s.programming]

    @property
    def energy(self) -> float:
        """J for a sample."""
        return sum(s.energy for s in self._running())

    @property
    def band(self) -> tuple[float, float]:
        """Lowest and highest energy in J: bands of all rows in the same direction."""
        return sum(s.low for s in self._running()), sum(s.high for s in self._running())

    @property
    def latency(self) -> float:
        """s: layer after layer, and every stage of a product after the other. What has no time in the table is left out."""
        return sum(s.latency or 0.0 for s in self._running())

    @property
    def interval(self) -> float:
        """s between samples of a full pipeline: the slowest stage of the slowest layer."""
        return max((s.latency or 0.0 for s in self._running()), default=0.0)

    @property
    def throughput(self) -> float | None:
        """Samples per second of a full pipeline."""
        return 1 / self.interval if self.interval else None

    @property
    def power(self) -> float | None:
        """W on average while samples come one after the other."""
        return self.energy / self.latency if self.latency else None

    @property
    def area(self) -> float:
        """m^2; what has no area in the table is left out."""
        return sum(s.area or 0.0 for s in self.shares)

    @property
    def programming(self) -> float:
        """J to program the chip once."""
        return sum(s.energy for s in self.shares if s.programming)

    @property
    def operations(self) -> int:
        """Two for every multiply-add with a weight on tiles."""
        return sum(2 * c.weights * c.uses for c in self.counts)

    def basis(self) -> dict[str, float]:
        """Share of the energy from measured, simulated and projected rows."""
        return {b: sum(s.energy for s in self._running() if s.basis == b) / (self.energy or 1.0) for b in BASES}

    def by(self, what: str) -> dict[str, tuple[float, float, float]]:
        """(energy, low, high) in J by `layer` or `component`."""
        found: dict[str, tuple[float, float, float]] = {}
        for s in self._running():
            a, b, c = found.get(getattr(s, what), (0.0, 0.0, 0.0))
            found[getattr(s, what)] = (a + s.energy, b + s.low, c + s.high)
        return found

    def caveats(self) -> list[str]:
        """What the figures leave out, and where they come from."""
        known = {b: v for b, v in self.basis().items() if v}
        shown = (f"{v:.0%} from {b} rows" if v >= 0.005 else f"less than 1 % from {b} rows" for b, v in known.items())
        said = ["of the energy " + ", ".join(shown)] if known else []
        for name, value in (("time", "latency"), ("area", "area")):
            if without := dict.fromkeys(s.component for s in self._running() if getattr(s, value) is None):
                said.append(f"no {name} in the table for {', '.join(without)}")
        if self.missing:
            said.append("not in the table: " + ", ".join(f"{n:,} per {name}" for name, n in self.missing.items()))
        if len(self.table.nodes) > 1:
            said.append("nodes are mixed: " + ", ".join(f"{n:g} nm" for n in self.table.nodes))
        return said + [f"second-hand: {v}" for v in dict.fromkeys(r.via for r in self.table.rows if r.via)]

    def as_table(self) -> Table:
        rows = []
        for layer, energies in self.by("layer").items():
            of = [s for s in self.shares if s.layer == layer]
            time, area = sum(s.latency or 0 for s in of), sum(s.area or 0 for s in of)
            rows.append((layer or "(root)", *_cells(*energies, time, area), max(of, key=lambda s: s.energy).component))
        rows.append(("total", *_cells(self.energy, *self.band, self.latency, self.area), ""))
        rate = f"{self.throughput:,.0f} samples/s" if self.throughput else NONE
        power = si(self.power, "W") if self.power else NONE
        note = f"{self.table.description}; pipelined {rate}, on average {power}\n" + "\n".join(self.caveats())
        return Table(("layer", "energy", "band", "latency", "area", "most of it"), rows, right=(1, 3, 4), note=note)

    def to_data(self) -> dict[str, Any]:
        names = ["energy", "band", "latency", "interval", "throughput", "power", "area", "programming", "operations", "missing"]
        return {
            **{n: getattr(self, n) for n in names}, "units": "J, s, 1/s, W, m^2", "basis": self.basis(),
            "shares": [asdict(s) for s in self.shares], "counts": self.counts.to_data(),
            "table": self.table.model_dump(mode="json", exclude_defaults=True),
        }  # fmt: skip

    def to_json(self) -> str:
        return json.dumps(json.loads(json_text(self.to_data())), indent=1)


def _cells(energy: float, low: float, high: float, latency: float, area: float) -> tuple[str, ...]:
    return si(energy, "J"), f"{si(low, 'J')} … {si(high, 'J')}", si(latency, "s"), square(area)


def cost(
    model: nn.Module, sample: Any, hw: Hardware | str | None = None, table: str | Path | CostTable = "",
    *, forward: Callable[[nn.Module, Any], Any] | None = None,
) -> Cost:  # fmt: skip
    """What `model` costs on `hw` for `sample` by a cost table, the name of a preset or a file; arguments as for `counts`.

    Raises `MhoError` where the table is not for this hardware: tiles larger than its macro, converters of more bits.
    """
    return estimate(counts(model, sample, hw, forward=forward), table_of(table))


def estimate(found: Counts, table: CostTable) -> Cost:
    """Counts times rows."""
    groups: dict[str, list[CostRow]] = {}
    for row in table.rows:
        groups.setdefault(row.name, []).append(row)
    covered = {row.per for row in table.rows} | {p for row in table.rows for p in row.includes}
    if not covered & {*MACRO, *INSIDE}:
        have = ", ".join(sorted(covered))
        raise MhoError(f"cost table {table.description!r} has no row for products on tiles, only per {have}")
    if covered & set(MACRO):
        covered |= {"mvm", *INSIDE}
    if "drive" in covered or "input_bit" in covered:
        covered |= {"drive", "input_bit"}
    shares = [s for layer in found for rows in groups.values() for s in _shares(layer, rows)]
    missing = {n: v for n in COUNTED if n not in covered and n != "mvm" and (v := sum(getattr(c, n) for c in found))}
    return Cost(found, table, tuple(shares), missing)


def _shares(c: LayerCounts, rows: list[CostRow]) -> Iterator[Share]:
    """One component of one layer, or its parts."""
    digital = rows[0].per == "multiply_add"
    if not (c.multiply_add if digital else c.tile):
        return
    row = rows[0] if digital else _covering(c, rows)
    n, places, turns = _work(c, row)
    used = c.weights * c.slices / (c.tiles * (row.rows or 1) * (row.columns or 1)) if row.per in MACRO else 1.0
    factor, area = 1 + (row.band or 0.0), row.area_of(c.output_bits)
    time, area = row.time and row.time * turns * 1e-9, area and area * places * 1e-12
    for name, each in row.parts(c.output_bits).items():
        e = n * each * 1e-12
        low, high = e * min(1.0, used) / factor, e * factor
        yield Share(c.name, name, e, low, high, time, area, row.basis or "", row.per == "write")
        time = area = 0.0  # the first part has those of all


def _covering(c: LayerCounts, rows: list[CostRow]) -> CostRow:
    """Of the alternatives that fit, the one with the fewest bits. Raises `MhoError` where there is none."""
    for row in rows:
        if row.per in MACRO and (c.tile_rows > (row.rows or 0) or c.tile_columns > (row.columns or 0)):
            want = f"--set tiles.{c.tile}.rows={row.rows} --set tiles.{c.tile}.columns={row.columns}"
            size = f"{c.tile_rows} x {c.tile_columns}"
            raise MhoError(f"tile {c.tile!r} is {size}, and {row.name!r} of the table is {row.rows} x {row.columns}: {want}")
        inputs, outputs = row.per in ("input_bit", "byte"), row.model is not None or row.per == "byte"
        for slot, bits in (("dac", c.input_bits if inputs else 0), ("adc", c.output_bits if outputs else 0)):
            if bits is None:
                said = f"tile {c.tile!r} has an ideal {slot.upper()}, and {row.name!r} goes by its bits"
                raise MhoError(f"{said}: --set tiles.{c.tile}.{slot}.bits=8")
    if not (fitting := [row for row in rows if row.covers(c.input_bits, c.output_bits)]):
        have = " or ".join(f"{r.input_bits or 'any'}-bit inputs and {r.output_bits or 'any'}-bit outputs" for r in rows)
        raise MhoError(
            f"{rows[0].name!r} of the table is for {have}; tile {c.tile!r} has {c.input_bits or 'ideal'} and "
            f"{c.output_bits or 'ideal'}: --set tiles.{c.tile}.dac.bits=… --set tiles.{c.tile}.adc.bits=…"
        )
    return min(fitting, key=lambda row: (row.input_bits or 0, row.output_bits or 0))


def _work(c: LayerCounts, row: CostRow) -> tuple[int, int, int]:
    """How many of what the row is per are counted, how many of the component stand on the chip, and how many turns it takes for
    all vectors of the layer; tiles work side by side."""
    if row.per in MACRO:
        products = -(-c.passes // row.phases)  # of a macro, in which all passes of the tile are made
        return c.mvm * products, c.tiles, products * c.uses
    n, drivers, reads = int(getattr(c, row.per)), c.tiles * c.tile_rows, c.passes * c.uses
    converted = c.converted * c.uses * min(row.shared, c.columns * c.slices, c.tile_columns)
    places_and_turns = {
        "cell_read": (c.cells * c.devices, reads), "drive": (drivers, reads), "input_bit": (drivers, reads * c.pass_bits),
        "conversion": (c.tiles * -(-c.tile_columns // row.shared), converted),
    }  # fmt: skip
    return n, *places_and_turns.get(row.per, (row.units, -(-n // row.units)))
