"""Measurements that an effect can be fitted to, and what an effect says so that it can.

An effect with numbers in its fields is a statistical model of a device. To be fitted it says, beside its physics:

    fit_columns: ClassVar = {"g_target": Column("uS", "…"), "g": Column("uS", "…")}   what a table must hold
    fit_fields: ClassVar = ("c0", "c1")            the fields that a fit may change
    fit_extras: ClassVar = {"noise": 0.01}         optional: positive numbers that the table needs but the effect lacks
                                                   (noise of the measurement), with start values

    log_prob(data, **extras) -> Tensor             log-likelihood of every independent unit (reading or device)
    residuals(data, **extras) -> Residuals         numbers that are U(0, 1) and independent if the model is right
    simulate(data, seed, **extras) -> {name: Tensor}   columns measured anew, drawn from the model at the same places
    estimate(data) -> {field: value}               optional: fields with a closed form once the others are known

`log_prob` is torch code on float64 columns; fields and extras arrive as tensors, so that its gradient and the observed
information come from autograd. `residuals` and `simulate` see plain numbers.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor

from mho.effects import draws
from mho.effects.nonideality import Nonideality
from mho.effects.site import Geometry, Rows, Site, Stream


class Column(NamedTuple):
    """What a fit needs from a table. Unit "" means a label, such as the number of a device."""

    unit: str
    meaning: str
    positive: bool = False


class Residuals(NamedTuple):
    """u [m] is U(0, 1) if the model is right; `along` [m] is what to look at it against, called `label`."""

    u: Tensor
    along: Tensor
    label: str


@dataclass(frozen=True)
class Measurements:
    """Columns of a table: numbers as float64, labels counted from 0; and the range of the devices, µS."""

    columns: Mapping[str, Tensor]
    g_max: float
    name: str = "data"
    skipped: int = 0

    def __getitem__(self, column: str) -> Tensor:
        return self.columns[column]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def replaced(self, columns: Mapping[str, Tensor]) -> Self:
        """The same table with other values in these columns."""
        return replace(self, columns={**self.columns, **columns})

    def sum_by(self, label: str, values: Tensor) -> Tensor:
        """Sum of `values` over the rows of every label."""
        index = self.columns[label]
        return values.new_zeros(int(index.max()) + 1).index_add(0, index, values)

    def mean_by(self, label: str, values: Tensor) -> Tensor:
        """Mean of `values` over the rows of every label."""
        return self.sum_by(label, values) / self.sum_by(label, torch.ones_like(values))

    def site(
        self, effect: Nonideality, stage: str, seed: int, target: Tensor, *, t: float = 0.0, programmed: Tensor | None = None
    ) -> Site:
        """A site whose devices are those of the table, so that the physics of the effect can simulate them."""
        n = target.shape[-1]
        rows = Rows(torch.tensor([float(n)]), torch.zeros(1, n), torch.ones(1, n))
        geometry = Geometry(rows, 1, torch.zeros(1, dtype=torch.long), 1, 0.0, self.g_max, math.inf)
        key = draws.key("fit", seed)
        path = draws.words("fit", effect.kind, 0)
        return Site(geometry, Stream(key, key, t), path, stage, target=target, programmed=programmed)


def normal_log_density(y: Tensor, mean: Tensor | float, std: Tensor) -> Tensor:
    """ln N(y; mean, std)."""
    return -0.5 * ((y - mean) / std) ** 2 - std.log() - 0.5 * math.log(2 * math.pi)


def normal_distribution(y: Tensor, mean: Tensor | float, std: Tensor) -> Tensor:
    """P(Y <= y) of N(mean, std)."""
    return torch.special.ndtr((y - mean) / std)
