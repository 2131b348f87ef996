"""What plugins say of a hardware beside its score (hook `mho_columns`): columns of sweeps, weights of deployments."""

import math
from typing import Any

from mho.config import Hardware, registry, suggest
from mho.ground import MhoError


def column(task: str, hw: Hardware, name: str) -> dict[str, Any]:
    """One column of a point: `value`, `low`, `high` and `unit`. Raises `MhoError` where no plugin offers it."""
    name, _, text = name.partition(":")
    offered = registry.default().named("column", everywhere=True)
    if name not in offered:
        raise MhoError(f"no column {name!r}; {suggest(name, offered, 'columns of installed plugins')}")
    found = dict(registry.thing(offered[name])(task, hw, text))
    found = {"low": found.get("value"), "high": found.get("value"), "unit": "", **found}
    try:
        known = -math.inf < found["low"] <= found["value"] <= found["high"] < math.inf
    except (KeyError, TypeError):
        known = False
    if not known:
        raise MhoError(f"column {name!r} gives {found}; expected a finite value, with low and high around it")
    return found
