"""A study with a verb of its own: its command line, the folder it works in, how its items are measured, and what it writes.

    @click.command()
    @study_options
    def wobble(**options):
        study = Study.begin("wobble", options)
        subject = study.subject(study.trained("trained.safetensors"))
        values = study.measured([subject.chips(study.hardware, 0, 4, 3600.0)], scores)
        study.finish(Page(study.title("Wobble"), "It wobbles.", [Part(...)]), {"study": "wobble", "values": values})

`measured` shows a progress bar, remembers what it has measured, and hands items to the executor that the user chose.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click

from mho.cli.config import JSON
from mho.config import Hardware
from mho.ground import MhoError, write_atomically
from mho_lab.measure import engine
from mho_lab.measure.identity import identity, versions
from mho_lab.measure.pools import connected
from mho_lab.measure.state import Item
from mho_lab.options import DEVICE, EXECUTORS, OUT, SEED, TASK_AND_HW, command_line, default_folder, together

if TYPE_CHECKING:
    from mho_lab.report import Block
    from mho_lab.studies.shown import Page
    from mho_lab.studies.subject import Measure, Subject, Value


OPTIONS = ("task", "hw", "changes", "seed", "out", "executor", "workers", "dask", "as_json")  # the values of `study_options`


def study_options(verb: Callable[..., Any]) -> Any:
    """TASK, HW and the options of every study, for `Study.begin`."""
    return together(TASK_AND_HW, SEED, OUT, DEVICE, EXECUTORS, JSON)(verb)


@dataclass
class Study:
    """One call of a study's verb: task and hardware, the folder of the results, and how items are measured."""

    task: str
    task_name: str
    hw: str
    hardware: Hardware
    folder: Path
    seed: int
    executor: str
    workers: int | None
    scheduler: str | None
    as_json: bool
    identity: dict[str, Any]

    @classmethod
    def begin(cls, name: str, options: dict[str, Any]) -> Self:
        """The study `name` with the values of `study_options`, which are taken out of `options`: what is left is the study's
        own. Raises `MhoError` for a task or hardware that does not exist, and for rules of the hardware that fit no layer: they
        should not wait for a training."""
        import torch

        from mho.use import to_analog
        from mho_lab.run.task import task_and_hardware

        task, hw, changes, seed, out, executor, workers, dask, as_json = map(options.pop, OPTIONS)
        owner, hardware = task_and_hardware(task, hw, changes)
        torch.set_num_threads(1)
        to_analog(owner.model(), hardware)
        folder = out or default_folder(f"{name}-{owner.name}", hw, hardware.digest, seed)
        how = "dask" if dask else executor, workers, dask, as_json, identity(owner, hardware=hardware)
        return cls(task, owner.name, hw, hardware, folder, seed, *how)

    def depend_on(self, others: Sequence[Hardware]) -> None:
        """Results may be about these hardwares too."""
        from mho_lab.run.task import load_task

        self.identity = identity(load_task(self.task), hardware=[self.hardware, *others])

    def subject(self, checkpoint: Path) -> Subject:
        """The network of a checkpoint, as something to measure."""
        from mho_lab.studies.subject import Subject

        return Subject(self.task, str(checkpoint), self.seed)

    def trained(self, file: str) -> Path:
        """The network that `mho train` makes of the task for this hardware ("digital.safetensors" or
        "trained.safetensors"), made now if it is not there."""
        from mho_lab.run.job import Job, claim_folder
        from mho_lab.run.task import load_task

        task = load_task(self.task)
        folder = default_folder(task.name, self.hw, self.hardware.digest, self.seed)
        hint = f"remove it to train anew, or study its network as it is: --checkpoint {folder / file}"
        claim_folder(folder, task, self.hardware, self.seed, hint)
        if not (folder / file).exists():
            click.echo(f"training {task.name} in {folder} (or give a --checkpoint)", err=True)
            Job(task, self.hardware, folder, 1, self.seed, progress=sys.stderr.isatty()).train()
        return folder / file

    def measured(self, items: list[Item], measure: Measure) -> list[Value]:
        """The values of items in their order, with a progress bar; those that are in the folder already are not measured
        again. `measure` as for `mho.sweep.run`. Raises `MhoError` where an item fails."""
        from mho.tile import unwatched

        if not items:
            return []
        with connected(self.scheduler), unwatched():  # hardware that is tried, not kept
            records = engine.run(
                items, measure, self.folder / "items", self.executor,
                identity=self.identity, workers=self.workers, progress=sys.stderr.isatty(),
            )  # fmt: skip
        found = {}
        for r in records:
            if error := r.get("error"):
                raise MhoError(f"{measure.__name__} failed ({error['type']}): {error['message']}; see {self.folder}")
            found[json.dumps(r["item"], sort_keys=True)] = r["value"]
        return [found[json.dumps(i, sort_keys=True)] for i in items]

    def title(self, what: str) -> str:
        return f"{what}: {self.task_name} on {self.hardware.description or self.hw}"

    def finish(self, page: Page, data: dict[str, Any], blocks: Sequence[Block] = (), said: str = "") -> None:
        """Write study.json and report.html (with `blocks` at its end), and print the tables."""
        from mho_lab import report

        command = command_line()
        whole = {**data, "task": self.task, "hardware": self.hardware.to_data(), "command": command}
        write_atomically(self.folder / "study.json", json.dumps({**whole, "versions": versions()}, indent=1))
        facts = {"command": command, "hardware": self.hardware.digest, "seed": self.seed, **versions()}
        blocks = [*page.blocks(), *blocks, report.facts("Where this comes from", facts)]
        file = report.write_page(self.folder / "report.html", page.title, blocks, headline=page.headline, keep=True)
        click.echo(json.dumps(whole, indent=1) if self.as_json else f"{page.title}\n\n{page}\n")
        click.echo("\n".join(filter(None, [said, f"report: {file}"])), err=self.as_json)
