"""Finds plugins and their kinds: metadata first, a family's code only when one of its kinds is named."""

import difflib
import functools
import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from mho.config import distributions, plugincode
from mho.config.distributions import owner, owners
from mho.config.plugincode import Provided, article, name_of, of_category
from mho.config.schema import Kinded, kind_form, suggest
from mho.ground import PluginError
from mho.ground.renames import present

CORE = "mho"  # the family and the distribution that nobody else may claim
ALLOWED = "MHO_PLUGINS"  # environment variable: families that may be used, separated by commas; unset: all
BY_HAND = "registered by hand"
AnyClass = TypeVar("AnyClass", bound=type)


@dataclass(frozen=True)
class Provider:
    """A distribution (or a file, or a notebook) that provides a family, and how that went."""

    family: str
    distribution: str
    version: str
    module: str
    presets: tuple[str, ...] = ()
    state: str = "not loaded"  # not loaded | ok | failed | conflict | off
    reason: str = ""
    kinds: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()  # layers

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}".strip()


class Registry:
    """All plugins that can be found on `path` (default: where Python imports from), if `allowed` names their families
    (default: the environment variable MHO_PLUGINS; without it, all)."""

    def __init__(self, path: Sequence[str] | None = None, allowed: str | None = None) -> None:
        self._path = path
        self._loaded: dict[str, Provided] = {}
        self._failed: dict[str, str] = {}
        self._local: dict[str, Provided] = {}  # file, or BY_HAND -> what was registered
        self._others: dict[str, Path] = {}  # what to call it -> file
        listed = os.environ.get(ALLOWED) if allowed is None else allowed
        self.allowed = None if listed is None else tuple(f.strip() for f in listed.split(",") if f.strip())

    # --- metadata only ---

    @functools.cached_property
    def claims(self) -> dict[str, list[EntryPoint]]:
        """Family -> the entry points that claim it."""
        return distributions.entry_points(distributions.FAMILIES, self._path)

    def families(self) -> tuple[str, ...]:
        """Families of installed plugins, core's own left out."""
        return tuple(f for f in self.claims if f != CORE)

    @functools.cached_property
    def sections(self) -> dict[str, list[str]]:
        """Key of `training:` -> the kinds of training methods that plugins have there: ours, installed or not, and those of
        entry points."""
        claims = distributions.entry_points(distributions.SECTIONS, self._path)
        return {**distributions.OUR_SECTIONS, **{key: [p.value for p in points] for key, points in claims.items()}}

    def providers(self) -> tuple[Provider, ...]:
        """Every distribution that claims a family, then files and notebooks. Imports nothing."""
        installed = [self._provider(point) for points in self.claims.values() for point in points]
        return (*installed, *(p for origin, found in self._local.items() for p in _local_providers(origin, found)))

    def _provider(self, point: EntryPoint) -> Provider:
        about = Provider(point.name, *owner(point), point.value)
        state, reason = self._refusal(point)
        if state:
            return replace(about, state=state, reason=reason)
        about = replace(about, presets=tuple(_presets_of(point)))
        if point.name in self._failed:
            return replace(about, state="failed", reason=self._failed[point.name])
        loaded = self._loaded.get(point.name)
        if loaded is None:
            return about
        return replace(about, state="ok", kinds=tuple(sorted(loaded.kinds)), classes=() if loaded.waiting else loaded.classes)

    def _refusal(self, point: EntryPoint) -> tuple[str, str]:
        """(state, why) if nobody may use what claims a family, whatever its code does; ("", "") if somebody may."""
        family, claims = point.name, self.claims[point.name]
        if family == CORE:
            return ("", "") if owner(point)[0] == CORE else ("conflict", f"family {CORE!r} is reserved for mho itself")
        if self.allowed is not None and family not in self.allowed:
            names = ", ".join(self.allowed) or "none"
            return "off", f"family {family!r} is switched off: {ALLOWED} allows {names}"
        if len(claims) > 1:
            return "conflict", distributions.several(claims, f"the family {family!r}")
        if not kind_form(f"{family}.x"):
            return "failed", f"{family!r} cannot be a family: expected lower-case letters, digits and '_'"
        complaint = distributions.needs_another(point, CORE)
        return ("failed", complaint) if complaint else ("", "")

    def unknown_allowed(self) -> tuple[str, ...]:
        """What MHO_PLUGINS allows, but no installed plugin provides: one sentence each."""
        strange = [f for f in self.allowed or () if f not in self.claims]
        return tuple(f"{ALLOWED} names {f!r}; {suggest(f, self.families(), 'installed')}" for f in strange)

    def _point(self, family: str) -> EntryPoint:
        """The one entry point of a family. Raises PluginError where nobody may use it."""
        if family not in self.claims:
            installed = sorted({*self.families(), *(k.partition(".")[0] for k in self._local_kinds())})
            near = difflib.get_close_matches(family, [*installed, CORE], 1)
            hint = f"did you mean {near[0]!r}?" if near else f"try: pip install mho-{family.replace('_', '-')}"
            listed = ", ".join(installed) or "none"
            raise PluginError(f"no installed plugin provides {family!r}; {hint}; installed: {listed}")
        point = max(self.claims[family], key=lambda p: owner(p)[0] == CORE)  # of several, only that of the core counts
        state, reason = self._refusal(point)
        if state:
            raise PluginError(f"{self._who(family)} cannot be used: {reason}" if state == "failed" else reason)
        return point

    def _who(self, origin: str) -> str:
        """A plugin or a file, for people."""
        owned = f" ({owners(self.claims[origin])})" if origin in self.claims else ""
        return f"plugin {origin!r}{owned}"

    # --- presets: files beside the plugin's code, found without running it ---

    def presets(self) -> tuple[str, ...]:
        """Names of all presets of installed plugins, e.g. pcm.standard."""
        usable = [p for points in self.claims.values() for p in points if not self._refusal(p)[0]]
        return tuple(name for point in usable for name in _presets_of(point))

    def preset_path(self, name: str) -> Path:
        """The file of a preset."""
        found = _presets_of(self._point(name.partition(".")[0]))
        if name not in found:
            raise PluginError(f"no preset {name!r}; {suggest(name, found or self.presets(), 'presets')}")
        return found[name]

    # --- loading ---

    def resolve(self, kind: str, category: str | None = None) -> type[Kinded]:
        """The class of a kind. Imports the family's plugin, and no other."""
        if not kind_form(kind):
            example = "'pcm.drift'" if category in (None, "nonideality") else f"{article(category)}, e.g. 'family.name'"
            raise PluginError(f"{kind!r} is not a kind; expected family.name such as {example}")
        family = kind.partition(".")[0]
        known = self.load(family).kinds
        kind = present(kind, (r for cls in known.values() for r in cls.renamed))
        if kind in known:
            return of_category(known[kind], *((category,) if category else ()))
        fitting = [k for k, cls in known.items() if category in (None, cls.CATEGORY)]
        near = suggest(kind, fitting, f"{family} provides")
        listed = f" ({family} provides: {', '.join(fitting)})" if near.startswith("did") else ""
        raise PluginError(f"unknown kind {kind!r}; {near}{listed}")

    def present_kind(self, kind: str) -> str:
        """Today's name of a kind; what is no kind of a plugin stays as it is."""
        try:
            return str(self.resolve(kind).KIND)
        except PluginError:
            return kind

    def load(self, family: str) -> Provided:
        """Import the plugin of a family and take what its hooks return, all or nothing; or what was registered by hand."""
        if family in self._loaded:
            return self._loaded[family]
        by_hand = {k: cls for k, cls in self._local_kinds().items() if k.startswith(family + ".")}
        if by_hand and family not in self.claims:
            return Provided(by_hand)
        point = self._point(family)
        with self._blamed(family):
            if family in self._failed:  # a second import would fail in other, more confusing words
                raise PluginError(self._failed[family])
            found = plugincode.provided_by(point.load(), family)
            presets = _presets_of(point)
            for kind, cls in found.kinds.items():
                if not kind.startswith(family + "."):
                    must = f"kinds of this plugin must start with '{family}.'"
                    raise PluginError(f"{name_of(cls)} has kind {kind!r}; {must}")
                if kind in presets:
                    raise PluginError(f"{kind!r} is both a kind and a preset ({presets[kind].name}); rename one of them")
            self._loaded[family] = found
        return found

    @contextmanager
    def _blamed(self, origin: str) -> Iterator[None]:
        """Whatever goes wrong inside is the fault of a plugin or a file: its name goes in front, and the reason is kept."""
        try:
            yield
        except (Exception, SystemExit) as error:
            self._failed[origin] = str(error) if isinstance(error, PluginError) else plugincode.cause(error)
            raise PluginError(f"{self._who(origin)} cannot be used: {self._failed[origin]}") from error

    def load_all(self) -> tuple[Provider, ...]:
        """Try to load every installed plugin, and ask all its hooks; the result says which failed and why."""
        for family in self.claims:
            with suppress(PluginError):  # kept in the provider's state
                found = self.load(family)
                for category in tuple(found.waiting):
                    self._things(family, found, category)
        return self.providers()

    # --- by hand ---

    def register(self, cls: AnyClass) -> AnyClass:
        """Make a class of a notebook or script known; usable as a decorator. A class of the same name is replaced."""
        category = plugincode.kindless(cls)
        if category is None:
            kind = plugincode.kind_of(cls)
            self._may_register(cls, kind)
            self._local.setdefault(BY_HAND, Provided()).kinds[kind] = cls
        else:
            self._local.setdefault(BY_HAND, Provided()).found.setdefault(category, {})[name_of(cls)] = cls
        return cls

    def _may_register(self, cls: type, kind: str) -> None:
        family = kind.partition(".")[0]
        if family in self.claims or family == CORE:
            owner = owners(self.claims.get(family, ())) or CORE
            raise PluginError(f"{name_of(cls)}: family {family!r} belongs to {owner}; choose another family")
        known = name_of(self._local_kinds().get(kind, cls))
        if known != name_of(cls):
            raise PluginError(f"kind {kind!r} is already registered by {known}; choose another kind for {name_of(cls)}")

    def load_file(self, path: str | Path) -> Provided:
        """Run a Python file and register what its hooks return. For `--plugin ./my_effects.py`."""
        file = Path(path)
        if not os.path.isfile(file):  # unlike Path.is_file, quiet about impossible names
            raise PluginError(f"no file {str(path)!r}; expected a Python file with mho hooks")
        module = plugincode.run_file(file)
        try:
            found = plugincode.provided_by(module, str(file))
            if not (found.kinds or found.other):
                hint = "expected a function such as mho_nonidealities marked with @hookimpl"
                raise PluginError(f"provides nothing; {hint}")
        except PluginError as error:
            raise PluginError(f"{file}: {error}") from None
        for kind, cls in found.kinds.items():
            self._may_register(cls, kind)
        self._local[str(file)] = found
        return found

    def run_file(self, path: Path, noun: str) -> ModuleType:
        """Run somebody's Python file that provides no part of hardware: a task. What it raises later is blamed on it."""
        self._others[f"{noun} {path}"] = path.resolve()
        return plugincode.run_file(path)

    @property
    def files(self) -> list[Path]:
        """The `--plugin` files, for worker processes to load them too."""
        return [Path(name).resolve() for name in self._local if name != BY_HAND]

    def _local_kinds(self) -> dict[str, type[Kinded]]:
        return {k: cls for found in self._local.values() for k, cls in found.kinds.items()}

    # --- what is loaded ---

    def kinds(self, category: str | None = None) -> dict[str, type[Kinded]]:
        """All kinds loaded so far."""
        everything = (*self._loaded.values(), *self._local.values())
        found = {k: cls for f in everything for k, cls in f.kinds.items() if category in (None, cls.CATEGORY)}
        return dict(sorted(found.items()))

    def named(self, category: str, *, everywhere: bool = False) -> dict[str, Any]:
        """Everything without a kind of a category ("layer", "task"), by name: what was registered by hand, then plugins loaded so
        far (`everywhere`: of all that are installed and work), core's own last; of two with one name the first counts.
        `thing` imports what a name stands for."""
        if everywhere:
            self.load_all()
        families = sorted(self._loaded, key=CORE.__eq__)  # stable: only core's own moves
        loaded = {f: self._loaded[f] for f in families if not (everywhere and f in self._failed)}
        found: dict[str, Any] = {}
        for origin, provided in {**self._local, **loaded}.items():
            for name, what in self._things(origin, provided, category).items():
                found.setdefault(name, what)
        return found

    def provided(self, category: str, *, everywhere: bool = False) -> tuple[Any, ...]:
        """All classes without a kind of a category, see `named`: what comes first counts."""
        return tuple(thing(t) for t in self.named(category, everywhere=everywhere).values())

    def _things(self, origin: str, provided: Provided, category: str) -> dict[str, Any]:
        """What one plugin has of a category; whoever cannot say is named, as when it is loaded."""
        with self._blamed(origin):
            return provided.named(category)

    def blame(self, error: BaseException) -> str:
        """Which plugin raised an exception and where, in one sentence; "" if none did."""
        places = self._others | {f"plugin {origin}": Path(origin).resolve() for origin in self._local if origin != BY_HAND}
        for family in self._loaded:
            file = getattr(sys.modules.get(self._point(family).module), "__file__", None)
            if family != CORE and file is not None:
                place = Path(file).resolve()
                places[family] = place.parent if place.name == "__init__.py" else place
        guilty, frame = plugincode.frame_in(error, places)
        if frame is None:
            return ""
        who = self._who(guilty) if guilty in self.claims else guilty
        return f"{who} failed in {frame.name} ({frame.filename}:{frame.lineno}): {plugincode.cause(error)}"


