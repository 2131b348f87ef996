"""Learned digital output scales: gamma-tilde per column, kappa per tile, and the auto-scale of their units."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from mho.effects.converter import Adc
from mho.tile.layout import Layout


class OutScale(Layout):
    """The factor s_i = c_i p_i kappa~/b by which training corrects gamma_i of the mapping (R003-71 to R003-74):
    gamma~_i = gamma_i c_i p_i, kappa = kappa~/b, and s_i = 1 before training.

    State (saved):
    out_scale   [tile, out] p, learned with `out_scale: column` or `both`
    scale_unit  [tile, out] c, 1, or with `auto_scale` c_aws/gamma_i of the first mapping, c_aws = sqrt(3/n) for n inputs
                of the matrix (R003-72): then p starts at gamma_i/c_aws, near 1 for usual initial weights
    kappa       [tile, block] kappa~ of every physical tile, learned with `out_scale: tile` or `both`; starts at the
                output bound b_out, so weight decay on it asks for larger weights and outputs (R003-73)
    kappa_unit  [tile, block] b, the bound that kappa~ started from: a checkpoint computes the same behind another ADC
    """

    gamma: Tensor
    scale_unit: Tensor
    kappa_unit: Tensor
    spec: Any

    def _make_scales(self, learn: str, factory: dict[str, Any]) -> None:
        ones = torch.ones(self.row_tiles, self.columns, **factory)
        kappa = torch.full((self.row_tiles, self.block_count), self.output_bound, **factory)
        self.out_scale = nn.Parameter(ones, requires_grad=learn in ("column", "both"))
        self.kappa = nn.Parameter(kappa, requires_grad=learn in ("tile", "both"))
        self.register_buffer("scale_unit", torch.ones_like(ones))
        self.register_buffer("kappa_unit", kappa.clone())

    @property
    def output_bound(self) -> float:
        """b_out; 1 for an ADC without a bound."""
        bound = self.spec.adc.limit if isinstance(self.spec.adc, Adc) else math.inf
        return 1.0 if math.isinf(bound) else bound

    def output_factor(self) -> Tensor:
        """s [tile, out]."""
        kappa = self.kappa / self.kappa_unit  # [tile, block]
        return self.out_scale * self.scale_unit * (kappa if kappa.shape[1] == 1 else kappa[:, self.block])

    @torch.no_grad()
    def auto_scale(self) -> None:
        """Learn column factors in units of c_aws from here on; the function stays (R003-72)."""
        unit = math.sqrt(3 / (self.in_features // self.groups)) / self.gamma
        self.out_scale.mul_(self.scale_unit / unit)
        self.scale_unit.copy_(unit)

    @torch.no_grad()
    def fold_scales(self, weight: Tensor) -> None:
        """Multiply all factors into the weights [out, in] and gamma, one scale per column (R003-74); the function stays."""
        factor = self.output_factor()
        weight.mul_(self.spread(factor))
        self.gamma.mul_(factor.abs())
        self.out_scale.fill_(1.0)
        self.scale_unit.fill_(1.0)
        self.kappa.copy_(self.kappa_unit)
