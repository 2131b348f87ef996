"""A weight matrix on analog tiles: its scales, the chip that is on, and what a call of it computes.

How the matrix is cut is `layout`, what its devices do is `devices`, one product is `mvm`. The weights stay with the layer.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor, nn

from mho.config import TileSpec, TrainingSpec
from mho.effects import Compensation, Correction, CorrectionModule, Matrix, Stream, Surrogate, draws, product, straight
from mho.effects.arithmetic import transformed
from mho.effects.gradient import CleanProduct, StandIn
from mho.effects.mapping import Mapping
from mho.ground import MhoError, keeping
from mho.tile.backend import Backend, Drawn, backend_for
from mho.tile.layout import Layout
from mho.tile.mapped import Mapped, perhaps
from mho.tile.mvm import Call, Mvm
from mho.tile.patches import POINT, Patches
from mho.tile.programmed import Programmed, exactly, keeps_values
from mho.tile.session import Member, Session, stream_of
from mho.tile.view import TileView
from mho.tile.watch import Watch

RANGE_RATE = 0.01  # of the running mean that input ranges follow: the last 100 mini-batches (R003-62)


class TileArray(Mapped, Member):
    """All tiles of one weight matrix, or of `groups` equal ones (see `Layout`), with their periphery.

    `forward(x [..., in], weight [out, in]) -> [..., out]` computes R003 Eq. 3 without the bias (R003-01), which the layer adds
    digitally (R003-08); x may also be the `Patches` of an image. With groups the weight is [group, out/groups, in/groups].

    What belongs to the hardware file is `view` and `training_spec`; what is learned or mapped is in the state dict (`Scales`,
    `step`, quantisers, what effects have built); the chip that is on is `chip` and is not saved with the network (`Chip.save`
    keeps it); what the layers of a network share while it runs is `session`.
    """

    def __init__(
        self, out_features: int, in_features: int, spec: TileSpec, training: TrainingSpec, *,
        name: str = "", channel: int = 1, groups: int = 1, device: Any = None, dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        unit, mapping = channel if spec.split == "channel" else 1, cast(Mapping, spec.mapping)
        lines, room = mapping.columns, spec.columns - mapping.reference
        sizes: dict[str, Any] = {"rows": spec.rows, "unit": unit, "groups": groups, "device": device}
        self.layout = self.lines = Layout(out_features, in_features, columns=room // lines, **sizes)
        if lines > 1 or mapping.reference:  # of what is multiplied
            ways: dict[str, Any] = {"columns": room, "lines": lines, "reference": mapping.reference}
            self.lines = Layout(lines * out_features, in_features, **ways, **sizes)
        self.view = TileView.of(name, spec, training.backward, self.lines, channel, self.layout)
        self.built = self.view.built.to(device=device, dtype=dtype)
        self.training_spec = training
        self.name, self.path = name, self.view.path
        self.learns_range = self.view.dac is not None and self.view.dac.range == "learned"
        by_gradient = self.learns_range and not training.backward.forward_only  # else from statistics
        self._make_scales(training.out_scale, by_gradient, {"device": device, "dtype": dtype})
        self.matrix = Matrix(out_features, in_features, groups, channel)
        self.corrections = nn.ModuleList(cast(Correction, c).module(self.matrix) for c in spec.corrections)
        self.corrections.to(device=device, dtype=dtype)
        self.register_module("weight_quantiser", None)
        self.register_module("input_quantiser", None)
        self.chip: Programmed | None = None
        self.backend: Backend | None = None
        self.ramp = (0.0, 0.0)  # set by attach: steps before injected noise grows, and steps until it is there in full
        self.after_load: Literal["", "start", "remap"] = ""  # what becomes of gamma when a checkpoint has been loaded
        self.watch = Watch()
        self.exact = False  # compute the plain product, as calibration does while it watches inputs

    def join(self, session: Session, name: str) -> None:
        """Become part of a network under this name; random numbers are those of the name from now on."""
        hardware, self.session, self.chip = self.session.hardware, session, None
        self.view = self.view.renamed(name)
        self.name, self.path = name, self.view.path
        if hardware is not None:
            self.backend = backend_for(self.view, hardware.precision, hardware.compile)

    @property
    def spec(self) -> TileSpec:
        """The tile type of the hardware file."""
        return self.view.spec

    @property
    def device(self) -> torch.device:
        """Where scales and chip lie."""
        return self.gamma.device

    # -- forward ----------------------------------------------------------------------------------------------
    def forward(self, x: Tensor | Patches, weight: Tensor, drawn: Drawn | None = None) -> Tensor:
        """x [..., in], weight [out, in] -> [..., out]. `drawn` are the weights of `draw`."""
        if self.deployed and self.chip is not None and self.chip.target is None:
            state = self._state_of(weight)
            if state is None or self.chip.of not in (state, state[-1:]):
                raise MhoError(f"{self.name!r}: weights have changed or moved since its lean chip was made, or are computed")
            lean = self.chip = replace(self.chip, of=state)  # a copy knows its weights from now on
            coded_alone = lean.lean == "codes" and not (torch.is_grad_enabled() or transformed() or torch.compiler.is_compiling())
            with keeping([self], "chip", "gamma"):
                self.chip, self.gamma = lean.coded.get("alone") if coded_alone else None, lean.gamma.clone()
                if self.chip is None:
                    with torch.autocast(weight.device.type, enabled=False):
                        self._write(weight, lean.key, lean.time)
                y = self.forward(x, weight)
                lean.coded.update({"alone": cast(Programmed, self.chip).hollow()} if coded_alone else {})
                return y
        layer = x if isinstance(x, Patches) else Patches(x)
        self.view.check(layer.shape, layer.image.dtype)
        given = self.dac_inputs(layer)
        if not (self.exact or self.deployed):
            self.follow(weight)
        if self.exact:
            y = self.layout.join_groups(self.layout.split_groups(given.rows()) @ self.digital(weight).mT)
        else:
            y = self._analog(given, weight, drawn).to(given.image.dtype)
            if self.deployed and self.chip is not None and self.chip.repair is not None:
                of, found = self.chip.repair
                y = cast(CorrectionModule, self.corrections[of]).repaired(y, layer.rows, found)
            if not (self.training or torch.compiler.is_compiling() or transformed()) and self.watch.due(self):
                self.watch.look(self, given, weight)
        behind = [c for c in self.corrections if type(c).outputs is not CorrectionModule.outputs]
        weight = weight if all(c.adds for c in behind) else self.scaled(weight)
        for c in behind:
            y = c.outputs(y, layer.rows, weight)
        return y.reshape(*given.shape[:-1], self.layout.out_features)

    def dac_inputs(self, x: Patches) -> Patches:
        """What the DAC is given for the inputs of the layer: corrected and quantised."""
        for c in self.corrections:
            x = self._corrected(c, x)
        return x if self.input_quantiser is None else x.with_image(self.input_quantiser(x.image))

    def _corrected(self, c: CorrectionModule, x: Patches) -> Patches:
        if x.window == POINT and self.view.channel > 1:  # patches that are written out
            channels = x.image.unflatten(-1, (-1, self.view.channel)).mT
            return Patches(c.inputs(channels).mT.flatten(-2))
        return x.with_image(c.inputs(x.image))

    @torch.no_grad()
    def fit_corrections(self, x: Tensor, weight: Tensor, before: bool) -> None:
        """Fit the corrections that act `before` the tiles, or those that do not, in their order, to inputs x [vector, in] of the
        layer; the mapping follows their weights. They see x and the weights in fp32, or in fp64 where the layer has it: the
        former as corrections listed before leave them."""
        x, weight = (t.to(torch.promote_types(weight.dtype, torch.float32)) for t in (x, weight))
        given, w = Patches(x), weight if before else self.scaled(weight)
        for c in self.corrections:
            if c.acts_before is before:
                c.fit(given.rows(), w, lambda: self.trace(self.dac_inputs(Patches(x)).rows(), weight, "fit")["outputs"])
                if before:
                    self.remap(weight)
            if before:
                given, w = self._corrected(c, given), c.weights(w)

    def _analog(self, x: Patches, weight: Tensor, drawn: Drawn | None) -> Tensor:
        """What the tiles make of it, [vector, out], with the gradient that the training recipe asks for."""
        backward = self.training_spec.backward
        kind = weight.dtype if weight.dtype == torch.float64 else torch.float32
        with torch.autocast(x.image.device.type, enabled=False):  # analog values need fp32 up to the ADC
            x, weight = x.with_image(x.image.to(kind)), weight.to(kind)
            if not backward.forward_only:
                return self._outputs(x, weight, drawn)
            with torch.no_grad():
                y = self._outputs(x, weight, drawn)
            if not (self.training or torch.is_grad_enabled()):
                return y  # nobody asks for the vectors
            flat = x.rows()
            self._note_range(flat)
            if backward.mode == "ste":
                return self._with_clean_gradient(y, flat, self.stored(weight))
            return self._with_stand_in(y, flat, self.stored(weight), cast(Surrogate | None, backward.surrogate))

    def _outputs(self, x: Patches, weight: Tensor, drawn: Drawn | None) -> Tensor:
        """[vector, out], by the back-end if it takes the call, else stage after stage."""
        call = self.call(self.session.enter(self, x.shape[:-1], x.image.device))
        w = self.on_tiles(weight) if call.chip is None and drawn is None else None
        differentiated = self._differentiated(x.image, weight)
        if w is not None and self.view.mapping.sliced and not self.per_sample:
            drawn, w = Drawn(call.weights(w)), None
        if self.backend is not None and not self.per_sample and self.backend.takes(call, weight, differentiated):
            y = self.view.joined(self.backend.outputs(call, x, w, drawn, differentiated))
            return y if call.offset is None else y + self._offset(call, x)
        if not self.per_sample:
            return Mvm(call)(x.rows(), call.weights(w) if drawn is None else drawn.w)
        rows, parts = x.rows(), []
        samples = self.session.samples(len(rows))
        split = rows.split(len(rows) // samples) if samples else [rows]
        for k, part in enumerate(split, call.stream.vectors.before // max(1, len(split[0]))):
            one = replace(call, stream=call.stream.of_sample(k, len(part)))
            parts.append(Mvm(one)(part, one.weights(w)))
        return torch.cat(parts)

    def _offset(self, call: Call, x: Patches) -> Tensor:
        """[vector, out] what the digital side adds to products of a back-end."""
        mvm, xs = Mvm(call), self.layout.cut(x.rows())
        alpha = mvm.input_range(xs)
        return self.layout.add_up(mvm.offset(mvm.encoded(xs, alpha), alpha))

    def call(self, stream: Stream) -> Call:
        """The state of this array as a call sees it."""
        chip = self.chip if self.deployed else None
        noisy = self.training and chip is None
        return Call(
            self.view, stream, chip, self.gamma, self.digital_scale(),
            self._column_scale() * self.view.offset if self.view.offset else None,
            self.input_range if chip is None or chip.range is None or not self.learns_range else chip.range,
            backward=self.training_spec.backward,
            strength=self._injection() if noisy else None,
            drop=self.training_spec.drop_connect if noisy else 0.0,
            decay=self.training_spec.range_decay if self.training else 0.0,
            kernels=getattr(self.backend, "kernels", None),
        )  # fmt: skip

    def digital_scale(self) -> Tensor:
        """[tile, out] what the periphery multiplies converted outputs by, besides the input range."""
        chip, scale = self.chip if self.deployed else None, self.view.line_factors(self._column_scale())
        return scale if chip is None or chip.gain is None else scale * chip.gain

    def _column_scale(self) -> Tensor:
        """gamma s [tile, out] of the weights that are in use."""
        chip = self.chip if self.deployed else None
        return (self.gamma if chip is None else chip.gamma) * self.output_factor()

    def draw(self, weight: Tensor) -> Drawn | None:
        """The weights that every call of this root forward sees, for `forward(..., drawn=)`: layers that loop over time
        need not draw the same noise at every step. None where there is nothing to draw."""
        if self.exact or self.deployed or self.per_sample:
            return None
        self.follow(weight)
        kind = torch.float64 if weight.dtype == torch.float64 else torch.float32
        with torch.autocast(weight.device.type, enabled=False):
            key = self.session.mini_batch(self, weight.device)
            call, w = self.call(Stream(key, key, quick=self.quick)), self.on_tiles(weight.to(kind))
            taken = self.backend is not None and self.backend.takes(call, weight.to(kind), False)
            if self.backend is not None and taken and not self.view.mapping.sliced:
                return self.backend.drawn(call, w)
            return Drawn(call.weights(w))

    def trace(self, x: Tensor, weight: Tensor | None, purpose: str = "trace", ranges: Tensor | None = None) -> dict[str, Tensor]:
        """The named values of every stage of the reference path (see `Mvm`) for inputs x [..., in] of the DAC, on the chip that
        is on or with target weights; with input ranges [tile, 1] of their own where given. The same `purpose` draws the same
        noise, so that settings can be compared, also in one call: ranges [setting, tile, 1] repeat the vectors for every setting.
        Nothing else of the network changes.

        range [tile, 1], inputs [vector, tile, row], weights [tile, out, row], analog and converted [vector, tile, out] in analog
        units (of every slice that is apart), digital [vector, tile, out] in units of the outputs, outputs [vector, out]. A chip
        needs no weight.
        """
        seen: dict[str, Tensor] = {}
        if weight is not None:
            self.follow(weight)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            xs = self.layout.cut(x.reshape(-1, self.layout.in_features))
            key = self.chip.key if self.chip is not None else draws.key(purpose, *self.path)
            stream = stream_of(key, draws.fold(key, purpose), self.chip.time if self.chip is not None else 0.0, len(xs))
            if ranges is not None and ranges.dim() == 3:
                stream = replace(stream, vectors=stream.vectors._replace(again=len(ranges)))
                ranges, xs = ranges.repeat_interleave(len(xs), 0), xs.repeat(len(ranges), 1, 1)
            call = self.call(stream)
            call = call if ranges is None else replace(call, range=ranges)
            w = call.weights(None if call.chip is not None or weight is None else self.on_tiles(weight))
            seen["outputs"] = self.layout.add_up(Mvm(call, seen).digital(xs, w))
        return seen

    @property
    def deployed(self) -> bool:
        """Whether a chip is in use: one is programmed, and the network is not being trained."""
        return self.chip is not None and not self.training

    @property
    def quick(self) -> bool:
        """Whether normal numbers of training have 16 bits: the back-end says so."""
        return self.backend is not None and self.backend.quick

    def _differentiated(self, *tensors: Tensor) -> bool:
        """Whether autograd will ask for a gradient of this call."""
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():  # a graph cannot list parameters that just changed
            return torch.is_grad_enabled()
        return any(t.requires_grad for t in (*tensors, *self.parameters()))

    # -- gradients of other forwards --------------------------------------------------------------------------
    def _with_clean_gradient(self, y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """y [vector, out] with the gradient of the clean product (`ste`, R001-02); learned output scales take part in it."""
        layout, s = self.layout, self.output_factor()
        if s.requires_grad:
            weight, s = weight * layout.spread(s), torch.ones_like(s)
        xs, ys = layout.split_groups(x), layout.split_groups(y)
        return layout.join_groups(CleanProduct.apply(xs, weight, s, layout.spread, ys))

    def _with_stand_in(self, y: Tensor, x: Tensor, stored: Tensor, surrogate: Surrogate | None) -> Tensor:
        """y [vector, out] with the gradient of what a surrogate says in place of the tiles for x [vector, in] (R001-02); without
        one, of the clean product within the limits of DAC, ADC and devices (`masked`)."""
        layout, dac, geometry = self.layout, self.view.dac, self.view.geometry_of(self.layout)
        alpha = self.gamma.new_ones(1, 1) if dac is None else dac.used_range(layout.cut(x), self.input_range).detach()

        def stand_in(x: Tensor, stored: Tensor, factor: Tensor, alpha: Tensor, gamma: Tensor) -> Tensor:
            v, w = layout.cut(x) / alpha, (layout.cut_weight(stored) / gamma.unsqueeze(-1)).clamp(-1, 1)
            if surrogate is not None:
                z = surrogate.outputs(v, w, geometry)
            else:
                z = product(v if dac is None else v.clamp(dac.lowest, 1), w).clamp(-geometry.bound, geometry.bound)
            return layout.add_up(z * (gamma * factor * alpha))

        inputs = x, stored, self.output_factor(), alpha, self.gamma
        if transformed() or torch.compiler.is_compiling():
            return straight(stand_in(*inputs), y)
        return cast(Tensor, StandIn.apply(stand_in, y, *inputs))

    @torch.no_grad()
    def _note_range(self, x: Tensor) -> None:
        """Remember how large the inputs are: without a gradient, ranges follow statistics (R003-62)."""
        if self.training and self.learns_range and len(x):
            self.seen = self.layout.cut(x).abs().amax((0, 2))[:, None]

    @torch.no_grad()
    def follow_inputs(self) -> None:
        """After an optimizer step: move input ranges that have no gradient towards the abs-max of the last mini-batch, so
        that they become its running mean (R003-62, modes `ste`, `masked` and `surrogate`)."""
        if self.seen is not None:
            self.input_range.lerp_(self.seen.to(self.input_range.dtype), RANGE_RATE)
            self.seen = None

    # -- noise of training ------------------------------------------------------------------------------------
    @property
    def per_sample(self) -> bool:
        """Whether every sample of a mini-batch has noisy weights of its own."""
        inject = self.training_spec.inject
        return self.training and not self.deployed and inject is not None and inject.per == "sample"

    def _injection(self) -> Tensor | float | None:
        """Strength of the noise that is injected now; None without any."""
        inject = self.training_spec.inject
        if inject is None or not (inject.scale and self.view.plan.program):
            return None
        if not self.is_attached:
            self.session.warn_unattached()
        return inject.scale * self.ramp_share()

    def ramp_share(self) -> Tensor | float:
        """Share of the injected noise at this step (R003-66): (step - first)/length, between 0 and 1."""
        first, length = self.ramp
        if not (first or length) or not self.is_attached:
            return 1.0
        return ((self.step - first) / length).clamp(0, 1) if length else (self.step >= first).float()

    # -- a chip -----------------------------------------------------------------------------------------------
    @torch.no_grad()
    def program(self, weight: Tensor, key: draws.Key, t: float = 0.0, of: object = None, lean: bool | str = False) -> None:
        """Write the weights of the layer to the chip that `key` names, and let it age to t seconds. The target of weights with
        the fingerprint `of` is kept from chip to chip. A `lean` chip is only named here, and written in a forward. Raises
        `MhoError` for weights that are NaN or infinite."""
        self.follow(weight, sure=True)
        if weight.numel() and not perhaps(torch.stack(weight.aminmax()).isfinite().all()):  # takes no memory
            raise MhoError(f"layer {self.name!r} has weights that are NaN or infinite")
        if lean:
            self.chip = Programmed(key, self.gamma.clone(), None, None, {}, self._state_of(weight) or (), t, lean=lean)
        else:
            self._write(weight, key, t, of)

    @torch.no_grad()
    def _write(self, weight: Tensor, key: draws.Key, t: float, of: object = None) -> None:
        """`program` with the scales that there are."""
        key, before, view = draws.fold_words(key, self.path), self.chip, self.view
        known = before is not None and of is not None and not view.mapping.sliced and _as_target(before.target, weight)
        if known and before is not None and before.of == of:  # the fingerprint is taken last
            gamma, target = before.gamma, before.target
        else:
            gamma, target = self.gamma.clone(), self.normalised(weight.detach())
            self.watch.weights(self, weight)
            target = target.contiguous() if self.backend is None else self.backend.laid_out(target)
        stream = Stream(key, key)

        def conductances(v: Tensor) -> Tensor:
            g = None if self.backend is None else self.backend.programmed(v, key)
            if g is not None:
                return g
            return view.in_blocks(lambda part: view.programmed(v[:, part], stream, part=part), view.plan.program)

        self.chip = Programmed(key, gamma, *view.written(target, conductances), view.prepared(stream), of)
        self.age(t)

    @torch.no_grad()
    def age(self, t: float) -> None:
        """Let the cells age to t seconds after programming, always from the programmed conductances; then measure the gain of
        the compensation: the reference is read out at age 0 s, where the gain is exactly 1 (R003-22)."""
        assert self.chip is not None
        if self.chip.target is None:
            self.chip = replace(self.chip, time=t, coded={})
            return
        compensation = self.spec.compensation
        if isinstance(compensation, Compensation) and t and self.chip.reference is None:
            self.age(0.0)
        chip = self.chip.at(t, self._weights_at(self.chip, t))
        training, self.training = self.training, False  # what is read is the chip, also while one trains
        try:
            if isinstance(compensation, Compensation):
                now, geometry = self._read_out(chip, compensation), self.view.geometry_of(self.layout, self.view.lines)
                gain = compensation.gain(chip.reference, now, geometry) if t and chip.reference is not None else None
                chip = replace(chip, gain=gain, reference=chip.reference if t else now)
            self.chip = chip
            for k, c in enumerate(self.corrections):
                if (found := c.repair(self._read)) is not None:
                    chip = replace(chip, repair=(k, found))
        finally:
            self.training = training
        self.chip = chip

    def _read(self, x: Tensor) -> dict[str, Tensor]:
        """`trace` for inputs x [vector, in] of the layer on the chip that is on, see `CorrectionModule.repair`."""
        assert self.chip is not None
        given = self.dac_inputs(Patches(x.to(self.gamma.dtype))).rows()
        xs, scale, view = self.layout.cut(given), self._column_scale(), self.view
        target = view.summed(self.chip.target).to(given.dtype)[:, : view.lines * view.matrix.columns]
        exact = view.joined(product(xs, target) * view.line_factors(scale))
        if share := view.mapping.offset(0.0):  # of ideal devices, that conduct nothing at g_min
            exact = exact + xs.sum(-1, keepdim=True) * (share * scale)
        return {**self.trace(given, None, f"repair at {self.chip.time:g} s"), "given": xs, "exact": self.layout.add_up(exact)}

    def _weights_at(self, chip: Programmed, t: float) -> Tensor:
        w = None if self.backend is None else self.backend.aged(chip, t)
        if w is not None:
            return w
        view, stream = self.view, Stream(chip.key, chip.key, t)
        sites = view.on_chip(chip.constants)

        def aged(part: slice) -> Tensor:
            return sites.aged(chip.programmed[:, :, part], chip.target[:, part], t, stream, part)

        return view.in_blocks(aged, (*view.plan.age, *view.plan.fold))

    def _read_out(self, chip: Programmed, compensation: Compensation) -> Tensor:
        """Digital outputs [vector, tile, out] for known inputs in DAC units, through the full noisy tile."""
        layout, kind, device = self.layout, chip.weights.dtype, chip.weights.device
        if compensation.inputs == "one_hot":
            x = torch.eye(layout.height, device=device)[:, None, :].expand(-1, layout.row_tiles, -1)
        else:
            x = _known_inputs(self.path, compensation.vectors, layout.row_tiles, layout.height, device)
        x = (x.to(kind) * layout.used).repeat(compensation.repeats, 1, 1)
        stream = stream_of(chip.key, draws.fold(chip.key, "read-out", chip.time), chip.time, len(x))
        ones = torch.ones_like(self.gamma).repeat(1, self.view.lines)
        how: Any = {"backward": self.training_spec.backward, "kernels": getattr(self.backend, "kernels", None)}
        call = Call(self.view, stream, chip, self.gamma, ones, None, ones[:, :1], **how)  # no scales: trainers may shard them
        y = None if self.backend is None else self.backend.read_out(call, x)
        if y is not None:
            return self.view.referred(y)
        mvm, dac = Mvm(call), self.view.dac
        if dac is not None:
            x = dac.encode(x, ones[:, :1], 0.0, site=self.view.converter_site("dac", stream))
        return self.view.referred(mvm.converted(x, chip.weights))

    # -- moving and copying -----------------------------------------------------------------------------------
    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Moving to half precision must not round counters and scales of the mapping, nor conductances: those stay in fp32. A
        chip goes with its network, unless memory comes without values: then all scales start anew."""
        before = {n: b for n, b in self._buffers.items() if b is not None}
        super()._apply(fn, recurse)
        self._buffers.update((n, exactly(b, fn)) for n, b in before.items())
        if not any(b.is_meta for b in before.values()) and keeps_values(fn, self.step.device):
            self.chip = None if self.chip is None else self.chip.moved(fn)
        else:
            self.chip = None
            self.reset_scales()
        self.weight_key = None if self.weight_key is None else self.weight_key.to(self.gamma.device)
        return self

    def extra_repr(self) -> str:
        layout = self.layout
        tiles = f"{layout.row_tiles}x{layout.block_count} tiles, {len(self.view.plan.effects)} effects"
        return f"{layout.out_features}x{layout.in_features} weights on {tiles}"


def _as_target(target: Any, weight: Tensor) -> bool:
    """Whether a fingerprint, which is one of fp32, tells all that the target there is was made from, and is at hand: that of
    another device would have to be waited for."""
    return getattr(target, "dtype", None) == weight.dtype == torch.float32 and target.device.type == weight.device.type == "cpu"


@functools.lru_cache(16)
@torch.inference_mode(False)
def _known_inputs(path: tuple[int, int], vectors: int, tiles: int, rows: int, device: torch.device) -> Tensor:
    """Inputs [vector, tile, row] of a read-out, U(-1, 1): the same for every chip at every time."""
    count = torch.arange(vectors * tiles, dtype=torch.int32, device=device)
    uniform = draws.uniform(draws.rows_of(draws.fold_words(draws.key("read-out"), path), count), rows)
    return (2 * uniform - 1).view(vectors, tiles, rows)


def tile_arrays(model: nn.Module) -> list[TileArray]:
    """Every tile array of a model, each once, in module order."""
    return [m for m in model.modules() if isinstance(m, TileArray)]
