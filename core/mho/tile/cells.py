"""The devices that hold one weight matrix: mapping to conductances, and the chip that is programmed on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from torch import Tensor, nn

from mho.effects import draws
from mho.effects.converter import Adc
from mho.effects.nonideality import Nonideality
from mho.effects.site import Geometry, Rows, Site, Stream
from mho.fast import devices
from mho.fast.kernels import Kernels
from mho.ground.errors import MhoError
from mho.tile.devices import Stages
from mho.tile.layout import Layout, blocks
from mho.tile.plan import Placed, Plan, resolve
from mho.tile.session import Run

if TYPE_CHECKING:
    from mho.config.hardware import TileSpec

# Buffers of the chip that is on.
CHIP = ("target", "programmed", "aged", "reference", "gain", "chip_gamma", "planes", "bound", "words")


class Cells(Stages, Layout):
    """The devices of one weight matrix on tiles of hardware `spec`, and what the plan of its effects does to them.

    State (saved): `gamma` [tile, out], the weight that the full conductance range stands for.
    A programmed chip lives in buffers that are not saved with the model; `Chip.save` keeps it.
    """

    gamma: Tensor
    kernels: Kernels
    # Tensors while a chip is on, else None (Any spares a check at every use).
    target: Any  # [tile, out, row] signed, normalised
    programmed: Any  # [dev, tile, out, row] µS
    aged: Any  # [tile, out, row] the weights now
    reference: Any  # [vector, tile, out] read-out right after programming
    gain: Any  # [tile, out] of the compensation; None at age 0
    planes: (
        Any  # [plane, tile, out, row] the integers of `aged` and of what side products need of it; made when first used
    )
    bound: Any  # [tile] their scale
    words: Any  # [6] int32: `keys` as a tensor, so that a compiled graph serves every chip at every age
    chip_gamma: Any  # [tile, out] gamma when the chip was programmed: remapping the weights does not change a chip

    def __init__(
        self, out_features: int, in_features: int, spec: TileSpec, *, name: str, channel: int, groups: int,
        device: Any = None, dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        unit = channel if spec.split == "channel" else 1
        super().__init__(
            out_features, in_features, rows=spec.rows, columns=spec.columns, unit=unit, groups=groups, device=device
        )
        self.spec, self.name, self.channel = spec, name, channel
        self.plan: Plan = resolve(cast(tuple[Nonideality, ...], spec.nonidealities), name, spec.factor)
        self.run = Run()
        self.path = draws.words("layer", name)
        self.converter_paths = {
            slot: draws.words(name, part.kind, 0)
            for slot in ("dac", "adc")
            if (part := getattr(spec, slot)) is not None
        }
        self.register_buffer("gamma", torch.ones(self.row_tiles, self.columns, device=device, dtype=dtype))
        for buffer in CHIP:
            self._fixed(buffer, None, device)
        self.constants: list[list[str]] = [[] for _ in self.plan.effects]
        self.time = 0.0
        self.chip_key: draws.Key | None = None
        self.target_of: str | None = None  # the fingerprint of the weights that `target` was made from
        built = {p.name: self._built(p) for p in self.plan.effects if p.effect.writes("build")}
        self.built = nn.ModuleDict(built).to(device=device, dtype=dtype)

    def _built(self, placed: Placed) -> nn.Module:
        """What an effect learns or keeps in this layer."""
        key = draws.fold_words(draws.key("build"), placed.path)
        module = placed.effect.build(Site(self.geometry, Stream(key, key), placed.path, "build"))
        if not isinstance(module, nn.Module):
            raise MhoError(f"build(site) of {placed.effect.kind} must return a torch.nn.Module, not {module!r}")
        return module

    @property
    def geometry(self) -> Geometry:
        device, adc = self.spec.device, self.spec.adc
        rows = Rows(self.occupied, self.depth, self.used)
        bound = adc.limit if isinstance(adc, Adc) else math.inf
        return Geometry(rows, self.columns, self.block, self.block_count, device.g_min, device.g_max, bound)

    # -- mapping ----------------------------------------------------------------------------------------------
    @torch.no_grad()
    def remap(self, weight: Tensor) -> None:
        """Set gamma so that the weights fill the device range again (R003-69). The function of the layer stays, since
        gamma scales the conductances down exactly as it scales the outputs up."""
        self.gamma.copy_(self.mapping.gamma(self.cut_weight(self.stored(weight.detach())), self.geometry))

    @torch.no_grad()
    def clip_(self, weight: Tensor, limit: float) -> None:
        """|w| <= limit gamma, in place (R003-68)."""
        bound = self.spread(self.gamma * limit).to(weight.dtype)
        weight.copy_(torch.minimum(torch.maximum(weight, -bound), bound))

    def stored(self, weight: Tensor) -> Tensor:
        """The weights that are written to the devices."""
        return weight

    def normalised(self, weight: Tensor) -> Tensor:
        """w / gamma, saturated at the device range, [tile, out, row]."""
        w = self.cut_weight(self.stored(weight)) / self.gamma.unsqueeze(-1)
        return w.clamp(-1, 1)

    # -- a chip -----------------------------------------------------------------------------------------------
    def _site(self, placed: Placed, stage: str, stream: Stream, **about: Any) -> Site:
        constants = {n: getattr(self, f"_{placed.number}_{n}") for n in self.constants[placed.number]}
        site = Site(self.geometry, stream, placed.path, stage, constants=constants, **about)
        return self._with_module(placed, site)

    def _with_module(self, placed: Placed, site: Site) -> Site:
        if placed.effect.writes("build"):
            site.module = self.built[placed.name]
        return site

    def _converter_site(self, slot: str, stream: Stream) -> Site:
        """What the DAC or the ADC of this layer knows."""
        return Site(self.geometry, stream, self.converter_paths[slot], slot)

    def _in_blocks(self, f: Callable[[slice], Tensor], effects: Iterable[Placed]) -> Tensor:
        """f(part of the outputs) -> [..., out, row] for all outputs, in blocks whose temporaries stay in the cache."""
        parts = list(blocks(self.columns, self.row_tiles * self.height))
        if len(parts) == 1 or not self.cellwise(effects):
            return f(slice(0, self.columns))
        first = f(parts[0])
        out = first.new_empty(*first.shape[:-2], self.columns, first.shape[-1])
        out[..., parts[0], :] = first
        for part in parts[1:]:
            out[..., part, :] = f(part)
        return out

    @torch.no_grad()
    def program(self, weight: Tensor, key: draws.Key, t: float = 0.0, of: str | None = None) -> None:
        """Write the weights of the layer to the chip that `key` names, and let it age to t seconds. The target of weights with
        the fingerprint `of` is kept from chip to chip."""
        self.chip_key = draws.fold_words(key, self.path)
        if of is None or of != self.target_of or not self._as_target(weight):
            self.chip_gamma = self.gamma.clone()
            self.target = devices.laid_out(self, self.normalised(weight.detach()))
            self.target_of = of
        stream = Stream(self.chip_key, self.chip_key)

        def eager() -> Tensor:
            return self._in_blocks(
                lambda part: self._programmed(self._target(self.target[:, part]), stream, part=part), self.plan.program
            )

        self.programmed = devices.programmed(self, eager)
        self.reference = None
        self._prepare()
        self.age(t)

    def _as_target(self, weight: Tensor) -> bool:
        """Whether a fingerprint, which is one of fp32, tells all that the target there is was made from."""
        return self.target.dtype == weight.dtype == torch.float32 and self.target.device == weight.device

    def restore(self, key: draws.Key, state: dict[str, Tensor]) -> None:
        """Put a saved chip on these tiles (see `Chip.save`); `age` follows."""
        self.clear()
        self.chip_key = draws.fold_words(key, self.path)
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
            p.effect.prepare(self._with_module(p, site))
            self.constants[p.number] = list(site.constants)
            for name, value in site.constants.items():
                self._fixed(f"_{p.number}_{name}", value, value.device)

    @torch.no_grad()
    def age(self, t: float) -> None:
        """The weights t seconds after programming, always computed from the programmed conductances."""
        assert self.chip_key is not None
        self.time, stream = t, Stream(self.chip_key, self.chip_key, t)

        def eager() -> Tensor:
            return self._in_blocks(
                lambda part: self._aged(self.programmed[:, :, part], self.target[:, part], t, stream, part),
                (*self.plan.age, *self.plan.fold),
            )

        self.aged = devices.aged(self, eager)
        self.planes = self.bound = None
        keys = [v for k in self._keys_at(t) for v in k]
        self.words = torch.tensor(keys, dtype=torch.int32, device=self.aged.device)

    def chip_weights(self, weight: Tensor) -> Tensor:
        """The weights of the chip that is on as a function of the layer's, [tile, out, row], with the true derivative of
        everything that programming and ageing do (`aged` holds the same values). Random numbers are constants."""
        assert self.chip_key is not None
        target, stream = self.normalised(weight), Stream(self.chip_key, self.chip_key, self.time)
        return self._aged(self._programmed(self._target(target), stream), target, self.time, stream)

    def _keys_at(self, t: float) -> tuple[draws.Key, draws.Key, draws.Key]:
        assert self.chip_key is not None
        return self.chip_key, draws.fold(self.chip_key, "call", t), draws.fold(self.chip_key, "time", t)

    @property
    def keys(self) -> tuple[draws.Key, draws.Key, draws.Key]:
        """Keys of the chip, of its calls and of its draws at this age: numbers, or tensors in a compiled graph."""
        if not torch.compiler.is_compiling():
            return self._keys_at(self.time)
        return draws.Key(*self.words[:2]), draws.Key(*self.words[2:4]), draws.Key(*self.words[4:])

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
            "target_of": self.target_of,
        }

    def put_chip_state(self, state: dict[str, Any]) -> None:
        self.clear()
        for name, value in state["buffers"].items():
            setattr(self, name, value)
        for name, value in state["constants"].items():
            self._fixed(name, value, value.device)
        self.constants, self.chip_key, self.time = state["names"], state["key"], state["time"]
        self.target_of = state["target_of"]

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
        self.target_of = None  # it was computed in another type
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
        self.chip_key, self.time, self.target_of = None, 0.0, None
        self.constants = [[] for _ in self.plan.effects]
