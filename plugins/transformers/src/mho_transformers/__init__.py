"""Hugging Face and Lightning for mho: callbacks that make their trainers hardware-aware, unmodified.

AnalogCallback   for the `Trainer` of Hugging Face transformers; `mho_transformers.lightning` has one of the same name
DriftScore       what both can measure while a training goes on: a score on simulated chips over drift time

`huggingface` and `lightning` are modules that need those packages; nothing here imports them before it is asked for.
"""

import importlib
from typing import Any

from mho_transformers.drift import DriftScore as DriftScore


def __getattr__(name: str) -> Any:
    if name == "AnalogCallback":
        return importlib.import_module("mho_transformers.huggingface").AnalogCallback
    if name in ("huggingface", "lightning"):
        return importlib.import_module(f"mho_transformers.{name}")
    raise AttributeError(f"module 'mho_transformers' has no attribute {name!r}")
