"""`mho sensitivity`, `layers`, `diagnose`, `robustness` and `budget`: the papers' studies of your own network."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from mho.cli.config import JSON, SET
from mho.config import load
from mho.ground import MhoError
from mho_lab.run.verbs import OUT, SEED, default_folder

if TYPE_CHECKING:
    from mho_qat.preactivation import Mode

    from mho.config import Hardware
    from mho_lab.studies.pages import Page
    from mho_lab.studies.subject import Item, Measure, Subject, Value

TIME = click.option("--time", "when", default="1 h", show_default=True, metavar="TIME", help="After programming.")
TIMES = click.option(
    "--time", "times", multiple=True, metavar="TIME", default=("1 h",), show_default=True, help="Repeatable."
)
CHECKPOINT = click.option(
    "--checkpoint",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A safetensors file of the network, from mho train or plain [the one that mho train makes].",
)


def common(verb: Callable[..., Any]) -> Any:
    """TASK, HW and what every study has."""
    for option in reversed([
        click.argument("task"), click.argument("hw"), SET, SEED, OUT,
        click.option("--executor", default="serial", show_default=True, help="serial, process, loky, or a joblib backend."),
        click.option("--workers", type=click.IntRange(1), help="Processes of the executor."),
        JSON,
    ]):  # fmt: skip
        verb = option(verb)
    return verb


@click.command()
@common
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A network; repeatable, to compare several [the one that mho train makes].",
)
@TIMES
@click.option("--level", default=0.99, show_default=True, help="Share of the normalised accuracy that has to remain.")
@click.option("--chips", default=12, show_default=True, type=click.IntRange(3), help="At most, for one decision.")
@click.option("--effect", "effects", multiple=True, help="Only this effect, family, dac.bits or adc.bits (repeatable).")
@click.option("--no-boost", is_flag=True, help="Skip the comparison at equal MVM errors.")
def sensitivity(
    checkpoints: tuple[Path, ...], times: tuple[str, ...], level: float, chips: int, effects: tuple[str, ...],
    no_boost: bool, **options: Any,
) -> None:  # fmt: skip
    """How strong may each effect of HW become before TASK's network loses accuracy, and what costs most at equal error?

    Every effect with a strength, whichever plugin it is from, is turned up by bisection until the normalised accuracy falls
    below the level; the bits of the converters are turned down. Each decision takes as many chips as it needs.
    """
    from mho.config import seconds
    from mho_lab.measure.statistics import Effort
    from mho_lab.studies import pages
    from mho_lab.studies.sensitivity import as_data, sensitivity as study

    if not 0 < level < 1:
        raise MhoError(f"--level {level:g}: a share between 0 and 1, e.g. 0.99")
    bench = _bench("sensitivity", options)
    files = [*checkpoints] or [bench.trained("trained.safetensors")]
    networks = {_name(f, files): bench.subject(f) for f in files}
    looks = tuple(sorted({3, max(3, chips // 2), chips}))
    found = study(
        networks, bench.hardware, [seconds(t) for t in times], bench.measured,
        level=level, effort=Effort(looks), only=effects, boosts=not no_boost,
    )  # fmt: skip
    bench.finish(pages.sensitivity_page(found, bench.title("Sensitivity")), as_data(found))


@click.command()
@common
@CHECKPOINT
@TIME
@click.option(
    "--target", default=0.99, show_default=True, help="Normalised accuracy that the mixed deployment must meet."
)
@click.option(
    "--scale", default=15.0, show_default=True, help="Factor on the noise in the one noisy layer, whatever the file's."
)
@click.option("--family", "families", multiple=True, help="Whose noise to scale [the families of the devices].")
@click.option("--chips", default=8, show_default=True, type=click.IntRange(2), help="For every point of the figures.")
@click.option("--verify", default=24, show_default=True, type=click.IntRange(2), help="New chips for the verification.")
def layers(
    checkpoint: Path | None, when: str, target: float, scale: float, families: tuple[str, ...], chips: int, verify: int,
    **options: Any,
) -> None:  # fmt: skip
    """Which layers of TASK's network suffer on HW, and which have to leave the tiles to meet a target?

    Writes mixed.yaml, a hardware file whose rules keep as few parameters as possible off the tiles, and verifies it on chips
    that the search has not seen.
    """
    from mho.config import seconds
    from mho.ground import write_atomically
    from mho_lab import report
    from mho_lab.studies import pages
    from mho_lab.studies.layers import as_data, layer_study

    if not 0 < target <= 1:
        raise MhoError(f"--target {target:g}: a normalised accuracy up to 1, e.g. 0.99")
    bench = _bench("layers", options)
    subject = bench.subject(checkpoint or bench.trained("trained.safetensors"))
    found = layer_study(
        subject, bench.hardware, seconds(when), bench.measured,
        families=families, scale=scale, target=target, chips=chips, verify=verify,
    )  # fmt: skip
    text = found.deployment.hardware.to_yaml()
    file = write_atomically(bench.folder / "mixed.yaml", text)
    yaml = report.code("The mixed deployment as a hardware file", text, summary="mixed.yaml")
    bench.finish(pages.layers_page(found, bench.title("Layers")), as_data(found), [yaml], f"hardware file: {file}")


@click.command()
@common
@CHECKPOINT
@TIMES
@click.option("--chips", default=12, show_default=True, type=click.IntRange(2), help="The same for everything.")
@click.option(
    "--what-if", multiple=True, metavar="PATH=VALUE[,PATH=VALUE]", help="Also with this changed (repeatable)."
)
def budget(
    checkpoint: Path | None, times: tuple[str, ...], chips: int, what_if: tuple[str, ...], **options: Any
) -> None:
    """What does each effect and each layer cost, alone and beside the others? What if HW were different?

    Losses are differences of scores on the same chips, with 95 % intervals. --what-if tiles.pcm.adc.bits=7 answers how much
    would change; changes joined by a comma are made together.
    """
    from mho.config import seconds
    from mho_lab.studies import pages
    from mho_lab.studies.budget import as_data, budget_study

    bench = _bench("budget", options)
    asked = [tuple(w.split(",")) for w in what_if]
    for changes in asked:
        load(bench.hardware, set=changes)  # mistakes before minutes of work
    subject = bench.subject(checkpoint or bench.trained("trained.safetensors"))
    found = budget_study(
        subject, bench.hardware, [seconds(t) for t in times], bench.measured, chips=chips, what_if=asked
    )  # fmt: skip
    bench.finish(pages.budget_page(found, bench.title("Error budget")), as_data(found))


@click.command()
@common
@CHECKPOINT
@click.option(
    "--mode", default="additive", show_default=True, type=click.Choice(["additive", "multiplicative", "mixed"]),
    help="Noise on the pre-activations: added, relative, or both at once.",
)  # fmt: skip
@click.option(
    "--train", "sigmas", multiple=True, type=click.FloatRange(0), default=(0.25, 1.0), show_default=True,
    help="Train a network with this noise, in units of the midpoint (repeatable).",
)  # fmt: skip
@click.option("--no-train", is_flag=True, help="Only the network that there is.")
@click.option(
    "--bound",
    type=click.FloatRange(0, min_open=True),
    help="Train and measure noisy networks on tiles whose outputs saturate here.",
)
@click.option("--epochs", type=click.IntRange(1), help="Of these trainings [the task's].")
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(1), help="Noise draws for every level.")
@click.option("--no-walk", is_flag=True, help="Skip noise in single layers.")
def robustness(
    checkpoint: Path | None, mode: str, sigmas: tuple[float, ...], no_train: bool, bound: float | None,
    epochs: int | None, repeats: int, no_walk: bool, **options: Any,
) -> None:  # fmt: skip
    """How much noise on its pre-activations does TASK's network bear, in all layers and in each?

    The midpoint noise level is that at which half of the accuracy above guessing is lost. Networks trained with noise are
    compared with it. HW serves for the errors of its products, and for --bound.
    """
    from mho_lab.studies import pages
    from mho_lab.studies.robustness import as_data, robustness as study

    bench = _bench("robustness", options)
    subject = bench.subject(checkpoint or bench.trained("digital.safetensors"))
    found = study(
        subject, bench.hardware, bench.measured, str(bench.folder / "networks"),
        mode=cast("Mode", mode), train_sigmas=() if no_train else sigmas, bound=bound, epochs=epochs, repeats=repeats,
        walking=not no_walk,
    )  # fmt: skip
    bench.finish(pages.robustness_page(found, bench.title("Robustness")), as_data(found))


@click.command()
@common
@TIME
@click.option("--cause", "causes", multiple=True, help="Only this effect, dac, adc, or everything (repeatable).")
@click.option("--strength", "strengths", multiple=True, type=float, default=(1.0, 4.0, 16.0), show_default=True,
    help="Factor on the strength of each cause (repeatable).",
)  # fmt: skip
@click.option(
    "--stage", "stages", multiple=True, type=float, default=(0.1, 1.0), show_default=True, help="Of the training."
)
@click.option("--full", is_flag=True, help="The whole protocol: 5 strengths, 4 stages, 3 trainings.")
@click.option("--chips", default=4, show_default=True, type=click.IntRange(2), help="Draws of every gradient.")
@click.option("--batch", default=64, show_default=True, type=click.IntRange(1), help="Samples of the gradients.")
@click.option(
    "--steps", default=30, show_default=True, type=click.IntRange(0), help="Of the training under each cause."
)
@click.option("--epochs", type=click.IntRange(1), help="Of the training that gives the stages [the task's].")
def diagnose(
    when: str, causes: tuple[str, ...], strengths: tuple[float, ...], stages: tuple[float, ...], full: bool, chips: int,
    batch: int, steps: int, epochs: int | None, **options: Any,
) -> None:  # fmt: skip
    """Which effects of HW can training compensate?

    The three diagnostics of Fang & Wang 2026 for every cause, strength and training stage, with gradients in the modes
    autograd, through and ste, against the clean gradient and that of the expected perturbed loss; beside them, what training
    really recovers on chips that it has not seen. Verdicts follow from the thresholds that the report states.
    """
    from mho.config import seconds
    from mho_lab.studies import pages
    from mho_lab.studies.diagnose import as_data, diagnose as study
    from mho_lab.studies.training import STAGES

    if min(strengths) <= 0 or not all(0 <= s <= 1 for s in stages):
        raise MhoError("--strength is a factor above 0, --stage a share of the training from 0 to 1")
    bench = _bench("diagnose", options)
    if full:
        strengths, stages = (1.0, 2.0, 4.0, 8.0, 16.0), STAGES
    found = study(
        bench.subject(Path()), bench.hardware, bench.measured, str(bench.folder / "networks"), causes=causes,
        strengths=sorted(strengths), stages=sorted(stages), seeds=3 if full else 1,
        time=seconds(when), chips=chips, batch=batch, steps=steps, epochs=epochs,
    )  # fmt: skip
    bench.finish(pages.diagnose_page(found, bench.title("Diagnosis")), as_data(found))


# --- what the verbs share ---


@dataclass
class Bench:
    """The folder of a study, and how its items are measured."""

    task: str
    name: str  # of the task
    hw: str
    hardware: Hardware
    folder: Path
    seed: int
    executor: str
    workers: int | None
    as_json: bool
    identity: dict[str, Any]

    def subject(self, checkpoint: Path) -> Subject:
        from mho_lab.studies.subject import Subject

        return Subject(self.task, str(checkpoint), self.seed)

    def trained(self, file: str) -> Path:
        """The network that `mho train` makes of the task for this hardware, made now if it is not there."""
        from mho_lab.run.job import Job, claim_folder
        from mho_lab.run.task import load_task

        task = load_task(self.task)
        folder = default_folder(task.name, self.hw, self.hardware.digest, self.seed)
        try:
            claim_folder(folder, task, self.hardware, self.seed)
        except MhoError as error:
            hint = f"remove it to train anew, or study its network as it is: --checkpoint {folder / file}"
            raise MhoError(f"{str(error).partition(';')[0]}; {hint}") from None
        if not (folder / file).exists():
            click.echo(f"training {task.name} in {folder} (or give a --checkpoint)", err=True)
            Job(task, self.hardware, folder, 1, self.seed, progress=sys.stderr.isatty()).train()
        return folder / file

    def measured(self, items: list[Item], measure: Measure) -> list[Value]:
        """The values of items; those that are in the folder already are not measured again."""
        from mho_lab import sweep

        if not items:
            return []
        records = sweep.run(
            items, measure, self.folder / "items", self.executor,
            identity=self.identity, workers=self.workers, progress=sys.stderr.isatty(),
        )  # fmt: skip
        for r in records:
            if r["status"] != "done":
                error = r["error"]
                raise MhoError(f"{measure.__name__} failed ({error['type']}): {error['message']}; see {self.folder}")
        found = {_same(r["item"]): r["value"] for r in records}
        return [found[_same(i)] for i in items]

    def title(self, what: str) -> str:
        return f"{what}: {self.name} on {self.hardware.description or self.hw}"

    def finish(self, page: Page, data: dict[str, Any], blocks: Sequence[Any] = (), said: str = "") -> None:
        """Write study.json and report.html, and print the tables."""
        from mho.ground import write_atomically
        from mho_lab.measure.identity import versions
        from mho_lab.studies import pages

        command = shlex.join(["mho", *sys.argv[1:]])
        whole = {**data, "task": self.task, "hardware": self.hardware.to_data(), "command": command}
        write_atomically(self.folder / "study.json", json.dumps({**whole, "versions": versions()}, indent=1))
        facts = {"command": command, "hardware": self.hardware.digest, "seed": self.seed, **versions()}
        file = pages.write(page, self.folder, facts, blocks)
        click.echo(json.dumps(whole, indent=1) if self.as_json else f"{page.title}\n\n{page}\n")
        click.echo("\n".join(filter(None, [said, f"report: {file}"])), err=self.as_json)


def _same(item: Item) -> str:
    return json.dumps(item, sort_keys=True)


def _bench(study: str, options: dict[str, Any]) -> Bench:
    import torch

    from mho.use import to_analog
    from mho_lab import sweep
    from mho_lab.run.task import load_task

    task, hw, seed = options["task"], options["hw"], options["seed"]
    hardware, owner = load(hw, set=options["changes"]), load_task(task)
    torch.set_num_threads(1)
    to_analog(owner.model(), hardware)  # rules that fit no layer should not wait for a training
    folder = options["out"] or default_folder(f"{study}-{owner.name}", hw, hardware.digest, seed)
    return Bench(
        task, owner.name, hw, hardware, folder, seed, options["executor"], options["workers"], options["as_json"],
        sweep.identity(owner),
    )  # fmt: skip


def _name(file: Path, files: Sequence[Path]) -> str:
    """What a network is called: its file, with the folder where two files have one name."""
    return file.stem if sum(f.stem == file.stem for f in files) == 1 else str(file.with_suffix(""))
