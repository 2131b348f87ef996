"""`mho sensitivity`, `layers`, `diagnose`, `robustness` and `budget`: the papers' studies of your own network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mho.config import load, seconds
from mho.ground import MhoError, write_atomically
from mho_lab.options import EXISTING, at_most, count, several, switch
from mho_lab.studies.study import Study, study_options

if TYPE_CHECKING:
    from mho.config import Hardware
    from mho_lab.report import Block

TIME = click.option("--time", "when", default="1 h", show_default=True, metavar="TIME", help="After programming.")
TIMES = several("--time", "times", "TIME", "Repeatable.", default=("1 h",), show_default=True)
THE_ONE = "[the one that mho train makes]."
CHECKPOINT = click.option(
    "--checkpoint", type=EXISTING, help=f"A safetensors file of the network, from mho train or plain {THE_ONE}"
)


@click.command()
@study_options
@several("--checkpoint", "checkpoints", None, f"A network; repeatable, to compare several {THE_ONE}", type=EXISTING)
@TIMES
@click.option("--level", default=0.99, show_default=True, help="Share of the normalised accuracy that has to remain.")
@count("--chips", 12, "At most, for one decision.", least=3)
@several("--effect", "only", None, "Only this effect, family, dac.bits or adc.bits (repeatable).")
@switch("--no-boost", "Skip the comparison at equal MVM errors.")
def sensitivity(checkpoints: tuple[Path, ...], times: tuple[str, ...], chips: int, no_boost: bool, **options: Any) -> None:
    """How strong may each effect of HW become before TASK's network loses accuracy, and what costs most at equal error?

    Every effect with a strength, whichever plugin it is from, is turned up by bisection until the normalised accuracy falls
    below the level; the bits of the converters are turned down. Each decision takes as many chips as it needs.
    """
    from mho_lab.measure.statistics import Effort
    from mho_lab.studies import pages
    from mho_lab.studies.sensitivity import as_data, chosen_knobs, sensitivity as measure

    if not 0 < options["level"] < 1:
        raise MhoError(f"--level {options['level']:g}: a share between 0 and 1, e.g. 0.99")
    study, at = Study.begin("sensitivity", options), [seconds(t) for t in times]
    chosen_knobs(study.hardware, options["only"])  # mistakes before minutes of work
    files = [*checkpoints] or [study.trained("trained.safetensors")]
    networks = {_name(f, files): study.subject(f) for f in files}
    effort = Effort(tuple(sorted({3, max(3, chips // 2), chips})))
    found = measure(networks, study.hardware, at, study.measured, effort=effort, boosts=not no_boost, **options)
    study.finish(pages.sensitivity_page(found, study.title("Sensitivity")), as_data(found))


@click.command()
@study_options
@CHECKPOINT
@TIME
@click.option("--target", default=0.99, show_default=True, help="Normalised accuracy that the mixed deployment must meet.")
@click.option("--scale", default=15.0, show_default=True, help="Factor on the noise in the one noisy layer, whatever the file's.")
@several("--family", "families", None, "Whose noise to scale: what programming and ageing do [the families of the devices].")
@count("--chips", 8, "For every point of the figures.", least=2)
@count("--verify", 24, "New chips for the verification.", least=2)
@click.option(
    "--least", metavar="NAME:TEXT", help="Of which column of a plugin the deployment takes least [layers off the tiles]."
)
@click.option(
    "--predict", type=click.FloatRange(0, min_open=True), metavar="NATS",
    help="Search nothing: on tiles stays what adds at most this divergence, by a few backward passes (with mho-digital).",
)  # fmt: skip
def layers(checkpoint: Path | None, when: str, least: str | None, predict: float | None, **options: Any) -> None:
    """Which layers of TASK's network suffer on HW, and which have to leave the tiles to meet a target?

    Writes mixed.yaml, a hardware file whose rules keep as few parameters as possible off the tiles, and verifies it on chips
    that the search has not seen.
    """
    from mho_lab.studies import pages
    from mho_lab.studies.columns import column
    from mho_lab.studies.layers import as_data, layer_study, predicted
    from mho_lab.studies.shown import plain
    from mho_lab.studies.variants import device_noise

    if not 0 < options["target"] <= 1:
        raise MhoError(f"--target {options['target']:g}: a normalised accuracy up to 1, e.g. 0.99")
    study, at = Study.begin("layers", options), seconds(when)
    device_noise(study.hardware, options["families"])  # mistakes before minutes of work
    now = None if least is None else column(study.task, study.hardware, least)["value"]
    subject = study.subject(checkpoint or study.trained("trained.safetensors"))
    if predict is not None:
        choice = predicted(subject, study.hardware, predict)
        data = {"study": "layers", **plain(choice), "kl": choice.kl, "share": choice.share}
        return study.finish(pages.predicted_page(choice, study.title("Layers")), data, *_mixed(study, choice.hardware))
    weigh = None if least is None else lambda hw: float(column(study.task, hw, least)["value"])
    found = layer_study(subject, study.hardware, at, study.measured, weigh=weigh, **options)
    blocks, said = _mixed(study, found.deployment.hardware)
    if least is not None:
        said = f"{least}: {found.deployment.weight:.4g}, with all layers on tiles {now:.4g}\n{said}"
    return study.finish(pages.layers_page(found, study.title("Layers")), as_data(found), blocks, said)


def _mixed(study: Study, hw: Hardware) -> tuple[list[Block], str]:
    """Write a mixed deployment to mixed.yaml; the file on the page, and where it is."""
    from mho_lab import report

    file = write_atomically(study.folder / "mixed.yaml", hw.to_yaml())
    yaml = report.code("The mixed deployment as a hardware file", hw.to_yaml(), summary="mixed.yaml")
    return [yaml], f"hardware file: {file}"


@click.command()
@study_options
@CHECKPOINT
@TIMES
@count("--chips", 12, "The same for everything.", least=2)
@several("--what-if", "what_if", "PATH=VALUE[,PATH=VALUE]", "Also with this changed (repeatable).")
def budget(checkpoint: Path | None, times: tuple[str, ...], what_if: tuple[str, ...], **options: Any) -> None:
    """What does each effect and each layer cost, alone and beside the others? What if HW were different?

    Losses are differences of scores on the same chips, with 95 % intervals. --what-if tiles.pcm.adc.bits=7 answers how much
    would change; changes joined by a comma are made together.
    """
    from mho_lab.studies import pages
    from mho_lab.studies.budget import as_data, budget_study

    study, at = Study.begin("budget", options), [seconds(t) for t in times]
    asked = [tuple(w.split(",")) for w in what_if]
    study.depend_on([load(study.hardware, set=changes) for changes in asked])  # mistakes before minutes of work
    subject = study.subject(checkpoint or study.trained("trained.safetensors"))
    found = budget_study(subject, study.hardware, at, study.measured, what_if=asked, **options)
    study.finish(pages.budget_page(found, study.title("Error budget")), as_data(found))


@click.command()
@study_options
@CHECKPOINT
@click.option(
    "--mode", default="additive", show_default=True, type=click.Choice(["additive", "multiplicative", "mixed"]),
    help="Noise on the pre-activations: added, relative, or both at once.",
)  # fmt: skip
@click.option(
    "--train", "sigmas", multiple=True, type=click.FloatRange(0), default=(0.25, 1.0), show_default=True,
    help="Train a network with this noise, in units of the midpoint (repeatable).",
)  # fmt: skip
@switch("--no-train", "Only the network that there is.")
@click.option(
    "--bound",
    type=click.FloatRange(0, min_open=True),
    help="Train and measure noisy networks on tiles whose outputs saturate here.",
)
@at_most("--epochs", "Of these trainings [the task's].")
@count("--repeats", 3, "Noise draws for every level.")
@switch("--no-walk", "Skip noise in single layers.")
def robustness(
    checkpoint: Path | None, sigmas: tuple[float, ...], no_train: bool, no_walk: bool, **options: Any
) -> None:  # fmt: skip
    """How much noise on its pre-activations does TASK's network bear, in all layers and in each?

    The midpoint noise level is that at which half of the accuracy above guessing is lost. Networks trained with noise are
    compared with it. HW serves for the errors of its products, and for --bound.
    """
    from mho_lab.studies import pages
    from mho_lab.studies.robustness import as_data, robustness as measure

    study = Study.begin("robustness", options)
    subject = study.subject(checkpoint or study.trained("digital.safetensors"))
    how = {"train_sigmas": () if no_train else sigmas, "walking": not no_walk, **options}
    found = measure(subject, study.hardware, study.measured, str(study.folder / "networks"), **how)
    study.finish(pages.robustness_page(found, study.title("Robustness")), as_data(found))


@click.command()
@study_options
@TIME
@several("--cause", "causes", None, "Only this effect, dac, adc, or everything (repeatable).")
@several(
    "--strength", "strengths", None, "Factor on the strength of each cause (repeatable).", type=float,
    default=(1.0, 4.0, 16.0), show_default=True,
)  # fmt: skip
@several("--stage", "stages", None, "Of the training.", type=float, default=(0.1, 1.0), show_default=True)
@switch("--full", "The whole protocol: 5 strengths, 4 stages, 3 trainings.")
@count("--chips", 4, "Draws of every gradient.", least=2)
@count("--batch", 64, "Samples of the gradients.")
@count("--steps", 30, "Of the training under each cause.", least=0)
@at_most("--epochs", "Of the training that gives the stages [the task's].")
def diagnose(when: str, strengths: tuple[float, ...], stages: tuple[float, ...], full: bool, **options: Any) -> None:
    """Which effects of HW can training compensate?

    The three diagnostics of Fang & Wang 2026 for every cause, strength and training stage, with gradients in the modes
    autograd, through and ste, against the clean gradient and that of the expected perturbed loss; beside them, what training
    really recovers on chips that it has not seen. Verdicts follow from the thresholds that the report states.
    """
    from mho_lab.studies import pages
    from mho_lab.studies.diagnose import as_data, diagnose as measure
    from mho_lab.studies.training import STAGES

    if min(strengths) <= 0 or not all(0 <= s <= 1 for s in stages):
        raise MhoError("--strength is a factor above 0, --stage a share of the training from 0 to 1")
    study, at = Study.begin("diagnose", options), seconds(when)
    if full:
        strengths, stages = (1.0, 2.0, 4.0, 8.0, 16.0), STAGES
    found = measure(
        study.subject(Path()), study.hardware, study.measured, str(study.folder / "networks"),
        strengths=sorted(strengths), stages=sorted(stages), seeds=3 if full else 1, time=at, **options,
    )  # fmt: skip
    study.finish(pages.diagnose_page(found, study.title("Diagnosis")), as_data(found))


def _name(file: Path, files: Sequence[Path]) -> str:
    """What a network is called: its file, with the folder where two files have one name."""
    return file.stem if sum(f.stem == file.stem for f in files) == 1 else str(file.with_suffix(""))
