"""The conformance kit: inherit it, name an effect, get the checks."""

from __future__ import annotations

import time
import unittest
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mho.nonideality import Nonideality
from mho.testing.base import PREFIX, Checks
from mho.testing.declared import DeclaredChecks
from mho.testing.description import DescriptionChecks
from mho.testing.ontiles import TileChecks
from mho.testing.randomness import RandomnessChecks
from mho.testing.statistics import StatisticsChecks
from mho.testing.strength import StrengthChecks
from mho.testing.values import ValueChecks


class NonidealityContract(
    StatisticsChecks, DeclaredChecks, StrengthChecks, TileChecks, RandomnessChecks, ValueChecks, DescriptionChecks
):
    """Everything a plugin's effect promises to the core, as named checks for pytest.

        class TestTelegraphNoise(NonidealityContract):
            spec = TelegraphNoise(depth=0.2)

    See `Checks` and `StatisticsChecks` for what else may be said: tile, ages, expected, tolerance, expected_failed_checks.
    """


class Outcome(NamedTuple):
    """How one check ended."""

    check: str  # without test_
    state: str  # passed | failed | skipped
    message: str
    seconds: float


def run(contract: type[Checks], on_check: Callable[[Outcome], None] | None = None) -> list[Outcome]:
    """All checks of a contract, without pytest."""
    outcomes = []
    for outcome in _outcomes(contract):
        outcomes.append(outcome)
        if on_check is not None:
            on_check(outcome)
    return outcomes


def contract_of(effect: Nonideality, **about: object) -> type[NonidealityContract]:
    """The contract of one effect as a class; `about` sets tile, ages, expected, … ."""
    return type(f"Test{type(effect).__name__}", (NonidealityContract,), {"spec": effect, **about})


def _outcomes(contract: type[Checks]) -> Iterator[Outcome]:
    checks = contract()
    for name in contract.names():
        start = time.perf_counter()
        state, message = _ended(getattr(checks, name))
        yield Outcome(name.removeprefix(PREFIX), state, message, time.perf_counter() - start)


def _ended(check: Callable[[], None]) -> tuple[str, str]:
    try:
        check()
    except unittest.SkipTest as reason:
        return "skipped", str(reason)
    except AssertionError as error:
        return "failed", str(error)
    except Exception as error:  # the effect itself raises
        return "failed", f"{type(error).__name__}: {error}"
    return "passed", ""
