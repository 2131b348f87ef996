"""The weights of a matrix as its tiles hold them: corrected, quantised, cut, and divided by gamma, which follows them."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from mho.effects import CorrectionModule, QuantiserModule
from mho.effects.arithmetic import transformed
from mho.ground import MhoError
from mho.tile.scales import Scales


class Mapped(Scales):
    """What becomes of the weights [out, in] of a layer, or [group, out, in], on the way to the tiles; the layer keeps them.

    known   which tensor gamma was last compared with, and in which version
    mapped  [tile, out] what the mapping made of the weights then
    """

    name: str
    weight_quantiser: QuantiserModule | None
    input_quantiser: QuantiserModule | None
    corrections: Any  # a ModuleList of CorrectionModules
    known: tuple[Any, ...] | None = None
    mapped: Tensor | None = None
    attached_as: int | None = None  # id of this array if `attach` has been called on it (a copy has another)
    _zeros = -1, False  # version of `zero`, and whether there is one
    _lies: StorageWeakRef | None = None  # while it lives, torch gives the identity of this memory to no other

    def __getstate__(self) -> dict[str, Any]:
        """Ids and addresses are given out again: a copy compares its weights anew."""
        chip = self.__dict__.get("chip")
        lean = {"chip": replace(chip, of=chip.of[-1:], coded={})} if chip is not None and chip.target is None else {}
        return {**self.__dict__, "known": None, "_lies": None, **lean}

    @property
    def is_attached(self) -> bool:
        """Whether optimizer steps train these weights, and advance the ramp."""
        return self.attached_as == id(self)

    def corrected(self, weight: Tensor) -> Tensor:
        """What digital corrections make of the weights."""
        for c in self.corrections:
            weight = c.weights(weight)
        return weight

    def stored(self, weight: Tensor) -> Tensor:
        """The weights that are written to the tiles: what corrections and the `weight_quantiser` make of them (R002-02)."""
        weight = self.corrected(weight)
        return weight if self.weight_quantiser is None else self.weight_quantiser(weight)

    @torch.no_grad()
    def unquantise_(self, weight: Tensor) -> None:
        """Make the quantised weights the weights, and take the quantisers off. Raises `MhoError` where a correction stands
        between."""
        if self.weight_quantiser is not None:
            if any(type(c).weights is not CorrectionModule.weights for c in self.corrections):
                raise MhoError(f"layer {self.name!r}: quantised weights behind a digital correction cannot become weights")
            weight.copy_(self.weight_quantiser(weight))
        self.weight_quantiser = self.input_quantiser = None

    def on_tiles(self, weight: Tensor) -> Tensor:
        """[out, in] or [group, out, in] -> [tile, out, row], in the units of the layer."""
        return self.layout.cut_weight(self.stored(weight))

    def normalised(self, weight: Tensor) -> Tensor:
        """w / gamma, saturated at the device range, [tile, out, row]."""
        return (self.on_tiles(weight) / self.gamma.unsqueeze(-1)).clamp(-1, 1)

    def digital(self, weight: Tensor) -> Tensor:
        """The matrix that the tiles stand for, shaped like `weight`: learned output scales included."""
        return self.scaled(self.stored(weight))

    def scaled(self, weight: Tensor) -> Tensor:
        """The weights with the learned output scales."""
        return (weight * self.layout.spread(self.output_factor())).to(weight.dtype)

    @torch.no_grad()
    def merge_(self, weight: Tensor) -> None:
        """Make what corrections add to the outputs part of the weights, and take these corrections off."""
        for c in (c for c in self.corrections if c.adds):
            if weight.dim() == 3:
                raise MhoError(f"layer {self.name!r}: what {c.spec.KIND} adds across groups is no part of its weights")
            one = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
            weight += c.outputs(one.new_zeros(len(one), len(weight)), lambda one=one: one, weight).T
        self.corrections = nn.ModuleList(c for c in self.corrections if not c.adds)

    @torch.no_grad()
    def remap(self, weight: Tensor) -> None:
        """Set gamma so that the weights fill the device range again (R003-69). The function of the layer stays, since
        gamma scales the conductances down exactly as it scales the outputs up."""
        self.gamma.copy_(self._mapped(weight))
        self.zero.copy_((self.gamma == 1) & (self.on_tiles(weight.detach()) == 0).all(-1))
        self.settle(weight)

    @torch.no_grad()
    def settle(self, weight: Tensor, training: bool = False) -> None:
        """Gamma is meant for these weights, whatever the mapping would make of them: `follow` looks for changes since. While
        steps of an optimizer train them (`training`), gamma stays as long as the weights are within range."""
        self.known = None  # what is done to `weight.data` before the first forward is seen there
        if hasattr(weight, "to_local"):
            return  # a shard (FSDP2)
        self.mapped = None if training else self._mapped(weight)
        if training:
            self._remember(weight)

    @property
    def narrowed(self) -> bool:
        """Whether gamma is smaller than what the mapping makes of the weights: somebody cuts them on purpose."""
        return self.mapped is not None and bool((self.gamma < self.mapped.to(self.gamma) * (1 - 1e-6)).any())

    def _mapped(self, weight: Tensor) -> Tensor:
        """gamma [tile, out] that the mapping makes of weights."""
        return self.view.mapping.gamma(self.on_tiles(weight.detach()), self.view.geometry_of(self.layout)).to(self.gamma.dtype)

    @torch.no_grad()
    def follow(self, weight: Tensor, sure: bool = False) -> None:
        """Map the weights anew if they were changed (in place, exchanged, computed) since gamma was made for them, such that the
        mapping makes something else of them now; in an attached training, only columns whose weights exceed their range. `sure`:
        without one also where no counter of torch tells, as after `weight.data.mul_(2)`."""
        if torch.compiler.is_compiling() or transformed() or weight.is_meta or hasattr(weight, "to_local"):
            return
        if not (sure and not self.is_attached) and self.known is not None and self._state_of(weight) == self.known:
            return
        found = self._mapped(weight)
        self._remember(weight)
        if not (self.is_attached or self.mapped is None):
            if not torch.allclose(found, self.mapped.to(found), rtol=1e-6, atol=0.0):
                self.remap(weight)
        elif perhaps(over := found > self.gamma * (1 + 1e-6)):
            self.gamma.copy_(torch.where(over, found, self.gamma))

    def _remember(self, weight: Tensor) -> None:
        self.known = self._state_of(weight)
        self._lies = None if self.known is None else StorageWeakRef(weight.untyped_storage())

    def _state_of(self, weight: Tensor) -> tuple[Any, ...] | None:
        """Which parameter a weight is, in which memory its values lie, how often they, quantiser and corrections were changed in
        place; None for a weight that is no parameter (computed by pruning, given to `functional_call`): always looked at."""
        owner = weight if weight._base is None else weight._base
        if not isinstance(owner, nn.Parameter) or owner.is_inference():
            return None
        changing = [m for m in (self.weight_quantiser, *(c for c in self.corrections if c.acts_before)) if m is not None]
        others = [version(t) for m in changing for t in (*m.parameters(), *m.buffers())]
        return id(owner), owner.untyped_storage()._cdata, owner.data_ptr(), owner._version, *others, weight.dtype

    @torch.no_grad()
    def follow_zeros(self, weight: Tensor) -> None:
        """After an optimizer step: columns that were 0 when they were mapped are mapped anew, as if converted after it."""
        if self.zero._version != self._zeros[0]:
            self._zeros = self.zero._version, perhaps(self.zero)
        if self._zeros[1]:
            self.gamma.copy_(torch.where(self.zero > 0, self._mapped(weight), self.gamma))

    @torch.no_grad()
    def clip_(self, weight: Tensor, limit: float) -> None:
        """|w| <= limit gamma, in place (R003-68); of what corrections make of the weights, which they multiply one by one."""
        bound, seen = self.layout.spread(self.gamma * limit).to(weight.dtype), self.corrected(weight)
        cut = torch.minimum(torch.maximum(seen, -bound), bound)
        weight.copy_(cut if seen is weight else torch.where(cut == seen, weight, weight * cut / seen))


def version(t: Tensor) -> int:
    """How often it was changed in place; -1 where torch does not count."""
    return -1 if t.is_inference() else t._version


def perhaps(found: Tensor) -> bool:
    """Whether any of it is true. An accelerator is not waited for: there it may be."""
    return found.device.type != "cpu" or bool(found.any())
