"""Why the straight-through estimator loses or wins: trainings that differ in one thing, on the same chips.

python examples/training/ste/study.py STUDY... [--out FOLDER]     STUDY: a key of `STUDIES`, or `directions`

Scores go to results/STUDY.json beside this file after every training; what is there already is not run again. Digital networks
and trained ones are kept in FOLDER.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from mho_lab.run.job import Job
from mho_lab.run.loop import seed_all
from mho_lab.run.task import Task, load_task
from mho_lab.studies.gradients import gradient_directions
from torch import Tensor, nn

import mho
from mho.effects import product
from mho.ground import write_atomically
from mho.tile import Patches, tile_arrays, vectors
from mho.use import matrices

HERE = Path(__file__).parent
EFFECTS = "tiles.pcm.nonidealities"
TIMES = ("1 h", "1 year")


@mho.register
class Masked(mho.Surrogate, kind="study.masked"):
    """The clean product; no gradient passes beyond the limits of DAC and ADC (mode `masked`), or of one of them."""

    source = "this study"
    at: Literal["both", "dac", "adc"] = mho.Field("both", description="where gradients are masked")

    def outputs(self, x: Tensor, w: Tensor, geometry: Any) -> Tensor:
        b = geometry.bound
        y = product(x.clamp(-1, 1) if self.at != "adc" else x, w)
        return y.clamp(-b, b) if self.at != "dac" else y


# -- hardware ---------------------------------------------------------------------------------------------------------
def chain(*more: str, without: tuple[str, ...] = (), drop: str = "", bits: int = 4) -> tuple[str, ...]:
    """Changes of pcm.standard: the whole chain with stuck cells and a coarse ADC, effects added or left out."""
    effects = {
        "pcm.programming_noise": "", "pcm.drift": "", "pcm.read_noise_1f": "", "circuit.ir_drop": drop, "pcm.read_noise": "",
        "circuit.output_noise": "", "pcm.stuck_at": "off: 0.02, random: 0.01", **dict.fromkeys(more, ""),
    }  # fmt: skip
    listed = ", ".join(f"{{kind: {k}, {v}}}" if v else k for k, v in effects.items() if k not in without)
    return f"{EFFECTS}=[{listed}]", f"tiles.pcm.adc.bits={bits}"


A = chain()
B = chain("circuit.adc_s_curve", drop="scale: 10")
C = chain("circuit.adc_s_curve", drop="scale: 10", bits=3)
D = (*C, "tiles.pcm.adc.bound=3")
IDEAL = ("tiles.pcm.adc=none", "tiles.pcm.dac.bits=none")
CLEAN = (f"{EFFECTS}=[]", *IDEAL, "training.inject=none")


def gaussian(sigma: float) -> tuple[str, ...]:
    """Additive Gaussian noise on weights (in units of the largest) and outputs, differentiated exactly."""
    noise = f"{{kind: pcm.programming_noise, c0: {25 * sigma:g} uS, c1: 0 uS, c2: 0 uS}}"
    return (f"{EFFECTS}=[{noise}, circuit.output_noise]", *IDEAL, "training.backward=autograd")


def backward(mode: str, scale: float = 1) -> tuple[str, ...]:
    return f"training.backward={mode}", f"training.inject.scale={scale:g}"


def surrogate(kind: str, scale: float = 1) -> tuple[str, ...]:
    return backward(f"{{mode: surrogate, surrogate: {kind}}}", scale)


# -- trainings --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Arm:
    """A training: phases of changes of the hardware and their share of the epochs.

    ranges    of inputs: "mode", as the backward mode has them; "fixed", as calibrated at the start; "statistics", the running
              mean of the largest input; "searched", by `mse` at the start and four times while it trains; or the name of the arm
              whose ranges are taken
    draws     forward and backward passes, with noise of their own, whose mean gradient makes a step
    """

    changes: tuple[str, ...]
    ranges: str = "mode"
    draws: int = 1
    lr: float = 1.0
    epochs: float = 1.0
    first: tuple[str, ...] | None = None  # changes for the first half of the epochs
    seeds: int = 99  # at most


@dataclass(frozen=True)
class Study:
    about: str
    task: str
    hardware: tuple[str, ...]
    arms: dict[str, Arm]
    seeds: tuple[int, ...]
    chips: int = 10
    times: tuple[str, ...] = TIMES


def digits() -> Task:
    return load_task("digits")


class SmallCnn(nn.Sequential):
    """28x28 pixels -> 10x10x16 -> 5x5x32 -> 3x3x64 -> 10 classes, with batch norm; 24,346 parameters."""

    def __init__(self) -> None:
        sizes = ((1, 16, 5, 3), (16, 32, 3, 2), (32, 64, 3, 2))
        parts = [(nn.Conv2d(i, o, k, s, k // 2, bias=False), nn.BatchNorm2d(o), nn.ReLU()) for i, o, k, s in sizes]
        super().__init__(*(m for part in parts for m in part), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def fashion() -> Task:
    """Fashion-MNIST with a small network: epochs of 6,400 images on the hardware, scores on 500 images."""
    task: Any = load_task(HERE.parents[1] / "fashion/task.py")
    task.epochs, task.epoch_images, task.model = 16, 6_400, SmallCnn
    x, y, tx, ty = task.data
    task.data = x, y, tx[:500], ty[:500]
    return task


def text() -> Task:
    """The language model with 64 units, sequences and streams of half the length and half as many, epochs of 30 steps."""
    task: Any = load_task(HERE.parents[1] / "stdlib/task.py")
    whole = task.model
    task.epochs = 40
    task.sequences, task.length, task.streams, task.stream_length = 32, 32, 64, 64
    task.model = lambda: type(whole())(width=64)
    return task


TASKS: dict[str, Callable[[], Task]] = {"digits": digits, "fashion": fashion, "text": text}
EPOCHS = {"digits": 12, "fashion": 12, "text": 10}  # of a training on the hardware: 140, 600 and 300 steps

STE, THROUGH, G4 = backward("ste"), backward("through"), gaussian(0.04)
FIRST = {
    "clean": Arm(CLEAN), "Gaussian": Arm(G4), "through": Arm(THROUGH), "ste": Arm(STE),
}  # fmt: skip
MASKED, SATURATING = backward("masked"), Arm(surrogate("mho.saturating"))
WHY = {
    **FIRST,
    "ste, ranges searched": Arm(STE, "searched"),
    "through, ranges by statistics": Arm(THROUGH, "statistics"),
    "ste, ranges of through": Arm(STE, "through"),
    "masked": Arm(MASKED),
    "masked at the ADC": Arm(surrogate("{kind: study.masked, at: adc}")),
    "masked at the DAC": Arm(surrogate("{kind: study.masked, at: dac}")),
    "saturating": SATURATING,
    "Gaussian, then ste": Arm(STE, first=G4),
    "Gaussian, then masked": Arm(MASKED, first=G4),
    "ste, lr / 3": Arm(STE, lr=1 / 3),
    "ste, lr x 3": Arm(STE, lr=3),
    "ste, 4 draws": Arm(STE, draws=4),
    "through, lr x 3": Arm(THROUGH, lr=3),
    "masked, lr x 3": Arm(MASKED, lr=3),
    "ste, 24 epochs": Arm(STE, epochs=2),
    "through, 24 epochs": Arm(THROUGH, epochs=2),
    "ste, no clip": Arm((*STE, "training.clip=none", "training.remap=1 step")),
    "ste, ranges fixed": Arm(STE, "fixed"),
    "through, ranges fixed": Arm(THROUGH, "fixed"),
}
PARTS = {
    "8-bit ADC": chain(bits=8),
    "no stuck cells": chain(without=("pcm.stuck_at",)),
    "no IR-drop": chain(without=("circuit.ir_drop",)),
    "no read noise": chain(without=("pcm.read_noise", "circuit.output_noise")),
    "with S-curve": chain("circuit.adc_s_curve"),
}
DEV, FRESH = (0, 1, 2), (10, 11, 12, 13, 14)
SETTINGS = {"B": B, "C": C, "D": D}
TRIED = {f"Gaussian {s}": Arm(gaussian(s)) for s in (0.02, 0.05, 0.12, 0.25)} | {
    "Gaussian 0.05, lr x 3": Arm(gaussian(0.05), lr=3),
    "Gaussian 0.12, lr x 3": Arm(gaussian(0.12), lr=3),
    "masked": Arm(MASKED),
    "masked, lr x 3": Arm(MASKED, lr=3),
    "masked, ranges searched": Arm(MASKED, "searched"),
    "masked, ranges searched, lr x 3": Arm(MASKED, "searched", lr=3),
    "through": Arm(THROUGH),
    "ste": Arm(STE),
}


def trial(task: str, setting: str) -> Study:
    """What the comparison takes is chosen here, on another seed: as many tries for Gaussian training as for the full model."""
    few = ("Gaussian 0.05", "Gaussian 0.12", "Gaussian 0.05, lr x 3", "masked", "masked, lr x 3")  # of the text
    arms = {a: v for a, v in TRIED.items() if task != "text" or a in few}
    return Study(setting, task, SETTINGS[setting], arms, DEV[:1], 3, TIMES[:1])


def fair(task: str, setting: str, sigma: float, lr: tuple[float, float] = (1, 1), ranges: str = "mode") -> Study:
    """The comparison of the paper on fresh seeds; strength of the Gaussian noise, learning rates (Gaussian, full model) and
    ranges of the full model are what the search found."""
    arms = {
        "clean": Arm(CLEAN),
        "Gaussian": Arm(gaussian(sigma), lr=lr[0]),
        "full, masked": Arm(MASKED, ranges, lr=lr[1]),
        "full, ste": Arm(STE, ranges, lr=lr[1]),
        "full, through": Arm(THROUGH, lr=lr[1]),
        "full, saturating": Arm(surrogate("mho.saturating"), lr=lr[1]),
        "full, masked, the seconds of Gaussian": Arm(MASKED, ranges, lr=lr[1], epochs=SECONDS[task]),
    }
    if lr == (1, 1):  # the search has found the larger one to be better for both, and more than the mode
        arms |= {"Gaussian, lr x 3": Arm(gaussian(sigma), lr=3), "full, masked, lr x 3": Arm(MASKED, ranges, lr=3)}
    return Study(setting, task, SETTINGS[setting], arms, FRESH, 10, TIMES[:1])


SECONDS = {"digits": 2 / 3, "fashion": 2 / 3, "text": 0.4}  # of Gaussian training, in epochs of masked training
STUDIES = {
    "why": Study("A: 4-bit ADC, 3 % stuck cells", "digits", A, WHY, DEV, 5),
    **{
        f"part: {name}": Study(f"A, {name}", "digits", hw, {a: WHY[a] for a in ("Gaussian", "through", "ste", "masked")}, DEV, 5)
        for name, hw in PARTS.items()
    },
    **{
        f"search {task} {setting}": trial(task, setting)
        for task in TASKS
        for setting in SETTINGS
        if (task, setting) != ("digits", "D")
    },
    "compare digits C": fair("digits", "C", 0.05),
    "compare fashion D": fair("fashion", "D", 0.12, lr=(1, 3)),
    "compare text D": fair("text", "D", 0.05, lr=(1, 3)),
}


def network(task: Task, hardware: tuple[str, ...], state: dict[str, Tensor] | None, digital: nn.Module) -> nn.Module:
    """The digital network on tiles, or with the state of a trained one."""
    net = mho.to_analog(copy.deepcopy(digital), mho.load("pcm.standard", set=hardware))
    if state is None:
        mho.calibrate(net, task.calibration_batches(), cap=task.range_cap, forward=task.predict)
    else:
        net.load_state_dict(state)
    return net


def search(task: Task, net: nn.Module) -> None:
    mho.calibrate(net, task.calibration_batches(), "mse", cap=task.range_cap, forward=task.predict)


def hold_ranges(net: nn.Module, how: str, source: dict[str, Tensor] | None) -> None:
    """Take input ranges out of the hands of the mode."""
    for name, array in [(n, m) for n, m in net.named_modules() if m in set(tile_arrays(net))]:
        array.input_range.requires_grad_(False)
        if source is not None:
            array.input_range.data.copy_(source[f"{name}.input_range"])
        if how == "statistics":
            array.register_forward_pre_hook(note_range)
        elif array.training_spec.backward.forward_only:
            array.learns_range = False  # no statistics either


@torch.no_grad()
def note_range(array: Any, args: Any) -> None:
    x = vectors(args[0])
    array.seen = array.layout.cut(x.reshape(-1, x.shape[-1])).abs().amax((0, 2))[:, None]


def train(task: Task, hardware: tuple[str, ...], arm: Arm, seed: int, digital: nn.Module, epochs: int, ranges: Any) -> Any:
    """Train one arm; the state of the network, and the processor seconds it took."""
    total = max(1, round(epochs * arm.epochs))
    phases = [(arm.changes, total)] if arm.first is None else [(arm.first, total - total // 2), (arm.changes, total // 2)]
    state, start = None, time.process_time()
    for number, (changes, count) in enumerate(phases):
        seed_all(1000 * seed + 7 + number)
        ramp = () if "training.inject=none" in changes else (f"training.inject.ramp={max(1, count // 3)} epochs",)
        net = network(task, (*hardware, *changes, *ramp), state, digital)
        if arm.ranges != "mode":
            hold_ranges(net, arm.ranges, ranges)
        optimizer = task.optimizer([p for p in net.parameters() if p.requires_grad], arm.lr * task.hwa_lr)
        attached = mho.attach(optimizer, net, steps_per_epoch=sum(1 for _ in task.train_batches(0)))
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, count)
        for epoch in range(count):
            if arm.ranges == "searched" and epoch % max(1, count // 4) == 0:
                search(task, net)
            net.train()
            for batch in task.train_batches(100_000 * seed + 1000 * number + epoch):
                optimizer.zero_grad()
                for _ in range(arm.draws):
                    (task.loss(task.predict(net, batch), batch) / arm.draws).backward()
                optimizer.step()
            decay.step()
        attached.detach()
        state = {k: v.detach().clone() for k, v in net.state_dict().items()}
    return state, time.process_time() - start


def scores(task: Task, net: nn.Module, chips: int, times: tuple[str, ...], seed: int) -> list[list[float]]:
    """[chip][time] error in %, or perplexity where the task has one."""
    found: list[float] = []

    def score(net: nn.Module) -> float:
        value = task.checked_score(net)
        found.append(value.extra.get("perplexity", 100 * (1 - float(value))))
        return float(value)

    mho.evaluate(net, score, times, chips, seed=seed)
    return [found[k : k + len(times)] for k in range(0, len(found), len(times))]


@torch.no_grad()
def beyond(task: Task, net: nn.Module) -> dict[str, float]:
    """The share of the outputs of every layer that are beyond the bound of the ADC."""
    seen: dict[str, Tensor] = {}
    hooks = [a.register_forward_pre_hook(lambda a, args: seen.update({a.name: vectors(args[0])})) for a in tile_arrays(net)]
    task.predict(net, next(iter(task.calibration_batches())))
    for hook in hooks:
        hook.remove()
    found = {}
    for array, weight in matrices(net):
        x = seen[array.name]
        analog = array.trace(array.dac_inputs(Patches(x.reshape(-1, x.shape[-1])[:2000])).rows(), weight)["analog"]
        found[array.name] = float((analog.abs() > array.view.adc.limit).float().mean())
    return found


def run(name: str, out: Path, results: Path = HERE / "results") -> dict[str, Any]:
    """All trainings of a study that are not there yet."""
    study, file = STUDIES[name], results / f"{name.replace(': ', '-').replace(' ', '_')}.json"
    task, kept = TASKS[study.task](), out / study.task
    done = json.loads(file.read_text()) if file.exists() else {"arms": {}}
    for number, seed in enumerate(study.seeds):
        folder = kept / f"seed{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        job = Job(task, mho.load("pcm.standard", set=study.hardware), folder, seed=seed, progress=False)
        reference = float(job.reference())
        digital = mho.load_model(task.model(), folder / "digital.safetensors")
        for arm_name, arm in study.arms.items():
            rows = done["arms"].setdefault(arm_name, {})
            if str(seed) in rows or number >= arm.seeds:
                continue
            trained = folder / f"{file.stem} {arm_name.replace('/', 'by')}.pt"
            ranges = torch.load(folder / f"{file.stem} {arm.ranges}.pt", weights_only=True) if arm.ranges in study.arms else None
            state, seconds = train(task, study.hardware, arm, seed, digital, EPOCHS.get(study.task, task.hwa_epochs), ranges)
            torch.save(state, trained)
            net = network(task, study.hardware, state, digital).eval()
            row: dict[str, Any] = {"seconds": seconds, "as trained": scores(task, net, study.chips, study.times, seed)}
            row["beyond"] = beyond(task, net)
            row["ranges"] = {a.name: float(a.input_range.mean()) for a in tile_arrays(net)}
            search(task, net)
            mho.adapt_batch_norm(net, task.calibration_batches(), forward=task.predict)
            row["searched"] = scores(task, net, study.chips, study.times, seed)
            rows[str(seed)] = row
            about = {"study": name, "about": study.about, "task": study.task, "times": study.times, "chips": study.chips}
            done = {**about, "reference": {**done.get("reference", {}), str(seed): reference}, "arms": done["arms"]}
            write_atomically(file, json.dumps(done))
            mean = [sum(c[-1] for c in row[k]) / study.chips for k in ("as trained", "searched")]
            print(
                f"{time.strftime('%H:%M:%S')} {name} seed {seed} {arm_name}: {mean[0]:.2f} {mean[1]:.2f} ({seconds:.0f} s)",
                flush=True,
            )
    return done


# -- directions -------------------------------------------------------------------------------------------------------
MODES = ("through", "ste", "masked")


def directions(out: Path, results: Path = HERE / "results", chips: int = 4, images: int = 64, seed: int = 0) -> None:
    """Cosines of the mean gradient of each mode with the clean one and that of the expected loss, at the digital network on A
    and without its coarse ADC, and behind trainings of the study `why`."""
    task, rows = digits(), []
    folder = out / "digits" / f"seed{seed}"
    digital = mho.load_model(task.model(), folder / "digital.safetensors")
    x, y = (t[:images] for t in task.data[:2])  # type: ignore[attr-defined]
    for hardware, changes, arm in (("A", A, ""), ("A", A, "ste"), ("A, 8-bit ADC", PARTS["8-bit ADC"], ""), ("A", A, "masked")):
        state = torch.load(folder / f"why {arm}.pt", weights_only=True) if arm else None
        net = network(task, (*changes, *STE), state, digital)
        found = gradient_directions(net, lambda n: nn.functional.cross_entropy(n(x), y), modes=MODES, chips=chips, time="1 h")
        about = {"hardware": hardware, "at": arm or "digital", "beyond": beyond(task, net.eval())}
        rows += [{**about, **d._asdict()} for d in found]
        write_atomically(results / "directions.json", json.dumps({"chips": chips, "images": images, "rows": rows}))
        print(time.strftime("%H:%M:%S"), about, [(d.mode, d.cosine, d.expected) for d in found if d.layer == "all"], flush=True)


def adapted(out: Path, results: Path = HERE / "results", seed: int = 0) -> None:
    """Error in % of trainings on Fashion-MNIST where batch norms are estimated on every chip (at 1 h), by study and arm."""
    task, found = fashion(), {}
    batches = list(islice(task.calibration_batches(), 4))
    digital = mho.load_model(task.model(), out / "fashion" / f"seed{seed}" / "digital.safetensors")
    for name in ("coarse fashion dev", "fashion dev"):
        study = STUDIES[name]
        for file in sorted((out / "fashion" / f"seed{seed}").glob(f"{name.replace(' ', '_')} *.pt")):
            net = network(task, study.hardware, torch.load(file, weights_only=True), digital).eval()
            search(task, net)

            def score(net: nn.Module) -> float:
                mho.adapt_batch_norm(net, batches, forward=task.predict)
                return float(task.score(net))

            errors = [100 * (1 - s[0]) for s in mho.evaluate(net, score, study.times, study.chips, seed=seed).scores]
            found.setdefault(study.about, {})[file.stem.removeprefix(f"{name.replace(' ', '_')} ")] = sum(errors) / len(errors)
            write_atomically(results / "adapted.json", json.dumps(found))
            print(time.strftime("%H:%M:%S"), name, file.stem, errors, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", nargs="+", choices=[*STUDIES, "directions", "adapted"])
    parser.add_argument("--out", type=Path, default=Path("mho-runs/ste"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.study:
        {"directions": directions, "adapted": adapted}.get(name, partial(run, name))(args.out)


if __name__ == "__main__":
    main()
