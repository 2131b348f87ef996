"""`mho run`, `train` and `evaluate`: the main job and its halves."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mho.cli.config import JSON
from mho.config import registry
from mho.ground import MhoError, json_text, percent, table, write_atomically
from mho_lab import devices, options
from mho_lab.errorbars import with_error

if TYPE_CHECKING:
    from mho_lab.run.job import Job
    from mho_lab.run.networks import Elsewhere
    from mho_lab.run.seeds import Trainings


TEXT = click.option("--text", type=options.EXISTING, help="For hf:FOLDER: a text, the second half of which is scored.")


def _with_text(task: str, text: Path | None) -> str:
    return task if text is None else f"{task}@{text}"


@click.command()
@options.TASK_AND_HW
@options.CHIPS
@options.SEED
@options.at_most("--seeds", "Train this many times, with seeds --seed, --seed + 1, ...", least=2)
@options.at_most("--jobs", "Trainings at the same time [one more than there are cores].")
@options.OUT
@options.THREADS
@options.DEVICE
@options.EVERY
@options.FSDP
@options.EXECUTORS
@TEXT
@options.switch("--no-report", "Skip the HTML report.")
@JSON
def run(
    task: str, hw: str, changes: tuple[str, ...], chips: int, seed: int, seeds: int | None, jobs: int | None,
    out: Path | None, threads: int, text: Path | None, save_every: int | None, executor: str, workers: int | None,
    dask: str | None, no_report: bool, as_json: bool, fsdp: bool,
) -> None:  # fmt: skip
    """Train TASK digitally, deploy it on HW as it is, train it hardware-aware, deploy that, and compare the accuracies
    of many simulated chips over drift time.

    TASK is a built-in (digits), a Python file with a mho.Task, or hf:FOLDER for a model of Hugging Face (mho-transformers);
    HW a hardware file or a preset. An interrupted run goes on where it stopped when the command is repeated.

    One training says nothing about the next: --seeds 3 trains three times, each deployed on chips of its own, and gives
    means over the trainings, and what hardware-aware training gains with a 95 % interval.

    \b
    One training by several processes (the rest is done by the first of them):
      torchrun --nproc-per-node 4 -m mho run TASK HW --device cuda
    Chips on a cluster, after a training here:
      mho run TASK HW --dask tcp://10.0.0.5:8786
    """
    task = _with_text(task, text)
    if not no_report:
        from mho_lab.report.figures import need_extras

        need_extras()  # before minutes of work
    job: Job | Trainings
    job = one = _job(task, hw, changes, chips, seed, out, threads, save_every)
    if not _trained_together(one, fsdp, seeds):
        return
    one.elsewhere = _elsewhere(task, one.folder / "items", executor, workers, dask)
    if seeds:
        if one.elsewhere:
            raise MhoError("--seeds trains in processes of its own; with --dask or --executor, run one seed after the other")
        folder = out or options.default_folder(one.task.name, hw, one.hardware.digest)
        from mho_lab.run.seeds import Trainings

        job = several = Trainings(one, folder, range(seed, seed + seeds))
        width = min(jobs or (os.cpu_count() or 1) + 1, seeds)
        if width > 1:
            given = [f"--set={c}" for c in changes] + [f"--chips={chips}", f"--threads={threads}", "--no-report"]
            given += [f"--save-every={save_every}"] if save_every else []
            options.resumable(lambda: _apart(several, [task, hw, *given], width), folder)
    summary = options.resumable(job.run, job.folder)
    click.echo(json_text(summary) if as_json else _table(summary))
    if not no_report:
        from mho_lab.report import write_report

        click.echo(f"report: {write_report(job.folder)}", err=as_json)


@click.command()
@options.TASK_AND_HW
@options.SEED
@options.OUT
@options.THREADS
@options.DEVICE
@options.EVERY
@options.FSDP
def train(fsdp: bool, **given: Any) -> None:
    """Train TASK digitally and then for HW, and keep both networks (digital.safetensors, trained.safetensors).

    `mho run` with the same arguments goes on from there; `mho evaluate` takes the files.

    \b
    By several processes that share every mini-batch:
      torchrun --nproc-per-node 4 -m mho train TASK HW --device cuda
    """
    job = _job(chips=1, **given)
    if not _trained_together(job, fsdp):
        return
    options.resumable(job.train, job.folder)
    click.echo(f"{job.folder / 'digital.safetensors'}\n{job.folder / 'trained.safetensors'}")


@click.command()
@click.argument("checkpoint", type=options.EXISTING)
@options.TASK_AND_HW
@options.CHIPS
@options.SEED
@options.several("--time", "times", "TIME", "When, e.g. '1 day' [the hardware's times].")
@options.THREADS
@options.DEVICE
@options.EXECUTORS
@options.SHARD
@options.folder("--out", "Folder of what --executor, --dask and --shard measure [mho-runs/evaluate-TASK-HW-...].")
@TEXT
@JSON
def evaluate(
    checkpoint: Path, task: str, hw: str, changes: tuple[str, ...], chips: int, seed: int, times: tuple[str, ...],
    threads: int, text: Path | None, executor: str, workers: int | None, dask: str | None, shard: str | None,
    out: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Score CHECKPOINT, a safetensors file of TASK's network, on many chips of HW over drift time.

    The file may come from `mho train` or be a plain digital checkpoint; the input ranges of the latter are calibrated on
    the task's calibration batches.

    \b
    Chips of a job array, with a folder that all jobs see; the last one, or a call without --shard, shows the curve:
      mho evaluate net.safetensors digits pcm.standard --shard $SLURM_ARRAY_TASK_ID/8
    """
    import torch

    from mho.use import evaluate as score_chips
    from mho_lab.run.job import deploy
    from mho_lab.run.task import task_and_hardware

    task = _with_text(task, text)
    job_task, hardware = task_and_hardware(task, hw, changes)
    torch.set_num_threads(threads)
    net = deploy(job_task, hardware, checkpoint)
    there = out or options.default_folder(f"evaluate-{job_task.name}", hw, hardware.digest, seed)
    elsewhere = _elsewhere(task, there / "items", executor, workers, dask, shard)
    done = _chips_of(elsewhere, net, checkpoint, times, seed, chips) if elsewhere else {}
    if elsewhere and len(done) < chips:
        click.echo(f"{len(done)} of {chips} chips are done in {there}; the other shards, or this command without --shard, go on")
        return
    curve = score_chips(
        net, job_task.checked_score, times or None, chips, seed,
        chance=job_task.chance, progress=sys.stderr.isatty(), done=done,
    )  # fmt: skip
    if as_json:
        click.echo(json_text({"times": curve.times, "mean": curve.mean, "sem": curve.sem, "scores": curve.scores}))
        return
    click.echo(f"{checkpoint.name} on {hardware.description or hw}, {chips} chips\n{curve}")


