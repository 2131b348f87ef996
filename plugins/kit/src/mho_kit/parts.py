"""Checks of mappings, converters and compensations: methods that are functions of their arguments and of the chip."""

from __future__ import annotations

import copy
import inspect
import random
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mho.config import Hardware, Kinded
from mho.use import Tile
from mho_kit.base import same
from mho_kit.bench import Bench
from mho_kit.description import DescriptionChecks
from mho_kit.ontiles import TileChecks
from mho_kit.paths import PathChecks
from mho_kit.randomness import generators, state_of

Call = tuple[Callable[..., Tensor], tuple[Tensor, ...]]  # a method, and the tensors that it gets


class PartChecks(PathChecks, TileChecks, DescriptionChecks):
    """A subclass says which base class the parts have (`BASE`), and how their methods are called (`calls`)."""

    BASE: ClassVar[type[Kinded]]
    METHODS: ClassVar[tuple[str, ...]] = ()

    def calls(self, bench: Bench, device: str = "cpu") -> dict[str, Call]:
        """Method -> how the core calls it, always for the same chip."""
        raise NotImplementedError

    # -- tiles ------------------------------------------------------------------------------------------------
    @property
    def _slot(self) -> dict[str, Any]:
        return {self.spec.CATEGORY: self.spec}

    def made(self, bench: Bench | None = None, tile: dict[str, Any] | None = None, **training: Any) -> Tile:
        return (bench or self.bench).tile(tile={**(tile or {}), **self._slot}, **training)

    def network(self) -> nn.Module:
        return self.bench.network(tile=self._slot)

    def hardware(self) -> Hardware:
        return self.bench.hardware(tile=self._slot)

    # -- checks -----------------------------------------------------------------------------------------------
    def test_inherits_from_its_base(self) -> None:
        cls = type(self.spec)
        assert isinstance(self.spec, self.BASE), f"{cls.__name__} must inherit from mho.{self.BASE.__name__}"
        assert cls.CATEGORY == self.BASE.CATEGORY, f"leave CATEGORY of {cls.__name__} as it is"

    def test_methods_take_the_right_arguments(self) -> None:
        for name in self.METHODS:
            wanted = inspect.signature(getattr(self.BASE, name))
            given = inspect.signature(getattr(type(self.spec), name))
            try:
                given.bind(*wanted.parameters)
            except TypeError as error:
                raise AssertionError(f"{name}{given} does not fit ({error}); write {name}{wanted}") from None

    def test_keeps_the_dtype(self) -> None:
        for dtype in (torch.float32, torch.float64):
            for name, (call, arguments) in self.calls(Bench(self.tile, dtype)).items():
                new = call(*arguments)
                assert new.dtype == dtype, f"{name} turns {dtype} into {new.dtype}; make tensors like its arguments"

    def test_keeps_the_device(self) -> None:
        """Tried on torch's meta device, which every machine has."""
        for name, (call, arguments) in self.calls(self.bench, "meta").items():
            try:
                new = call(*(a.to("meta") for a in arguments))
            except (RuntimeError, NotImplementedError) as error:
                assert "device" not in str(error), f"{name} mixes devices ({error}); make tensors like its arguments"
                continue  # it looks at values, which this device has not
            assert new.device.type == "meta", (
                f"{name} returns a tensor on {new.device}; make tensors like its arguments"
            )

    def test_leaves_its_inputs_alone(self) -> None:
        for name, (call, arguments) in self.calls(self.bench).items():
            before = [a.clone() for a in arguments]
            call(*arguments)
            untouched = all(same(a, b) for a, b in zip(arguments, before))
            assert untouched, f"{name} changes its arguments in place; write y = y * a, not y *= a"

    def test_is_finite(self) -> None:
        """For usual arguments, and where everything is 0: zero weights and inputs occur in every network."""
        for name, (call, arguments) in self.calls(self.bench).items():
            assert torch.isfinite(call(*arguments)).all(), f"{name} gives NaN or infinity"
            zeros = call(*(torch.zeros_like(a) for a in arguments))
            assert torch.isfinite(zeros).all(), f"{name} gives NaN or infinity where everything is 0; clamp first"

    def test_gives_the_same_again(self) -> None:
        for name, (call, arguments) in self.calls(self.bench).items():
            assert same(call(*arguments), call(*arguments)), (
                f"{name} gives one chip two results; keep nothing between calls, draw with site.randn_like only"
            )

    def test_leaves_global_generators_alone(self) -> None:
        for name, (call, arguments) in self.calls(self.bench).items():
            before = generators()
            call(*arguments)
            moved = [n for (n, a), (_, b) in zip(before, generators()) if a != b]
            assert not moved, f"{name} draws from {', '.join(moved)}; what differs between chips is drawn from a site"

    def test_ignores_global_generators(self) -> None:
        for name, (call, arguments) in self.calls(self.bench).items():
            results = []
            for seed in (1, 2):
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(seed)
                    random.seed(seed)
                    np.random.seed(seed)
                    results.append(call(*arguments))
            assert same(*results), f"{name} depends on a global generator; draw with site.randn_like"

    def test_keeps_no_state(self) -> None:
        before = state_of(self.spec)
        for call, arguments in self.calls(self.bench).values():
            call(*arguments)
        self.made().program(seed=0).age(60.0)(self.bench.x)
        after = state_of(self.spec)
        changed = sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))
        assert not changed, f"it changes {', '.join(changed)}; a part keeps nothing"

    def test_a_copy_does_the_same(self) -> None:
        original = {name: call(*arguments) for name, (call, arguments) in self.calls(self.bench).items()}
        other = type(self)()
        other.spec = copy.deepcopy(self.spec)  # type: ignore[misc]
        for name, (call, arguments) in other.calls(self.bench).items():
            assert same(original[name], call(*arguments)), f"{name} of a deep copy gives other values"

    def test_state_dict_is_unaffected(self) -> None:
        extra = sorted(self.made().state_dict().keys() ^ self.bench.tile().state_dict().keys())
        assert not extra, f"it adds {', '.join(extra)} to state_dict()"
