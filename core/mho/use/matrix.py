"""A matrix on analog tiles, without a network around it; and the error of its products."""

from typing import Self

import torch
from torch import Tensor

from mho.config import Hardware, load
from mho.ground import MhoError, html_facts
from mho.layers import AnalogLinear
from mho.use import chip


class Tile(AnalogLinear):
    """A matrix on analog tiles, for those who only want an MVM.

    >>> t = mho.Tile(W, hw)          # W [out, in]
    >>> t.program(seed=0); t.age("1 h")
    >>> y = t(x)                     # x [..., in] -> [..., out]
    """

    def __init__(self, weight: Tensor, hw: Hardware | str, *, tile: str | None = None) -> None:
        if weight.dim() != 2:
            raise MhoError(f"a tile needs a matrix [out, in], got shape {tuple(weight.shape)}")
        out_features, in_features = weight.shape
        super().__init__(in_features, out_features, bias=False, hw=load(hw), tile=tile, device=weight.device, dtype=weight.dtype)
        with torch.no_grad():
            self.weight.copy_(weight)
        self.tiles.remap(self.weight)
        self.eval()

    def program(self, seed: int) -> Self:
        """Write the matrix to the chip `seed`, at age 0 s."""
        chip.program(self, seed=seed)
        return self

    def _repr_html_(self) -> str:
        spec, on = self.tiles.spec, chip.chip_on(self)
        facts = {
            "weights": f"{self.out_features} x {self.in_features}",
            "tiles": f"{self.tiles.layout.tile_count} of {spec.rows} x {spec.columns}",
            "nonidealities": ", ".join(p.effect.kind for p in self.tiles.view.plan.effects) or "none",
            "chip": repr(on) if on is not None else "not programmed",
        }
        return html_facts("Tile", facts)

    def age(self, t: chip.Time) -> Self:
        """Let the chip age to t after programming ("1 h", seconds)."""
        chip.age(self, t)
        return self


def mvm_error(exact: Tensor, analog: Tensor) -> float:
    """R003 Eq. 20: mean_k |y_k - y~_k| / mean_k |y_k| over vectors k, y [vector, out] (R003-40). Raises `MhoError` for outputs of
    different shapes."""
    if exact.shape != analog.shape:
        raise MhoError(f"mvm_error compares outputs of one shape, got {[*exact.shape]} and {[*analog.shape]}")
    error = (exact - analog).detach().double().norm(dim=-1).mean()
    return float(error / exact.detach().double().norm(dim=-1).mean())
