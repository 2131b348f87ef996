"""Finds plugins and their kinds: metadata first, a family's code only when one of its kinds is named."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import pluggy

from mho import hooks
from mho.errors import PluginError
from mho.schema import Kinded, kind_form, suggest

GROUP = "mho"
CORE = "mho"  # the family and the distribution that nobody else may claim

# Hook -> what it provides. Classes of the last two have no kind: they are not named in YAML.
CATEGORIES = {
    "mho_nonidealities": ("nonideality",),
    "mho_mappings": ("mapping",),
    "mho_converters": ("dac", "adc"),
    "mho_compensations": ("compensation",),
    "mho_layers": ("layer",),
    "mho_training": ("training",),
}
NOUNS = {"dac": "DAC", "adc": "ADC"}
_KINDLESS = ("layer", "training")
AnyClass = TypeVar("AnyClass", bound=type)


@dataclass(frozen=True)
class Provider:
    """A distribution that provides a family, and how that went."""

    family: str
    distribution: str
    version: str
    module: str
    presets: tuple[str, ...] = ()
    state: str = "not loaded"  # not loaded | ok | failed | conflict
    reason: str = ""
    kinds: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


@dataclass
class _Family:
    """What one loaded plugin registered."""

    kinds: dict[str, type[Kinded]] = field(default_factory=dict)
    other: dict[str, list[type]] = field(default_factory=dict)  # category -> classes without a kind


class Registry:
    """All plugins that can be found on `path` (default: where Python imports from)."""

    def __init__(self, path: Sequence[str] | None = None) -> None:
        self._path = path
        self._claims: dict[str, list[metadata.EntryPoint]] | None = None
        self._loaded: dict[str, _Family] = {}
        self._failed: dict[str, str] = {}
        self._local = _Family()  # registered by hand: notebooks and --plugin files
        self.files: list[Path] = []  # the --plugin files, for worker processes to load them too

    # --- metadata only ---

    @property
    def claims(self) -> dict[str, list[metadata.EntryPoint]]:
        """Family -> the entry points that claim it."""
        if self._claims is None:
            found: dict[str, list[metadata.EntryPoint]] = {}
            for point in _entry_points(self._path):
                found.setdefault(point.name, []).append(point)
            self._claims = dict(sorted(found.items()))
        return self._claims

    def families(self) -> tuple[str, ...]:
        """Families of installed plugins, core's own left out."""
        return tuple(f for f in self.claims if f != CORE)

    def providers(self) -> tuple[Provider, ...]:
        """Every distribution that claims a family. Imports nothing."""
        return tuple(self._provider(family, point) for family, points in self.claims.items() for point in points)

    def _provider(self, family: str, point: metadata.EntryPoint) -> Provider:
        name, version = _distribution(point)
        conflict = self._conflict(family)
        if conflict or (family == CORE and name != CORE):
            reason = conflict or f"family {CORE!r} is reserved for mho itself"
            return Provider(family, name, version, point.value, state="conflict", reason=reason)
        presets = tuple(self._presets_of(family))
        loaded = self._loaded.get(family)
        failed = self._failed.get(family, "")
        state = "failed" if failed else "ok" if loaded else "not loaded"
        return Provider(
            family, name, version, point.value, presets, state, failed, tuple(sorted(loaded.kinds)) if loaded else ()
        )

    def _conflict(self, family: str) -> str:
        """Why nobody may have this family, "" if somebody does."""
        points = self.claims[family]
        if family == CORE or len(points) == 1:
            return ""
        names = " and ".join(" ".join(_distribution(p)) for p in points)
        return f"{len(points)} distributions claim the family {family!r}: {names}; uninstall all but one"

    def _point(self, family: str) -> metadata.EntryPoint:
        """The one entry point of a family."""
        if family not in self.claims:
            raise PluginError(self._unknown_family(family))
        if conflict := self._conflict(family):
            raise PluginError(conflict)
        points = [p for p in self.claims[family] if family != CORE or _distribution(p)[0] == CORE]
        if not points:
            raise PluginError(f"family {CORE!r} is reserved for mho itself; reinstall mho")
        return points[0]

    def _unknown_family(self, family: str) -> str:
        installed = sorted({*self.families(), *(k.partition(".")[0] for k in self._local.kinds)})
        near = difflib.get_close_matches(family, [*installed, CORE], 1)
        hint = f"did you mean {near[0]!r}?" if near else f"try: pip install mho-{family.replace('_', '-')}"
        return f"no installed plugin provides {family!r}; {hint}; installed: {', '.join(installed) or 'none'}"

    # --- presets: files beside the plugin's code, found without running it ---

    def presets(self) -> tuple[str, ...]:
        """Names of all presets of installed plugins, e.g. pcm.standard."""
        usable = [f for f in self.claims if not self._conflict(f)]
        return tuple(name for family in usable for name in self._presets_of(family))

    def preset_path(self, name: str) -> Path:
        """The file of a preset."""
        family = name.partition(".")[0]
        self._point(family)
        found = self._presets_of(family)
        if name not in found:
            hint = suggest(name, found or self.presets(), "presets")
            raise PluginError(f"no preset {name!r}; {hint}")
        return found[name]

    def _presets_of(self, family: str) -> dict[str, Path]:
        package = self._point(family).value.partition(":")[0].partition(".")[0]
        try:
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError):
            return {}
        folders = spec.submodule_search_locations if spec and spec.submodule_search_locations else []
        files = [file for folder in folders for file in Path(folder, "presets").glob("*.yaml")]
        return {f"{family}.{file.stem}": file for file in sorted(files)}

    # --- loading ---

    def resolve(self, kind: str, category: str | None = None) -> type[Kinded]:
        """The class of a kind. Imports the family's plugin, and no other."""
        example = "'pcm.drift'" if category in (None, "nonideality") else f"{article(category)}, e.g. 'family.name'"
        if not kind_form(kind):
            raise PluginError(f"{kind!r} is not a kind; expected family.name such as {example}")
        family, wanted = kind.partition(".")[0], (category,) if category else ()
        if kind in self._local.kinds:
            return _of_category(self._local.kinds[kind], *wanted)
        known = dict(self._local.kinds) if any(k.startswith(family + ".") for k in self._local.kinds) else {}
        if family in self.claims or not known:
            known = self.load(family).kinds
        if kind in known:
            return _of_category(known[kind], *wanted)
        fitting = [k for k, cls in known.items() if category in (None, cls.CATEGORY) and k.startswith(family + ".")]
        near = suggest(kind, fitting, f"{family} provides")
        listed = f" ({family} provides: {', '.join(fitting)})" if near.startswith("did") else ""
        raise PluginError(f"unknown kind {kind!r}; {near}{listed}")

    def load(self, family: str) -> _Family:
        """Import the plugin of a family and take what its hooks return, all or nothing."""
        if family in self._loaded:
            return self._loaded[family]
        point = self._point(family)
        name, version = _distribution(point)
        try:
            if family in self._failed:  # a second import would fail in other, more confusing words
                raise PluginError(self._failed[family])
            self._loaded[family] = self._collect(point.load(), family)
        except (Exception, SystemExit) as error:
            self._failed[family] = str(error) if isinstance(error, PluginError) else _cause(error)
            raise PluginError(f"plugin {family!r} ({name} {version}) cannot be used: {self._failed[family]}") from error
        return self._loaded[family]

    def load_all(self) -> tuple[Provider, ...]:
        """Try to load every installed plugin; the result says which failed and why."""
        for family in self.claims:
            try:
                self.load(family)
            except PluginError:
                continue  # kept in the provider's state
        return self.providers()

    def _collect(self, module: Any, family: str) -> _Family:
        presets = self._presets_of(family)
        result = _classes(module, family)
        for kind, cls in result.kinds.items():
            if not kind.startswith(family + "."):
                raise PluginError(f"{_name(cls)} has kind {kind!r}; kinds of this plugin must start with '{family}.'")
            if kind in presets:
                raise PluginError(f"{kind!r} is both a kind and a preset ({presets[kind].name}); rename one of them")
        return result

    # --- by hand ---

    def register(self, cls: AnyClass) -> AnyClass:
        """Make a class of a notebook or script known; usable as a decorator. A class of the same name is replaced."""
        kind = _kind_of(cls)
        self._may_register(cls, kind)
        self._local.kinds[kind] = cls
        return cls

    def _may_register(self, cls: type, kind: str) -> None:
        family = kind.partition(".")[0]
        if family in self.claims or family == CORE:
            owners = " and ".join(" ".join(_distribution(p)) for p in self.claims.get(family, ()))
            raise PluginError(f"{_name(cls)}: family {family!r} belongs to {owners or CORE}; choose another family")
        known = self._local.kinds.get(kind)
        if known is not None and _name(known) != _name(cls):
            raise PluginError(
                f"kind {kind!r} is already registered by {_name(known)}; choose another kind for {_name(cls)}"
            )

    def load_file(self, path: str | Path) -> tuple[str, ...]:
        """Run a Python file and register what its hooks return; gives the kinds. For `--plugin ./my_effects.py`."""
        file = Path(path)
        if not file.is_file():
            raise PluginError(f"no file {str(path)!r}; expected a Python file with mho hooks")
        module = _run_file(file)
        try:
            found = _classes(module, str(file))
        except PluginError as error:
            raise PluginError(f"{file}: {error}") from None
        if not found.kinds and not found.other:
            raise PluginError(
                f"{file}: provides nothing; expected a function such as mho_nonidealities marked with @hookimpl"
            )
        for kind, cls in found.kinds.items():
            self._may_register(cls, kind)
        self._local.kinds.update(found.kinds)
        for category, classes in found.other.items():
            self._local.other[category] = classes
        if file.resolve() not in self.files:
            self.files.append(file.resolve())
        return tuple(found.kinds)

    # --- what is loaded ---

    def kinds(self, category: str | None = None) -> dict[str, type[Kinded]]:
        """All kinds loaded so far."""
        families = (*self._loaded.values(), self._local)
        found = {k: cls for f in families for k, cls in f.kinds.items() if category in (None, cls.CATEGORY)}
        return dict(sorted(found.items()))

    def provided(self, category: str) -> tuple[type, ...]:
        """All classes without a kind ("layer", "training") loaded so far, core's own last: what comes first counts."""
        others = [f for name, f in self._loaded.items() if name != CORE]
        core = [self._loaded[CORE]] if CORE in self._loaded else []
        return tuple(cls for f in (self._local, *others, *core) for cls in f.other.get(category, ()))


