"""Names of a folder that are imported on first use, so that whoever needs one of them does not wait for all."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any


def offered(folder: str, home: Mapping[str, tuple[str, ...]], name: str) -> Any:
    """What `folder.name` is, where `home` says which names its modules have: module -> names. For its `__getattr__`.

    Raises AttributeError for a name that the folder does not offer.
    """
    for module, names in home.items():
        if name in names:
            return getattr(importlib.import_module(f"{folder}.{module}"), name)
    raise AttributeError(f"module {folder!r} has no attribute {name!r}")
