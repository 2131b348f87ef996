"""`mho sweep`: many settings of a hardware, seeds and arms, in a folder that survives every interruption."""

import contextlib
import hashlib
import json
import logging
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from mho.cli.config import JSON, SET
from mho.ground import MhoError, needed, table, write_atomically
from mho_lab import options as shared
from mho_lab.options import DEVICE, SHARD, Place, at_most, count, file, resumable, several, shard_of, switch, together

FOLDER = click.argument("folder", type=Place(exists=True, file_okay=False))
CONTEXT = {"help_option_names": ["-h", "--help"]}


HOW = "process: one worker process; loky: several; dask, ray: a cluster; serial: this process."
EXECUTION = together(
    click.option("--executor", default="process", show_default=True, metavar="NAME", help=HOW),
    DEVICE,
    click.option("--scheduler", metavar="ADDRESS", help="Of a Dask cluster, with --executor dask [one of its own]."),
    click.option("--timeout", metavar="SECONDS", type=click.FloatRange(0, min_open=True), help="Per item."),
    at_most("--workers", "Processes at the same time [all cores]."),
)


@click.group(context_settings=CONTEXT)
def sweep() -> None:
    """Measure a network over grids of hardware settings, seeds and arms; see how far a sweep is; get its table.

    \b
    examples:
      mho sweep run digits pcm.standard --grid tiles.pcm.adc.bits=5,6,7,8 --seeds 3
      mho sweep run ablation.yaml --executor loky
      mho sweep status mho-runs/sweep-digits-...
    """


@sweep.command()
@click.argument("what", metavar="FILE|TASK")
@click.argument("hw", required=False)
@SET
@several("--grid", "grid", "PATH=V1,V2,...", "Values of a setting (repeatable: all pairs).")
@several(
    "--arm", "arms", "'NAME: PATH=VALUE; ...'",
    "A named way: changes for chips and training, 'train PATH=VALUE' for training only, 'train' or 'direct'.",
)  # fmt: skip
@click.option("--baseline", metavar="NAME", help="The arm that the others are compared with [the first].")
@switch("--train", "Train for the hardware first, unless an arm is 'direct'.")
@click.option("--checkpoint", type=click.Path(exists=True, dir_okay=False), help="Start from this network [train one per seed].")
@count("--seeds", 1, "Of trainings and chips.")
@count("--chips", 10, "Chips of each network.")
@several("--time", "times", "TIME", "When, e.g. '1 day' [the hardware's times].")
@several("--column", "columns", "NAME:TEXT", "Beside the score, of a plugin, e.g. energy:TABLE of mho-cost (repeatable).")
@click.option("--pareto", metavar="NAME:TEXT", help="Such a column, and the Pareto front of score against it.")
@shared.folder("--out", "Folder [mho-runs/sweep-TASK-HW-...].")
@SHARD
@EXECUTION
@JSON
def run(what: str, hw: str | None, out: Path | None, shard: str | None, as_json: bool, **options: Any) -> None:
    """Deploy TASK's network on HW at every point of a grid, for every arm and seed, and score its chips over time.

    FILE is a sweep file with the same contents (docs/sweeps.md). Repeat the command to go on after an interruption.

    \b
    examples:
      mho sweep run digits pcm.standard --grid tiles.pcm.adc.bits=5,6,7,8 --seeds 3 --chips 10
      mho sweep run digits pcm.standard --train --seeds 3 --arm "full:" --arm "no noise: training.inject=none" \\
          --arm "FP mapped: direct"
      mho sweep run ablation.yaml --shard 2/8        # in a job array
    """
    from mho_lab.sweep.arms import outcomes, summary
    from mho_lab.sweep.points import run_plan

    how = {k: options.pop(k) for k in ("executor", "workers", "timeout", "scheduler")}
    plan = _plan(what, hw, options)
    folder = out or _folder(plan)
    with cluster(how.pop("executor"), how.pop("scheduler"), how.pop("workers")) as (executor, workers):
        how |= {"shard": shard_of(shard), "workers": workers, "progress": sys.stderr.isatty()}
        resumable(lambda: run_plan(plan, folder, executor, **how), folder)
    failed = _tell_failures(folder)
    if as_json:
        click.echo(json.dumps([o.to_data() for o in outcomes(folder)], indent=1))
    else:
        click.echo(f"\n{summary(folder)}\nfolder: {folder}")
    if failed:
        raise click.exceptions.Exit(1)


@sweep.command()
@FOLDER
@JSON
def status(folder: Path, as_json: bool) -> None:
    """How many items of FOLDER are done, waiting, running and failed, and why they failed."""
    from mho_lab.measure.state import status as look

    found = look(folder)
    if as_json:
        click.echo(json.dumps([{**s.__dict__, "waiting": s.waiting} for s in found], indent=1))
        return
    head = ("measure", "planned", "done", "waiting", "running", "failed", "minutes")
    rows = [(s.measure, s.planned, s.done, s.waiting, s.running, len(s.failed), f"{s.seconds / 60:.1f}") for s in found]
    click.echo(table(head, rows, right=range(1, 7)))
    _tell_failures(folder)


