"""What a sweep over hardware is: a task, arms (ways of training and deploying), a grid of settings, seeds and chips."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from mho.config import Field, Hardware, Strict, flow, load, parse_value, read, seconds, suggest, validated, write
from mho.ground import MhoError
from mho_lab.options import checked

Settings = dict[str, Any]  # PATH of a hardware file -> value, as for --set


class Arm(Strict):
    """One way of training and deploying the network."""

    train: bool | None = Field(None, description="train for the hardware, or deploy the digital network; default: as the sweep")
    set: Settings = Field({}, description="Changes of the hardware, in training and on the chips.")
    train_with: Settings = Field({}, description="Further changes of the hardware in training only: the chips do not have them.")


class SweepPlan(Strict):
    """A sweep file: `mho sweep run FILE`."""

    sweep: Literal[1] = Field(description="Version of the format.")
    task: str = Field(description="A built-in task or a Python file with a mho.Task.")
    hardware: str = Field(description="A hardware file or a preset.")
    set: Settings = Field({}, description="Changes of the hardware for all arms.")
    checkpoint: str | None = Field(None, description="Start from this network instead of a digital training for each seed.")
    train: bool = Field(False, description="Train for the hardware before deploying, unless an arm says otherwise.")
    seeds: int | tuple[int, ...] = Field(1, description="How many (0, 1, ...) or which seeds: of trainings and of chips.")
    chips: int = Field(10, description="Chips of each network.")
    times: tuple[str, ...] = Field((), description="When the chips are read; default: the times of the hardware.")
    arms: dict[str, Arm] = Field({}, description="Named ways; default: one, with the hardware as it is.")
    baseline: str | None = Field(None, description="The arm that others are compared with, seed by seed; default: the first.")
    grid: dict[str, tuple[Any, ...]] = Field({}, description="PATH of the hardware -> values: all combinations, for every arm.")
    columns: tuple[str, ...] = Field((), description="NAME or NAME:TEXT of columns of plugins, such as energy:components32")
    pareto: str | None = Field(None, description="The column that the score is drawn against, with its Pareto front.")

    def disagreements(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        if self.baseline is not None and self.baseline not in self.arms:
            yield ("baseline",), f"no arm {self.baseline!r}; {suggest(self.baseline, self.arms, 'arms')}"
        if self.chips < 1:
            yield ("chips",), f"expected at least 1, got {self.chips}"
        if not self.all_seeds or len(frozenset(self.all_seeds)) < len(self.all_seeds):
            yield ("seeds",), "expected at least one seed, and each once"
        for path, values in self.grid.items():
            if not values:
                yield ("grid", path), "expected at least one value"
        for i, t in enumerate(self.times):
            try:
                seconds(t)
            except MhoError as error:
                yield ("times", i), str(error)

    @classmethod
    def from_file(cls, file: str | Path) -> Self:
        """Read and check a sweep file. Paths in it are relative to it."""
        tree, folder = read(Path(file)), Path(file).parent
        plan = validated(cls, tree)
        names = {n: _beside(folder, v) for n in ("task", "hardware", "checkpoint") if (v := getattr(plan, n))}
        return plan.model_copy(update=names)

    @classmethod
    def checked(cls, **values: Any) -> Self:
        """A plan from values of the command line."""
        return checked(cls, {"sweep": 1, **values})

    def to_yaml(self) -> str:
        """Reads back as an equal plan."""
        return write(self.model_dump(mode="json", exclude_defaults=True))

    @property
    def all_seeds(self) -> tuple[int, ...]:
        return tuple(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds

    @property
    def all_arms(self) -> dict[str, Arm]:
        return self.arms or {"trained" if self.train else "direct": Arm()}

    @property
    def all_columns(self) -> tuple[str, ...]:
        """Each once, that of the Pareto front among them."""
        return tuple(dict.fromkeys((*self.columns, *([self.pareto] if self.pareto else []))))

    @property
    def compared_with(self) -> str | None:
        """The arm that differences are taken to."""
        return self.baseline or (next(iter(self.arms)) if len(self.arms) > 1 else None)

    @cached_property
    def base(self) -> Hardware:
        """The hardware before arms and grid change it."""
        return load(load(self.hardware), set=changes(self.set))

    @cached_property
    def at(self) -> tuple[float, ...]:
        """Evaluation times in seconds."""
        return tuple(seconds(t) for t in self.times) or self.base.times

    def points(self) -> Iterator[GridPoint]:
        """Every arm at every point of the grid; errors of any setting come up here."""
        for name, arm in self.all_arms.items():
            if twice := arm.set.keys() & self.grid.keys():
                raise MhoError(f"arm {name!r} sets {', '.join(sorted(twice))}, which the grid varies: keep it in one of the two")
            for values in itertools.product(*self.grid.values()):
                at = dict(zip(self.grid, values))
                hw = load(self.base, set=changes({**arm.set, **at}))
                trained = self.train if arm.train is None else arm.train
                if arm.train_with and not trained:
                    raise MhoError(f"arm {name!r} has train_with, but does not train; add train: true")
                yield GridPoint(name, at, trained, hw, load(hw, set=changes(arm.train_with)))


@dataclass(frozen=True)
class GridPoint:
    """An arm at a point of the grid."""

    arm: str
    grid: Settings
    trained: bool
    hardware: Hardware  # of the chips
    training: Hardware  # in training


def changes(settings: Settings) -> list[str]:
    """As `--set` takes them."""
    return [f"{path}={flow(value)}" for path, value in settings.items()]


def _beside(folder: Path, name: str) -> str:
    """A path relative to the sweep file, where there is such a file."""
    return str(folder / name) if (folder / name).is_file() else name


# -- from the command line ------------------------------------------------------------------------------------------
def parsed_grid(options: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """`PATH=V1,V2,...` for each option; commas inside brackets belong to a value."""
    grid = {}
    for option in options:
        path, equals, values = option.partition("=")
        if not equals or not values:
            raise MhoError(f"--grid {option}: expected PATH=V1,V2,..., e.g. tiles.pcm.adc.bits=5,6,7,8")
        parts = re.split(r",(?![^\[{]*[\]}])", values)
        if not all(part.strip() for part in parts):
            raise MhoError(f"--grid {option}: a value is empty; expected PATH=V1,V2,..., e.g. tiles.pcm.adc.bits=5,6,7,8")
        grid[path.strip()] = tuple(_value(v) for v in parts)
    return grid


def parsed_settings(options: Sequence[str]) -> Settings:
    """`PATH=VALUE` for each option."""
    return dict(_setting(option, f"--set {option}") for option in options)


def parsed_arms(options: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`NAME: CHANGE; CHANGE; ...` for each option, where a change is PATH=VALUE, `train PATH=VALUE` (in training only),
    `train` or `direct`."""
    arms: dict[str, dict[str, Any]] = {}
    for option in options:
        name, _, text = option.partition(":")
        if not name.strip():
            raise MhoError(f"--arm {option}: an arm needs a name, e.g. --arm 'no noise: training.inject=none'")
        arm: dict[str, Any] = {"set": {}, "train_with": {}}
        for change in filter(None, (c.strip() for c in text.split(";"))):
            _add_change(arm, change, option)
        arms[name.strip()] = arm
    return arms


def _add_change(arm: dict[str, Any], change: str, option: str) -> None:
    if change in ("train", "direct"):
        arm["train"] = change == "train"
        return
    where = "train_with" if change.startswith("train ") else "set"
    path, value = _setting(change.removeprefix("train "), f"--arm {option!r}: {change!r}")
    arm[where][path] = value


def _setting(text: str, name: str) -> tuple[str, Any]:
    path, equals, value = text.partition("=")
    if not equals:
        raise MhoError(f"{name}: expected PATH=VALUE, e.g. tiles.pcm.adc.bits=6")
    return path.strip(), _value(value)


def _value(text: str) -> Any:
    """A value as in a YAML file."""
    return parse_value(text.strip(), text).data
