"""The main job: train a network, deploy it on simulated chips, train it hardware-aware, deploy it again, compare.

Everything lands in one folder, and an interrupted run goes on where it was:

key.json          what was run; a folder never mixes two runs
hardware.yaml     the resolved hardware file, with the versions of all plugins
digital.safetensors, trained.safetensors   weights after plain and after hardware-aware training
digital.json, trained.json      loss and accuracy of every epoch of these trainings
digital.part.safetensors, trained.part.safetensors   a training under way, after its last whole epoch
results.jsonl     one line per variant and chip
summary.json      scores, curves, what went on tiles
report.html       the same to look at
"""

import copy
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from mho_fast import routes
from safetensors import safe_open
from torch import Tensor, nn
from tqdm import tqdm

from mho.config import Hardware, load, parse, read
from mho.effects import draws
from mho.ground import MhoError, spread, write_atomically, writing
from mho.tile import unwatched
from mho.use import Evaluation, attach, calibrate, conversion_report, evaluate, load_model, save_model, to_analog
from mho_lab.devices import placed
from mho_lab.measure.identity import differences, identity, versions
from mho_lab.measure.state import read_json
from mho_lab.run import ranks
from mho_lab.run.adaptation import adapt_batch_norm, tune_digital
from mho_lab.run.inspection import inspect_layers, kurtosis_by_layer
from mho_lab.run.loop import Loop, seed_all
from mho_lab.run.networks import Elsewhere
from mho_lab.run.product import MvmExperiment, effect_table
from mho_lab.run.results import complete_lines
from mho_lab.run.task import Score, Task

DIRECT_CLIPS = ("none", "2.5 sigma")
DIRECT_RANGES = ("max", "mse")
TOLD = 5  # differences that are told
TUNING_BATCHES = 100  # at most, of the direct baseline of R003-80
OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


