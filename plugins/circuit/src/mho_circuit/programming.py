"""Programming of any device: an error in one shot, a loop that writes and verifies, and a loop on the products of the array."""

from typing import ClassVar

import torch
from torch import Tensor

from mho import Field, MhoError, Nonideality, Site, Tile, product
from mho.config import MicroSiemens
from mho.effects import draws
from mho_circuit.sources import BUECHEL_BIBTEX, SWIM_BIBTEX, XIAO, XIAO_BIBTEX


class ProgrammingError(Nonideality, kind="circuit.programming_error"):
    """g + sqrt((proportional g)^2 + (independent g_max)^2) xi, never below 0: for devices of which no more is known."""

    source: ClassVar[str] = f"{XIAO}: errors proportional to and independent of the conductance"
    bibtex: ClassVar[str] = XIAO_BIBTEX
    cellwise: ClassVar[bool] = True

    proportional: float = Field(0.05, ge=0, unit="1", description="share of the conductance", source="assumption")
    independent: float = Field(0.0, ge=0, unit="1", description="share of the largest conductance", source="assumption")

    def program(self, g: Tensor, site: Site) -> Tensor:
        sigma = ((self.proportional * g) ** 2 + (self.independent * site.g_max) ** 2).sqrt()
        return g + sigma * site.randn_like(g)


class Loop(Nonideality):
    """What loops share: a write moves a cell by `rate` of what it misses, with noise."""

    strength: ClassVar[str | None] = None

    iterations: int = Field(20, ge=1, le=1000, unit="count", description="at most so many writes of a cell", source="assumption")
    rate: float = Field(0.8, gt=0, le=1, unit="1", description="share of the miss that one write corrects", source="assumption")
    write_std: MicroSiemens = Field(0.5, ge=0, description="standard deviation of what one write adds", source="assumption")
    read_std: MicroSiemens = Field(0.1, ge=0, description="standard deviation of one read of a cell", source="assumption")


class WriteVerify(Loop, kind="circuit.write_verify"):
    """Read a cell, and write it again while it misses its target by more than `tolerance`:

    g += rate (g_target - g_read) + write_std xi  where |g_target - g_read| > tolerance,  g_read = g + read_std eta.

    The first write aims at the target; cells that stay at g_min need none. With exact reads and rate 1 the errors of accepted
    cells are normal, of standard deviation write_std, cut at the tolerance, and with p the share of writes that end inside it,
    1/p writes are needed on average.

    Selective write-verify: only the `share` of the cells of each tile with the largest targets is verified; the others are
    written once.
    """

    source: ClassVar[str] = "closed-loop programming; selective: Yan et al., DAC 2022 (SWIM)"
    bibtex: ClassVar[str] = SWIM_BIBTEX

    tolerance: MicroSiemens = Field(0.3, gt=0, description="accepted distance from the target", source="assumption")
    share: float = Field(1.0, gt=0, le=1, unit="1", description="share of the cells that are verified", source="Yan et al. 2022")

    def program(self, g: Tensor, site: Site) -> Tensor:
        return self.written(g, site)[0]

    def written(self, target: Tensor, site: Site) -> tuple[Tensor, Tensor]:
        """The loop: conductances [dev, tile, out, row] in µS, and how often each cell was written."""
        g, writes, verified = torch.full_like(target, site.g_min), torch.zeros_like(target), self._verified(target)
        for k in range(self.iterations):
            miss = target - g - self.read_std * site.randn_like(g, name=f"read {k}")
            again = (miss.abs() > self.tolerance) & verified if k else target > site.g_min
            if g.device.type == "cpu" and not torch.compiler.is_compiling() and not again.any():
                break
            new = (g + (self.rate if k else 1.0) * miss + self.write_std * site.randn_like(g, name=f"write {k}")).relu()
            g, writes = torch.where(again, new, g), writes + again
        return g, writes

    def _verified(self, target: Tensor) -> Tensor:
        if self.share == 1:
            return torch.ones_like(target, dtype=torch.bool)
        flat = target.transpose(0, 1).flatten(1)  # of each tile
        least = flat.sort(descending=True).values[:, max(0, round(self.share * flat.shape[1]) - 1)]
        return target >= least[:, None, None]


class GradientDescent(Loop, kind="circuit.gradient_programming"):
    """Gradient descent on the products of the array (GDP): cells are never read alone. In every iteration `vectors` known
    inputs x ~ U(-1, 1) are applied, and the errors of the outputs, e_i = sum_j (g - g_target)_ij x_j + read_std sqrt(n/3) eta for
    n rows, move all cells at once, those of a pair in opposite directions:

    g_ij -= d + write_std sqrt(|d|/g_max) xi,  d = rate 3/(1 + n/vectors) mean_x e_i x_j

    3 is 1/E x^2, and 1 + n/vectors keeps the descent stable when the inputs are few. It begins behind one write of all cells.
    """

    source: ClassVar[str] = "Büchel et al., JETCAS 13 (2023)"
    bibtex: ClassVar[str] = BUECHEL_BIBTEX

    vectors: int = Field(64, ge=1, unit="count", description="inputs of one iteration", source="assumption")

    def program(self, g: Tensor, site: Site) -> Tensor:
        target, n = g, site.rows.n.to(g)
        count = draws.count(self.vectors * len(n), g.device)
        share = (self.rate * 3 / self.vectors / len(g) / (1 + n / self.vectors))[:, None, None]
        g = (target + self.write_std * site.randn_like(g, name="first")).relu()
        for k in range(self.iterations):
            uniform = draws.uniform(draws.rows_of(draws.key("gradient programming", k), count), g.shape[-1])
            x = (2 * uniform.to(g).view(self.vectors, len(n), -1) - 1) * site.rows.used.to(g)
            off = g - target
            e = product(x, off[0] - off[1] if len(g) == 2 else off[0]).permute(1, 2, 0)  # [tile, out, vector]
            e = e + self.read_std * (n[:, None, None] / 3).sqrt() * site.randn_like(e, name=f"outputs {k}")
            step = share * torch.einsum("tov,vtr->tor", e, x)
            d = torch.stack([step, -step][: len(g)])
            noise = self.write_std * (d.abs() / site.g_max).sqrt() * site.randn_like(g, name=f"write {k}")
            g = (g - d + noise).relu()
        return g


def writes(tile: Tile) -> Tensor:
    """How often every cell of the chip that is on was written by `circuit.write_verify`, [dev, tile, out, row]: found by
    programming it once more. Slices that make up for others count the last time they were written. Raises `MhoError` for a tile
    that is not programmed, or not so."""
    view, chip = tile.tiles.view, tile.tiles.chip
    placed = next((p for p in view.plan.program if isinstance(p.effect, WriteVerify)), None)
    if placed is None or chip is None:
        raise MhoError("writes(tile) counts those of circuit.write_verify: list it as an effect, and call tile.program(seed=...)")
    target = view.target(chip.target)
    return placed.effect.written(target, view.site(placed, "program", chip.stream, target=target))[1]
