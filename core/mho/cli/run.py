"""`mho run`: train, deploy, train hardware-aware, deploy again, compare."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from mho.hardware import load
from mho.tables import table


@click.command()
@click.argument("task")
@click.argument("hardware")
@click.option("--set", "settings", multiple=True, metavar="PATH=VALUE", help="Change a value of the hardware file.")
@click.option("--chips", default=25, show_default=True, type=click.IntRange(1), help="Simulated chips per variant.")
@click.option("--seed", default=0, show_default=True, help="Same seed, same result.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Folder of the results [mho-runs/TASK-HARDWARE]."
)
@click.option("--no-report", is_flag=True, help="Skip the HTML report.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def run(
    task: str,
    hardware: str,
    settings: tuple[str, ...],
    chips: int,
    seed: int,
    out: Path | None,
    no_report: bool,
    as_json: bool,
) -> None:
    """Train TASK digitally, put it on HARDWARE as it is, train it hardware-aware, and compare the accuracies of many
    simulated chips over drift time.

    TASK is a built-in (digits) or a Python file with a mho.Task; HARDWARE a YAML file or a preset. An interrupted run goes
    on where it stopped when the command is repeated.
    """
    import torch

    from mho.job import Job
    from mho.task import load_task

    hw = load(hardware, set=settings)
    job_task = load_task(task)
    folder = out or default_folder(job_task.name, hardware, hw.digest, seed)
    job = Job(
        job_task, hw, folder, chips, seed, progress=sys.stderr.isatty(), command=shlex.join(["mho", *sys.argv[1:]])
    )
    if torch.get_num_threads() > 2:
        torch.set_num_threads(
            max(1, torch.get_num_threads() // 2)
        )  # small layers: more threads only wait for each other
    try:
        summary = job.run()
    except KeyboardInterrupt:
        click.echo(f"\nstopped; repeat the command to go on from {folder}", err=True)
        raise
    if as_json:
        import json

        click.echo(json.dumps(summary, indent=1))
    else:
        click.echo(_table(summary))
    if not no_report:
        from mho.report import write_report

        click.echo(f"report: {write_report(folder)}", err=as_json)


def default_folder(task: str, hardware: str, digest: str, seed: int) -> Path:
    """mho-runs/digits-pcm.standard-1a2b3c4d: one folder for each hardware content and seed."""
    return (
        Path("mho-runs")
        / f"{task}-{Path(hardware).stem if hardware.endswith(('.yaml', '.yml')) else hardware}-{digest[:8]}-s{seed}"
    )


def _table(summary: dict[str, Any]) -> str:
    from mho.units import format_seconds

    rows = []
    for v in summary["variants"]:
        rows.append((v["name"], "accuracy %", *(f"{100 * m:.2f} ± {100 * s:.2f}" for m, s in zip(v["mean"], v["sem"]))))
        rows.append(("", "normalised %", *(f"{100 * n:.1f}" for n in v["normalised"])))
    head = ("variant", "", *(format_seconds(t) for t in summary["times"]))
    about = "\n".join(f"{v['name']}: {v['about']}" for v in summary["variants"])
    title = f"{summary['task']} on {summary['hardware']}\ndigital reference {100 * summary['reference']:.2f} %, "
    return f"\n{title}{summary['chips']} chips, mean ± SEM\n\n{table(head, rows)}\n\n{about}"