Rows = list[list[float]]  # [chip][time]


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
    label: str = ""  # stands before the name of every stage in its progress
    started: float = field(default_factory=time.time)
    chosen: str = ""  # how the direct deployment was made
    elsewhere: Elsewhere | None = None  # who scores the chips; None: this process
    fsdp: bool = False  # whether ranks that train together shard what they train
    every: int | None = None  # steps of a training after which its state is kept, besides every epoch

    @unwatched()  # the page says how much every layer loses at its edges
    def run(self) -> dict[str, Any]:
        """Do whatever is not done yet and return the summary."""
        to_analog(self.task.model(), self.hardware)  # rules that fit no layer should not wait for a training
        claim_folder(self.folder, self.task, self.hardware, self.seed)
        digital, reference = self._digital()
        curves = {}
        ways = [(DIRECT, self._direct)] + [(TRAINED, self._trained)] * (self._epochs > 0)
        for variant, make in ways:
            net = make(digital)
            curves[variant.name] = self._curve(variant, net, reference)
        return self._summarise(digital, net, reference, curves)

    @unwatched()
    def train(self) -> None:
        """Both trainings, without any chip."""
        claim_folder(self.folder, self.task, self.hardware, self.seed)
        self._trained(self._digital()[0])

    def reference(self) -> Score:
        """The score of the digital network, trained first where it is not there yet."""
        return self._digital()[1]

    def network(self, trained: bool) -> nn.Module:
        """The network on its hardware: trained for it, or deployed as it is."""
        digital = self._digital()[0]
        return self._trained(digital) if trained else self._direct(digital)

    # -- stages -----------------------------------------------------------------------------------------------
    def _digital(self) -> tuple[nn.Module, Score]:
        """Plain training, or its saved result; with the score that everything is compared to."""
        self._seed("digital")
        model, file = placed(self.task.model()), self.folder / "digital.safetensors"
        if file.exists():
            load_model(model, file)
        else:
            if self.fsdp:
                ranks.shard(model)
            optimizer = self.task.optimizer(model.parameters(), self.task.lr)
            self._fit(model, optimizer, self.task.epochs, file, loss=self.task.loss, what="digital training")
            if self.fsdp:
                return self._digital()  # whole, from the file
        model.eval()
        with torch.no_grad():
            return model, self.task.checked_score(model)

    def _direct(self, digital: nn.Module) -> nn.Module:
        """No straw man: with and without the 2.5 sigma clip of R003 sec. 2.2, input ranges calibrated in two ways, batch
        norms as they are or estimated anew, or all that is digital tuned (R003-80); whichever has the smallest training
        loss on chips of its own is deployed."""
        if self.task.remedies is not None:
            self.chosen = "remedies chosen for every layer by calibration"
            return calibrated(self.task, to_analog(digital, self.hardware))
        choices = ((self._training_loss(net), how, net) for how, net in self._ways(digital))
        with unwatched():
            _, self.chosen, net = min(choices, key=lambda c: c[0])
        return net

    def _ways(self, digital: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        """Deployments without training of weights."""
        task = self.task
        for clip in DIRECT_CLIPS:
            hw = load(self.hardware, set=[f"tiles.{tile}.mapping.clip={clip}" for tile in self.hardware.tiles])
            for method in DIRECT_RANGES:
                net = to_analog(digital, hw)
                calibrate(net, task.calibration_batches(), method, cap=task.range_cap, forward=task.predict)
                yield f"clip {clip}, input ranges by {method}", net
                adapted = copy.deepcopy(net)
                if adapt_batch_norm(adapted, task.calibration_batches(), forward=task.predict):
                    yield f"clip {clip}, input ranges by {method}, batch norms estimated anew", adapted
            self._seed("direct")
            batches = islice(task.train_batches(draws.words("direct", self.seed)[0] & 0x7FFFFFFF), TUNING_BATCHES)
            tuned = tune_digital(to_analog(digital, hw), batches, task.loss, cap=task.range_cap, forward=task.predict)
            yield f"clip {clip}, digital parameters tuned", tuned

    @torch.no_grad()
    def _training_loss(self, net: nn.Module) -> float:
        """Mean loss on the calibration batches, two chips, first and last evaluation time."""

        def loss(model: nn.Module) -> float:
            batches = list(self.task.calibration_batches())
            return sum(float(self.task.loss(self.task.predict(model, b), b)) for b in batches) / len(batches)

        ends = [self.hardware.times[0], self.hardware.times[-1]]
        return sum(evaluate(net, loss, ends, chips=2, seed=draws.words("choose", self.seed)[0]).mean)

    def _trained(self, digital: nn.Module) -> nn.Module:
        """Hardware-aware training, or its saved result: from the digital network (R003-60), mapped by Eqs. 21 and 22
        (R003-61), with input ranges from data (R003-62), through the whole model without drift (R003-63)."""
        self._seed("trained")
        net, file = to_analog(digital, self.hardware), self.folder / "trained.safetensors"
        if file.exists():
            return load_model(net, file)
        calibrate(net, self.task.calibration_batches(), cap=self.task.range_cap, forward=self.task.predict)
        if self.fsdp:
            ranks.shard(net)
        spec, epochs = self.hardware.training, self._epochs
        optimizer = self._optimizer([p for p in net.parameters() if p.requires_grad])
        attached = attach(optimizer, net, steps_per_epoch=sum(1 for _ in self.task.train_batches(0)))
        what, cosine = "hardware-aware training", "lr" not in spec.decided
        self._fit(net, optimizer, epochs, file, loss=self._loss(digital), what=what, cosine=cosine, attached=attached)
        attached.detach()
        return net

    @property
    def _epochs(self) -> int:
        """Of hardware-aware training."""
        spec = self.hardware.training
        return int(spec.decided.get("epochs", self.task.hwa_epochs if spec.epochs is None else spec.epochs))

    def _optimizer(self, params: list[nn.Parameter]) -> torch.optim.Optimizer:
        """What `training:` asks for, or the task's."""
        spec = self.hardware.training
        lr = spec.decided.get("lr", spec.lr or self.task.hwa_lr)
        optimizer = OPTIMIZERS[spec.optimizer](params, lr=lr) if spec.optimizer else self.task.optimizer(params, lr)
        for group in optimizer.param_groups if spec.weight_decay is not None else ():
            group["weight_decay"] = spec.weight_decay
        return optimizer

    def _loss(self, digital: nn.Module) -> Callable[[Any, Any], Tensor]:
        """The task's loss as training methods change it; those that want a teacher get the digital network (R003-75)."""

        def loss(outputs: Any, batch: Any) -> Tensor:
            @torch.no_grad()
            def teacher() -> Tensor:
                return self.task.logits(self.task.predict(digital, batch))

            value = self.task.loss(outputs, batch)
            for method in self.hardware.training.all_methods.values():
                value = method.loss(value, lambda: self.task.logits(outputs), teacher)
            return value

        return loss

    def _fit(self, net: nn.Module, optimizer: torch.optim.Optimizer, epochs: int, file: Path, what: str, **options: Any) -> None:
        """Train, and keep the result in `file`."""
        part, what = file.with_suffix(".part.safetensors"), self.label + what
        options |= {"what": what, "progress": self.progress and ranks.is_first(), "every": self.every}
        loop = Loop(self.task, net, optimizer, epochs, self.seed, part, **options)
        loop.run()
        if ranks.is_first():
            loss, right = zip(*loop.curve) if loop.curve else ((), ())
            write_atomically(file.with_suffix(".json"), json.dumps({"seed": self.seed, "loss": loss, "accuracy": right}))
        if ranks.is_first() or self.fsdp:
            save_model(net, file)
        loop.done()
        ranks.meet()

    def _curve(self, variant: Variant, net: nn.Module, reference: float) -> tuple[Evaluation, dict[str, Rows]]:
        """Scores and further figures of all chips; chips that are in results.jsonl already are not run again."""
        file = self.folder / "results.jsonl"
        lines = {r["chip"]: r for r in complete_lines(file) if r["variant"] == variant.name}
        taken: list[Score] = []
        if self.elsewhere is not None:
            network = write_atomically(self.folder / f"{variant.name}.safetensors", lambda f: save_model(net, f))
            found = self.elsewhere.chips(network, self.hardware.times, self.seed, self.chips)
            for k in sorted(found.keys() - lines.keys()):
                self._keep_line(lines, variant, k, **found[k])

        def score(net: nn.Module) -> float:
            taken.append(self.task.checked_score(net))
            return taken[-1]

        def keep(k: int, scores: tuple[float, ...]) -> None:
            extra = {name: [s.extra[name] for s in taken] for name in taken[0].extra}
            taken.clear()
            self._keep_line(lines, variant, k, list(scores), extra)

        curve = evaluate(
            net, score, self.hardware.times, self.chips, self.seed,
            reference=reference, chance=self.task.chance, progress=self.progress, lean=self.task.lean,
            done={k: tuple(line["scores"]) for k, line in lines.items()}, on_chip=keep,
        )  # fmt: skip
        rows = [lines[k] for k in range(self.chips)]
        return curve, {name: [r["extra"][name] for r in rows] for name in rows[0].get("extra", {})}

    def _keep_line(self, lines: dict[int, Any], variant: Variant, k: int, scores: list[float], extra: dict[str, Any]) -> None:
        """One line more of results.jsonl, and of `lines`."""
        about = {"variant": variant.name, "chip": k, "seed": self.seed, "times": list(self.hardware.times)}
        line = lines[k] = {**about, "scores": scores, "extra": extra}
        file = self.folder / "results.jsonl"
        cut = file.exists() and not file.read_bytes().endswith(b"\n")  # a crash may have cut the last line short
        with writing(file), file.open("a") as f:
            f.write("\n" * cut + json.dumps(line) + "\n")

    # -- bookkeeping ------------------------------------------------------------------------------------------
    def _seed(self, stage: str) -> None:
        """Every stage starts from its own seed, so that a resumed run equals an uninterrupted one."""
        seed_all(draws.words(stage, self.seed)[0] & 0x7FFFFFFF)

    def _summarise(
        self, digital: nn.Module, net: nn.Module, reference: Score, curves: dict[str, tuple[Evaluation, dict[str, Rows]]]
    ) -> dict[str, Any]:
        ends = dict.fromkeys((self.hardware.times[0], self.hardware.times[-1]))
        inside = inspect_layers(net, islice(self.task.calibration_batches(), 2), ends, self.seed, forward=self.task.predict)
        summary = {
            "task": self.task.name,
            "hardware": self.hardware.description,
            "reference": float(reference),
            "reference_extra": reference.extra,
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
                    "extra": {name: {"values": values, **spread(values)} for name, values in extra.items()},
                }
                for v in (DIRECT, TRAINED)
                if v.name in curves
                for c, extra in (curves[v.name],)
            ],
            "training": {
                name: [made]
                for name, file in (("digital", "digital.json"), (TRAINED.name, "trained.json"))
                if (made := read_json(self.folder / file)) and made["loss"]
            },
            "layers": json.loads(conversion_report(net).to_json()),
            "mvm": self._mvm(),
            "inside": inside.to_data(),  # of the first chip
            "kurtosis": [k._asdict() for k in kurtosis_by_layer(net)],
            "parameters": sum(p.numel() for p in digital.parameters()),
            "precision": {name: {"tier": r.tier, "why": r.why} for name, r in routes(self.hardware).items()},
            "versions": versions(),
            "command": self.command,
            "seconds": time.time() - self.started,
        }
        write_atomically(self.folder / "summary.json", json.dumps(summary, indent=1))
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
    net = load_model(to_analog(placed(task.model()), hardware), checkpoint)
    with safe_open(str(checkpoint), "pt") as f:
        plain = not any(name.endswith("tiles.input_range") for name in f.keys())  # noqa: SIM118 (not a dict)
    return (calibrated(task, net) if plain else net).eval()


