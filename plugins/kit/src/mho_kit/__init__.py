"""Tests that plugin authors inherit: `class TestMyEffect(NonidealityContract): spec = MyEffect(...)`.

One module holds the contract of each kind of part, `checks` what they share, `bench` the tile on which parts are tried.
Names load on first use, so that `mho new` needs no torch.
"""

import importlib
from typing import Any

_HOME = {
    "Bench": "bench",
    "CalibrationContract": "calibrations",
    "ColumnContract": "columns",
    "CompensationContract": "compensations",
    "ConverterContract": "converters",
    "CorrectionContract": "corrections",
    "LayerContract": "layers",
    "MappingContract": "mappings",
    "NonidealityContract": "effects",
    "Outcome": "outcomes",
    "PageContract": "pages",
    "QuantiserContract": "quantisers",
    "SurrogateContract": "surrogates",
    "TaskContract": "tasks",
    "TrainingContract": "training",
    "Witness": "bench",
    "contract_of": "outcomes",
    "run": "outcomes",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mho_kit' has no attribute {name!r}")
    return getattr(importlib.import_module(f"mho_kit.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
