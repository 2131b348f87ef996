"""The error of one matrix-vector product and what causes it: the standard experiment (R003-41)."""

from collections.abc import Callable
from statistics import fmean
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from mho.config import Hardware
from mho.effects import Nonideality
from mho.use import Tile, Time, mvm_error
from mho_lab.devices import moved
from mho_lab.measure.statistics import standard_error

Error = TypeVar("Error")  # of a repetition, or several


class MvmExperiment(NamedTuple):
    """The standard experiment of R003-41: random weights, uniform inputs, input range 1."""

    size: int = 512
    vectors: int = 128
    sigma: float = 0.246
    matrices: int = 8
    seed: int = 0

    def draw(self, k: int) -> tuple[Tensor, Tensor]:
        """W ~ N(0, sigma), x ~ U(-1, 1) of the k-th repetition."""
        g = torch.Generator().manual_seed(1000 * self.seed + k)
        w = self.sigma * torch.randn(self.size, self.size, generator=g)
        return moved((w, 2 * torch.rand(self.vectors, self.size, generator=g) - 1))

    @torch.no_grad()
    def each(self, error: Callable[[int], Error], tick: Callable[[], object] = lambda: None) -> list[Error]:
        """What `error(k)` gives for every repetition k; `tick` is told after each."""
        found = []
        for k in range(self.matrices):
            found.append(error(k))
            tick()
        return found


class MvmResult(NamedTuple):
    """Mean and standard error over the matrices of an experiment."""

    mean: float
    sem: float


def standard_mvm_error(
    hw: Hardware, t: Time | None = None, experiment: MvmExperiment | None = None, tick: Callable[[], object] = lambda: None
) -> MvmResult:
    """MVM error of a hardware's default tile on the standard experiment (R003-41), each matrix on a chip of its own.

    `t` None is programming time: long-term read noise is there, drift is the identity (docs/physics.md E12).
    """
    e = experiment or MvmExperiment()

    def error(k: int) -> float:
        w, x = e.draw(k)
        tile = Tile(w, hw).program(seed=1000 * e.seed + k)
        if t is not None:
            tile.age(t)
        return mvm_error(x @ w.T, tile(x))

    errors = e.each(error, tick)
    return MvmResult(fmean(errors), standard_error(errors))


class EffectError(NamedTuple):
    """One row of the table of `effect_table`."""

    time: float | None
    what: str
    mean: float
    sem: float


def effect_table(
    hw: Hardware, t: float | None = None, experiment: MvmExperiment | None = None, tick: Callable[[], object] = lambda: None
) -> list[EffectError]:
    """Standard MVM error of all effects together, of each alone (ideal converters), and with each removed."""
    tile = hw.tile(hw.default)
    ideal = tile.model_copy(update={"nonidealities": (), "dac": None, "adc": None})
    cases = [("all", tile), ("converters alone", tile.model_copy(update={"nonidealities": ()}))]
    names = tile.effect_names
    for e, name in zip(cast(tuple[Nonideality, ...], tile.nonidealities), names):
        # A transfer curve is drawn relative to the output bound, so it keeps the bound and loses only the rounding.
        adc = tile.adc.model_copy(update={"bits": None}) if e.writes("transfer") and tile.adc is not None else None
        cases.append((f"{name} alone", ideal.model_copy(update={"nonidealities": (e,), "adc": adc})))
    for i, name in enumerate(names):
        rest = tuple(e for j, e in enumerate(tile.nonidealities) if j != i)
        cases.append((f"without {name}", tile.model_copy(update={"nonidealities": rest})))
    found = []
    for what, spec in cases:
        changed = hw.model_copy(update={"tiles": {**hw.tiles, hw.default: spec}})
        found.append(EffectError(t, what, *standard_mvm_error(changed, t, experiment, tick)))
    return found
