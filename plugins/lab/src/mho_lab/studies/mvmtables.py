"""The studies of one MVM as tables: what `mho mvm` prints, saves and draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from mho.config import format_seconds, load
from mho.effects import Compensation, GlobalDrift, Nonideality
from mho.ground import MhoError
from mho_lab.errorbars import number, percent
from mho_lab.run.product import MvmExperiment, effect_table, standard_mvm_error
from mho_lab.studies import mvm, variants
from mho_lab.studies.mvm import Tick

if TYPE_CHECKING:
    from mho.config import Hardware

BITS = (2, 3, 4, 5, 6, 7, 8)
ALPHAS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.5, 8.0, 10.0, 14.0, 20.0)
CORRELATIONS = (0.0, 0.05)  # rho of R003-53
SPREADS = (0.0, 0.5, 1.0, 1.5, 2.0)  # of the logarithm of the size of a vector
BETAS = (0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0)
ORDERED = (0.0, 0.25, 0.5, 0.75, 1.0)
TARGET = 0.20  # MVM error of R003 Fig. 4


class Row(NamedTuple):
    """One measured value: which curve it is on, the setting (a number, or the name of a bar), the value."""

    series: str
    x: float | str
    value: float | None
    sem: float = math.nan
    note: str = ""


class StudyTable(NamedTuple):
    """A study: what was turned, what was measured, all rows, and a level to compare with."""

    name: str
    title: str
    x: str
    y: str
    rows: tuple[Row, ...]
    percent: bool = True  # values are shares, to be shown in per cent
    log: tuple[str, ...] = ()  # the axes that are logarithmic
    reference: tuple[str, float] | None = None

    @property
    def head(self) -> tuple[str, ...]:
        return ("", self.x, f"{self.y} %" if self.percent else self.y, "SEM", "")

    def cells(self) -> list[tuple[str, ...]]:
        """The rows as text for the terminal."""
        write = percent if self.percent else number
        rows: list[tuple[str, ...]] = [
            (r.series, self.setting(r.x), write(r.value, 2), "" if math.isnan(r.sem) else write(r.sem, 2), r.note)
            for r in self.rows
        ]
        if self.reference is not None:
            rows.append((self.reference[0], "", write(self.reference[1], 2), "", ""))
        return rows

    def setting(self, x: float | str) -> str:
        """The name of a row: times with their units, other numbers short."""
        return x if isinstance(x, str) else format_seconds(x) if self.x == "time" else f"{x:g}"

    def to_json(self) -> dict[str, Any]:
        """Plain data; a value that could not be had is null, and the note says why."""
        return {
            "study": self.name,
            "title": self.title,
            "x": self.x,
            "y": self.y,
            "rows": [{**r._asdict(), "sem": r.sem if math.isfinite(r.sem) else None} for r in self.rows],
            "reference": dict([self.reference]) if self.reference is not None else None,
        }


def effects(
    hw: Hardware,
    experiment: MvmExperiment,
    times: Sequence[float | None] = (None,),
    boosts: Sequence[tuple[str, float]] = (),
    tick: Tick = lambda: None,
) -> StudyTable:
    """The MVM error of all effects, each alone, each removed, and with some boosted, at each time (R003-40, R003-45)."""
    stronger = [(f"{what} x{factor:g}", hw.varied({what: factor}, tiles=hw.default)) for what, factor in boosts]
    rows = []
    for t in times:
        when = "programming" if t is None else format_seconds(t)
        rows += [Row(when, r.what, r.mean, r.sem) for r in effect_table(hw, t, experiment, tick)]
        rows += [Row(when, name, *standard_mvm_error(h, t, experiment, tick)) for name, h in stronger]
    return StudyTable("effects", "MVM error and what causes it", "effects", "MVM error", tuple(rows))


def fixed_point(hw: Hardware, experiment: MvmExperiment, tick: Tick) -> StudyTable:
    """Between which numbers of bits this hardware lies (R003-52, Fig. 3D)."""
    here = standard_mvm_error(hw, None, experiment, tick).mean
    rows = [
        Row(what, bits, mvm.fixed_point_error(bits, weights=what == "weights", experiment=experiment))
        for what in ("weights", "inputs")
        for bits in BITS
    ]
    title = "Fixed-point yardstick: weights or inputs of b bits, everything else exact"
    return StudyTable("fixed-point", title, "bits", "MVM error", tuple(rows), log=("y",), reference=("this hardware", here))


def input_range(hw: Hardware, experiment: MvmExperiment, tick: Tick) -> StudyTable:
    """Normal inputs need a range of their own (R003-53, Fig. 3E)."""
    rows: list[Row] = []
    for rho in CORRELATIONS:
        rows += [Row(f"correlation {rho:g}", *p) for p in mvm.input_range_study(hw, ALPHAS, rho, experiment, tick)]
    title = "Input range alpha for inputs N(0, 1), without and with correlation to the weights"
    return StudyTable("input-range", title, "alpha", "MVM error", tuple(rows), log=("x",))


def dynamic_range(hw: Hardware, experiment: MvmExperiment, tick: Tick) -> StudyTable:
    """Ranges that follow the vectors help where these differ in size (R003-54)."""
    points = mvm.dynamic_range_study(hw, SPREADS, experiment, tick)
    names = ("static range", "with noise and bound management")
    rows = [Row(name, *p) for name, series in zip(names, zip(*points)) for p in series]
    title = "Vectors exp(spread N) U(-1, 1): a static input range, and dynamic ranges on top of it"
    return StudyTable("dynamic-range", title, "spread", "MVM error", tuple(rows))


def weight_shape(hw: Hardware, experiment: MvmExperiment, tick: Tick) -> StudyTable:
    """Long tails waste the range of the devices (R003-48, Fig. 6A)."""
    rows = [
        Row("", p.x, p.error, p.sem, f"excess kurtosis {mvm.theoretical_kurtosis(p.x):.2f}")
        for p in mvm.weight_shape_study(hw, BETAS, "1 h", experiment, tick)
    ]
    title = "Weights of density exp(-|w|^beta) after 1 h, the largest on g_max"
    return StudyTable("weight-shape", title, "beta", "MVM error", tuple(rows), log=("x",))


def graded_column(hw: Hardware, experiment: MvmExperiment, tick: Tick) -> StudyTable:
    """What IR-drop does to ordered weights (R003-15, Fig. 3C)."""
    rows = [Row("", *p) for p in mvm.graded_column(hw, ORDERED, hw.tile(hw.default).rows)]
    title = "A column of weights from -1 to 1 with a constant input, IR-drop only; the ideal output is 0"
    return StudyTable("graded-column", title, "ordered share", "abs(output), analog units", tuple(rows), percent=False)


def equal_error(hw: Hardware, experiment: MvmExperiment, tick: Tick) -> StudyTable:
    """How much stronger each effect, and each family of several (of a device's: its noise, `variants.device_noise`), would have
    to be for an error of 20 % (R003-44)."""
    strong = [e.kind for e in cast(tuple[Nonideality, ...], hw.tile(hw.default).nonidealities) if e.strength]
    families = [kind.partition(".")[0] for kind in strong]
    several = [f for f in families if families.count(f) > 1]
    noise = {f: k for f, k in variants.device_noise(hw).items() if f in several}
    turned = {**{k: [k] for k in strong}, **{f: [f] for f in several}, **noise}
    rows = [_boost(hw, name, kinds, experiment, tick) for name, kinds in turned.items()]
    title = f"Factor on one effect alone that brings the MVM error at programming to {TARGET:.0%}"
    return StudyTable("equal-error", title, "effect", "factor", tuple(rows), percent=False, log=("x",))


def drift(hw: Hardware, experiment: MvmExperiment, tick: Tick) -> StudyTable:
    """The error over the hardware's evaluation times, with and without drift compensation (R003-22, R003-31)."""
    own, path = hw.tile(hw.default).compensation, f"tiles.{hw.default}.compensation"
    kind = own.kind if isinstance(own, Compensation) else GlobalDrift.KIND
    compensated = hw if isinstance(own, Compensation) else load(hw, set=[f"{path}={kind}"])
    plain = load(hw, set=[f"{path}=none"])
    rows = [
        Row(name, t, *standard_mvm_error(h, t, experiment, tick))
        for name, h in ((f"with {kind}", compensated), ("without compensation", plain))
        for t in hw.times
    ]
    return StudyTable("drift", "MVM error over time", "time", "MVM error", tuple(rows), log=("x",))


def schemes(
    compared: dict[str, Hardware], experiment: MvmExperiment, times: Sequence[float] = (), tick: Tick = lambda: None
) -> StudyTable:
    """The error of several hardware files over time, each at its own evaluation times or at these, on the same matrices."""
    rows = [Row(name, t, *standard_mvm_error(h, t, experiment, tick)) for name, h in compared.items() for t in times or h.times]
    return StudyTable("schemes", "MVM error over time", "time", "MVM error", tuple(rows), log=("x", "y"))


STUDIES: dict[str, Callable[[Hardware, MvmExperiment, Tick], StudyTable]] = {
    "fixed-point": fixed_point,
    "input-range": input_range,
    "dynamic-range": dynamic_range,
    "weight-shape": weight_shape,
    "graded-column": graded_column,
    "equal-error": equal_error,
    "drift": drift,
}


def need_analog(hw: Hardware) -> None:
    """Refuse hardware whose default is no tile, with a way out."""
    if hw.default not in hw.tiles:
        raise MhoError(
            f"the default of this hardware is {hw.default!r}, and an MVM needs a tile; "
            f"try --set default={next(iter(hw.tiles), 'TILE')}"
        )


def _boost(hw: Hardware, name: str, kinds: list[str], experiment: MvmExperiment, tick: Tick) -> Row:
    try:
        return Row("", name, mvm.equal_error_boost(hw, kinds, TARGET, experiment=experiment, tick=tick))
    except MhoError as why:
        return Row("", name, None, note=str(why))
