"""What makes a result stale: everything that it depends on besides what was asked for. Runs, sweeps and studies use it."""

import ast
import contextlib
import hashlib
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import mho
from mho.config import Hardware, Kinded, Strict, TrainingSpec, kind_form, registry
from mho.ground import MhoError, PluginError
from mho_lab.devices import current

OURS = {"mho", "mho_lab"}  # packages whose versions say what their code is
ALWAYS = {"mho", "mho-lab", "mho-fast", "torch", "python"}  # versions that every result depends on
INSTALLED = {"site-packages", "dist-packages"}  # folders of packages that have versions


class HasCode(Protocol):
    """A `mho.Task`: it knows a hash of its code and data."""

    def fingerprint(self) -> str: ...


def identity(
    task: HasCode | None = None, checkpoint: str | Path | None = None, hardware: Hardware | Iterable[Hardware] | None = None
) -> dict[str, Any]:
    """What results depend on besides their item: the code and data version of a task, the bytes of a checkpoint, the
    precision of the simulation on this processor, versions, and code; the device, where it is not the processor.

    hardware    one or several that the results are for: the code of the plugins that they name counts, file by file, and no
                other plugin does. Without it, the versions of all plugins count (files of --plugin by their hash).
    """
    used = [hardware] if isinstance(hardware, Hardware) else None if hardware is None else [*hardware]
    installed = versions()
    modules = {m for hw in used or () for m in _modules_of(hw)}
    about: dict[str, Any] = {
        "precision": _precision(used[0] if used and len(used) == 1 else None),
        "versions": installed if used is None else {k: v for k, v in installed.items() if k in ALWAYS},
    }
    if current().type != "cpu":
        about["device"] = current().type
    if task is not None:
        modules |= {c.__module__ for c in type(task).__mro__[:-1]}
        about["fingerprint"] = task.fingerprint()
    about["code"] = {n: digest(f) for m in sorted(modules) if not _ours(m) for n, f in files_of(sys.modules[m]).items()}
    if checkpoint is not None:
        about["checkpoint"] = digest(checkpoint)
    return about


def _ours(module: str) -> bool:
    return module.partition(".")[0] in OURS


def _modules_of(hardware: Hardware) -> Iterator[str]:
    """The modules of every kind that a hardware names, of the classes that it is built on, and of the layers that its
    families bring along."""
    classes = {c for k in _kinds(hardware) for c in k.__mro__ if c is not Kinded and issubclass(c, Kinded)}
    families = {str(getattr(c, "KIND", "")).partition(".")[0] for c in classes} & registry.default().claims.keys()
    layers = (registry.thing(t) for f in families for t in registry.default().load(f).named("layer").values())
    yield from (c.__module__ for c in (*classes, *layers))


def _kinds(value: Any) -> Iterator[type[Kinded]]:
    """The classes of all parts inside, also where only their names stand."""
    if isinstance(value, Strict):
        yield from [type(value)] if isinstance(value, Kinded) else ()
        yield from (k for name in type(value).model_fields for k in _kinds(getattr(value, name)))
        yield from _kinds(value.all_methods) if isinstance(value, TrainingSpec) else ()  # also those with a key of their own
    elif isinstance(value, Mapping):
        yield from (k for v in value.values() for k in _kinds(v))
    elif isinstance(value, (tuple, list)):
        yield from (k for v in value for k in _kinds(v))
    elif kind_form(value):
        with contextlib.suppress(PluginError):  # a tile, or a word
            yield registry.resolve(value)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What has changed from one identity, or other plain data, to another: a few words each, the most telling first."""
    a, b = dict(_leaves(before)), dict(_leaves(now))
    changed = [k for k in dict.fromkeys((*b, *a)) if a.get(k) != b.get(k)]
    files = [k for k in changed if k[0] in ("code", "measure") and len(k) > 1]
    told = [f"{k[1]} {'is gone' if k not in b else 'is new' if k not in a else 'has changed'}" for k in files]
    rest = [k for k in changed if k not in files and not (k[0] == "fingerprint" and files)]
    return told + [f"{'.'.join(k)} was {a.get(k, 'not there')}, is {b.get(k, 'not there')}" for k in rest]


def _leaves(data: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every plain value with its path."""
    if isinstance(data, (Mapping, list, tuple)):
        for key, value in data.items() if isinstance(data, Mapping) else enumerate(data):
            yield from _leaves(value, (*path, str(key)))
    else:
        yield path, data


def _precision(hardware: Hardware | None) -> dict[str, str]:
    """The tier of every tile; without a hardware, what the precisions that depend on the processor come down to."""
    from mho_fast import chosen_tier, routes

    if hardware is None:
        return {"auto": chosen_tier("auto", 8, 1)[0], "int8": chosen_tier("int8", 8, 1)[0]}
    return {name: r.tier for name, r in routes(hardware, current().type != "cpu").items()}


def versions() -> dict[str, str]:
    """Versions of everything a result depends on: mho, its plugins (files given with --plugin by their hash), torch, Python."""
    import torch

    found = {p.distribution: p.version for p in registry.providers() if p.version}
    return {
        **dict(sorted(found.items())),
        "mho": mho.__version__,
        "mho-fast": metadata.version("mho-fast"),
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
def files_of(module: ModuleType) -> dict[str, Path]:
    """The file of a module, and those of the modules that it imports from its folder, or from its package, anywhere in its text
    and in theirs; by their names there.

    What lies elsewhere, mho, the standard library and installed packages are left out; their versions say what they are.
    """
    if not getattr(module, "__file__", None):
        return {}
    file = Path(module.__file__ or "").resolve()
    top = sys.modules.get(module.__name__.partition(".")[0])
    package = getattr(top, "__file__", None) if hasattr(top, "__path__") else None
    folder = Path(package).resolve().parent if package else file.parent
    helpers = [] if folder.name in INSTALLED else _helpers(file, folder, module.__package__ or "")
    return {f.relative_to(folder.parent if package else folder).as_posix(): f for f in [file, *helpers]}


def _helpers(file: Path, folder: Path, package: str) -> list[Path]:
    """The files under `folder` that a file imports, and what these import, in the order of their paths."""
    found: dict[Path, str] = {file: package}
    open_ = [file]
    while open_:
        here = open_.pop()
        for name in _imported(here, found[here]):
            for helper, its_package in _own(name, folder):
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
