"""`mho footprint`: the tiles and MVMs that a network needs."""

from pathlib import Path
from typing import Any

import click

from mho.cli.config import JSON, SET
from mho_lab.options import command_line, file


@click.command()
@click.argument("task")
@click.argument("hardware")
@SET
@click.option("--split", type=click.Choice(["channel", "row"]), help="Cut rows by whole input channels, or anywhere.")
@file("--out", "Draw the tile map into this HTML file.")
@JSON
def footprint(task: str, hardware: str, changes: tuple[str, ...], split: Any, out: Path | None, as_json: bool) -> None:
    """Tiles, utilisation, MVMs and operations of TASK's network on HARDWARE, for one sample (Rasch et al. 2023, Table 1).

    TASK is a built-in (digits) or a Python file with a mho.Task; HARDWARE a YAML file or a preset.
    """
    from mho_lab.footprint.counting import first_sample, footprint as count
    from mho_lab.run.task import task_and_hardware

    job, hw = task_and_hardware(task, hardware, changes)
    result = count(job.model(), first_sample(next(iter(job.calibration_batches()))), hw, split, forward=job.predict)
    click.echo(result.to_json() if as_json else str(result))
    if out is not None:
        from mho_lab.footprint.page import write_footprint

        click.echo(f"report: {write_footprint(out, result, hw, job.name, command_line())}", err=as_json)
