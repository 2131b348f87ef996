"""Digital corrections of one weight matrix: scaled channels, channels that stay digital, gains and offsets of the outputs."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from mho import Correction, Field
from mho.effects import CorrectionModule, Matrix, Outputs, Read
from mho.ground import MhoError

NORA = "Hou et al. 2025 (NORA); Xiao et al. 2023 (SmoothQuant)"
SCATTER = 1.01  # of the error, that a fit of half of the vectors may add
STILL = 1e-10  # of the power of what moves: less is rounding
LEAST, MOST = 1e-3, 1e3  # of a channel's scale: more than a converter of 10 bits can tell apart


def tops(x: Tensor, matrix: Matrix) -> Tensor:
    """The largest |x| of every input channel, x [vector, in] -> [channel]."""
    return x.abs().amax(0).view(-1, matrix.cells).amax(1)


class ChannelScaling(Correction, kind="digital.channel_scaling"):
    """Channel k of the inputs is divided by s_k, and its weights are multiplied by it, before both are quantised:
    s_k = max|x_k|^lambda / max|w_k|^(1 - lambda), divided by the geometric mean of all s.

    Outliers of the activations move into the weights, so that one input range fits all channels. Calibration with
    method="auto" searches lambda for every layer. It costs one multiplication for every input.
    """

    source: ClassVar[str] = NORA
    migration: float = Field(0.5, ge=0, le=1, unit="1", description="lambda: 0 evens out the weights, 1 the inputs", source=NORA)

    def module(self, matrix: Matrix) -> Scaling:
        return Scaling(self, matrix)


class Scaling(CorrectionModule):
    """`scale` [channel] is 1 before it is fitted."""

    scale: Tensor
    spec: ChannelScaling

    def __init__(self, spec: Correction, matrix: Matrix) -> None:
        super().__init__(spec, matrix)
        self.register_buffer("scale", torch.ones(matrix.channels))

    def inputs(self, x: Tensor) -> Tensor:
        return x / self.scale.to(x.dtype)

    def weights(self, w: Tensor) -> Tensor:
        scale = self.scale.to(w.dtype).repeat_interleave(self.matrix.cells)
        return w * (scale if w.dim() == 2 else scale.view(len(w), 1, -1))

    def fit(self, x: Tensor, w: Tensor, y: Outputs) -> None:
        self.scale.copy_(self.scales(x, w, self.spec.migration))

    def scales(self, x: Tensor, w: Tensor, migration: float) -> Tensor:
        """s [channel]; 1 for channels without inputs or weights."""
        a, b = tops(x, self.matrix), w.abs().amax(-2).reshape(-1, self.matrix.cells).amax(1)
        alive = (a > 0) & (b > 0)
        s = torch.where(alive, a**migration / b.clamp(min=1e-12) ** (1 - migration), 1.0)
        mean = ((s.clamp(min=1e-30).log() * alive).sum() / alive.sum().clamp(min=1)).exp()
        return torch.where(alive, (s / mean).clamp(LEAST, MOST), 1.0)

    @property
    def operations(self) -> int:
        return 0 if bool((self.scale == 1).all()) else self.matrix.channels


class OutlierChannels(Correction, kind="digital.outlier_channels"):
    """Input channels whose largest |x| is beyond `factor` times the quantile of all |x| of the layer are multiplied digitally,
    beside the tiles, where their rows hold 0; the largest of them first, up to a `share` of the channels.

    A handful of channels carries the outliers of a transformer. The cost is their share of the multiply-adds of the layer.
    """

    source: ClassVar[str] = "after Dettmers et al. 2022 (LLM.int8)"
    factor: float = Field(1.5, gt=0, unit="1", description="times the quantile, from which on a channel is digital", source="mho")
    quantile: float = Field(0.999, gt=0, le=1, unit="1", description="quantile of |x| over all inputs of the layer", source="mho")
    share: float = Field(0.05, ge=0, le=1, unit="1", description="of the channels, at most this share is digital", source="mho")

    def module(self, matrix: Matrix) -> Outliers:
        return Outliers(self, matrix)


class Outliers(CorrectionModule):
    """`digital` [channel] is 1 for channels beside the tiles, and all 0 before it is fitted."""

    digital: Tensor
    spec: OutlierChannels

    def __init__(self, spec: Correction, matrix: Matrix) -> None:
        super().__init__(spec, matrix)
        self.register_buffer("digital", torch.zeros(matrix.channels))
        self.register_load_state_dict_post_hook(_within_share)

    def inputs(self, x: Tensor) -> Tensor:
        return x * (1 - self.digital).to(x.dtype)

    def weights(self, w: Tensor) -> Tensor:
        on_tiles = (1 - self.digital).to(w.dtype).repeat_interleave(self.matrix.cells)
        return w * (on_tiles if w.dim() == 2 else on_tiles.view(len(w), 1, -1))

    def outputs(self, y: Tensor, x: Outputs, w: Tensor) -> Tensor:
        most = int(self.spec.share * self.matrix.channels)
        if not most:
            return y
        if w.dim() == 2:
            mask, channels = self.digital.topk(most)
            rows = (channels[:, None] * self.matrix.cells + torch.arange(self.matrix.cells, device=y.device)).flatten()
            mask = mask.repeat_interleave(self.matrix.cells).to(y.dtype)
            return y + (x()[:, rows].to(y.dtype) * mask) @ w[:, rows].T.to(y.dtype)
        mask = self.digital.repeat_interleave(self.matrix.cells).to(y.dtype)
        xs = (x().to(y.dtype) * mask).unflatten(1, (len(w), -1)).transpose(0, 1)
        return y + (xs @ w.mT.to(y.dtype)).transpose(0, 1).flatten(1)

    def fit(self, x: Tensor, w: Tensor, y: Outputs) -> None:
        self.digital.copy_(self.chosen(x, self.spec.factor))

    def chosen(self, x: Tensor, factor: float) -> Tensor:
        """Which channels are digital, [channel] of 0 and 1."""
        top, size = tops(x, self.matrix), x.abs().flatten()
        rank = min(len(size), max(1, round(self.spec.quantile * len(size))))
        count = min(int((top > factor * size.kthvalue(rank).values).sum()), int(self.spec.share * len(top)))
        return torch.zeros_like(top).index_fill_(0, top.topk(count).indices, 1.0)

    @property
    def operations(self) -> int:
        """Every group has outputs of its own."""
        return int(self.digital.sum()) * self.matrix.cells * (self.matrix.outputs // self.matrix.groups)


def _within_share(outliers: Outliers, _: object) -> None:
    if (there := int(outliers.digital.sum())) > int((share := outliers.spec.share) * outliers.matrix.channels):
        more = f"{there} of {outliers.matrix.channels} channels are digital in these weights, more than share: {share:g} allows"
        raise MhoError(f"digital.outlier_channels: {more}; load them with the hardware that they were saved with")


class Affine(Correction, kind="digital.affine"):
    """Every output of a chip is multiplied by a gain and shifted by an offset, read from the chip when it has been programmed
    and whenever it has aged: y -> g y + o, the least-squares fit of the digital products of calibration vectors.

    g_j = cov(y_j, t_j)/var(y_j), o_j = mean t_j - g_j mean y_j, with targets t of ideal tiles and vectors weighted by
    1/max(|t|, median |t|)^2: neither the few outputs that are far larger than the rest nor those that are almost 0 may rule
    the fit (attention has both). Gain and offset fold into the digital scale and the bias that are there anyway. Vectors
    that the DAC clips are left out, for the same reason; and a layer takes the fit only if that of one half of the vectors
    does not raise the mean of |y - t|/max(|t|, median |t|) on the other half by more than its own scatter, 1 %.

    With a `rank` r the fit is y -> g y + o + B P x: errors of the weights are regressed on the r principal directions P [r, in]
    of the calibration vectors, which carry most of the energy of a transformer's activations. That is r (in + out) digital
    multiply-adds for every vector, without any training.
    """

    source: ClassVar[str] = "mho; recalibration of a chip as in Chen et al. 2025"
    expected_failed_checks = {"never_waits_for_an_accelerator": "whether a fit is taken is decided once for every chip and age"}
    rank: int = Field(0, ge=0, le=64, unit="1", description="directions of the inputs whose errors are repaired", source="mho")
    vectors: int = Field(256, ge=8, unit="1", description="calibration vectors that are kept", source="mho")
    clipped: float = Field(0.01, ge=0, unit="1", source="mho", description="share of its energy that a vector may lose, to count")

    def module(self, matrix: Matrix) -> GainAndOffset:
        return GainAndOffset(self, matrix)


class GainAndOffset(CorrectionModule):
    """`bits` [vector, in] are the first `count` calibration vectors, in bfloat16, which moving a network must not change; of the
    `directions` [in, direction] the first `rank` are used."""

    bits: Tensor
    count: Tensor
    directions: Tensor
    rank: Tensor
    spec: Affine

    def __init__(self, spec: Affine, matrix: Matrix) -> None:
        super().__init__(spec, matrix)
        self.register_buffer("bits", torch.zeros(spec.vectors, matrix.inputs, dtype=torch.int16))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("directions", torch.zeros(matrix.inputs, spec.rank))
        self.register_buffer("rank", torch.tensor(spec.rank))

    def fit(self, x: Tensor, w: Tensor, y: Outputs) -> None:
        kept = x[:: max(1, len(x) // len(self.bits))][: len(self.bits)].to(torch.bfloat16).contiguous()
        self.bits.zero_()[: len(kept)] = kept.view(torch.int16)
        self.count.fill_(len(kept))
        self.directions.copy_(directions(kept.to(x.dtype), self.spec.rank))

    def repair(self, read: Read) -> tuple[Tensor, ...] | None:
        if not (n := int(self.count)):
            return None
        x = self.bits[:n].view(torch.bfloat16)
        seen = read(x)
        y, t = seen["outputs"], seen["exact"]
        z = x.to(y.dtype) @ self.directions[:, : int(self.rank)].to(y.dtype)
        size, other = sizes(t), t.any(1)
        good = (other & (self.lost(seen) <= self.spec.clipped)).nonzero().squeeze(1)
        half = good[::2]
        if len(half) < 4:
            return None
        other[half] = False
        best, found = SCATTER * relative(y[other], t[other], size[other]), None
        for zs in (z[:, :0], z):
            g, o, b = fitted(y[half], t[half], size[half] ** -2, zs[half])
            left = relative(g * y[other] + o + zs[other] @ b, t[other], size[other])
            if left <= best:
                best, found = left, zs
        if found is None:
            return None
        return *fitted(y[good], t[good], size[good] ** -2, found[good]), self.directions[:, : found.shape[1]].clone()

    def repaired(self, y: Tensor, x: Outputs, found: tuple[Tensor, ...]) -> Tensor:
        *affine, b, p = found
        y = super().repaired(y, x, tuple(affine))
        return y + (x().to(b.dtype) @ p.to(b.dtype) @ b).to(y.dtype) if len(b) else y

    @property
    def operations(self) -> int:
        return int(self.rank) * (self.matrix.inputs + self.matrix.outputs)

    @staticmethod
    def lost(seen: dict[str, Tensor]) -> Tensor:
        """The share of the energy of every vector that the DAC clips."""
        x = seen["given"]
        beyond = (x.abs() - seen["range"]).relu() if "range" in seen else torch.zeros_like(x)
        return beyond.square().sum((1, 2)) / x.square().sum((1, 2)).clamp(min=1e-24)


def fitted(y: Tensor, t: Tensor, weight: Tensor, z: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Gain g and offset o [out], and b [direction, out], of outputs y for targets t [vector, out] and the directions z [vector,
    direction] of their inputs: the smallest sum over vectors of weight (g y + o + z b - t)^2. Gain 1 where an output does not
    move but with the directions."""
    s = (weight / weight.sum()).sqrt()[:, None]
    a = s if z is None else torch.cat([s, s * z], 1)
    y, t, inverse = s * y, s * t, torch.linalg.pinv(a)
    dy, dt = (v - a @ (inverse @ v) for v in (y, t))
    var = dy.square().sum(0)
    moves = var > STILL * y.square().sum(0)
    g = torch.where(moves, (dy * dt).sum(0) / torch.where(moves, var, 1.0), 1.0)
    rest = inverse @ (t - g * y)
    return g, rest[0], rest[1:]


def directions(x: Tensor, rank: int) -> Tensor:
    """The first principal directions of x [vector, in], -> [in, direction], of which x has the size 1 in every one; vectors count
    by 1/max(|x|, median |x|). 0 for directions that x does not have."""
    x = (x - x.mean(0)) / sizes(x)[:, None]
    power, u = torch.linalg.eigh(x @ x.T)
    power, u = power.flip(0)[:rank], u.flip(1)[:, :rank]
    found = x.T @ torch.where(power > STILL * power[:1], u / power, 0.0)
    return torch.nn.functional.pad(found, (0, rank - found.shape[1]))


def sizes(t: Tensor) -> Tensor:
    """What errors of outputs t [vector, out] are compared with, [vector]: |t|, or the median of all |t| where that is larger."""
    size = t.norm(dim=1)
    return size.clamp(min=float(size[size > 0].median()) if bool(size.any()) else 1e-12)


def relative(y: Tensor, t: Tensor, size: Tensor) -> float:
    """The mean of |y - t|/size over vectors [vector, out]."""
    return float(((y - t).norm(dim=1) / size).mean())
