"""What makes a result stale: everything that it depends on besides what was asked for. Runs, sweeps and studies use it."""

from __future__ import annotations

import ast
import hashlib
import platform
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import mho
from mho.config import Hardware, registry
from mho.ground import MhoError
from mho_lab.devices import current

OURS = {"mho", "mho_lab"}  # packages whose versions say what their code is
INSTALLED = {"site-packages", "dist-packages"}  # folders of packages that have versions


class HasCode(Protocol):
    """A `mho.Task`: it knows a hash of its code and data."""

    def fingerprint(self) -> str: ...


def identity(
    task: HasCode | None = None, checkpoint: str | Path | None = None, hardware: Hardware | None = None
) -> dict[str, Any]:
    """What results depend on besides their item: the code and data version of a task, the bytes of a checkpoint, the
    precision of the simulation on this processor (of `hardware`, where all results are for one), and the versions of mho,
    its plugins (files of --plugin by their hash), torch and Python; the device, where it is not the processor."""
    about: dict[str, Any] = {"precision": _precision(hardware), "versions": versions()}
    if current().type != "cpu":
        about["device"] = current().type
    if task is not None:
        about["code"] = task.fingerprint()
    if checkpoint is not None:
        about["checkpoint"] = digest(checkpoint)
    return about


def _precision(hardware: Hardware | None) -> dict[str, str]:
    """The tier of every tile; without a hardware, what the precisions that depend on the processor come down to."""
    from mho_fast import chosen_tier, routes

    if hardware is None:
        return {"auto": chosen_tier("auto", 8, 1)[0], "int8": chosen_tier("int8", 8, 1)[0]}
    return {name: r.tier for name, r in routes(hardware).items()}


def versions() -> dict[str, str]:
    """Versions of everything a result depends on: mho, its plugins (files given with --plugin by their hash), torch, Python."""
    import torch

    found = {p.distribution: p.version for p in registry.providers() if p.version}
    return {
        **dict(sorted(found.items())),
        "mho": mho.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def digest(file: str | Path) -> str:
    """A hash of the bytes of a file."""
    try:
        with Path(file).open("rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()[:32]
    except OSError as error:
        raise MhoError(f"cannot read {file}: {error.strerror}") from None


# -- code of the user -----------------------------------------------------------------------------------------------
def code_of(module: ModuleType) -> bytes:
    """The text of a module, and of the modules under its folder that it imports, anywhere in its text and in theirs.

    What lies elsewhere, mho, the standard library and installed packages are left out; their versions say what they are.
    """
    file = getattr(module, "__file__", None)
    if not file:
        return b""
    return b"".join(f.read_bytes() for f in [Path(file), *_helpers(Path(file).resolve(), module.__package__ or "")])


def _helpers(file: Path, package: str) -> list[Path]:
    """The files under the folder of `file` that it imports, and what these import, in the order of their paths."""
    found: dict[Path, str] = {file: package}
    open_ = [file]
    while open_:
        here = open_.pop()
        for name in _imported(here, found[here]):
            for helper, its_package in _own(name, file.parent):
                if helper not in found:
                    found[helper] = its_package
                    open_.append(helper)
    return sorted(found.keys() - {file})


def _imported(file: Path, package: str) -> Iterator[str]:
    """Full names of what a file imports; `from a import b` may mean the module a.b."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return  # whoever imports it will be told
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        if isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join(filter(None, [*above, node.module]))
            yield from (f"{base}.{a.name}" for a in node.names)


def _own(name: str, folder: Path) -> Iterator[tuple[Path, str]]:
    """The files of a module and of the packages around it that lie under `folder`, each with its package. Imports nothing."""
    parts, within = name.split("."), None
    if parts[0] in OURS or parts[0] in sys.stdlib_module_names:
        return
    for n in range(1, len(parts) + 1):
        part = ".".join(parts[:n])
        spec = getattr(sys.modules.get(part), "__spec__", None) or PathFinder.find_spec(part, within)
        if spec is None:
            return
        file = Path(spec.origin or "").resolve()
        within_folder = file.is_relative_to(folder) and not INSTALLED & set(file.relative_to(folder).parts)
        if spec.has_location and file.suffix == ".py" and within_folder:
            yield file, spec.parent or ""
        within = spec.submodule_search_locations
        if within is None:
            return