# --- looking at one plugin ---


def _classes(module: Any, name: str) -> _Family:
    """What the hooks of a module return, checked. A manager of its own: a broken plugin leaves nothing behind."""
    manager = pluggy.PluginManager("mho")
    manager.add_hookspecs(hooks)
    manager.register(module, name=name)
    manager.check_pending()
    used = {caller.name for caller in manager.get_hookcallers(module) or ()}
    result = _Family()
    for hook, categories in CATEGORIES.items():
        function = getattr(module, hook, None)
        if function is None:
            continue
        if hook not in used:
            raise PluginError(f"{hook} is not marked; write @hookimpl above it")
        for cls in _returned(function, hook):
            if categories[0] in _KINDLESS:
                result.other.setdefault(categories[0], []).append(cls)
                continue
            kind = _kind_of(cls)
            _of_category(cls, *categories)
            if kind in result.kinds:
                raise PluginError(f"kind {kind!r} is given twice: {_name(result.kinds[kind])} and {_name(cls)}")
            result.kinds[kind] = cls
    return result


def _returned(function: Any, hook: str) -> list[type]:
    """The classes that a hook returns."""
    value = function()
    if isinstance(value, (str, type)) or not isinstance(value, Iterable):
        raise PluginError(f"{hook} must return a list of classes, not {value!r}")
    classes = list(value)
    for cls in classes:
        if not isinstance(cls, type):
            raise PluginError(f"{hook} must return classes, not {cls!r}")
    return classes