def _presets_of(point: EntryPoint) -> dict[str, Path]:
    """The presets beside a plugin's code, by name."""
    try:
        spec = importlib.util.find_spec(point.module.partition(".")[0])
    except (ImportError, ValueError):
        return {}
    folders = (spec.submodule_search_locations if spec else None) or []
    files = [file for folder in folders for file in Path(folder, "presets").glob("*.yaml")]
    return {f"{point.name}.{file.stem}": file for file in sorted(files)}


def _local_providers(origin: str, found: Provided) -> Iterator[Provider]:
    """What was registered by hand, as if it were installed; the version of a file is a hash of its text."""
    file = Path(origin)
    version = hashlib.sha256(file.read_bytes()).hexdigest()[:12] if origin != BY_HAND and file.is_file() else ""
    for family in dict.fromkeys(k.partition(".")[0] for k in found.kinds) or ("",):
        kinds = tuple(sorted(k for k in found.kinds if k.startswith(family + ".")))
        yield Provider(family, file.name, version, origin, state="ok", kinds=kinds, classes=found.classes)


# --- the default instance ---


_stack = [Registry()]


def default() -> Registry:
    """The registry that YAML files are read with: of all installed plugins, unless `using` says otherwise."""
    return _stack[-1]


@contextmanager
def using(registry: Registry) -> Iterator[Registry]:
    """Read YAML files with another registry, e.g. one of a single folder, in tests."""
    _stack.append(registry)
    try:
        yield registry
    finally:
        _stack.remove(registry)


def thing(what: Any) -> Any:
    """What a name of `Registry.named` stands for: imported, where it is "module:attribute"."""
    return EntryPoint("", what, "").load() if isinstance(what, str) else what


def __getattr__(name: str) -> Any:
    """Every public method of the registry in use, as a function: `registry.resolve("pcm.drift")`."""
    if name.startswith("_") or not hasattr(Registry, name):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(default(), name)
