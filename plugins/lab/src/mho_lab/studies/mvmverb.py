"""`mho mvm`: the error of one analog matrix-vector product, what causes it, and what it depends on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mho.cli.config import JSON, SET
from mho.config import format_seconds, load, seconds
from mho.ground import MhoError, table
from mho_lab.options import DEVICE, SEED, bar, count, file, several

if TYPE_CHECKING:
    from mho.config import Hardware
    from mho_lab.run.product import MvmExperiment
    from mho_lab.studies.mvmtables import StudyTable

STUDY_NAMES = ("fixed-point", "input-range", "dynamic-range", "weight-shape", "graded-column", "equal-error", "drift")
BOOST = 2.0
MAX_SIZE = 16_384  # of a matrix; its tiles, devices and noise need some 20 times the 1 GiB of the weights


@click.command()
@click.argument("hw", nargs=-1, required=True)
@SET
@count("--matrices", 8, "Random matrices, each on a chip of its own.")
@count("--size", 512, "Rows and columns of the matrices.", most=MAX_SIZE)
@several("--time", "times", "TIME", "Also at this age, e.g. '1 year' (repeatable).")
@several(
    "--boost", "boosts", "WHAT[=FACTOR]",
    f"Also with this effect or family of effects stronger, e.g. circuit.ir_drop=11.7 [factor {BOOST:g}] (repeatable).",
)  # fmt: skip
@several("--study", "names", None, "Run a study instead (repeatable).", type=click.Choice(STUDY_NAMES))
@file("--plot", "Draw it too, as .svg or .png.", metavar="FILE")
@SEED
@DEVICE
@JSON
def mvm(
    hw: tuple[str, ...], changes: tuple[str, ...], matrices: int, size: int, times: tuple[str, ...], boosts: tuple[str, ...],
    names: tuple[str, ...], plot: Path | None, seed: int, as_json: bool,
) -> None:  # fmt: skip
    """Standard MVM error of HW's default tile (Rasch et al. 2023, Eq. 20): weights N(0, 0.246), inputs U(-1, 1), input range 1.

    The total, each effect alone (between ideal converters), and each effect removed. Without --time: right after
    programming, long-term read noise included. Of several HW, only the totals over time.

    \b
    studies:
      drift          error over the hardware's times, with and without compensation
      equal-error    factor on each effect that brings the error to 20 % (Fig. 4)
      fixed-point    which number of bits makes the same error (Fig. 3D)
      graded-column  IR-drop of ordered weights (Fig. 3C)
      input-range    error over the input range for normal inputs (Fig. 3E)
      dynamic-range  what noise and bound management add where vectors differ in size (A.1)
      weight-shape   error over the shape of the weight distribution (Fig. 6A)
    """
    from mho_lab.run.product import MvmExperiment
    from mho_lab.studies.mvmtables import need_analog, schemes

    if names and (times or boosts):
        raise click.UsageError("--time and --boost belong to the table of effects, not to --study")
    if len(hw) > 1 and (names or boosts):
        raise click.UsageError("--study and --boost are for one hardware file; several are compared over time")
    stronger = [parse_boost(b) for b in boosts]
    if plot is not None:
        _check_plot(plot)
    compared = {name: load(name, set=changes) for name in hw}
    for one in compared.values():
        need_analog(one)
    hardware, experiment = compared[hw[0]], MvmExperiment(size=size, matrices=matrices, seed=seed)
    if len(compared) > 1:
        found = [schemes(compared, experiment, [seconds(t) for t in times])]
    else:
        found = _tables(hardware, experiment, names, times, stronger)
    if plot is not None:
        from mho_lab.studies.mvmplots import save

        save(found, plot)
    if as_json:
        click.echo(json.dumps(_plain(found, names or hw[1:], times), indent=1))
        return
    mapping = hardware.tile(hardware.default).mapping.kind
    what = f"{hardware.description or hw[0]}: {mapping}" if len(compared) == 1 else f"{len(compared)} hardware files"
    click.echo(f"{what}, {size}x{size}, {matrices} matrices, inputs U(-1, 1)")
    for t in found:
        if names:
            click.echo(f"\n{t.title}")
        click.echo(table(t.head, t.cells()))
    if plot is not None:
        click.echo(f"wrote {plot}")


def parse_boost(text: str) -> tuple[str, float]:
    """An effect or family and the factor on its strength.

    >>> parse_boost("circuit.ir_drop=11.7"), parse_boost("pcm")
    (('circuit.ir_drop', 11.7), ('pcm', 2.0))
    """
    what, equals, factor = text.partition("=")
    try:
        value = float(factor) if equals else BOOST
    except ValueError:
        value = math.nan
    if not what or not math.isfinite(value) or value < 0:
        raise MhoError(f"--boost {text}: write WHAT=FACTOR with a factor of at least 0, e.g. circuit.ir_drop=11.7")
    return what, value


def _tables(
    hw: Hardware, experiment: MvmExperiment, names: tuple[str, ...], times: tuple[str, ...], boosts: list[tuple[str, float]]
) -> list[StudyTable]:
    from mho_lab.studies.mvmtables import STUDIES, effects

    with bar("products") as shown:
        if names:
            return [STUDIES[name](hw, experiment, shown.update) for name in dict.fromkeys(names)]
        ages: list[float | None] = [None, *(seconds(t) for t in times)]
        shown.total = len(ages) * experiment.matrices * (2 + 2 * len(hw.tile(hw.default).nonidealities) + len(boosts))
        return [effects(hw, experiment, ages, boosts, shown.update)]


def _check_plot(file: Path) -> None:
    """Before minutes of work rather than after."""
    if file.suffix not in (".svg", ".png"):
        raise MhoError(f"--plot draws .svg or .png, not {file.name!r}")
    if not file.absolute().parent.is_dir():
        raise MhoError(f"cannot write {file}: there is no folder {file.parent}")
    from mho_lab.report.figures import need_extras

    need_extras()


def _plain(found: list[StudyTable], names: tuple[str, ...], times: tuple[str, ...]) -> list[dict[str, object]]:
    """The effect table as a flat list of rows (time null: right after programming), studies as one object each."""
    if names:
        return [t.to_json() for t in found]
    ages = {format_seconds(seconds(t)): seconds(t) for t in times}
    return [
        {"time": ages.get(r.series), "what": r.x, "mean": r.value, "sem": r.sem if math.isfinite(r.sem) else None}
        for t in found
        for r in t.rows
    ]