@click.command()
@options.TASK_AND_HW
@click.option("--budget", default=0.0, show_default=True, type=click.FloatRange(0, 1), help="Share of multiply-adds, digital.")
@click.option("--checkpoint", type=options.EXISTING, help="Weights of the task's network [those that it is made with].")
@options.OUT
@options.THREADS
@TEXT
def calibrate(
    task: str, hw: str, changes: tuple[str, ...], budget: float, checkpoint: Path | None, out: Path | None, threads: int,
    text: Path | None,
) -> None:  # fmt: skip
    """Bring TASK's network onto HW without training: for every layer, choose ranges and digital corrections that lower the
    error of its outputs, and show what was chosen.

    The network is kept (calibrated.safetensors) with its hardware (hardware.yaml): `mho evaluate` takes both.
    """
    import torch

    from mho.use import calibrate as choose, load_model, save_model, session_of, to_analog
    from mho_lab.run.task import task_and_hardware

    job_task, hardware = task_and_hardware(_with_text(task, text), hw, changes)
    torch.set_num_threads(threads)
    model = job_task.model()
    net = to_analog(model if checkpoint is None else load_model(model, checkpoint), hardware)
    done = choose(net, job_task.calibration_batches(), forward=job_task.predict, method="auto", budget=budget)
    folder = out or options.default_folder(job_task.name, hw, hardware.digest)
    folder.mkdir(parents=True, exist_ok=True)
    save_model(net, folder / "calibrated.safetensors")
    (folder / "hardware.yaml").write_text(session_of(net).hardware.to_yaml())
    click.echo(f"{done}\n\n{folder / 'calibrated.safetensors'}\n{folder / 'hardware.yaml'}")


def _elsewhere(
    task: str, folder: Path, executor: str, workers: int | None, dask: str | None, shard: str | None = None
) -> Elsewhere | None:
    """Who scores chips, if not this process by itself."""
    if executor == "serial" and not dask and not shard:
        return None
    from mho_lab.run.networks import Elsewhere

    return Elsewhere(task, folder, "dask" if dask else executor, dask, workers, options.shard_of(shard), sys.stderr.isatty())


