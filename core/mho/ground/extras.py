"""Packages that not everybody has: they are imported where something needs them."""

import importlib
from typing import Any

from mho.ground.errors import MhoError


def needed(module: str, who: str, install: str) -> Any:
    """A module of another distribution. Raises `MhoError` where it is missing: who needs it, and what to install."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MhoError(f"{who}: pip install {install}") from None