def _kind_of(cls: Any) -> str:
    kind = getattr(cls, "KIND", None)
    if not (isinstance(cls, type) and issubclass(cls, Kinded) and kind):
        raise PluginError(
            f'{_name(cls)} has no kind; write: class {_name(cls).rpartition(".")[2]}(Base, kind="family.name")'
        )
    return str(kind)


def _of_category(cls: type[Kinded], *categories: str) -> type[Kinded]:
    if categories and cls.CATEGORY not in categories:
        raise PluginError(f"{cls.KIND!r} is {article(cls.CATEGORY)}, not {' or '.join(map(article, categories))}")
    return cls


def article(noun: str) -> str:
    return f"{'an' if noun[:1] in 'aeiou' else 'a'} {NOUNS.get(noun, noun)}" if noun else "of no category"


def _name(cls: Any) -> str:
    return f"{cls.__module__}.{cls.__qualname__}" if isinstance(cls, type) else repr(cls)


def _distribution(point: metadata.EntryPoint) -> tuple[str, str]:
    return (point.dist.name, point.dist.version) if point.dist is not None else ("unknown distribution", "")


def _entry_points(path: Sequence[str] | None) -> list[metadata.EntryPoint]:
    """Entry points of the group; of a distribution that is found twice, the first counts, as for imports."""
    found: dict[str, list[metadata.EntryPoint]] = {}
    distributions = metadata.distributions() if path is None else metadata.distributions(path=list(path))
    for distribution in distributions:
        name = (distribution.metadata["Name"] or "").lower().replace("_", "-")
        if name not in found:
            found[name] = [p for p in distribution.entry_points if p.group == GROUP]
    return [point for points in found.values() for point in points]


