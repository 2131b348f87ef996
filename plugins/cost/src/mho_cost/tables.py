"""Cost tables: rows of numbers with source, year, node, basis and band, as YAML that is checked like hardware."""

import math
from collections.abc import Iterator
from importlib import metadata, resources
from pathlib import Path
from typing import Literal, Self

from mho.config import Field, Strict, read, suggest, validated
from mho.ground import MhoError

GROUP = "mho.cost_tables"  # entry points: a name = a package with a folder tables/
Per = Literal["mvm", "operation", "cell_read", "drive", "input_bit", "conversion", "scale", "multiply_add", "byte", "write"]
MACRO = ("mvm", "operation")
INSIDE = ("cell_read", "drive", "input_bit", "conversion")  # what a macro has done when its product is there
ABOUT = ("source", "year", "node", "basis", "band")


class _About(Strict):
    """Where a number comes from; what a row leaves out is that of its table."""

    source: str | None = Field(None, min_length=1, description="who published the number")
    via: str | None = Field(None, min_length=1, description="whose report of the source was read, where not the source itself")
    year: int | None = Field(None, ge=1950, unit="1", description="of the source")
    node: float | None = Field(None, gt=0, unit="1", description="technology node in nm")
    basis: Literal["measured", "simulated", "projected"] | None = Field(None, description="how the source knows")
    band: float | None = Field(None, ge=0, unit="1", description="the true value is within a factor of 1 + band either way")


