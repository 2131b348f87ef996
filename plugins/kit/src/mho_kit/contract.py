"""The conformance kit: inherit a contract, name a part, get the checks."""

from __future__ import annotations

import time
import unittest
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mho.config import Kinded
from mho_kit.base import PREFIX, Checks
from mho_kit.compensations import CompensationContract
from mho_kit.converters import ConverterContract
from mho_kit.declared import DeclaredChecks
from mho_kit.description import EffectDescriptionChecks
from mho_kit.hooks import TrainingContract
from mho_kit.layers import LayerContract
from mho_kit.learnable import LearnableChecks
from mho_kit.mappings import MappingContract
from mho_kit.ontiles import EffectTileChecks
from mho_kit.paths import EffectPathChecks
from mho_kit.randomness import RandomnessChecks
from mho_kit.statistics import StatisticsChecks
from mho_kit.strength import StrengthChecks
from mho_kit.surrogates import SurrogateContract
from mho_kit.values import ValueChecks


class NonidealityContract(
    LearnableChecks,
    StatisticsChecks,
    DeclaredChecks,
    StrengthChecks,
    EffectPathChecks,
    EffectTileChecks,
    RandomnessChecks,
    ValueChecks,
    EffectDescriptionChecks,
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


# category -> the contract of such parts
CONTRACTS: dict[str, type[Checks]] = {
    "nonideality": NonidealityContract,
    "mapping": MappingContract,
    "dac": ConverterContract,
    "adc": ConverterContract,
    "compensation": CompensationContract,
    "surrogate": SurrogateContract,
    "training": TrainingContract,
}


def contract_of(part: Kinded | type, **about: object) -> type[Checks]:
    """The contract of one part as a class: of an effect, mapping, converter, compensation, surrogate or training method, or
    of the class of a layer. `about` sets tile, ages, expected, … .
    """
    if isinstance(part, Kinded):
        return type(f"Test{type(part).__name__}", (CONTRACTS[part.CATEGORY],), {"spec": part, **about})
    return type(f"Test{part.__name__}", (LayerContract,), {"layer": part, **about})


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
