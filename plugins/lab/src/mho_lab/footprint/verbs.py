"""`mho footprint`: the tiles and MVMs that a network needs."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from mho.config import load


@click.command()
@click.argument("task")
@click.argument("hardware")
@click.option("--set", "settings", multiple=True, metavar="PATH=VALUE", help="Change a value of the hardware file.")
@click.option("--split", type=click.Choice(["channel", "row"]), help="Cut rows by whole input channels, or anywhere.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Draw the tile map into this HTML file.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def footprint(task: str, hardware: str, settings: tuple[str, ...], split: Any, out: Path | None, as_json: bool) -> None:
    """Tiles, utilisation, MVMs and operations of TASK's network on HARDWARE, for one sample (Rasch et al. 2023, Table 1).

    TASK is a built-in (digits) or a Python file with a mho.Task; HARDWARE a YAML file or a preset.
    """
    from mho_lab.footprint.counting import first_sample, footprint as count
    from mho_lab.run.task import load_task

    job = load_task(task)
    batch = first_sample(next(iter(job.calibration_batches())))
    hw = load(hardware, set=settings)
    result = count(job.model(), batch, hw, split, forward=job.predict)
    click.echo(result.to_json() if as_json else str(result))
    if out is not None:
        from mho.ground import write_atomically
        from mho_lab.footprint.page import footprint_page

        page = footprint_page(result, hw, job.name, shlex.join(["mho", *sys.argv[1:]]))
        click.echo(f"report: {write_atomically(out, page)}", err=as_json)
