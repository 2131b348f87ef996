"""Train one network in several ways, deploy all of them on the same chips, and compare in pairs.

python examples/training/arms.py STUDY [--seeds 3] [--chips 10] [--out FOLDER]

STUDY is a key of `STUDIES`. Trainings are kept in FOLDER (they resume), scores go to results/STUDY.json beside this file.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mho_lab.run.job import Job, deploy
from mho_lab.run.task import load_task
from tqdm import tqdm

import mho
from mho.ground import write_atomically
from mho.use import evaluate

HERE = Path(__file__).parent
EFFECTS = "tiles.pcm.nonidealities"


@dataclass(frozen=True)
class Study:
    """Arms by name: what changes for training; None trains nothing (direct deployment)."""

    about: str
    task: str
    hardware: tuple[str, ...]  # changes of pcm.standard that all are deployed on
    arms: dict[str, tuple[str, ...] | None]


NO_NOISE = ("training.inject=none",)
NO_OUTPUT = (f"{EFFECTS}[circuit.output_noise]=none",)
NO_READ = (f"{EFFECTS}[pcm.read_noise]=none",)
ABLATION: dict[str, tuple[str, ...] | None] = {  # R003 Table A.2
    "FP mapped": None,
    "no noise": (*NO_NOISE, *NO_OUTPUT, *NO_READ),
    "only output noise": (*NO_NOISE, *NO_READ),
    "only read noise": (*NO_NOISE, *NO_OUTPUT),
    "full HWA": (),
}
CLIPPED = ("tiles.pcm.mapping.clip=2.5 sigma",)  # R003 sec. 2.2; direct deployment tries with and without
HARSH = (f"{EFFECTS}[pcm.programming_noise].scale=3", f"{EFFECTS}[pcm.drift].nu_std=3", "tiles.pcm.adc.bits=6")

IDEAL = ("tiles.pcm.adc=none", "tiles.pcm.dac.bits=none")
GAUSSIAN = "{kind: pcm.programming_noise, c0: 1 uS, c1: 0 uS, c2: 0 uS}"
NOISE_MODELS: dict[str, tuple[str, ...] | None] = {  # R001-07, R001-09
    "clean": (f"{EFFECTS}=[]", *IDEAL, *NO_NOISE),
    "Gaussian": (f"{EFFECTS}=[{GAUSSIAN}, circuit.output_noise]", *IDEAL, "training.backward=autograd"),
    "full model, through": ("training.backward=through",),
    "full model, ste": ("training.backward=ste",),
}
FULL_CHAIN = (
    f"{EFFECTS}=[pcm.programming_noise, pcm.drift, pcm.read_noise_1f, circuit.ir_drop, pcm.read_noise, "
    "circuit.output_noise, {kind: pcm.stuck_at, off: 0.02, random: 0.01}]",
    "tiles.pcm.adc.bits=4",
)

SHORT = ("training.epochs=12", "training.inject.ramp=4 epochs")

VOWELS, STDLIB = (str(HERE.parent / file) for file in ("vowels/lstm.py", "stdlib/task.py"))
STANDARD_CHIP, HARSH_CHIP = "standard PCM", "3x programming noise, 3x drift spread, 6-bit ADC"

STUDIES = {
    "ablation-standard": Study(STANDARD_CHIP, "digits", SHORT, ABLATION),
    "ablation-harsh": Study(HARSH_CHIP, "digits", (*SHORT, *HARSH), ABLATION),
    "noise-models": Study("standard PCM, 4-bit ADC, 3 % stuck devices", "digits", (*SHORT, *FULL_CHAIN), NOISE_MODELS),
    "ablation-vowels-standard": Study(STANDARD_CHIP, VOWELS, (), ABLATION),
    "ablation-vowels": Study(HARSH_CHIP, VOWELS, HARSH, ABLATION),
    "ablation-stdlib-standard": Study(STANDARD_CHIP, STDLIB, CLIPPED, ABLATION),
    "ablation-stdlib": Study(HARSH_CHIP, STDLIB, (*HARSH, *CLIPPED), ABLATION),
}


def network(study: Study, changes: tuple[str, ...] | None, seed: int, folder: Path) -> torch.nn.Module:
    """One arm's network on the hardware of the study; all arms of a seed start from the same digital network."""
    task = load_task(study.task)
    target = mho.load("pcm.standard", set=study.hardware)
    base = Job(task, target, folder / "digital", seed=seed)
    base.folder.mkdir(parents=True, exist_ok=True)
    digital, _ = base._digital()
    if changes is None:
        return base._direct(digital)
    arm = folder / mho.load("pcm.standard", set=[*study.hardware, *changes]).digest[:12]
    arm.mkdir(exist_ok=True)
    shutil.copy(base.folder / "digital.safetensors", arm)
    Job(task, mho.load("pcm.standard", set=[*study.hardware, *changes]), arm, seed=seed).train()
    return deploy(task, target, arm / "trained.safetensors")


def run(name: str, seeds: int, chips: int, out: Path) -> dict[str, Any]:
    """Scores [seed][chip][time] of every arm; the same chips for all arms of a seed."""
    study, file = STUDIES[name], HERE / "results" / f"{name}.json"
    task = load_task(study.task)
    done = json.loads(file.read_text())["scores"] if file.exists() else {}
    times = mho.load("pcm.standard", set=study.hardware).times
    for seed in tqdm(range(seeds), desc=name):
        for arm, changes in study.arms.items():
            rows = done.setdefault(arm, [])
            if len(rows) > seed:
                continue
            net = network(study, changes, seed, out / name / f"seed{seed}")
            rows.append(evaluate(net, task.score, times, chips, seed=seed).scores)
            about = {"study": name, "about": study.about, "task": task.name, "times": times, "chips": chips}
            write_atomically(file, json.dumps({**about, "scores": done}))
    return json.loads(file.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--chips", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("mho-runs/training"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    run(args.study, args.seeds, args.chips, args.out)


if __name__ == "__main__":
    main()
