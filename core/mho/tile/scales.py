"""The digital scales of a weight matrix: gamma of the mapping, and the factors by which training corrects it."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from mho.effects import draws
from mho.tile.layout import Layout
from mho.tile.view import TileView


class Scales(nn.Module):
    """w_ij = gamma_i s_i w~_ij, with gamma [tile, out] of the mapping and the factor s_i = c_i p_i kappa~/b by which training
    corrects it (R003-71 to R003-74): gamma~_i = gamma_i c_i p_i, kappa = kappa~/b, and s_i = 1 before training.

    State (saved):
    gamma       [tile, out] the weight that the full conductance range stands for
    out_scale   [tile, out] p, learned with `out_scale: column` or `both`
    scale_unit  [tile, out] c, 1, or with `auto_scale` c_aws/gamma_i of the first mapping, c_aws = sqrt(3/n) for n inputs
                of the matrix (R003-72): then p starts at gamma_i/c_aws, near 1 for usual initial weights
    kappa       [tile, block] kappa~ of every physical tile, learned with `out_scale: tile` or `both`; starts at the
                output bound b_out, so weight decay on it asks for larger weights and outputs (R003-73)
    kappa_unit  [tile, block] b, the bound that kappa~ started from: a checkpoint computes the same behind another ADC
    input_range [tile, 1] alpha of the DAC
    step        [1] optimizer steps so far
    zero        [tile, out] 1 where all weights were 0 when they were mapped: gamma is a placeholder that follows training
    mapped_by   [1] a number that stands for the mapping of the hardware file that gamma comes from
    """

    gamma: Tensor
    scale_unit: Tensor
    kappa_unit: Tensor
    step: Tensor
    zero: Tensor
    mapped_by: Tensor
    view: TileView
    layout: Layout

    def _make_scales(self, learn: str, learned_range: bool, factory: dict[str, Any]) -> None:
        layout = self.layout
        columns, blocks = (layout.row_tiles, layout.columns), (layout.row_tiles, layout.block_count)
        exact = torch.promote_types(factory["dtype"] or torch.get_default_dtype(), torch.float32)  # see `exactly`
        for name, shape in (("gamma", columns), ("scale_unit", columns), ("kappa_unit", blocks), ("zero", columns)):
            self.register_buffer(name, torch.empty(shape, device=factory["device"], dtype=exact))
        for name in ("step", "mapped_by"):
            self.register_buffer(name, torch.zeros(1, device=factory["device"]))
        self.out_scale = nn.Parameter(torch.empty(columns, **factory), requires_grad=learn in ("column", "both"))
        self.kappa = nn.Parameter(torch.empty(blocks, **factory), requires_grad=learn in ("tile", "both"))
        self.input_range = nn.Parameter(torch.empty(layout.row_tiles, 1, **factory), requires_grad=learned_range)
        self.reset_scales()

    @torch.no_grad()
    def reset_scales(self) -> None:
        """All scales as before any mapping, calibration and training."""
        self.step.zero_()
        self.zero.zero_()
        self.mapped_by.fill_(draws.words("mapping", repr(self.view.spec.mapping))[0] % (1 << 24))  # exact in fp32
        bound, dac = self.view.geometry.bound, self.view.dac
        for t in (self.gamma, self.scale_unit, self.out_scale):
            t.fill_(1.0)
        for t in (self.kappa, self.kappa_unit):
            t.fill_(1.0 if math.isinf(bound) else bound)
        self.input_range.fill_(1.0 if dac is None else dac.start)

    def output_factor(self) -> Tensor:
        """s [tile, out]."""
        kappa = self.kappa / self.kappa_unit  # [tile, block]
        return self.out_scale * self.scale_unit * (kappa if kappa.shape[1] == 1 else kappa[:, self.layout.block])

    @torch.no_grad()
    def auto_scale(self) -> None:
        """Learn column factors in units of c_aws from here on; the function stays (R003-72)."""
        layout = self.layout
        unit = math.sqrt(3 / (layout.in_features // layout.groups)) / self.gamma
        self.out_scale.mul_(self.scale_unit / unit)
        self.scale_unit.copy_(unit)

    @torch.no_grad()
    def fold_scales(self, weight: Tensor) -> None:
        """Multiply all factors into the weights [out, in] and gamma, one scale per column (R003-74); the function stays."""
        factor = self.output_factor()
        weight.mul_(self.layout.spread(factor))
        self.gamma.mul_(factor.abs())
        self.out_scale.fill_(1.0)
        self.scale_unit.fill_(1.0)
        self.kappa.copy_(self.kappa_unit)
