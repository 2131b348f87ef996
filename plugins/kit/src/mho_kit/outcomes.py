"""Which contract a part has, and how its checks end without pytest."""

import time
import traceback
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from mho.config import Kinded
from mho_kit.checks.base import PREFIX, Checks, ExpectedFailure
from mho_kit.columns import ColumnContract
from mho_kit.compensations import CompensationContract
from mho_kit.converters import ConverterContract
from mho_kit.corrections import CorrectionContract
from mho_kit.effects import NonidealityContract
from mho_kit.layers import LayerContract
from mho_kit.mappings import MappingContract
from mho_kit.quantisers import QuantiserContract
from mho_kit.surrogates import SurrogateContract
from mho_kit.training import TrainingContract

# category -> the contract of such parts; a kind of part that is not here is not tested by `mho test`
CONTRACTS: dict[str, type[Checks]] = {
    "nonideality": NonidealityContract,
    "mapping": MappingContract,
    "dac": ConverterContract,
    "adc": ConverterContract,
    "compensation": CompensationContract,
    "correction": CorrectionContract,
    "surrogate": SurrogateContract,
    "training": TrainingContract,
    "quantiser": QuantiserContract,
    "layer": LayerContract,
    "column": ColumnContract,
}


OTHERS = {"mho", "mho_kit", "mho_fast", "torch"}  # packages whose code is not that of the part


class Outcome(NamedTuple):
    """How one check ended."""

    check: str  # without test_
    state: str  # passed | failed | skipped: it does not apply | expected: it failed, as its author declared
    message: str
    seconds: float


def contract_of(part: Kinded | type | Callable[..., Any], **about: object) -> type[Checks]:
    """The contract of one part as a class: of an effect or any other part with a kind, of the class of a layer, or of the
    function of a column. `about` sets tile, ages, expected, name, … . KeyError for a category of parts that has no contract.
    """
    if isinstance(part, Kinded):
        return type(f"Test{type(part).__name__}", (CONTRACTS[part.CATEGORY],), {"spec": part, **about})
    if not isinstance(part, type):
        about = {"name": part.__name__, "text": getattr(part, "example", ""), **about}
        return type(f"Test{part.__name__}", (ColumnContract,), {"column": staticmethod(part), **about})
    return type(f"Test{part.__name__}", (LayerContract,), {"layer": part, **about})


def run(contract: type[Checks], on_check: Callable[[Outcome], None] | None = None) -> list[Outcome]:
    """All checks of a contract, without pytest."""
    checks, outcomes = contract(), []
    for name in contract.names():
        start = time.perf_counter()
        state, message = _ended(getattr(checks, name))
        outcomes.append(Outcome(name.removeprefix(PREFIX), state, message, time.perf_counter() - start))
        if on_check is not None:
            on_check(outcomes[-1])
    return outcomes


def _ended(check: Callable[[], None]) -> tuple[str, str]:
    try:
        check()
    except ExpectedFailure as reason:
        return "expected", str(reason)
    except unittest.SkipTest as reason:
        return "skipped", str(reason)
    except AssertionError as error:
        return "failed", str(error)
    except Exception as error:  # the part itself raises
        if any(said in str(error) for said in ("does not require grad", "not have been used in the graph")):
            return "failed", "no gradient comes back: what it returns is cut off from its arguments (numpy, detach, no_grad)"
        return "failed", f"{type(error).__name__}: {error}{_place(error)}"
    return "passed", ""


def _place(error: Exception) -> str:
    """File and line of the part's own code that led to an error; empty where it is not on the way."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not any(part in OTHERS for part in Path(f.filename).parts)]
    return f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
