"""The code of one plugin: run it, take what its hooks return, and say what is wrong with it."""

import functools
import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from mho.config import hooks
from mho.config.schema import Kinded, kind_form
from mho.ground import PluginError

_BESIDE: set[str] = set()  # names of modules that were imported for files
NOUNS = {"dac": "DAC", "adc": "ADC", "training": "training method"}


@dataclass
class Provided:
    """What one plugin provides."""

    kinds: dict[str, type[Kinded]] = field(default_factory=dict)
    found: dict[str, dict[str, Any]] = field(default_factory=dict)  # category without kinds -> name -> thing
    waiting: dict[str, Callable[[], dict[str, Any]]] = field(default_factory=dict)  # the same, hooks not asked yet

    def named(self, category: str) -> dict[str, Any]:
        """Everything of a category without kinds ("layer", "task"), by name; its hook is asked the first time."""
        if category in self.waiting:
            self.found[category] = self.waiting[category]()
            del self.waiting[category]
        return self.found.get(category, {})

    @property
    def other(self) -> dict[str, list[Any]]:
        """Category -> everything without a kind; asks all hooks."""
        return {c: list(self.named(c).values()) for c in (*self.found, *self.waiting)}

    @property
    def classes(self) -> tuple[str, ...]:
        """The same for people: layer AnalogBilinear, task telegraph.morse."""
        things = [(c, name, thing) for c in self.other for name, thing in self.named(c).items()]
        return tuple(f"{c} {thing.__name__ if name == name_of(thing) else name}" for c, name, thing in things)


def provided_by(module: Any, name: str) -> Provided:
    """What the hooks of a module return, checked. `name` is a family, or a file (whose names may have any family).
    A manager of its own: a broken plugin leaves nothing behind."""
    manager = pluggy.PluginManager("mho")
    manager.add_hookspecs(hooks)
    manager.register(module, name=name)
    manager.check_pending()
    used = {caller.name for caller in manager.get_hookcallers(module) or ()}
    result = Provided()
    for door in hooks.DOORS:
        function = getattr(module, door.hook, None)
        if function is None:
            continue
        if door.hook not in used:
            raise PluginError(f"{door.hook} is not marked; write @hookimpl above it")
        if not door.of_kinds:
            result.waiting[door.categories[0]] = functools.partial(_things, door, function, name)
            continue
        for cls in _returned(function, door.hook):
            kind = kind_of(cls)
            of_category(cls, *door.categories)
            if kind in result.kinds:
                raise PluginError(f"kind {kind!r} is given twice: {name_of(result.kinds[kind])} and {name_of(cls)}")
            result.kinds[kind] = cls
    return result


def _returned(function: Any, hook: str) -> list[type]:
    """The classes that a hook returns."""
    value = function()
    if isinstance(value, (str, type)) or not isinstance(value, Iterable):
        raise PluginError(f"{hook} must return a list of classes, not {value!r}")
    found = list(value)
    for cls in found:
        if not isinstance(cls, type):
            raise PluginError(f"{hook} must return classes, not {cls!r}")
    return found


def _things(door: hooks.Door, function: Any, name: str) -> dict[str, Any]:
    """What a hook without kinds returns, by name; nothing is imported."""
    must = f"{door.hook} must return"
    if not door.names:
        found = {name_of(cls): cls for cls in _returned(function, door.hook)}
        for cls in found.values():
            if not hasattr(cls, door.needs):
                raise PluginError(f"{must} {door.what}; {name_of(cls)} has no {door.needs!r}")
        return found
    named = function()
    if not isinstance(named, Mapping):
        raise PluginError(f'{must} a dict, name -> "module:attribute", not {named!r}')
    for key, thing in named.items():
        if not isinstance(key, str) or not (callable(thing) or (isinstance(thing, str) and ":" in thing)):
            raise PluginError(f'{must} name -> "module:attribute" or the thing itself, not {key!r}: {thing!r}')
        if door.names == "family.name" and kind_form(f"{name}.x") and not key.startswith(name + "."):
            raise PluginError(f"{door.categories[0]} {key!r}: names of this plugin must start with '{name}.'")
    return dict(named)


def kindless(cls: type) -> str | None:
    """The category of a class that needs no kind ("layer"), None for all others."""
    fitting = (d for d in hooks.DOORS if d.needs and hasattr(cls, d.needs) and not hasattr(cls, "KIND"))
    return next((d.categories[0] for d in fitting), None)


def kind_of(cls: Any) -> str:
    """The kind of a class that plugins may provide; a bare kind means all defaults, so every field has one."""
    kind = getattr(cls, "KIND", None)
    if not (isinstance(cls, type) and issubclass(cls, Kinded) and kind):
        raise PluginError(f'{name_of(cls)} has no kind; write: class {name_of(cls).rpartition(".")[2]}(Base, kind="family.name")')
    bare = [name for name, info in cls.model_fields.items() if info.is_required()]
    if bare:
        raise PluginError(
            f"{name_of(cls)} has no default for {', '.join(bare)}; give every field one: Field(DEFAULT, ...), "
            "since a bare kind in YAML means all defaults"
        )
    return str(kind)


def of_category(cls: type[Kinded], *categories: str) -> type[Kinded]:
    """The class itself, which must be of one of these categories."""
    if categories and cls.CATEGORY not in categories:
        raise PluginError(f"{cls.KIND!r} is {article(cls.CATEGORY)}, not {' or '.join(map(article, categories))}")
    return cls


def article(noun: str) -> str:
    """a mapping, an ADC"""
    return f"{'an' if noun[:1] in 'aeiou' else 'a'} {NOUNS.get(noun, noun)}" if noun else "of no category"


def name_of(cls: Any) -> str:
    """The full name of a class."""
    return f"{cls.__module__}.{cls.__qualname__}" if isinstance(cls, type) else repr(cls)


def run_file(file: Path) -> ModuleType:
    """Import a file as a module of its own. Modules beside it are found, and read anew, as if it were a script."""
    place = file.resolve()
    name = f"mho_file_{file.stem}_{hashlib.sha256(str(place).encode()).hexdigest()[:8]}"  # many are called task.py
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise PluginError(f"{file}: not a Python file (expected a name that ends in .py)")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module  # classes look their module up
    known = _make_first(place.parent)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name)
        if before is not None:
            sys.modules[name] = before
        raise PluginError(f"{_place(error, file)}: {cause(error)}") from error
    finally:
        _BESIDE.update(sys.modules.keys() - known)
    return module


def _make_first(folder: Path) -> set[str]:
    """Let imports look into a folder first, and forget what is called like something in it and was imported for another file;
    all modules that are known then."""
    sys.path[:] = [str(folder), *(p for p in sys.path if p != str(folder))]
    for name in [n for n in _BESIDE & sys.modules.keys() if PathFinder.find_spec(n.partition(".")[0], [str(folder)])]:
        del sys.modules[name]
    return set(sys.modules)


def _place(error: BaseException, file: Path) -> str:
    """file:line of an exception, the deepest line that is in the file."""
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).resolve() == file.resolve():
        return f"{file}:{error.lineno}"
    _, frame = frame_in(error, {"": file.resolve()})
    return f"{file}:{frame.lineno}" if frame is not None else str(file)


def cause(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def frame_in(error: BaseException, files: dict[str, Path]) -> tuple[str, traceback.FrameSummary | None]:
    """The deepest line of an exception that is in one of these files or folders, and the name of that; ("", None) if none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename).resolve()
        for name, place in files.items():
            if path == place or place in path.parents:
                return name, frame
    return "", None
