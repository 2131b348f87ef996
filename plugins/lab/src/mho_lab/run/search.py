"""Searches of `mho.calibrate`: input ranges ("mse") and conductance ranges ("grid") with the smallest MVM error (Lammie et al.,
ISCAS 2024). Both are methods of the hook `mho_calibrations`.
"""

import torch
from torch import Tensor

from mho.effects import draws, product
from mho.tile import TileArray

COARSE = tuple(2 ** (k / 2) for k in range(-6, 7))  # of the start: 1/8 ... 8
FINE = tuple(2 ** (k / 16) for k in range(-7, 8))  # of the best of those, in steps of 4 %
COLUMNS = tuple(2 ** (k / 4) for k in range(-8, 5))  # of a column's range: 1/4 ... 2
TRIED = 64  # vectors that input ranges are compared on
CHIPS = 4  # that column ranges are compared on


def mse(array: TileArray, weight: Tensor, x: Tensor, before: Tensor) -> Tensor:
    """The input range [tile, 1] of each tile with the smallest MVM error on one chip: a coarse grid around the present one,
    then a fine one; or the one `before`, where none is better. Compared on `TRIED` of the inputs: 28 candidates take as long
    as a forward of 1,800 vectors on the reference path."""
    tried = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:TRIED].sort().values
    trial = Trial(array, weight, x[tried.to(x.device)])
    trial.program(0)
    centre, chosen = array.input_range.detach().clone(), before
    for grid in (COARSE, FINE):
        ranges = torch.stack([chosen, *(centre * f for f in grid)])  # [candidate, tile, 1], of equals the first
        centre = chosen = ranges.gather(0, trial.errors(ranges)[0].argmin(0)[None, :, None])[0]
    return chosen


def columns(array: TileArray, weight: Tensor, x: Tensor, before: Tensor) -> Tensor:
    """The conductance range of each column [tile, out] with the smallest squared error, of a grid around those `before`; tiles
    where the columns chosen do not lower the error (of whole vectors) keep what they had."""
    trial = Trial(array, weight, x)
    squares = torch.stack([trial.over_chips(before * f)[1] for f in COLUMNS])  # [candidate, tile, out]
    chosen = before * torch.tensor(COLUMNS, device=before.device, dtype=before.dtype)[squares.argmin(0)]
    return torch.where((trial.over_chips(chosen)[0] < trial.over_chips(before)[0])[:, None], chosen, before)


class Trial:
    """One matrix on trial chips: what its tiles compute for inputs x [vector, tile, row], against the exact products.

    Every candidate sees the same chips and the same noise, so the better one wins and not the luckier one. Leaves a trial
    chip on the array.
    """

    def __init__(self, array: TileArray, weight: Tensor, x: Tensor) -> None:
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        self.array, self.weight, self.x = array, weight, x.to(dtype)
        self.exact = product(self.x, array.on_tiles(weight.to(dtype))) * array.output_factor()

    def program(self, k: int) -> None:
        """Put trial chip k on."""
        self.array.program(self.weight, draws.key("calibrate", k))

    def over_chips(self, gamma: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of both `errors` with these conductance ranges [tile, out] over the trial chips."""
        self.array.gamma.copy_(gamma)
        found = []
        for k in range(CHIPS):
            self.program(k)
            found.append(self.errors(self.array.input_range))
        mvm, square = (torch.stack(each).sum(0) / CHIPS for each in zip(*found))
        return mvm, square

    def errors(self, ranges: Tensor) -> tuple[Tensor, Tensor]:
        """Of the trial chip that is on, with these input ranges [(candidate,) tile, 1]: the MVM error mean |y - y~| / mean |y|
        over vectors (Rasch et al. 2023, Eq. 20) [(candidate,) tile], and the mean squared error [(candidate,) tile, out]."""
        seen = self.array.trace(self.array.layout.join(self.x), self.weight, "trial", ranges)
        off = seen["digital"].view(*ranges.shape[:-2], *self.exact.shape) - self.exact
        size = self.exact.norm(dim=-1).mean(0).clamp(min=1e-12)
        return off.norm(dim=-1).mean(-2) / size, off.square().mean(-3)
