"""The main job: train a network, deploy it on simulated chips, train it hardware-aware, deploy it again, compare.

Everything lands in one folder, and an interrupted run goes on where it was:

key.json          what was run; a folder never mixes two runs
hardware.yaml     the resolved hardware file
digital.safetensors, trained.safetensors   weights after plain and after hardware-aware training
results.jsonl     one line per variant and chip
summary.json      scores, curves, what went on tiles
report.html       the same to look at
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from tqdm import tqdm

import mho
from mho import noise
from mho.calibration import Method, calibrate
from mho.checkpoint import load_model, save_model
from mho.convert import conversion_report, to_analog
from mho.errors import MhoError
from mho.evaluation import Evaluation, evaluate
from mho.hardware import Hardware, load
from mho.metrics import MvmExperiment, effect_table
from mho.studies import kurtosis_by_layer
from mho.task import Task
from mho.training import attach

DIRECT_CLIPS = ("none", "2.5 sigma")
DIRECT_RANGES: tuple[Method, ...] = ("max", "mse")
OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


@dataclass(frozen=True)
class Variant:
    """One way of bringing the network onto the hardware."""

    name: str
    about: str


DIRECT = Variant("direct", "trained digitally, then mapped and calibrated")
TRAINED = Variant("hwa", "trained further with the hardware in the loop")


@dataclass
class Job:
    """`mho run`: one task on one hardware. `run()` does it all; calling it again resumes."""

    task: Task
    hardware: Hardware
    folder: Path
    chips: int = 25
    seed: int = 0
    progress: bool = True
    command: str = ""
    started: float = field(default_factory=time.time)
    chosen: str = ""  # how the direct deployment was made

    def run(self) -> dict[str, Any]:
        """Do whatever is not done yet and return the summary."""
        to_analog(self.task.model(), self.hardware)  # rules that fit no layer should not wait for a training
        self._claim_folder()
        digital, reference = self._digital()
        curves = {}
        for variant, make in ((DIRECT, self._direct), (TRAINED, self._trained)):
            net = make(digital)
            curves[variant.name] = self._curve(variant, net, reference)
        return self._summarise(digital, net, reference, curves)

    def train(self) -> None:
        """Both trainings, without any chip."""
        self._claim_folder()
        self._trained(self._digital()[0])

    # -- stages -----------------------------------------------------------------------------------------------
    def _digital(self) -> tuple[nn.Module, float]:
        """Plain training, or its saved result; with the score that everything is compared to."""
        self._seed("digital")
        model, file = self.task.model(), self.folder / "digital.safetensors"
        if file.exists():
            load_model(model, file)
        else:
            optimizer = self.task.optimizer(model.parameters(), self.task.lr)
            self._fit(model, optimizer, self.task.epochs, "digital training")
            _atomically(file, lambda f: save_model(model, f))
        model.eval()
        with torch.no_grad():
            return model, float(self.task.score(model))

    def _direct(self, digital: nn.Module) -> nn.Module:
        """No straw man: with and without the 2.5 sigma clip of R003 sec. 2.2, input ranges calibrated in two ways; whichever
        has the smallest training loss on chips of its own is deployed."""
        choices = []
        for clip in DIRECT_CLIPS:
            hw = load(self.hardware, set=[f"tiles.{tile}.mapping.clip={clip}" for tile in self.hardware.tiles])
            for method in DIRECT_RANGES:
                net = to_analog(digital, hw)
                calibrate(net, self.task.calibration_batches(), method, forward=self.task.predict)
                choices.append((self._training_loss(net), f"clip {clip}, input ranges by {method}", net))
        _, self.chosen, net = min(choices, key=lambda c: c[0])
        return net

    @torch.no_grad()
    def _training_loss(self, net: nn.Module) -> float:
        """Mean loss on the calibration batches, two chips, first and last evaluation time."""

        def loss(model: nn.Module) -> float:
            batches = list(self.task.calibration_batches())
            return sum(float(self.task.loss(self.task.predict(model, b), b)) for b in batches) / len(batches)

        ends = [self.hardware.times[0], self.hardware.times[-1]]
        return sum(evaluate(net, loss, ends, chips=2, seed=noise.words("choose", self.seed)[0]).mean)

    def _trained(self, digital: nn.Module) -> nn.Module:
        """Hardware-aware training from the digital network (R003-60 ... R003-70), or its saved result."""
        self._seed("trained")
        net, file = to_analog(digital, self.hardware), self.folder / "trained.safetensors"
        if file.exists():
            return load_model(net, file)
        calibrate(net, self.task.calibration_batches(), forward=self.task.predict)
        spec = self.hardware.training
        lr, epochs = spec.lr or self.task.hwa_lr, self.task.hwa_epochs if spec.epochs is None else spec.epochs
        params = [p for p in net.parameters() if p.requires_grad]
        optimizer = OPTIMIZERS[spec.optimizer](params, lr=lr) if spec.optimizer else self.task.optimizer(params, lr)
        attach(optimizer, net, steps_per_epoch=sum(1 for _ in self.task.train_batches(0)))
        self._fit(net, optimizer, epochs, "hardware-aware training")
        _atomically(file, lambda f: save_model(net, f))
        return net

    def _fit(self, net: nn.Module, optimizer: torch.optim.Optimizer, epochs: int, what: str) -> None:
        net.train()
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        with tqdm(range(epochs), desc=what, disable=not self.progress, leave=False) as bar:
            for epoch in bar:
                for batch in self.task.train_batches(noise.words("epoch", self.seed, epoch)[0] & 0x7FFFFFFF):
                    optimizer.zero_grad()
                    loss = self.task.loss(self.task.predict(net, batch), batch)
                    loss.backward()
                    optimizer.step()
                bar.set_postfix(loss=f"{loss.item():.4f}")
                decay.step()
        net.eval()

    def _curve(self, variant: Variant, net: nn.Module, reference: float) -> Evaluation:
        """Scores of all chips; chips that are in results.jsonl already are not run again."""
        file = self.folder / "results.jsonl"
        done = {r["chip"]: tuple(r["scores"]) for r in _lines(file) if r["variant"] == variant.name}

        def keep(k: int, scores: tuple[float, ...]) -> None:
            line = {
                "variant": variant.name,
                "chip": k,
                "seed": self.seed,
                "times": list(self.hardware.times),
                "scores": list(scores),
            }
            cut = file.exists() and not file.read_bytes().endswith(b"\n")  # a crash may have cut the last line short
            with file.open("a") as f:
                f.write("\n" * cut + json.dumps(line) + "\n")

        return evaluate(
            net, self.task.score, self.hardware.times, self.chips, self.seed,
            reference=reference, chance=self.task.chance, progress=self.progress, done=done, on_chip=keep,
        )  # fmt: skip

    # -- bookkeeping ------------------------------------------------------------------------------------------
    def _seed(self, stage: str) -> None:
        """Every stage starts from its own seed, so that a resumed run equals an uninterrupted one."""
        torch.manual_seed(noise.words(stage, self.seed)[0] & 0x7FFFFFFF)

    def _key(self) -> dict[str, Any]:
        return {
            "task": self.task.name,
            "code": self.task.fingerprint(),
            "hardware": self.hardware.digest,
            "seed": self.seed,
            "versions": versions(),
        }

    def _claim_folder(self) -> None:
        file, key = self.folder / "key.json", self._key()
        if file.exists() and (before := json.loads(file.read_text())) != key:
            changed = ", ".join(k for k in key if before.get(k) != key[k])
            raise MhoError(f"{self.folder} holds another run (different {changed}); choose another folder with --out")
        self.folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(key, indent=1))
        (self.folder / "hardware.yaml").write_text(self.hardware.to_yaml())

    def _summarise(
        self, digital: nn.Module, net: nn.Module, reference: float, curves: dict[str, Evaluation]
    ) -> dict[str, Any]:
        report = conversion_report(net)
        summary = {
            "task": self.task.name,
            "hardware": self.hardware.description,
            "reference": reference,
            "chance": self.task.chance,
            "times": list(self.hardware.times),
            "chips": self.chips,
            "seed": self.seed,
            "variants": [
                {
                    "name": v.name,
                    "about": f"{v.about} ({self.chosen})" if v is DIRECT else v.about,
                    "mean": c.mean,
                    "sem": c.sem,
                    "normalised": c.normalised,
                    "scores": c.scores,
                }
                for v in (DIRECT, TRAINED)
                if (c := curves[v.name])
            ],
            "layers": json.loads(report.to_json()),
            "mvm": self._mvm(),
            "kurtosis": [k._asdict() for k in kurtosis_by_layer(net)],
            "parameters": sum(p.numel() for p in digital.parameters()),
            "versions": versions(),
            "command": self.command,
            "seconds": time.time() - self.started,
        }
        _atomically(self.folder / "summary.json", lambda f: f.write_text(json.dumps(summary, indent=1)))
        return summary

    def _mvm(self) -> dict[str, Any]:
        """What causes the error of one product on the default tile, right after programming and at the last time; from
        the last summary where there is one, since a folder never holds two kinds of hardware."""
        file = self.folder / "summary.json"
        if file.exists() and (before := json.loads(file.read_text()).get("mvm")):
            return before
        hw = self.hardware
        if hw.default not in hw.tiles:
            return {"skipped": f"the default of this hardware is {hw.default}, not a tile"}
        e = MvmExperiment(size=min(512, hw.tile(hw.default).rows), vectors=64, matrices=2)
        with tqdm(desc="one matrix-vector product", disable=not self.progress, leave=False) as bar:
            try:
                rows = [r for t in (None, hw.times[-1]) for r in effect_table(hw, t, e, bar.update)]
            except MhoError as why:
                return {"skipped": str(why)}
        mapping = hw.tile(hw.default).mapping.kind
        return {"size": e.size, "matrices": e.matrices, "mapping": mapping, "rows": [r._asdict() for r in rows]}


def deploy(task: Task, hardware: Hardware, checkpoint: Path) -> nn.Module:
    """The task's network on analog tiles with the weights of a file; a plain digital one is calibrated first."""
    net = load_model(to_analog(task.model(), hardware), checkpoint)
    with safe_open(str(checkpoint), "pt") as f:
        plain = not any(name.endswith("tiles.input_range") for name in f.keys())  # noqa: SIM118 (not a dict)
    if plain:
        calibrate(net, task.calibration_batches(), forward=task.predict)
    return net.eval()


def versions() -> dict[str, str]:
    """Versions of everything a result depends on: mho, its plugins, torch, Python."""
    found = {
        d.metadata["Name"]: d.version
        for d in importlib.metadata.distributions()
        if any(e.group == "mho" for e in d.entry_points)
    }
    return {
        **dict(sorted(found.items())),
        "mho": mho.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """The complete lines of a JSONL file; a line that a crash cut short does not count."""
    for line in file.read_text().splitlines() if file.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            yield json.loads(line)


def _atomically(file: Path, write: Any) -> None:
    """Write to a temporary name first, so that a file is either whole or not there."""
    part = file.with_suffix(file.suffix + ".part")
    write(part)
    os.replace(part, file)
