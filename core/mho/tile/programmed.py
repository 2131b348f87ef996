"""What a chip is for one weight matrix: conductances that were programmed once, and the weights they make at its age."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mho.effects import Stream, draws
from mho.tile.view import Constants

# What a file keeps of a chip, by its name there; the rest follows.
SAVED = {"target": "target", "programmed": "programmed", "reference": "reference", "chip_gamma": "gamma", "input_range": "range"}


@dataclass(frozen=True, eq=False)
class Programmed:
    """One weight matrix on one chip at one age. Nothing here is changed: ageing makes another one of the same conductances.
    Of a lean chip, key (that of all layers), gamma and time are all there is: a forward makes the rest, and forgets it, or
    keeps it in `coded` as "alone".

    key         of the chip in this layer
    gamma       [tile, out] when it was programmed: remapping the weights does not change a chip
    target      [tile, out, row] the normalised weights that were to be written
    programmed  [dev, tile, out, row] µS
    constants   what effects have set in `prepare`
    of          the fingerprint of the weights that `target` was made from
    time        s after programming
    weights     [tile, out, row] now, 1 = the mapped range
    words       [6] int32: `keys` as a tensor, so that a compiled graph serves every chip at every age
    reference   [vector, tile, out] the read-out of the drift compensation right after programming
    range       [tile, 1] the input ranges that a file brought along; None where those of the network are used
    gain        [tile, out] of the compensation; None where the gain is 1
    repair      which correction has found something at this age, and what (`CorrectionModule.repair`)
    coded       what a back-end keeps of `weights`; `suffices`: whether forwards without gradients use nothing else
    lean        see `mho.program`
    """

    key: draws.Key
    gamma: Tensor
    target: Any
    programmed: Any
    constants: Constants
    of: Any = None
    time: float = 0.0
    weights: Any = None
    words: Any = None
    reference: Tensor | None = None
    range: Tensor | None = None
    gain: Tensor | None = None
    repair: tuple[int, tuple[Tensor, ...]] | None = None
    coded: dict[str, Any] = field(default_factory=dict)
    lean: bool | str = False

    def at(self, t: float, weights: Tensor) -> Programmed:
        """The same conductances t seconds after programming, where they make these weights."""
        words = [word for key in keys_at(self.key, t) for word in key]
        now = draws.as_tensor(words, weights.device)
        return replace(self, time=t, weights=weights, words=now, repair=None, coded={})

    def hollow(self) -> Programmed:
        """Without the numbers of the cells (NaN that take no memory), where what a back-end has coded suffices."""
        cells = self.weights.new_full((), torch.nan).expand(self.weights.shape)
        return replace(self, target=cells, programmed=None, weights=cells, reference=None) if "suffices" in self.coded else self

    @property
    def stream(self) -> Stream:
        """The keys of what happens to the cells at this age."""
        return Stream(self.key, self.key, self.time)

    @property
    def keys(self) -> tuple[draws.Key, draws.Key, draws.Key]:
        """Keys of the chip, of its calls and of its draws at this age: numbers, or tensors in a compiled graph."""
        if not torch.compiler.is_compiling():
            return keys_at(self.key, self.time)
        return draws.Key(*self.words[:2]), draws.Key(*self.words[2:4]), draws.Key(*self.words[4:])

    def moved(self, fn: Callable[[Tensor], Tensor]) -> Programmed:
        """On another device, as `nn.Module._apply` moves it; conductances stay at least fp32."""

        def move(t: Any) -> Any:
            return exactly(t, fn) if isinstance(t, Tensor) else t

        tensors = {n: move(v) for n, v in vars(self).items() if isinstance(v, Tensor)}
        constants = {k: {n: move(v) for n, v in names.items()} for k, names in self.constants.items()}
        repair = None if self.repair is None else (self.repair[0], tuple(map(move, self.repair[1])))
        return replace(
            self, **tensors, constants=constants, repair=repair, of=self.of[-1:] if self.lean else None, coded={}
        )  # `of` was computed in another type, which a lean chip remembers

    def state(self) -> dict[str, Tensor]:
        """What a file keeps, by name; `restored` reads it."""
        state = {n: getattr(self, field) for n, field in SAVED.items() if getattr(self, field) is not None}
        return {**state, **{f"{k}.{n}": v for k, names in self.constants.items() for n, v in names.items()}}

    @classmethod
    def restored(cls, key: draws.Key, state: dict[str, Tensor]) -> Programmed:
        """A saved chip, not aged yet."""
        fields: dict[str, Any] = {field: state[n] for n, field in SAVED.items() if n in state}
        constants: Constants = {}
        for name in state.keys() - SAVED.keys():
            number, _, constant = name.partition(".")
            constants.setdefault(int(number), {})[constant] = state[name]
        return cls(key, constants=constants, **fields)


def keys_at(chip: draws.Key, t: float) -> tuple[draws.Key, draws.Key, draws.Key]:
    """Keys of a chip, of its calls and of its draws at t seconds."""
    return chip, draws.fold(chip, "call", t), draws.fold(chip, "time", t)


def keeps_values(fn: Callable[[Tensor], Tensor], device: torch.device) -> bool:
    """Whether fn, which moves tensors, brings their values along: `to_empty` and moving to `meta` do not."""
    there = fn(torch.tensor([0.75, -1.25], device=device))
    return not there.is_meta and there.tolist() == [0.75, -1.25]


def exactly(t: Tensor, fn: Callable[[Tensor], Tensor]) -> Tensor:
    """fn(t), which moves a tensor, without rounding it to less than fp32."""
    new = fn(t)
    if not t.is_floating_point() or torch.finfo(new.dtype).bits >= 32:
        return new
    return t.to(new.device, torch.promote_types(t.dtype, torch.float32))