@sweep.command()
@FOLDER
@EXECUTION
def retry(folder: Path, executor: str, scheduler: str | None, workers: int | None, timeout: float | None) -> None:
    """Measure again what failed in FOLDER, and go on with what is left."""
    from mho_lab.measure import engine
    from mho_lab.sweep.arms import read_plan
    from mho_lab.sweep.points import run_plan

    forgotten = engine.forget_failures(folder)
    click.echo(f"{forgotten} failed item{'' if forgotten == 1 else 's'} to measure again", err=True)
    options = {"timeout": timeout, "progress": sys.stderr.isatty()}
    with cluster(executor, scheduler, workers) as (name, n):
        if (folder / "sweep.yaml").exists():
            run_plan(read_plan(folder), folder, name, workers=n, **options)
        else:
            engine.retry(folder, name, workers=n, **options)
    if _tell_failures(folder):
        raise click.exceptions.Exit(1)


@sweep.command()
@FOLDER
@click.option("--format", "form", type=click.Choice(["csv", "jsonl", "parquet"]), default="csv", show_default=True)
@click.option("--measure", metavar="MODULE:FUNCTION", help="Which results, where a folder holds several [the last].")
@file("--out", "File [the terminal].")
def export(folder: Path, form: str, measure: str | None, out: Path | None) -> None:
    """All results of FOLDER as one table: a row for each chip and time, or whatever was measured.

    parquet goes through pandas (and needs pyarrow); in Python, mho.sweep.read(FOLDER).to_pandas() gives a DataFrame.
    """
    from mho_lab.sweep.arms import read

    found = read(folder, measure)
    if form == "parquet":
        if out is None:
            raise MhoError("parquet is no text for a terminal; choose a file with --out")
        needed("pyarrow", "parquet needs pyarrow", "pyarrow; or export csv or jsonl")
        click.echo(write_atomically(out, found.to_pandas().to_parquet))
        return
    text = found.to_csv() if form == "csv" else found.to_jsonl()
    if out is None:
        click.echo(text, nl=False)
    else:
        click.echo(write_atomically(out, text))


# -- parts ----------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def cluster(executor: str, scheduler: str | None, workers: int | None) -> Iterator[tuple[str, int | None]]:
    """(executor, workers) inside the `with` block; with Dask, a client of the scheduler or of a cluster of its own."""
    from mho_lab.measure.pools import connected

    if executor != "dask":
        yield executor, workers
        return
    with connected(scheduler) if scheduler else _own_cluster(workers):
        yield "dask", None


def _own_cluster(workers: int | None) -> Any:
    """A client of a Dask cluster on this machine, as a context."""
    distributed = needed("distributed", "executor 'dask' needs Dask", "distributed")
    local = {"threads_per_worker": 1, "dashboard_address": None, "silence_logs": logging.CRITICAL}
    # Deaf to Ctrl-C, and its processes stay so: of an interruption, this process says all there is to say.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return distributed.Client(n_workers=workers, **local)
    finally:
        signal.signal(signal.SIGINT, before)


def _plan(what: str, hw: str | None, options: dict[str, Any]) -> Any:
    from mho_lab.sweep.plan import SweepPlan, parsed_arms, parsed_grid, parsed_settings

    if hw is None:
        chosen, default = click.get_current_context().get_parameter_source, click.core.ParameterSource.DEFAULT
        given = [f"--{n.rstrip('s')}" for n, v in options.items() if v not in ((), None, False) and chosen(n) is not default]
        if given:
            raise MhoError(f"{', '.join(given)}: a sweep file says this itself; or give TASK and HW")
        return SweepPlan.from_file(what)
    return SweepPlan.checked(
        task=what,
        hardware=hw,
        set=parsed_settings(options["changes"]),
        grid=parsed_grid(options["grid"]),
        arms=parsed_arms(options["arms"]),
        times=options["times"],
        **{k: options[k] for k in ("columns", "pareto", "baseline", "train", "checkpoint", "seeds", "chips")},
    )


def _folder(plan: Any) -> Path:
    """mho-runs/sweep-digits-pcm.standard-1a2b3c4d: the same for more seeds and chips."""
    what = plan.model_copy(update={"seeds": 1, "chips": 1, "columns": (), "pareto": None}).to_yaml() + plan.base.digest
    names = [Path(n).stem if Path(n).suffix in (".py", ".yaml", ".yml") else n for n in (plan.task, plan.hardware)]
    return Path("mho-runs") / f"sweep-{'-'.join(names)}-{hashlib.sha256(what.encode()).hexdigest()[:8]}"


def _tell_failures(folder: Path) -> int:
    """Say what failed, one line each, and what to do; how many."""
    from mho_lab.measure.state import status as look

    failed = [f for s in look(folder) for f in s.failed]
    for f in failed[:20]:
        message = f["error"]["message"].partition("\n")[0]
        click.echo(f"{f['status']}: {json.dumps(f['item'])[:160]}\n    {f['error']['type']}: {message}", err=True)
    if failed:
        click.echo(
            f"{len(failed)} failed; tracebacks are in {folder / 'failed'}; again: mho sweep retry {shlex.quote(str(folder))}",
            err=True,
        )
    return len(failed)
