"""How large the error of an analog product is: MVM error (R003 Eq. 20) and the standard experiment."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from mho.chip import Time
from mho.layers import Tile

if TYPE_CHECKING:
    from mho.hardware import Hardware


def mvm_error(exact: Tensor, analog: Tensor) -> float:
    """R003 Eq. 20: mean_k |y_k - y~_k| / mean_k |y_k| over vectors k, y [vector, out] (R003-40)."""
    error = (exact - analog).double().norm(dim=-1).mean()
    return float(error / exact.double().norm(dim=-1).mean())


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
        return w, 2 * torch.rand(self.vectors, self.size, generator=g) - 1


class MvmResult(NamedTuple):
    """Mean and standard error over the matrices of an experiment."""

    mean: float
    sem: float


def standard_mvm_error(
    hw: Hardware, t: Time | None = None, experiment: MvmExperiment | None = None, tick: Callable[[], object] = lambda: None
) -> MvmResult:
    """MVM error of a hardware's default tile on the standard experiment (R003-41), each matrix on a chip of its own.

    `t` None is programming time: long-term read noise is there, drift is the identity (PHYSICS.md E12).
    """
    e = experiment or MvmExperiment()
    errors = []
    for k in range(e.matrices):
        w, x = e.draw(k)
        tile = Tile(w, hw).program(seed=1000 * e.seed + k)
        if t is not None:
            tile.age(t)
        with torch.no_grad():
            errors.append(mvm_error(x @ w.T, tile(x)))
        tick()
    values = torch.tensor(errors, dtype=torch.float64)
    sem = float(values.std() / len(errors) ** 0.5) if len(errors) > 1 else float("nan")
    return MvmResult(float(values.mean()), sem)
