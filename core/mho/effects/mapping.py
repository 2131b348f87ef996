"""From weights to target conductances: which weight fills the device range, how a sign becomes a pair of devices, and how one
weight becomes several slices."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from mho.config import Field, Kinded, Sigmas

if TYPE_CHECKING:
    from torch import Tensor

    from mho.effects.site import Geometry


class Mapping(Kinded):
    """Turns weights into conductances: w = gamma * w_norm, |w_norm| <= 1 on the device range (R003-07, R003-25).

    A subclass says how large a weight fills the range (`scale`). One that uses other device arrangements than one
    active device or a differential pair also overrides `conductances` and `weights`.

    A weight may be held by several slices, w = offset + sum_k factors_k v_k (`factors`, `split`), each by devices of its own:
    they are programmed, age and are stuck as others are. Their currents are summed in front of one ADC; or, where they are
    `apart`, every slice has a column and a conversion of its own, and the digital side adds them up.
    """

    CATEGORY: ClassVar[str] = "mapping"

    clip: Sigmas | None = Field(None, source="Rasch et al. 2023, sec. 2.2")
    """clip weights at this many sigma, the root mean square of the layer, before mapping, e.g. '2.5 sigma'"""

    def scale(self, w: Tensor, geometry: Geometry) -> Tensor:
        """gamma [tile, out] for weights w [tile, out, row] (padding is 0)."""
        raise NotImplementedError(f"{type(self).__name__} does not say how weights are scaled: write scale(w, geometry)")

    def gamma(self, w: Tensor, geometry: Geometry) -> Tensor:
        """`scale` after clipping; 1 where a whole column is zero, so that nothing is divided by zero."""
        if self.clip is not None:
            used = geometry.rows.used[:, None, :].to(w.dtype).expand_as(w)
            sigma = ((w**2 * used).sum() / used.sum()).sqrt()  # about 0, as the range is
            w = w.clamp(-self.clip.count * sigma, self.clip.count * sigma)
        gamma = self.scale(w, geometry)
        return torch.where(gamma > 0, gamma, torch.ones_like(gamma))

    @property
    def factors(self) -> tuple[float, ...]:
        """What each slice of a weight counts."""
        return (1.0,)

    @property
    def apart(self) -> bool:
        """Whether every slice has a column of its own, whose current is converted alone."""
        return False

    @property
    def unsigned(self) -> bool:
        """Whether slices are never negative: then one device holds each (`device: {pair: single}`)."""
        return False

    @property
    def reference(self) -> bool:
        """Whether every tile has one more column, all of whose devices are at g_max: what it converts takes the place of the sum
        in `offset`. Only where slices are `apart`."""
        return False

    @property
    def sliced(self) -> bool:
        """Whether the class writes a `split`."""
        return type(self).split is not Mapping.split

    @property
    def columns(self) -> int:
        """Columns, and conversions, of one output."""
        return len(self.factors) if self.apart else 1

    def offset(self, idle: float) -> float:
        """What the digital side adds to every weight: offset sum_j x_j to every output. `idle` is what a single device conducts
        at g_min, in units of the mapped range."""
        return -sum(self.factors) * idle if self.unsigned else 0.0

    def split(self, w: Tensor) -> Tensor:
        """The slices [tile, out, slice, row], in [-1, 1], or in [0, 1] where they are `unsigned`, of w_norm [tile, out, row]."""
        return w.unsqueeze(-2)

    @property
    def again(self) -> int:
        """How often slices are chosen anew from what has been programmed so far (`corrected`)."""
        return 0

    def corrected(self, w: Tensor, v: Tensor, now: Tensor, k: int) -> Tensor:
        """The slices after the k-th time, from their targets v and what has been programmed, `now` [tile, out, slice, row]."""
        raise NotImplementedError  # never called unless `again`

    def conductances(self, w: Tensor, pair: str, geometry: Geometry) -> Tensor:
        """Target conductances [dev, tile, out, row] in µS of w_norm [tile, out, row] in [-1, 1].

        active: g = |w| g_max, one device; the core keeps the sign.
        both:   the device of the sign gets g_min + |w| (g_max - g_min), the idle one g_min (docs/physics.md E14).
        single: g = g_min + w (g_max - g_min), w in [0, 1].
        """
        if pair == "active":
            return w.abs().unsqueeze(0) * geometry.g_max
        span = geometry.g_max - geometry.g_min
        signs = w.unsqueeze(0) if pair == "single" else torch.stack([w.clamp(min=0), (-w).clamp(min=0)])
        return signs * span + geometry.g_min

    def weights(self, g: Tensor, sign: Tensor, pair: str, geometry: Geometry) -> Tensor:
        """w_norm [tile, out, row] of conductances g [dev, tile, out, row]; `sign` is that of the target (sgn 0 = 0),
        so one active device never changes it (R003-21, Eq. 13). A single device conducts g_min too (`offset`)."""
        if pair == "active":
            return g.squeeze(0) * sign / geometry.g_max
        return (g.squeeze(0) if pair == "single" else g[0] - g[1]) / (geometry.g_max - geometry.g_min)


class PerColumn(Mapping, kind="mho.per_column"):
    """Every output column of every tile fills the range: gamma_i = max_j |w_ij| (Rasch et al. 2023, Eq. 21)."""

    source: ClassVar[str] = "Rasch et al. 2023, Eq. 21"

    def scale(self, w: Tensor, geometry: Geometry) -> Tensor:
        return w.abs().amax(-1)


class TileMax(Mapping, kind="mho.tile_max"):
    """The largest weight of each physical tile fills the range; its columns share one gamma."""

    source: ClassVar[str] = "definition; Rasch et al. 2023 compare it with one gamma per column"

    def scale(self, w: Tensor, geometry: Geometry) -> Tensor:
        columns = w.abs().amax(-1)  # [tile, out]
        blocks = geometry.blocks.expand_as(columns)
        top = columns.new_zeros(len(columns), geometry.block_count).scatter_reduce(1, blocks, columns, "amax")
        return top.gather(1, blocks)


class Direct(Mapping, kind="mho.direct"):
    """Weights are taken as they are: |w| = `full` fills the range, larger ones saturate (Rasch et al. 2023, Methods)."""

    source: ClassVar[str] = "Rasch et al. 2023, Eq. 3"

    full: float = Field(1.0, gt=0, unit="1", source="Rasch et al. 2023, Eq. 3", description="weight that is mapped to g_max")

    def scale(self, w: Tensor, geometry: Geometry) -> Tensor:
        return w.new_full(w.shape[:-1], self.full)