class CostRow(_About):
    """One number of a table: energy, latency and area of one thing that is counted.

    energy      of each; or `split`, its parts by name; or `model`, for an ADC
    latency     of one macro product, one pass through the array, one conversion, one digital operation, ...
    area        of one macro, cell, row driver, ADC, digital unit
    """

    name: str = Field(min_length=1, description="the component; of rows of one name, that with the fewest sufficient bits")
    per: Per = Field(description="what is counted; operation: one of the 2 rows columns operations of a macro's product")
    energy: float | None = Field(None, ge=0, unit="pJ", description="energy of one")
    split: dict[str, float] = Field({}, description="parts of the energy in pJ, by name, where the source tells them apart")
    model: Literal["adc_survey"] | None = Field(None, description="of an ADC, from bits, `rate` and node: arXiv 2404.06553")
    rate: float | None = Field(None, gt=0, unit="Hz", description="samples per second of one ADC")
    latency: float | None = Field(None, ge=0, unit="ns", description="time for one")
    area: float | None = Field(None, ge=0, unit="um2", description="area of one")
    rows: int | None = Field(None, ge=1, unit="1", description="inputs of a macro")
    columns: int | None = Field(None, ge=1, unit="1", description="outputs of a macro")
    input_bits: int | None = Field(None, ge=1, unit="bit", description="the row is for inputs of at most so many")
    output_bits: int | None = Field(None, ge=1, unit="bit", description="the row is for conversions to at most so many")
    phases: int = Field(1, ge=1, unit="1", description="passes of a tile that are in the numbers of a macro")
    shared: int = Field(1, ge=1, unit="1", description="columns that share an ADC, one after the other")
    units: int = Field(1, ge=1, unit="1", description="how many work at the same time, of digital parts")
    includes: tuple[Per, ...] = Field((), description="what is in the numbers besides")
    note: str = Field("", description="what a reader should know")

    def disagreements(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        if sum(v is not None for v in (self.energy, self.model)) + bool(self.split) > 1:
            yield ("energy",), "expected one of energy, split and model"
        if any(not v >= 0 for v in self.split.values()):
            yield ("split",), "expected energies of at least 0 pJ"
        if self.per in MACRO and (self.rows is None or self.columns is None):
            yield ("per",), f"a row per {self.per} needs rows and columns of the macro"
        if self.model is not None and (self.per != "conversion" or self.rate is None):
            yield ("model",), "adc_survey is for rows per conversion with a rate, e.g. rate: 100 MHz"

    def covers(self, input_bits: int | None, output_bits: int | None) -> bool:
        """Whether the row is for converters of these bits."""
        pairs = ((self.input_bits, input_bits), (self.output_bits, output_bits))
        return all(have is None or (wanted is not None and wanted <= have) for have, wanted in pairs)

    def parts(self, bits: int | None) -> dict[str, float]:
        """Energies in pJ by component; of the model for an ADC of these bits."""
        if self.model is not None:
            return {self.name: adc_energy(bits or 0, self.rate or 0, self.node or 0)}
        each = 2 * (self.rows or 0) * (self.columns or 0) if self.per == "operation" else 1
        named = {f"{self.name}: {part}": v for part, v in self.split.items()} or {self.name: self.energy or 0.0}
        return {name: v * each for name, v in named.items()}

    def area_of(self, bits: int | None) -> float | None:
        """Area in um2."""
        return self.area if self.model is None else adc_area(bits or 0, self.rate or 0, self.node or 0)

    @property
    def time(self) -> float | None:
        """Latency in ns."""
        return 1e9 / self.rate if self.latency is None and self.rate else self.latency


class CostTable(_About):
    """A cost table."""

    cost: Literal[1] = Field(description="version of the format; write 'cost: 1'")
    description: str = Field("", description="what the table is about, for people")
    include: tuple[str, ...] = Field((), description="other tables whose rows are added")
    mix_nodes: bool = Field(False, description="whether rows of different technology nodes may be added up")
    rows: tuple[CostRow, ...] = Field((), description="the numbers")

    def disagreements(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Every row has a source, a year, a node, a basis and a band, of its own or of the table."""
        for i, row in enumerate(self.rows):
            if missing := [n for n in ABOUT if getattr(row, n) is None and getattr(self, n) is None]:
                what = ", ".join(missing)
                yield ("rows", i), f"{row.name!r} has no {what}: a number needs all of {', '.join(ABOUT)}, here or for the table"
        if not self.include:
            yield from self.incomplete()

    def incomplete(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """The analog product must be paid for, and once."""
        have = {row.per for row in self.rows}
        macro, inside = have & set(MACRO), have & set(INSIDE)
        if macro and inside:
            yield ("rows",), f"rows per {min(macro)} and per {min(inside)} would count the same energy twice"
        missing = {"cell_read", "conversion"} - have | ({"drive"} if not have & {"drive", "input_bit"} else set())
        if not macro and missing and (inside or not have):
            yield ("rows",), f"no row per {', '.join(sorted(missing))}: expected these, or a macro with a row per mvm"

    @property
    def nodes(self) -> tuple[float, ...]:
        return tuple(sorted({row.node for row in self.rows if row.node is not None}))

    @classmethod
    def from_file(cls, file: str | Path, chain: tuple[str, ...] = ()) -> Self:
        """Read and check a table; rows of what it includes come first, each with all that is known about it. Raises `ConfigError`
        with the place of every mistake."""
        tree, here = read(Path(file)), str(file)
        if here in chain:
            raise MhoError(f"cost tables include each other in a circle: {' -> '.join((*chain, here))}")
        table = validated(cls, tree)
        known = {n: getattr(table, n) for n in (*ABOUT, "via")}
        own = [row.model_copy(update={n: v for n, v in known.items() if getattr(row, n) is None}) for row in table.rows]
        others = [cls.from_file(path_of(name, Path(file).parent), (*chain, here)) for name in table.include]
        whole = table.model_copy(update={"rows": (*(r for t in others for r in t.rows), *own)})
        for _, message in whole.incomplete():
            raise MhoError(f"{file}: {message}")
        if len(whole.nodes) > 1 and not whole.mix_nodes:
            nodes = " and ".join(f"{n:g} nm" for n in whole.nodes)
            raise MhoError(f"{file} adds up numbers of {nodes}; write 'mix_nodes: true' in the table if you mean it")
        return whole


def presets() -> dict[str, Path]:
    """The tables of installed distributions, by name."""
    found: dict[str, Path] = {}
    for point in metadata.entry_points(group=GROUP):
        folder = resources.files(point.value).joinpath("tables")
        found |= {p.stem: p for p in sorted(Path(str(folder)).glob("*.yaml"))}
    return found


def path_of(name: str, folder: Path | None = None) -> Path:
    """The file of a table: a preset's, or a path (of an included one relative to the table)."""
    if name.endswith((".yaml", ".yml")):
        return (folder or Path()) / name
    known = presets()
    if name not in known:
        raise MhoError(f"no cost table {name!r}; {suggest(name, known, 'tables')}; or give a YAML file")
    return known[name]


def table_of(table: str | Path | CostTable) -> CostTable:
    """A table, of that name or file."""
    return table if isinstance(table, CostTable) else CostTable.from_file(path_of(str(table)))


# -- the survey of ADCs --------------------------------------------------------------------------------------------
def adc_energy(bits: float, rate: float, node: float) -> float:
    """pJ of one conversion (Andrulis et al., arXiv 2404.06553): `rate` in samples/s of one ADC, `node` in nm.

    SNDR = 6.02 b + 1.76 dB; FOM = min(213.7807 - 2.8719 ln f, 128.3068 + 3.2205 ceil b);
    E = exp(24.5794 + 1.88004 ln n - 2.82913 ln b) / (2 10^((FOM - SNDR)/10))
    """
    merit = min(213.7807 - 2.8719 * math.log(rate), 128.3068 + 3.2205 * math.ceil(bits))
    scale = math.exp(26.0496 - 1.4702 + 1.88004 * math.log(node) - 2.82913 * math.log(bits))
    return scale / (2 * 10 ** ((merit - 6.02 * bits - 1.76) / 10))


def adc_area(bits: float, rate: float, node: float) -> float:
    """um2 of one ADC: exp(1.34619 + 0.99328 ln n + 0.18072 ln f + 0.29912 ln E), E in pJ."""
    energy = adc_energy(bits, rate, node)
    return math.exp(1.34619 + 0.99328 * math.log(node) + 0.18072 * math.log(rate) + 0.29912 * math.log(energy))
