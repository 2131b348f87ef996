"""What all checks share: the spec under test, its bench, and failures that are declared and explained."""

from __future__ import annotations

import functools
import unittest
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn

from mho.config import Hardware
from mho.effects import Nonideality
from mho.use import Tile
from mho_kit.bench import Bench

PREFIX = "test_"
Check = Callable[[Any], None]


class Checks:
    """Base of the groups of checks. A check is a method `test_...(self)` that raises AssertionError.

    spec                     the part under test; it should do something visible
    tile                     YAML of a tile, where the part needs another than the bench's, e.g. "device: {g_max: 40 uS}"
    expected_failed_checks   check -> why this part may fail it
    """

    spec: ClassVar[Any]
    tile: ClassVar[str] = ""
    expected_failed_checks: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls) -> None:
        """Exchange the checks that are expected to fail by ones that expect it."""
        for name, reason in vars(cls).get("expected_failed_checks", {}).items():
            method = PREFIX + name.removeprefix(PREFIX)
            check = getattr(cls, method, None)
            if check is None or not reason.strip():
                raise TypeError(
                    f"expected_failed_checks: {name!r} is no check, or has no reason; checks: {cls.names()}"
                )
            setattr(cls, method, _expected_to_fail(check, reason))

    @classmethod
    def names(cls) -> list[str]:
        """All checks, in the order in which they are written."""
        found = {n: None for c in reversed(cls.__mro__) for n in vars(c) if n.startswith(PREFIX)}
        return [n for n in found if callable(getattr(cls, n))]

    def made(self, bench: Bench | None = None, tile: dict[str, Any] | None = None, **training: Any) -> Tile:
        """The bench's matrix on tiles with the part under test."""
        raise NotImplementedError

    def network(self) -> nn.Module:
        """A converted network with the part under test."""
        raise NotImplementedError

    def hardware(self) -> Hardware:
        """The bench's hardware with the part under test."""
        raise NotImplementedError

    @functools.cached_property
    def bench(self) -> Bench:
        """Tiles in double precision, so that rounding hides nothing."""
        return Bench(self.tile)

    def values(self) -> dict[str, Any]:
        """The fields of the spec."""
        return {name: getattr(self.spec, name) for name in type(self.spec).model_fields}


class EffectChecks(Checks):
    """Base of the groups that are about effects.

    ages   seconds at which ageing is looked at
    """

    spec: ClassVar[Nonideality]
    ages: ClassVar[tuple[float, ...]] = (0.0, 1.0, 3600.0, 86_400.0)

    def made(self, bench: Bench | None = None, tile: dict[str, Any] | None = None, **training: Any) -> Tile:
        return (bench or self.bench).tile(self.spec, tile=tile, **training)

    def network(self) -> nn.Module:
        return self.bench.network(self.spec)

    def hardware(self) -> Hardware:
        return self.bench.hardware(self.spec)

    def draws(self, per: str) -> list[str]:
        """The stages at which it draws numbers that change with every `per`."""
        return [stage for stage, asked in self.bench.asks(self.spec).items() if per in asked]


def _expected_to_fail(check: Check, reason: str) -> Check:
    @functools.wraps(check)
    def wrapped(self: Any) -> None:
        try:
            check(self)
        except unittest.SkipTest:
            raise
        except Exception as error:
            raise unittest.SkipTest(f"expected to fail: {reason}") from error
        raise AssertionError(f"it passes now; remove {check.__name__!r} from expected_failed_checks")

    return wrapped


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal bit by bit, NaN included."""
    return a.shape == b.shape and bool(torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)))
