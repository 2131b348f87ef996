"""The tiles of one weight matrix: periphery, analog product, and the chip that is programmed on them.

A matrix [out, in] is cut along its inputs into row tiles; they are a batch axis of every tensor here, never a Python
loop. Columns do not interact in the analog product, so the output axis stays whole, and `Geometry.blocks` says which
physical tile an output sits on where that matters (R003-23, R003-24).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from torch import Tensor, nn

from mho import noise
from mho.compensation import Compensation
from mho.converter import Adc, Dac, Rounding
from mho.errors import MhoError
from mho.gradient import CleanProduct, straight
from mho.mapping import Mapping
from mho.nonideality import Nonideality, product
from mho.plan import Placed, Plan, resolve
from mho.run import Run
from mho.site import Geometry, Rows, Site, Stream

if TYPE_CHECKING:
    from mho.hardware import TileSpec, TrainingSpec


def split_evenly(n: int, limit: int, unit: int = 1) -> list[int]:
    """Cut n rows into the fewest parts of at most `limit`, as equal as they go, each a multiple of `unit`
    (the rows of one input channel). 1300 rows of 512 -> 434, 433, 433 (R003-23)."""
    unit = unit if unit <= limit else 1  # a channel larger than a tile has to be cut
    items = n // unit
    parts = max(1, math.ceil(items / (limit // unit)))
    small, extra = divmod(items, parts)
    return [(small + (i < extra)) * unit for i in range(parts)]


# Buffers of the chip that is on.
CHIP = ("target", "programmed", "aged", "reference", "gain", "chip_gamma")


class TileArray(nn.Module):
    """All tiles of one weight matrix, or of `groups` equal ones side by side (grouped convolutions). Holds the digital
    scales and the chip; the weights stay with the layer.

    Every group is a matrix with tiles of its own: no tile holds two of them, and no cell stands idle between them. The
    groups lie along the tile axis like row tiles, so thousands of them are one batched product.

    State (saved): `gamma` [tile, out], `input_range` [tile, 1], `out_scale` [tile, out], `step` [1].
    A programmed chip lives in buffers that are not saved with the model; `Chip.save` keeps it.

    `forward(x [..., in], weight [out, in]) -> [..., out]` computes R003 Eq. 3 without the bias (R003-01), which
    the layer adds digitally (R003-08):
    y_i = sum_tiles alpha gamma_i out_scale_i ADC(F(DAC(x / alpha)))_i.
    With groups the weight is [group, out/groups, in/groups], and `tile` below counts the tiles of all groups.
    """

    gamma: Tensor
    step: Tensor
    block: Tensor
    used: Tensor
    depth: Tensor
    occupied: Tensor
    rows_index: Tensor | None
    weight_key: Tensor | None
    # Tensors while a chip is on, else None (Any spares a check at every use).
    target: Any  # [tile, out, row] signed, normalised
    programmed: Any  # [dev, tile, out, row] µS
    aged: Any  # [tile, out, row] the weights now
    reference: Any  # [vector, tile, out] read-out right after programming
    gain: Any  # [tile, out] of the compensation; None at age 0
    chip_gamma: Any  # [tile, out] gamma when the chip was programmed: remapping the weights does not change a chip

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
        super().__init__()
        self.out_features, self.in_features = out_features, in_features
        self.spec, self.training_spec, self.name = spec, training, name
        self.plan: Plan = resolve(cast(tuple[Nonideality, ...], spec.nonidealities), name, spec.factor)
        self.run = Run()
        self.ramp_steps = 0.0  # set by attach; 0 = full strength at once
        self.path = noise.words("layer", name)

        self.groups, self.columns = groups, out_features // groups
        self.sizes = split_evenly(in_features // groups, spec.rows, channel if spec.split == "channel" else 1)
        self.row_tiles = tiles = len(self.sizes) * groups
        self.height = height = max(self.sizes)
        n = torch.tensor(self.sizes * groups, dtype=torch.float32)
        j = torch.arange(height, dtype=torch.float32)
        used = (j < n[:, None]).float()
        columns = split_evenly(self.columns, spec.columns)
        self.block_count = len(columns)
        self._fixed("occupied", n, device)
        self._fixed("depth", j / n[:, None] * used, device)
        self._fixed("used", used, device)
        self._fixed("block", torch.arange(len(columns)).repeat_interleave(torch.tensor(columns)), device)
        self._fixed("rows_index", None if len(set(self.sizes)) == 1 else self._row_numbers(), device)
        self._fixed("weight_key", None, device)

        start = spec.dac.start if isinstance(spec.dac, Dac) else 1.0
        factory = {"device": device, "dtype": dtype}
        self.register_buffer("gamma", torch.ones(tiles, self.columns, **factory))
        self.register_buffer("step", torch.zeros(1, device=device))
        learned = isinstance(spec.dac, Dac) and spec.dac.range == "learned"
        self.input_range = nn.Parameter(torch.full((tiles, 1), start, **factory), requires_grad=learned)
        self.out_scale = nn.Parameter(
            torch.ones(tiles, self.columns, **factory), requires_grad=training.out_scale != "fixed"
        )

        for buffer in CHIP:
            self._fixed(buffer, None, device)
        self.constants: list[list[str]] = [[] for _ in self.plan.effects]
        self.time = 0.0
        self.chip_key: noise.Key | None = None
        self.held = False  # whether the weight key came from a root forward
        self.remap_after_load = False
        self.attached_as: int | None = None  # id of this array if `attach` has been called on it (a copy has another)
        self.exact = False  # compute the plain product, as calibration does while it watches inputs

    # -- shapes -----------------------------------------------------------------------------------------------
    def _fixed(self, name: str, value: Tensor | None, device: Any) -> None:
        self.register_buffer(name, None if value is None else value.to(device), persistent=False)

    def _row_numbers(self) -> Tensor:
        """[tile * row] number of the input of a group that feeds each row; padding points one past the last input."""
        rows = sum(self.sizes)
        index = torch.full((len(self.sizes), max(self.sizes)), rows)
        for t, part in enumerate(torch.arange(rows).split(self.sizes)):
            index[t, : len(part)] = part
        return index.flatten()

    def cut(self, v: Tensor) -> Tensor:
        """Inputs [..., in] -> [..., tile, row], padded with zeros."""
        if self.groups == 1:
            return self._cut(v)
        return self._cut(v.unflatten(-1, (self.groups, -1))).flatten(-3, -2)

    def cut_weight(self, weight: Tensor) -> Tensor:
        """[out, in] or [group, out, in] -> [tile, out, row]."""
        w = self._cut(weight).transpose(-3, -2)
        return w if self.groups == 1 else w.flatten(0, 1)

    def _cut(self, v: Tensor) -> Tensor:
        """The same for one group."""
        if self.rows_index is not None:
            v = nn.functional.pad(v, (0, 1)).index_select(-1, self.rows_index)
        return v.unflatten(-1, (len(self.sizes), self.height))

    def spread(self, v: Tensor) -> Tensor:
        """[tile, out] -> the shape of the weight: the value that belongs to every weight."""
        sizes = torch.tensor(self.sizes, device=v.device)
        parts = v.t() if self.groups == 1 else v.unflatten(0, (self.groups, -1)).transpose(1, 2)
        return parts.repeat_interleave(sizes, dim=-1, output_size=sum(self.sizes))

    def split_groups(self, v: Tensor) -> Tensor:
        """[vector, group * n] -> [group, vector, n]; unchanged where there is one group."""
        return v if self.groups == 1 else v.unflatten(-1, (self.groups, -1)).transpose(0, 1)

    def join_groups(self, v: Tensor) -> Tensor:
        """Back from `split_groups`."""
        return v if self.groups == 1 else v.transpose(0, 1).flatten(1)

    @property
    def geometry(self) -> Geometry:
        device, adc = self.spec.device, self.spec.adc
        rows = Rows(self.occupied, self.depth, self.used)
        bound = adc.limit if isinstance(adc, Adc) else math.inf
        return Geometry(rows, self.columns, self.block, self.block_count, device.g_min, device.g_max, bound)

    @property
    def tile_count(self) -> int:
        """Physical tiles: row tiles of all groups times column blocks."""
        return self.row_tiles * self.block_count

    # -- mapping ----------------------------------------------------------------------------------------------
    @property
    def mapping(self) -> Mapping:
        return cast(Mapping, self.spec.mapping)

    @torch.no_grad()
    def remap(self, weight: Tensor) -> None:
        """Set gamma so that the weights fill the device range again (R003-69). The function of the layer stays, since
        gamma scales the conductances down exactly as it scales the outputs up."""
        self.gamma.copy_(self.mapping.gamma(self.cut_weight(weight.detach()), self.geometry))

    @torch.no_grad()
    def clip_(self, weight: Tensor, limit: float) -> None:
        """|w| <= limit gamma, in place (R003-68)."""
        bound = self.spread(self.gamma * limit).to(weight.dtype)
        weight.copy_(torch.minimum(torch.maximum(weight, -bound), bound))

    def normalised(self, weight: Tensor) -> Tensor:
        """w / gamma, saturated at the device range, [tile, out, row]."""
        w = self.cut_weight(weight) / self.gamma.unsqueeze(-1)
        return w.clamp(-1, 1)

    # -- a chip -----------------------------------------------------------------------------------------------
    def _site(self, placed: Placed, stage: str, stream: Stream, **conductances: Tensor) -> Site:
        constants = {n: getattr(self, f"_{placed.number}_{n}") for n in self.constants[placed.number]}
        return Site(self.geometry, stream, placed.path, stage, constants=constants, **conductances)

    def _physical(self, g: Tensor) -> Tensor:
        """Conductances are never negative (R003-17), and there are no devices in the padding."""
        return self._in_rows(g.clamp(min=0))

    def _in_rows(self, w: Tensor) -> Tensor:
        """Nothing in the padding, whatever an effect did there."""
        return w * self.used[:, None, :]

    def _programmed(self, target: Tensor, stream: Stream, strength: Tensor | float | None = None) -> Tensor:
        """Conductances after programming. With a strength (training), the error of all effects but the final ones is
        scaled: the floor at 0 then cuts the scaled error, and a stuck cell stays where it is stuck (R003-64)."""
        g = goal = self._physical(target)
        errors = [p for p in self.plan.program if not p.effect.final]
        for p in errors:
            g = self._physical(g)
            g = p.effect.apply("program", g, self._site(p, "program", stream, target=goal))
        if strength is not None and errors:
            g = goal + strength * (g - goal)
        g = self._physical(g)
        for p in self.plan.program[len(errors) :]:
            g = self._physical(p.effect.apply("program", g, self._site(p, "program", stream, target=goal)))
        return g

    def _signed(self, g: Tensor, normalised: Tensor) -> Tensor:
        return self.mapping.weights(g, normalised.sign(), self.spec.device.pair, self.geometry)

    def _target(self, normalised: Tensor) -> Tensor:
        return self.mapping.conductances(normalised, self.spec.device.pair, self.geometry)

    @torch.no_grad()
    def program(self, weight: Tensor, key: noise.Key) -> None:
        """Write the weights of the layer to the chip that `key` names; age 0 s follows."""
        self.chip_key = noise.fold_words(key, self.path)
        self.chip_gamma = self.gamma.clone()
        self.target = self.normalised(weight.detach()).contiguous()  # as a saved chip has it: same layout, same bits
        self.programmed = self._programmed(self._target(self.target), Stream(self.chip_key, self.chip_key))
        self._prepare()
        self.age(0.0)

    def restore(self, key: noise.Key, state: dict[str, Tensor]) -> None:
        """Put a saved chip on these tiles (see `Chip.save`); `age` follows."""
        self.clear()
        self.chip_key = noise.fold_words(key, self.path)
        for name, value in state.items():
            index, _, constant = name.partition(".")
            if not constant:
                setattr(self, name, value)
                continue
            self.constants[int(index)].append(constant)
            self._fixed(f"_{index}_{constant}", value, value.device)

    @torch.no_grad()
    def _prepare(self) -> None:
        assert self.chip_key is not None
        for p in self.plan.prepare:
            site = Site(self.geometry, Stream(self.chip_key, self.chip_key), p.path, "prepare")
            p.effect.prepare(site)
            self.constants[p.number] = list(site.constants)
            for name, value in site.constants.items():
                self._fixed(f"_{p.number}_{name}", value, value.device)

    @torch.no_grad()
    def age(self, t: float) -> None:
        """The weights t seconds after programming, always computed from the programmed conductances."""
        assert self.chip_key is not None
        self.time = t
        stream = Stream(self.chip_key, self.chip_key, t)
        g = self.programmed
        goal = self._physical(self._target(self.target))
        for p in self.plan.age:
            site = self._site(p, "age", stream, target=goal, programmed=self.programmed)
            g = self._physical(p.effect.apply("age", g, t, site))
        w = self._signed(g, self.target)
        for p in self.plan.fold:
            w = self._in_rows(p.effect.apply("fold", w, self._site(p, "fold", stream)))
        self.aged = w
        self._compensate(t)

    def _compensate(self, t: float) -> None:
        """Record the reference read-out after age 0 s, where the gain is exactly 1; later, compare (R003-22)."""
        compensation = self.spec.compensation
        if not isinstance(compensation, Compensation):
            return
        if t == 0:
            self.reference, self.gain = self._read_out(compensation, t), None
            return
        self.gain = compensation.gain(self.reference, self._read_out(compensation, t), self.geometry)

    def _read_out(self, compensation: Compensation, t: float) -> Tensor:
        """Digital outputs [vector, tile, out] for known inputs in DAC units, through the full noisy tile."""
        assert self.chip_key is not None
        like, rows = self.aged, (self.row_tiles, self.height)
        if compensation.inputs == "one_hot":
            x = torch.eye(self.height, dtype=like.dtype, device=like.device)[:, None, :].expand(-1, *rows)
        else:
            count = torch.arange(compensation.vectors * rows[0], dtype=torch.int32, device=like.device)
            draws = noise.uniform(noise.rows_of(noise.fold_words(noise.key("read-out"), self.path), count), rows[1])
            x = (2 * draws - 1).to(like.dtype).view(-1, *rows)
        x = (x * self.used).repeat(compensation.repeats, 1, 1)
        if isinstance(self.spec.dac, Dac):
            x = self.spec.dac.encode(x, torch.ones_like(self.input_range), 0.0)
        call = noise.fold(self.chip_key, "read-out", t)
        return self._analog(x, self.aged, Run.stream(self.chip_key, call, t, len(x)), "through")

    def chip_state(self) -> dict[str, Any]:
        """Everything that makes up the chip that is on, by reference; `put_chip_state` brings it back."""
        constants = {n: getattr(self, n) for n in self._constant_names()}
        buffers = {n: getattr(self, n) for n in CHIP}
        return {
            "buffers": buffers,
            "constants": constants,
            "names": self.constants,
            "key": self.chip_key,
            "time": self.time,
        }

    def put_chip_state(self, state: dict[str, Any]) -> None:
        self.clear()
        for name, value in state["buffers"].items():
            setattr(self, name, value)
        for name, value in state["constants"].items():
            self._fixed(name, value, value.device)
        self.constants, self.chip_key, self.time = state["names"], state["key"], state["time"]

    def _constant_names(self) -> list[str]:
        return [f"_{number}_{n}" for number, names in enumerate(self.constants) for n in names]

    @property
    def signature(self) -> str:
        """What a saved chip must have been made for: shapes of the tiles, kinds of the effects."""
        effects = [p.effect.kind for p in self.plan.effects]
        return repr((self.out_features, self.in_features, self.groups, self.sizes, self.spec.device.pair, effects))

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Moving to half precision must not round counters, geometry, scales or conductances: those stay in fp32."""
        before = {n: b for n, b in self._buffers.items() if b is not None and b.is_floating_point()}
        super()._apply(fn, recurse)
        for name, old in before.items():
            new = self._buffers[name]
            if new is not None and torch.finfo(new.dtype).bits < 32:
                self._buffers[name] = old.to(new.device, torch.promote_types(old.dtype, torch.float32))
        return self

    def clear(self) -> None:
        """Take the chip off: the layer computes with its target weights again."""
        for name in self._constant_names():
            delattr(self, name)
        for buffer in CHIP:
            setattr(self, buffer, None)
        self.chip_key, self.time = None, 0.0
        self.constants = [[] for _ in self.plan.effects]

    # -- forward ----------------------------------------------------------------------------------------------
    def draw(self, weight: Tensor) -> Tensor | None:
        """The weights that every call of this root forward sees, for `forward(..., drawn=)`: layers that loop over time
        need not draw the same noise at every step. None where there is nothing to draw."""
        if self.exact or self.deployed:
            return None
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        with torch.autocast(weight.device.type, enabled=False):
            key = self.run.mini_batch(self, weight.device)
            return self._weights(weight.to(dtype), Stream(key, key))

    def forward(self, x: Tensor, weight: Tensor, drawn: Tensor | None = None) -> Tensor:
        if x.shape[-1] != self.in_features or not x.is_floating_point():
            raise MhoError(
                f"layer {self.name!r} takes floating-point inputs of {self.in_features} features, "
                f"got {tuple(x.shape)} of {x.dtype}"
            )
        if self.exact:
            y = self.split_groups(x.reshape(-1, x.shape[-1])) @ (weight * self.spread(self.out_scale)).mT
            return self.join_groups(y).view(*x.shape[:-1], self.out_features)
        mode = self.training_spec.backward.mode
        dtype = weight.dtype if weight.dtype == torch.float64 else torch.float32
        with torch.autocast(x.device.type, enabled=False):  # analog values need fp32 up to the ADC
            flat = x.reshape(-1, x.shape[-1]).to(dtype)
            w = weight.to(dtype)
            if mode == "ste":
                with torch.no_grad():
                    y = self._forward(flat, w, "through", drawn)
                clean = self.split_groups(flat), w * self.spread(self.out_scale)
                y = self.join_groups(CleanProduct.apply(*clean, self.split_groups(y)))
            else:
                y = self._forward(flat, w, self._rounding, drawn)
        return y.reshape(*x.shape[:-1], self.out_features).to(x.dtype)

    @property
    def _rounding(self) -> Rounding:
        backward = self.training_spec.backward
        return backward.rounding if backward.mode == "autograd" else "through"

    def _forward(self, x: Tensor, weight: Tensor, rounding: Rounding, drawn: Tensor | None) -> Tensor:
        """x [vector, in], weight [out, in] -> [vector, out]."""
        stream = self.run.enter(self, len(x), x.device)
        xs = self.cut(x)
        alpha = self._input_range(xs)
        code = self._encode(xs, alpha, rounding)
        for p in self.plan.input:
            code = p.effect.apply("input", code, self._live_site(p, "input", stream)) * self.used
        w = self._weights(weight, stream) if drawn is None else drawn
        for p in self.plan.read:
            w = self._in_rows(p.effect.apply("read", w, self._live_site(p, "read", stream)))
        y = self._analog(code, w, stream, rounding)
        if alpha is not None:
            y, alpha = self._within_bound(y, xs, alpha, w, stream, rounding)
        scale = (self.chip_gamma if self.deployed else self.gamma) * self.out_scale
        if self.gain is not None and self.deployed:
            scale = scale * self.gain
        if alpha is not None:
            scale = scale * (alpha if rounding != "through" else alpha.detach())
        y = y * scale
        return y.sum(-2) if self.groups == 1 else y.unflatten(-2, (self.groups, -1)).sum(-2).flatten(1)

    @property
    def deployed(self) -> bool:
        """Whether a chip is in use: one is programmed, and the network is not being trained."""
        return self.chip_key is not None and not self.training

    def hold(self, drawn: noise.Key, by_root: bool = True) -> None:
        """Keep the weight key of the root forward until the next one."""
        self.weight_key = torch.stack([torch.as_tensor(v) for v in drawn]).to(self.gamma.device)
        self.held = by_root

    def _input_range(self, xs: Tensor) -> Tensor | None:
        dac = self.spec.dac
        if not isinstance(dac, Dac):
            return None
        if dac.range != "dynamic":
            return self.input_range
        top = xs.detach().abs().amax(-1, keepdim=True)  # [vector, tile, 1]
        return torch.where(top > 0, top, torch.ones_like(top))

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
            code = self._encode(xs, alpha, rounding)
            for p in self.plan.input:
                code = p.effect.apply("input", code, self._live_site(p, "input", again)) * self.used
            y = torch.where(over, self._analog(code, w, again, rounding), y)
        return y, alpha

    def _encode(self, xs: Tensor, alpha: Tensor | None, rounding: Rounding) -> Tensor:
        if alpha is None:
            return xs
        dac = cast(Dac, self.spec.dac)
        if rounding == "through":
            return dac.encode(xs, alpha, self.training_spec.range_decay if self.training else 0.0, self.occupied)
        return dac.encode_exactly(xs, alpha, rounding)

    def _weights(self, weight: Tensor, stream: Stream) -> Tensor:
        """The normalised weights of this call: the chip's, or the target with the noise that training injects."""
        if self.deployed:
            return self.aged
        w = self.normalised(weight)
        if not self.training:
            return w
        w = self._drop_connect(w, stream)
        inject = self.training_spec.inject
        if inject is None or not inject.scale or not self.plan.program:
            return w
        if not self.is_attached:
            self.run.warn_unattached()
        with torch.no_grad():
            clean = self._physical(self._target(w.detach()))
            noisy = self._programmed(clean, stream, inject.scale * self._ramp())
            used = self._signed(noisy, w)
        return straight(w, used)

    @property
    def is_attached(self) -> bool:
        """Whether an optimizer step advances the ramp of this array."""
        return self.attached_as == id(self)

    def _drop_connect(self, w: Tensor, stream: Stream) -> Tensor:
        """Set a share p of the weights to 0 for this mini-batch (R003-67)."""
        p = self.training_spec.drop_connect
        if not p:
            return w
        cells = torch.arange(w.shape[:-1].numel(), dtype=torch.int32, device=w.device)
        draw = noise.uniform(noise.rows_of(noise.fold(stream.chip, "drop-connect"), cells), w.shape[-1])
        return w * (draw.view_as(w) >= p)

    def _ramp(self) -> Tensor | float:
        """Share of the injected noise at this step (R003-66)."""
        return (self.step / self.ramp_steps).clamp(max=1.0) if self.ramp_steps and self.is_attached else 1.0

    def _live_site(self, placed: Placed, stage: str, stream: Stream) -> Site:
        """A site of the forward pass. Without a chip its constants belong to the mini-batch and are derived here."""
        if self.deployed or not placed.effect.writes("prepare"):
            return self._site(placed, stage, stream)
        site = Site(self.geometry, stream, placed.path, "prepare")
        placed.effect.prepare(site)
        return Site(self.geometry, stream, placed.path, stage, constants=site.constants)

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
        return self.spec.adc.convert(y, rounding) if isinstance(self.spec.adc, Adc) else y

    def _staged(self, stage: str, y: Tensor, args: tuple[Tensor, ...], stream: Stream, rounding: Rounding) -> Tensor:
        for p in getattr(self.plan, stage):
            new = p.effect.apply(stage, y, *args, self._live_site(p, stage, stream))
            identity = rounding == "through" and not p.effect.writes(stage) and p.effect.backward != "exact"
            y = straight(y, new) if identity else new
        return y

    @torch.no_grad()
    def error_per_tile(self, xs: Tensor, weight: Tensor, alpha: Tensor, key: noise.Key) -> Tensor:
        """MVM error (R003 Eq. 20) of each row tile [tile] for inputs xs [vector, tile, row] and a trial input range; `key`
        names the chip that the weights are programmed on for it."""
        w = self.normalised(weight)
        chip = noise.fold_words(key, self.path)
        stream = Run.stream(chip, noise.fold(chip, "call"), 0.0, len(xs))
        noisy = self._signed(self._programmed(self._target(w), stream), w)
        y = self._analog(self._encode(xs, alpha, "through"), noisy, stream, "through") * self.gamma * alpha
        exact = product(xs, self.cut_weight(weight))
        return (y - exact).norm(dim=-1).mean(0) / exact.norm(dim=-1).mean(0).clamp(min=1e-12)

    def extra_repr(self) -> str:
        tiles = f"{self.row_tiles}x{self.block_count} tiles"
        return f"{self.out_features}x{self.in_features} weights on {tiles}, {len(self.plan.effects)} effects"
