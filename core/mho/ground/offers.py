"""Names of a folder that are imported on first use, so that whoever needs one of them does not wait for all."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any


def offers(folder: str, file: str) -> tuple[Callable[[str], Any], list[str]]:
    """`__getattr__` and `__all__` of a folder: the names that its stub, `__init__.pyi` beside `file`, imports.

    So one list serves type checkers and Python; what it imports from the folder itself are modules. `__getattr__` raises
    AttributeError for a name that is not in it.
    """
    stub = ast.parse(Path(file).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = (node for node in stub.body if isinstance(node, ast.ImportFrom) and str(node.module).startswith("mho"))
    home = {name.name: str(node.module) for node in imports for name in node.names}

    def offered(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {folder!r} has no attribute {name!r}")
        if home[name] == folder:
            return importlib.import_module(f"{folder}.{name}")
        return getattr(importlib.import_module(home[name]), name)

    return offered, sorted(home)