def _chips_of(
    elsewhere: Elsewhere, net: Any, checkpoint: Path, times: tuple[str, ...], seed: int, chips: int
) -> dict[int, tuple[float, ...]]:
    """Scores of the chips of a network that are there by now; workers find it in a file."""
    from mho.config import seconds
    from mho.use import save_model, session_of
    from mho_lab.measure.identity import digest

    part = elsewhere.folder.parent / f"{checkpoint.stem}-{secrets.token_hex(8)}.safetensors"
    write_atomically(part, lambda f: save_model(net, f))
    file = part.replace(part.with_name(f"{checkpoint.stem}-{digest(part)[:16]}.safetensors"))  # the same bytes, the same name
    at = [seconds(t) for t in times] or list(session_of(net).hardware.times)
    return {k: tuple(v["scores"]) for k, v in elsewhere.chips(file, at, seed, chips).items()}


def _trained_together(job: Job, fsdp: bool, seeds: int | None = None) -> bool:
    """Train with the other processes of torchrun, if there are any; whether this one goes on alone."""
    from mho_lab.run import ranks

    with ranks.joined():
        if fsdp and ranks.count() == 1:
            raise MhoError("--fsdp shards a training over processes: start them with torchrun --nproc-per-node N -m mho ...")
        if ranks.count() > 1:
            job.fsdp = fsdp
            if seeds:
                raise MhoError("--seeds starts processes of its own; leave it out under torchrun")
            options.resumable(job.train, job.folder)
    return ranks.is_first()


def _job(
    task: str, hw: str, changes: tuple[str, ...], chips: int, seed: int, out: Path | None, threads: int, save_every: int | None
) -> Job:
    import torch

    from mho_lab.run.job import Job
    from mho_lab.run.task import task_and_hardware

    job_task, hardware = task_and_hardware(task, hw, changes)
    folder = out or options.default_folder(job_task.name, hw, hardware.digest, seed)
    torch.set_num_threads(threads)
    return Job(
        job_task, hardware, folder, chips, seed, progress=sys.stderr.isatty(), command=options.command_line(), every=save_every
    )


def _apart(job: Trainings, arguments: list[str], jobs: int) -> None:
    """Each training in a process of its own, `jobs` at the same time; `job.run` then finds their results."""
    from tqdm import tqdm

    plugins = [f"--plugin={file}" for file in registry.default().files]
    code = f"from mho_lab.measure.work import follow; follow({os.getpid()}); from mho.cli import main; main()"
    start = [sys.executable, "-c", code, *plugins, "run"]

    todo = job.todo()

    def train_one(seed: int) -> None:
        own = [f"--seed={seed}", f"--out={job.folder_of(seed)}", f"--device={devices.of_worker(seed - job.seeds[0])}"]
        command = [*start, *arguments, *own]
        ended = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 (ourselves)
        if ended.returncode:
            raise MhoError(f"the training with seed {seed} failed:\n{ended.stderr.strip()}")
        if seed == todo[0]:
            click.echo(ended.stderr, err=True, nl=False)  # warnings are the same for all

    with ThreadPoolExecutor(jobs) as pool:
        list(tqdm(pool.map(train_one, todo), "trainings", len(todo), disable=not job.job.progress, leave=False))


def _table(summary: dict[str, Any]) -> str:
    from mho.config import format_seconds

    rows = []
    for v in summary["variants"]:
        rows.append((v["name"], "accuracy %", *(with_error(m, s, 2, in_percent=True) for m, s in zip(v["mean"], v["sem"]))))
        rows.append(("", "normalised %", *(percent(n) for n in v["normalised"])))
        for name, e in v["extra"].items():
            rows.append(("", name, *(with_error(m, s, 3) for m, s in zip(e["mean"], e["sem"]))))
    if gain := summary.get("difference"):
        pairs = zip(gain["mean"], gain["half"])
        rows.append((gain["of"], "95 % interval", *(with_error(m, h, 2, in_percent=True) for m, h in pairs)))
    head = ("variant", "", *(format_seconds(t) for t in summary["times"]))
    about = "\n".join(f"{v['name']}: {v['about']}" for v in summary["variants"])
    title = f"{summary['task']} on {summary['hardware']}\ndigital reference {percent(summary['reference'], 2)} %"
    extra = "".join(f", {name} {v:.3g}" for name, v in summary["reference_extra"].items())
    return f"\n{title}{extra}, {_how_many(summary)}\n\n{table(head, rows)}\n\n{about}"


def _how_many(summary: dict[str, Any]) -> str:
    """What a mean is taken over, and what its error is."""
    chips = f"{summary['chips']} chips" if summary["chips"] > 1 else "1 chip"
    if "seeds" in summary:
        return f"{len(summary['seeds'])} trainings with {chips} each, mean ± SEM over trainings"
    return chips if summary["chips"] == 1 else f"{chips}, mean ± SEM"