def _run_file(file: Path) -> ModuleType:
    """Import a file as a module of its own."""
    name = f"mho_file_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise PluginError(f"{file}: not a Python file (expected a name that ends in .py)")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module  # classes look their module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name)
        if before is not None:
            sys.modules[name] = before
        raise PluginError(f"{_place(error, file)}: {_cause(error)}") from error
    return module


def _place(error: BaseException, file: Path) -> str:
    """file:line of an exception, the deepest line that is in the file."""
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).resolve() == file.resolve():
        return f"{file}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f.lineno for f in frames if Path(f.filename).resolve() == file.resolve()]
    return f"{file}:{lines[-1]}" if lines else str(file)


def _cause(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


# --- the default instance ---


@functools.cache
def _installed() -> Registry:
    return Registry()


_stack: list[Registry] = []


def default() -> Registry:
    """The registry that YAML files are read with: of all installed plugins, unless `using` says otherwise."""
    return _stack[-1] if _stack else _installed()


@contextmanager
def using(registry: Registry) -> Iterator[Registry]:
    """Read YAML files with another registry, e.g. one of a single folder, in tests."""
    _stack.append(registry)
    try:
        yield registry
    finally:
        _stack.remove(registry)


def resolve(kind: str, category: str | None = None) -> type[Kinded]:
    """The class of a kind, see `Registry.resolve`."""
    return default().resolve(kind, category)


def register(cls: AnyClass) -> AnyClass:
    """Make a class of a notebook or script known, see `Registry.register`."""
    return default().register(cls)


def load_file(path: str | Path) -> tuple[str, ...]:
    """Run a Python file and register its effects, see `Registry.load_file`."""
    return default().load_file(path)


def providers() -> tuple[Provider, ...]:
    """Every distribution that claims a family, see `Registry.providers`."""
    return default().providers()


def presets() -> tuple[str, ...]:
    """Names of all presets."""
    return default().presets()


def preset_path(name: str) -> Path:
    """The file of a preset."""
    return default().preset_path(name)


def provided(category: str) -> tuple[type, ...]:
    """All classes of a category without kinds, see `Registry.provided`."""
    return default().provided(category)


def layer_classes() -> tuple[type, ...]:
    """All analog layers: those of plugins loaded so far, then core's own."""
    default().load(CORE)
    return default().provided("layer")


def kinds(category: str | None = None) -> dict[str, type[Kinded]]:
    """All kinds loaded so far."""
    return default().kinds(category)
