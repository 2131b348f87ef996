"""A weight matrix on tiles: layout, devices, the chip that is on, and the reference path of one product."""

import importlib
from typing import Any

_HOME = {
    "TileArray": "array",
    "blocks": "layout",
    "Patches": "patches",
    "vectors": "patches",
    "resolve": "plan",
    "Session": "session",
    "batch_size": "session",
    "tile_arrays": "array",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(name)
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
