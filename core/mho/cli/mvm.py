"""`mho mvm`: the error of one analog matrix-vector product, and what causes it."""

from __future__ import annotations

import json
import sys

import click

from mho.cli.config import JSON, SET
from mho.hardware import load
from mho.tables import table


@click.command()
@click.argument("hw")
@SET
@click.option(
    "--matrices",
    default=8,
    show_default=True,
    type=click.IntRange(1),
    help="Random matrices, each on a chip of its own.",
)
@click.option(
    "--size", default=512, show_default=True, type=click.IntRange(1), help="Rows and columns of the matrices."
)
@click.option("--time", "times", multiple=True, metavar="TIME", help="Also at this age, e.g. '1 year' (repeatable).")
@click.option("--seed", default=0, show_default=True)
@JSON
def mvm(
    hw: str, changes: tuple[str, ...], matrices: int, size: int, times: tuple[str, ...], seed: int, as_json: bool
) -> None:
    """Standard MVM error of HW's default tile (R003 Eq. 20): weights N(0, 0.246), inputs U(-1, 1), input range 1.

    The total, each effect alone (between ideal converters), and each effect removed. Without --time: right after
    programming, long-term read noise included.
    """
    from tqdm import tqdm

    from mho.metrics import MvmExperiment, effect_table
    from mho.units import format_seconds, seconds

    hardware = load(hw, set=changes)
    experiment = MvmExperiment(size=size, matrices=matrices, seed=seed)
    ages: list[float | None] = [None, *(seconds(t) for t in times)]
    with tqdm(desc="matrices", disable=not sys.stderr.isatty(), leave=False) as bar:
        rows = [r for t in ages for r in effect_table(hardware, t, experiment, bar.update)]
    if as_json:
        click.echo(json.dumps([r._asdict() for r in rows], indent=1))
        return
    when = {t: "programming" if t is None else format_seconds(t) for t in ages}
    cells = [(when[r.time], r.what, f"{100 * r.mean:.2f}", f"{100 * r.sem:.2f}") for r in rows]
    mapping = hardware.tile(hardware.default).mapping.kind
    click.echo(f"{hardware.description or hw}: {mapping}, {size}x{size}, {matrices} matrices, inputs U(-1, 1)")
    click.echo(table(("time", "", "MVM error %", "SEM"), cells))
