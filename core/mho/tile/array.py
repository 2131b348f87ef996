"""What a weight matrix on tiles computes: DAC, analog product, ADC, digital scales, and the noise that training injects.

How the matrix is cut is `layout`, its devices and its chip are `cells`.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from mho.effects import draws
from mho.effects.compensation import Compensation
from mho.effects.converter import RANGE_CAP, Adc, Dac, Rounding
from mho.effects.gradient import CleanProduct, straight
from mho.effects.nonideality import product
from mho.effects.quantiser import QuantiserModule
from mho.effects.site import Site, Stream
from mho.effects.surrogate import Surrogate
from mho.fast import function as fused
from mho.fast.kernels import Kernels
from mho.fast.route import Route, resolve
from mho.fast.tier import Precision
from mho.ground.errors import MhoError
from mho.tile.cells import Cells
from mho.tile.outscale import OutScale
from mho.tile.patches import Patches
from mho.tile.plan import Placed
from mho.tile.session import Run

if TYPE_CHECKING:
    from mho.config.hardware import TileSpec
    from mho.config.recipe import TrainingSpec

RANGE_RATE = 0.01  # of the running mean that input ranges follow: the last 100 mini-batches (R003-62)


class TileArray(OutScale, Cells):
    """All tiles of one weight matrix, or of `groups` equal ones (see `Layout`), with their periphery. The weights stay with
    the layer.

    State (saved): `gamma` [tile, out], `input_range` [tile, 1], the scales of `OutScale`, `step` [1], quantisers.

    `forward(x [..., in], weight [out, in]) -> [..., out]` computes R003 Eq. 3 without the bias (R003-01), which
    the layer adds digitally (R003-08); x may also be the `Patches` of an image:
    y_i = sum_tiles alpha gamma_i s_i ADC(F(DAC(x / alpha)))_i, s = `output_factor()`.
    With groups the weight is [group, out/groups, in/groups], and `tile` counts the tiles of all groups.
    """

    step: Tensor
    weight_key: Tensor | None
    weight_quantiser: QuantiserModule | None
    input_quantiser: QuantiserModule | None

    def __init__(
        self,
        out_features: int,
        in_features: int,
        spec: TileSpec,
        training: TrainingSpec,
        *,
        name: str = "",
        channel: int = 1,
        groups: int = 1,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        factory = {"device": device, "dtype": dtype}
        super().__init__(out_features, in_features, spec, name=name, channel=channel, groups=groups, **factory)
        self.training_spec = training
        self.order = "steps"  # of its inputs, see `AnalogLayer.order`
        self.ramp = (0.0, 0.0)  # set by attach: steps before injected noise grows, and steps until it is there in full
        start = spec.dac.start if isinstance(spec.dac, Dac) else 1.0
        self.learns_range = isinstance(spec.dac, Dac) and spec.dac.range == "learned"
        learned = self.learns_range and not training.backward.forward_only  # by gradient; else from statistics
        self._make_scales(training.out_scale, factory)
        self.input_range = nn.Parameter(torch.full((self.row_tiles, 1), start, **factory), requires_grad=learned)
        self.register_module("weight_quantiser", None)
        self.register_module("input_quantiser", None)
        self.seen: Tensor | None = (
            None  # abs-max [tile, 1] of the inputs of the last call, where ranges follow statistics
        )
        self.register_buffer("step", torch.zeros(1, device=device))
        if training.backward.mode in ("ste", "surrogate") and any(p.requires_grad for p in self.built.parameters()):
            kinds = ", ".join(p.effect.kind for p in self.plan.effects if p.effect.writes("build"))
            raise MhoError(
                f"{kinds}: 'backward: {training.backward.mode}' does not differentiate effects and trains none; "
                "use through or autograd"
            )
        self._fixed("weight_key", None, device)
        self.held = False  # whether the weight key came from a root forward
        self.remap_after_load = False
        self.attached_as: int | None = None  # id of this array if `attach` has been called on it (a copy has another)
        self.exact = False  # compute the plain product, as calibration does while it watches inputs
        self.use("auto")

    def use(self, precision: Precision, compiled: bool = False) -> None:
        """Resolve how this array is simulated."""
        self.precision, self.compiled = precision, compiled
        self.kernels = Kernels(self, compiled)
        self.planes = self.bound = None  # of another arithmetic
        channel = self.channel if all(n % self.channel == 0 for n in self.sizes) else 0
        self.route: Route = resolve(self.plan, self.spec, precision, self.height, channel)

    @property
    def kind(self) -> tuple[Hashable, ...]:
        """Arrays of which this is equal compute the same: hardware, effects, shape, arithmetic, backward pass."""
        effects = [p.effect for p in self.plan.effects]
        classes = tuple(map(type, (*effects, self.spec.mapping, self.spec.dac, self.spec.adc)))
        hardware = repr(self.spec), repr(effects), classes, repr(self.training_spec.backward), self.gamma.device
        return *hardware, self.groups, self.columns, *self.sizes, self.route.tier, self.route.cells

    def bare(self) -> TileArray:
        """An array of this kind without weights, chip and network, for what others may keep."""
        about: dict[str, Any] = {"name": self.name, "channel": self.channel, "groups": self.groups}
        made = TileArray(
            self.out_features, self.in_features, self.spec, self.training_spec, device=self.gamma.device, **about
        )
        made.use(self.precision)
        return made

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles resolve their route anew: it holds functions of plugins, and another machine has another tier."""
        return {k: v for k, v in self.__dict__.items() if k not in ("route", "kernels")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.use(self.precision, self.compiled)

    # -- drift compensation -----------------------------------------------------------------------------------
    @torch.no_grad()
    def age(self, t: float) -> None:
        """Let the cells age to t seconds, then measure the gain of the compensation: the reference is read out at age 0 s, where
        the gain is exactly 1 (R003-22)."""
        compensation = self.spec.compensation
        compensates = isinstance(compensation, Compensation)
        if compensates and t and self.reference is None:
            self.age(0.0)
        super().age(t)
        if not compensates:
            return
        now = self._read_out(compensation, t)
        if t:
            self.gain = compensation.gain(self.reference, now, self.geometry)
        else:
            self.reference, self.gain = now, None

    def _read_out(self, compensation: Compensation, t: float) -> Tensor:
        """Digital outputs [vector, tile, out] for known inputs in DAC units, through the full noisy tile."""
        assert self.chip_key is not None
        if compensation.inputs == "one_hot":
            x = torch.eye(self.height, device=self.aged.device)[:, None, :].expand(-1, self.row_tiles, -1)
        else:
            x = _known_inputs(self.path, compensation.vectors, self.row_tiles, self.height, self.aged.device)
        x = (x.to(self.aged.dtype) * self.used).repeat(compensation.repeats, 1, 1)
        stream = Run.stream(self.chip_key, draws.fold(self.chip_key, "read-out", t), t, len(x))
        if fused.reads_out(self):
            return fused.read_out(self, x, stream)
        if isinstance(self.spec.dac, Dac):
            site = self._converter_site("dac", stream)
            x = self.spec.dac.encode(x, torch.ones_like(self.gamma[:, :1]), 0.0, site=site)
        return self._analog(x, self.aged, stream, "through")

    # -- quantisers -------------------------------------------------------------------------------------------
    def stored(self, weight: Tensor) -> Tensor:
        """The weights that are written to the tiles: what `weight_quantiser` makes of them, where there is one (R002-02)."""
        return weight if self.weight_quantiser is None else self.weight_quantiser(weight)

    @torch.no_grad()
    def unquantise_(self, weight: Tensor) -> None:
        """Make the quantised weights the weights, and take the quantisers off."""
        weight.copy_(self.stored(weight))
        self.weight_quantiser = self.input_quantiser = None

    # -- forward ----------------------------------------------------------------------------------------------
    def draw(self, weight: Tensor) -> fused.Weights | None:
        """The weights that every call of this root forward sees, for `forward(..., drawn=)`: layers that loop over time
        need not draw the same noise at every step. None where there is nothing to draw."""
        if self.exact or self.deployed or self._draws_per_sample:
            return None
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        with torch.autocast(weight.device.type, enabled=False):
            key = self.run.mini_batch(self, weight.device)
            return fused.drawn(self, weight.to(dtype), Stream(key, key, quick=self.route.fused))

    def forward(self, x: Tensor | Patches, weight: Tensor, drawn: fused.Weights | None = None) -> Tensor:
        given = x if isinstance(x, Patches) else Patches(x)
        if given.shape[-1] != self.in_features or not given.image.is_floating_point():
            raise MhoError(
                f"layer {self.name!r} takes floating-point inputs of {self.in_features} features, "
                f"got {tuple(given.shape)} of {given.image.dtype}"
            )
        if self.input_quantiser is not None:
            given = given.with_image(self.input_quantiser(given.image))
        if self.exact:
            y = self.join_groups(self.split_groups(given.rows()) @ self._clean(weight).mT)
        else:
            y = self._simulated(given, weight, drawn).to(given.image.dtype)
        return y.reshape(*given.shape[:-1], self.out_features)

    def _simulated(self, x: Patches, weight: Tensor, drawn: fused.Weights | None) -> Tensor:
        """What the tiles make of it, [vector, out], with the gradient that the training recipe asks for."""
        backward = self.training_spec.backward
        dtype = weight.dtype if weight.dtype == torch.float64 else torch.float32
        with torch.autocast(x.image.device.type, enabled=False):  # analog values need fp32 up to the ADC
            x, w = x.with_image(x.image.to(dtype)), weight.to(dtype)
            if not backward.forward_only:
                return self._value(x, w, drawn)
            with torch.no_grad():
                y = self._value(x, w, drawn)
            if not (self.training or torch.is_grad_enabled()):
                return y  # nobody asks for the vectors
            flat = x.rows()
            self._note_range(flat)
            if backward.mode == "ste":
                return self._with_clean_gradient(y, flat, self.stored(w))
            return straight(self._stand_in(flat, w, cast(Surrogate, backward.surrogate)), y)

    def _clean(self, weight: Tensor) -> Tensor:
        """The digital matrix that the tiles stand for."""
        return self.stored(weight) * self.spread(self.output_factor())

    def _with_clean_gradient(self, y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """y [vector, out] with the gradient of the clean product; learned output scales take part in it."""
        s = self.output_factor()
        if s.requires_grad:
            weight, s = weight * self.spread(s), torch.ones_like(s)
        xs, ys = self.split_groups(x), self.split_groups(y)
        return self.join_groups(CleanProduct.apply(xs, weight, s, self.spread, ys))

    def _stand_in(self, x: Tensor, weight: Tensor, surrogate: Surrogate) -> Tensor:
        """What a surrogate says in place of the tiles: x [vector, in] -> [vector, out] (R001-02)."""
        alpha = self.used_range(xs := self.cut(x))
        alpha = torch.ones_like(self.gamma[:, :1]) if alpha is None else alpha.detach()
        y = surrogate.outputs(xs / alpha, self.normalised(weight), self.geometry)
        return self._summed(y * (self.gamma * self.output_factor() * alpha))

    @torch.no_grad()
    def _note_range(self, x: Tensor) -> None:
        """Remember how large the inputs are: without a gradient, ranges follow statistics (R003-62)."""
        if self.training and self.learns_range and len(x):
            self.seen = self.cut(x).abs().amax((0, 2))[:, None]

    @torch.no_grad()
    def follow_inputs(self) -> None:
        """After an optimizer step: move input ranges that have no gradient towards the abs-max of the last mini-batch, so
        that they become its running mean (R003-62, modes `ste` and `surrogate`)."""
        if self.seen is not None:
            self.input_range.lerp_(self.seen.clamp(max=RANGE_CAP).to(self.input_range.dtype), RANGE_RATE)
            self.seen = None

    @property
    def _rounding(self) -> Rounding:
        backward = self.training_spec.backward
        return backward.rounding if backward.mode == "autograd" else "through"

    def _value(self, x: Patches, weight: Tensor, drawn: fused.Weights | None) -> Tensor:
        """[vector, out] on the fused path where that knows how, else stage after stage."""
        stream = self.run.enter(self, x.shape[:-1], x.image.device)
        if fused.takes(self, x.image, weight):
            return fused.forward(self, x, weight, drawn, stream)
        return self._forward(x.rows(), weight, self._rounding, drawn, stream)

    def _forward(
        self, x: Tensor, weight: Tensor, rounding: Rounding, drawn: fused.Weights | None, stream: Stream
    ) -> Tensor:
        """The reference path: x [vector, in], weight [out, in] -> [vector, out]; of one mini-batch, or of one sample after the
        other where each has noisy weights of its own."""
        if not self._draws_per_sample:
            return self._product(x, weight, rounding, drawn, stream)
        samples = self.run.samples(len(x))
        parts = x.split(len(x) // samples) if samples else (x,)
        return torch.cat(
            [self._product(p, weight, rounding, None, stream.of_sample(k, len(p))) for k, p in enumerate(parts)]
        )

    @property
    def _draws_per_sample(self) -> bool:
        inject = self.training_spec.inject
        return self.training and not self.deployed and inject is not None and inject.per == "sample"

    def _product(
        self, x: Tensor, weight: Tensor, rounding: Rounding, drawn: fused.Weights | None, stream: Stream
    ) -> Tensor:
        """x [vector, in], weight [out, in] -> [vector, out] through the tiles."""
        xs = self.cut(x)
        w = self._weights(weight, stream) if drawn is None else drawn.w
        return self._summed(self._scaled(xs, self.used_range(xs), w, rounding, stream))

    @torch.no_grad()
    def trial(self, xs: Tensor, ranges: Tensor) -> Tensor:
        """What each tile of the chip that is on computes for xs [vector, tile, row] with other input ranges [tile, 1]:
        [vector, tile, out]. The same noise at every call, so that ranges can be compared."""
        assert self.chip_key is not None
        stream = Run.stream(self.chip_key, draws.fold(self.chip_key, "trial"), self.time, len(xs))
        return self._scaled(xs, self.used_range(xs, ranges), self.aged, "through", stream)

    def _scaled(self, xs: Tensor, alpha: Tensor | None, w: Tensor, rounding: Rounding, stream: Stream) -> Tensor:
        """From the digital inputs of each tile to its digital outputs: xs [vector, tile, row], the weights of this call w
        [tile, out, row] -> [vector, tile, out]."""
        for p in self.plan.read:
            w = self._in_rows(p.effect.apply("read", w, self._live_site(p, "read", stream)))
        y = self._analog(self._coded(xs, alpha, rounding, stream), w, stream, rounding)
        if alpha is not None:
            y, alpha = self._within_bound(y, xs, alpha, w, stream, rounding)
        scale = self.digital_scale()
        if alpha is not None:
            scale = scale * (alpha if rounding != "through" else alpha.detach())
        return y * scale

    def _summed(self, y: Tensor) -> Tensor:
        """Partial sums [vector, tile, out] -> [vector, out]."""
        return y.sum(-2) if self.groups == 1 else y.unflatten(-2, (self.groups, -1)).sum(-2).flatten(1)

    def digital_scale(self) -> Tensor:
        """[tile, out] what the periphery multiplies converted outputs by, besides the input range."""
        scale = (self.chip_gamma if self.deployed else self.gamma) * self.output_factor()
        return scale * self.gain if self.deployed and self.gain is not None else scale

    @property
    def deployed(self) -> bool:
        """Whether a chip is in use: one is programmed, and the network is not being trained."""
        return self.words is not None and not self.training

    def hold(self, drawn: draws.Key, by_root: bool = True) -> None:
        """Keep the weight key of the root forward until the next one."""
        self.weight_key = torch.stack([torch.as_tensor(v) for v in drawn]).to(self.gamma.device)
        self.held = by_root

    def used_range(self, xs: Tensor, ranges: Tensor | None = None) -> Tensor | None:
        """The input ranges of xs [vector, tile, row], see `Dac.used_range`; those of the tiles are `ranges` [tile, 1] or
        their own. None without a DAC."""
        dac = self.spec.dac
        return dac.used_range(xs, self.input_range if ranges is None else ranges) if isinstance(dac, Dac) else None

    def _within_bound(
        self, y: Tensor, xs: Tensor, alpha: Tensor, w: Tensor, stream: Stream, rounding: Rounding
    ) -> tuple[Tensor, Tensor]:
        """Bound management: where an output of a vector saturates the ADC, repeat the MVM with its inputs halved."""
        halvings = cast(Dac, self.spec.dac).halvings
        if not halvings or not isinstance(self.spec.adc, Adc):
            return y, alpha
        alpha = alpha.detach().expand(
            len(xs), -1, 1
        )  # a range that was not large enough learns from clipped inputs only
        for k in range(halvings):
            over = y.detach().abs().amax(-1, keepdim=True) >= self.spec.adc.limit  # [vector, tile, 1]
            alpha = torch.where(over, 2 * alpha, alpha)
            again = stream.of_pass(k)
            y = torch.where(over, self._analog(self._coded(xs, alpha, rounding, again), w, again, rounding), y)
        return y, alpha

    def _coded(self, xs: Tensor, alpha: Tensor | None, rounding: Rounding, stream: Stream) -> Tensor:
        """The analog inputs behind the DAC."""
        code = self._encode(xs, alpha, rounding, stream)
        for p in self.plan.input:
            code = p.effect.apply("input", code, self._live_site(p, "input", stream)) * self.used
        return code

    def _encode(self, xs: Tensor, alpha: Tensor | None, rounding: Rounding, stream: Stream) -> Tensor:
        if alpha is None:
            return xs
        dac, site = cast(Dac, self.spec.dac), self._converter_site("dac", stream)
        if rounding == "through":
            return dac.encode(xs, alpha, self.decay, self.occupied, site)
        return dac.encode_exactly(xs, alpha, rounding, site)

    def _weights(self, weight: Tensor, stream: Stream) -> Tensor:
        """The normalised weights of this call: the chip's, or the target with the noise that training injects."""
        if self.deployed:
            return self.aged
        w = self.normalised(weight)
        if not self.training:
            return w
        w = self._drop_connect(w, stream)
        if not self.injects:
            return w
        with torch.no_grad():
            used = self.injected(w, stream)
        return straight(w, used)

    @property
    def injects(self) -> bool:
        """Whether training puts programming noise on the weights."""
        inject = self.training_spec.inject
        return self.training and inject is not None and bool(inject.scale and self.plan.program)

    def injected(self, w: Tensor, stream: Stream) -> Tensor:
        """Normalised weights w [tile, out, row] with the noise of this mini-batch."""
        return self.with_noise(w, stream, self.injection())

    def injection(self) -> Tensor | float:
        """Strength of the noise that is injected now."""
        inject = self.training_spec.inject
        assert inject is not None
        if not self.is_attached:
            self.run.warn_unattached()
        return inject.scale * self._ramp()

    def with_noise(self, w: Tensor, stream: Stream, strength: Tensor | float, part: slice | None = None) -> Tensor:
        """Normalised weights w [tile, out, row], of a `part` of the outputs or of all, with programming noise."""
        return self._signed(self._programmed(self._target(w.detach()), stream, strength, part), w)

    @property
    def decay(self) -> float:
        """Pull on a learned input range (R003-70)."""
        return self.training_spec.range_decay if self.training else 0.0

    @property
    def is_attached(self) -> bool:
        """Whether an optimizer step advances the ramp of this array."""
        return self.attached_as == id(self)

    def _drop_connect(self, w: Tensor, stream: Stream) -> Tensor:
        """Set a share p of the weights to 0 for this mini-batch (R003-67)."""
        p = self.training_spec.drop_connect
        if not p:
            return w
        cells = draws.count(w.shape[:-1].numel(), w.device)
        draw = draws.uniform(draws.rows_of(draws.fold(stream.chip, "drop-connect"), cells), w.shape[-1])
        return w * (draw.view_as(w) >= p)

    def _ramp(self) -> Tensor | float:
        """Share of the injected noise at this step (R003-66): (step - first)/length, between 0 and 1."""
        first, length = self.ramp
        if not (first or length) or not self.is_attached:
            return 1.0
        return ((self.step - first) / length).clamp(0, 1) if length else (self.step >= first).float()

    def _live_site(self, placed: Placed, stage: str, stream: Stream) -> Site:
        """A site of the forward pass. Without a chip its constants belong to the mini-batch and are derived here."""
        if self.deployed or not placed.effect.writes("prepare"):
            return self._site(placed, stage, stream, kernels=self.kernels)
        site = self._with_module(placed, Site(self.geometry, stream, placed.path, "prepare"))
        placed.effect.prepare(site)
        made = Site(self.geometry, stream, placed.path, stage, constants=site.constants, kernels=self.kernels)
        return self._with_module(placed, made)

    def _analog(self, x: Tensor, w: Tensor, stream: Stream, rounding: Rounding) -> Tensor:
        """R003 Eq. 6 and the ADC: x [vector, tile, row], w [tile, out, row] -> [vector, tile, out].

        The order is that of the signal (R003-09): product, IR-drop and read noise while it accumulates, then the output
        stage (nonlinearity, output noise), then the ADC.
        """
        if not self.plan.passes:
            return self._digital(self._accumulated(x, w, stream, rounding), stream, rounding)
        p = self.plan.passes[0]
        parts = p.effect.passes(x, self._live_site(p, "passes", stream))
        streams = [stream.of_pass(k) for k in range(len(parts))]
        ys = [self._accumulated(part, w, s, rounding) for part, s in zip(parts, streams)]
        if getattr(p.effect, "sum", "analog") == "analog":
            return self._digital(torch.stack(ys).sum(0), stream, rounding)
        return torch.stack([self._digital(y, s, rounding) for y, s in zip(ys, streams)]).sum(0)

    def _accumulated(self, x: Tensor, w: Tensor, stream: Stream, rounding: Rounding) -> Tensor:
        """The product and whatever happens while it accumulates."""
        if self.plan.mvm:
            p = self.plan.mvm[0]
            y = p.effect.mvm(x, w, self._live_site(p, "mvm", stream))
        else:
            y = product(x, w)
        return self._staged("accumulate", y, (x, w), stream, rounding)

    def _digital(self, y: Tensor, stream: Stream, rounding: Rounding) -> Tensor:
        """The output stage and the ADC."""
        y = self._staged("output", y, (), stream, rounding)
        if not isinstance(self.spec.adc, Adc):
            return y
        return self.spec.adc.convert(y, rounding, self._converter_site("adc", stream))

    def _staged(self, stage: str, y: Tensor, args: tuple[Tensor, ...], stream: Stream, rounding: Rounding) -> Tensor:
        for p in getattr(self.plan, stage):
            new = p.effect.apply(stage, y, *args, self._live_site(p, stage, stream))
            identity = rounding == "through" and not p.effect.writes(stage) and p.effect.backward != "exact"
            y = straight(y, new) if identity else new
        return y

    def extra_repr(self) -> str:
        tiles = f"{self.row_tiles}x{self.block_count} tiles"
        return f"{self.out_features}x{self.in_features} weights on {tiles}, {len(self.plan.effects)} effects"


@functools.lru_cache(256)
@torch.inference_mode(False)
def _known_inputs(path: tuple[int, int], vectors: int, tiles: int, rows: int, device: torch.device) -> Tensor:
    """Inputs [vector, tile, row] of a read-out, U(-1, 1): the same for every chip at every time."""
    count = torch.arange(vectors * tiles, dtype=torch.int32, device=device)
    uniform = draws.uniform(draws.rows_of(draws.fold_words(draws.key("read-out"), path), count), rows)
    return (2 * uniform - 1).view(vectors, tiles, rows)
