"""`mho cost`: what a task's network costs on a hardware, by a table that the user names."""

from pathlib import Path

import click

from mho.config import load


@click.command()
@click.argument("task")
@click.argument("hardware")
@click.option("--table", "name", metavar="NAME|FILE", help="Cost table [counts only; the presets are listed for a wrong name].")
@click.option("--set", "settings", multiple=True, metavar="PATH=VALUE", help="Change a value of the hardware file.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Draw the page into this HTML file.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def cost(task: str, hardware: str, name: str | None, settings: tuple[str, ...], out: Path | None, as_json: bool) -> None:
    """Counts, energy, latency and area of TASK's network on HARDWARE, for one sample.

    Counts are exact. Joules come from the table only; its rows say where they come from and how far they may be off.

    \b
    examples:
      mho cost digits pcm.hermes
      mho cost digits pcm.hermes --table hermes2023_digital
      mho cost digits pcm.standard --table components32 --set tiles.pcm.adc.bits=6 --out cost.html
    """
    from mho_lab import command_line, first_sample, task_of

    from mho.ground import MhoError, write_atomically
    from mho_cost.counts import counts
    from mho_cost.estimate import estimate
    from mho_cost.page import cost_page
    from mho_cost.tables import table_of

    table = None if name is None else table_of(name)
    job = task_of(task)
    hw = load(hardware, set=settings)
    found = counts(job.model(), first_sample(next(iter(job.calibration_batches()))), hw, forward=job.predict)
    if table is None:
        if out is not None:
            raise MhoError("--out draws energies; say from which --table")
        click.echo(found.to_json() if as_json else str(found))
        return
    result = estimate(found, table)
    click.echo(result.to_json() if as_json else f"{found}\n\n{result}")
    if out is not None:
        page = cost_page(result, hw, job.name, command_line())
        click.echo(f"report: {write_atomically(out, page)}", err=as_json)