def calibrated(task: Task, net: nn.Module) -> nn.Module:
    """The network with input ranges, or remedies where the task asks for them, from the task's calibration batches."""
    how = {"cap": task.range_cap} if task.remedies is None else {"method": "auto", "budget": task.remedies}
    calibrate(net, task.calibration_batches(), forward=task.predict, **how)
    return net


REMEDY = "choose another folder with --out, or remove this one"


def claim_folder(folder: Path, task: Task, hardware: Hardware, seed: int | str, remedy: str = REMEDY) -> None:
    """Make the folder of a run and write down whose it is. Raises `MhoError` if it holds another one: what differs, and the
    remedy."""
    key = {"task": task.name, "hardware": hardware.digest, "seed": seed, **identity(task, hardware=hardware)}
    file = folder / "key.json"
    if (before := read_json(file)) and before != key:
        told, hw = differences(before, key), folder / "hardware.yaml"
        if before.get("hardware") != key["hardware"] and hw.exists():
            told = differences(read(hw).data, parse(hardware.to_yaml(), "now").data) + [
                t for t in told if not t.startswith("hardware ")
            ]
        more = f" and {len(told) - TOLD} more" if len(told) > TOLD else ""
        raise MhoError(f"{folder} holds another run ({', '.join(told[:TOLD])}{more}); {remedy}")
    write_atomically(file, json.dumps(key, indent=1))
    made_with = "".join(f"# {name} {version}\n" for name, version in versions().items())
    write_atomically(folder / "hardware.yaml", made_with + hardware.to_yaml())
