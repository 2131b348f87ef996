"""Run a plan: train the digital networks, bring each onto its hardware, score chips. Three sweeps in one folder.

hardware/DIGEST.yaml    every hardware of the plan
networks/NAME/          digital.safetensors, or network.safetensors on its hardware; made once, used by many items
sweep.yaml              the plan
columns.json            columns of plugins for every point
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mho.config import Hardware, load
from mho.ground import MhoError, write_atomically
from mho.use import save_model, to_analog
from mho_lab.measure import engine
from mho_lab.measure.identity import identity
from mho_lab.measure.state import Item, State
from mho_lab.measure.work import Measure, folder
from mho_lab.run.job import Job
from mho_lab.run.networks import chip_scores, hardware_of, task_of, trained
from mho_lab.studies.columns import column
from mho_lab.studies.subject import carried
from mho_lab.sweep.arms import name_of
from mho_lab.sweep.plan import GridPoint, SweepPlan

CHIPS = "mho_lab.sweep.points:chip"
COLUMNS = "columns.json"  # in the folder: what plugins say of every point beside its scores


def run_plan(plan: SweepPlan, where: str | Path, executor: str = "serial", *, shard: Any = None, **options: Any) -> None:
    """Do whatever of a plan is not done yet; `options` as for `mho.sweep.run`.

    All chips of a network belong to the same shard, so that no two shards train the same network for its hardware.
    """
    where = Path(where)
    task, points = task_of(plan.task), list(plan.points())
    for p in {p.arm: p for p in points}.values():
        for hw in (p.hardware, p.training):
            to_analog(task.model(), hw)  # rules that fit no layer should not wait for a training
    beside = {name_of(p.arm, p.grid): {c: column(plan.task, p.hardware, c) for c in plan.all_columns} for p in points}
    about = identity(task, plan.checkpoint, [h for p in points for h in (p.hardware, p.training)])
    options = {**options, "identity": about}
    write_atomically(where / "sweep.yaml", plan.to_yaml())
    write_atomically(where / COLUMNS, json.dumps(beside, indent=1))
    for hw in {h.digest: h for p in points for h in (p.hardware, p.training)}.values():
        write_atomically(_hardware_file(where, _short(hw)), hw.to_yaml(), keep=True)

    starts = {seed: _start(plan, seed, about) for seed in plan.all_seeds}
    networks = [_network(p, seed, starts[seed]) for p in points for seed in plan.all_seeds]
    mine = set(engine.in_shard(dict.fromkeys(map(_name, networks)), shard))
    at = {"times": list(plan.at), "task": plan.task}
    chips = [
        {"arm": p.arm, "grid": p.grid, "seed": n["seed"], "chip": k, **at, "network": _name(n)}
        for p, n in zip((p for p in points for _ in plan.all_seeds), networks)
        for k in range(plan.chips)
    ]
    wanted = {n["start"] for n in networks if _name(n) in mine}
    for measure, items in ((digital, starts.values()), (network, networks), (chip, chips)):
        engine.plan(items, measure, where, about)  # tables show no chips of a plan that this folder had before
    _forget_lost(where, [(digital, s) for s in starts.values()] + [(network, n) for n in networks], about)
    engine.run(starts.values(), digital, where, executor, only=lambda i: _name(i) in wanted, **options)
    made = _done(where, starts.values(), digital, about)
    engine.run(networks, network, where, executor, only=lambda i: _name(i) in mine and i["start"] in made, **options)
    ready = _done(where, networks, network, about)
    engine.run(chips, chip, where, executor, only=lambda i: i["network"] in mine & ready, **options)


# -- items --------------------------------------------------------------------------------------------------------
def _start(plan: SweepPlan, seed: int, about: dict[str, Any]) -> Item:
    """The network that all arms of a seed start from."""
    common = {"task": plan.task, "identity": _name(about)}
    return {**common, "checkpoint": plan.checkpoint} if plan.checkpoint else {**common, "seed": seed}


def _network(p: GridPoint, seed: int, start: Item) -> Item:
    """That network on its hardware, trained for it or not. Arms with equal settings share it."""
    return {
        "task": start["task"],
        "start": _name(start),
        "seed": seed,
        "trained": p.trained,
        "as_is": "checkpoint" in start,  # a network of the user's own is deployed as it is, and not tuned for that
        "training": _short(p.training) if p.trained else _short(p.hardware),
        "hardware": _short(p.hardware),
    }


# -- measures -----------------------------------------------------------------------------------------------------
def digital(item: Item) -> dict[str, Any]:
    """Train digitally, or take the checkpoint; the score that everything is compared to."""
    file = _home(item) / "digital.safetensors"
    task = task_of(item["task"])
    if "checkpoint" in item:
        write_atomically(file, lambda p: shutil.copyfile(item["checkpoint"], p), keep=True)
        net = trained(item["task"], str(file))
        with torch.no_grad():
            score = task.checked_score(net)
    else:
        score = _job(item, None).reference()
    return {"score": float(score), **score.extra, "chance": task.chance}


def network(item: Item) -> dict[str, Any]:
    """Bring a digital network onto its hardware and keep it."""
    start = folder() / "networks" / item["start"] / "digital.safetensors"
    hw, home = _hardware(item["hardware"]), _home(item)
    job = _job(item, _hardware(item["training"]))
    if item["trained"] and hardware_of(start) is not None:
        raise MhoError("this checkpoint is trained for a hardware already; training starts from a digital one")
    if item["as_is"] and not item["trained"]:
        net = carried(item["task"], str(start), hw)
    else:
        write_atomically(home / "digital.safetensors", lambda p: shutil.copyfile(start, p), keep=True)
        net = job.network(trained=item["trained"])
    if item["trained"] and _without_training(job.hardware) != _without_training(hw):
        net = carried(item["task"], str(home / "trained.safetensors"), hw)
    write_atomically(home / "network.safetensors", lambda p: save_model(net, p), keep=True)
    for rest in ("digital.safetensors", "trained.safetensors"):
        (home / rest).unlink(missing_ok=True)
    return {"about": job.chosen}


def chip(item: Item) -> dict[str, Any]:
    """Score one chip of a network at every time."""
    net = trained(item["task"], str(folder() / "networks" / item["network"] / "network.safetensors"))
    return {"rows": [{"time": t, "score": float(s), **s.extra} for t, s in zip(item["times"], chip_scores(net, item))]}


def _without_training(hw: Hardware) -> dict[str, Any]:
    """What chips are made of: how a network was trained makes no difference on them."""
    return {k: v for k, v in hw.to_data().items() if k not in ("training", "description", "times")}


# -- files --------------------------------------------------------------------------------------------------------
def _job(item: Item, hw: Hardware | None) -> Job:
    hw = hw or Hardware.from_yaml("mho: 1\ndefault: digital\n")  # digital training does not look at it
    return Job(task_of(item["task"]), hw, _home(item), seed=item["seed"], progress=False)


def _home(item: Item) -> Path:
    home = folder() / "networks" / _name(item)
    home.mkdir(parents=True, exist_ok=True)
    return home


def _hardware(digest: str) -> Hardware:
    return load(_hardware_file(folder(), digest))


def _hardware_file(where: Path, digest: str) -> Path:
    return where / "hardware" / f"{digest}.yaml"


def _short(hw: Hardware) -> str:
    return hw.digest[:16]


def _name(data: Any) -> str:
    """Of an item: the folder of its network. The same for equal data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def _done(where: Path, items: Any, measure: Measure, about: dict[str, Any]) -> set[str]:
    """Names of the items that have a result."""
    return {_name(i) for i in items if State(where).done(engine.key_of(i, measure, about))}


def _forget_lost(where: Path, made: Sequence[tuple[Measure, Item]], about: dict[str, Any]) -> None:
    """A network whose file somebody has removed is made again."""
    for measure, item in made:
        file = where / "networks" / _name(item) / f"{measure.__name__}.safetensors"
        if not file.exists():
            State(where).result(engine.key_of(item, measure, about)).unlink(missing_ok=True)
