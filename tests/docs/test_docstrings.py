"""Whatever is public explains itself: names of mho, names that its folders offer, and names of our plugins.

A public function, class or method has a docstring; one that raises an error of mho itself says so ("Raises", "raises", "error",
"refuses" or "must"). A method that overrides a documented one of mho says the same unless it says more. Fields of
hardware files have descriptions, which the schema demands.
"""

import ast
import importlib
import inspect
import re
import textwrap
import types
from pathlib import Path

import pytest

import mho

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(f.parent.name for f in (ROOT / "core" / "mho").glob("*/__init__.py") if f.parent.name != "cli")
PLUGINS = ("mho_ideal", "mho_pcm", "mho_rram", "mho_circuit", "mho_fast", "mho_exchange")
SAYS = re.compile(r"\b[Rr]aises?\b|\b[Ee]rrors?\b|\b[Rr]efuse[sd]?\b|\bmust\b")


def offered():
    """Path -> public object, each once."""
    found = {}
    for name in mho.__all__:
        found.setdefault(id(getattr(mho, name)), (f"mho.{name}", getattr(mho, name)))
    for place in [*(f"mho.{folder}" for folder in FOLDERS), *PLUGINS]:
        module = importlib.import_module(place)
        names = {*vars(module), *getattr(module, "__all__", ())}
        for name in sorted(n for n in names if not n.startswith("_")):
            value = getattr(module, name)
            hook = name.startswith("mho_")  # explained by `mho.config.hooks`
            if isinstance(value, (type, types.FunctionType)) and value.__module__.startswith("mho") and not hook:
                found.setdefault(id(value), (f"{place}.{name}", value))
    return sorted(found.values(), key=lambda item: item[0])


def functions():
    """Path -> public function or method, those that a class writes itself."""
    for path, value in offered():
        if isinstance(value, types.FunctionType):
            yield path, value
        elif inspect.isclass(value):
            for name, member in vars(value).items():
                f = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
                ours = isinstance(f, types.FunctionType) and f.__module__.startswith("mho")
                if ours and not name.startswith("_") and not inherited(value, name):
                    yield f"{path}.{name}", f


def inherited(cls, name):
    """Whether a base class outside or inside mho explains a method of this name."""
    return any(inspect.getdoc(vars(base)[name]) for base in cls.__mro__[1:] if name in vars(base))


def raises(function):
    """Whether the body itself raises an error of mho."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    thrown = [ast.unparse(n.exc) for n in ast.walk(tree) if isinstance(n, ast.Raise) and n.exc is not None]
    return any(re.match(r"(MhoError|ConfigError|PluginError)\(", t) for t in thrown)


CLASSES = [(path, value) for path, value in offered() if inspect.isclass(value)]
FUNCTIONS = list(functions())


def test_there_is_something_to_look_at():
    assert len(CLASSES) > 50 and len(FUNCTIONS) > 100


@pytest.mark.parametrize(("path", "value"), CLASSES, ids=[p for p, _ in CLASSES])
def test_a_public_class_has_a_docstring(path, value):
    assert vars(value).get("__doc__"), f"{path} ({value.__module__})"


@pytest.mark.parametrize(("path", "function"), FUNCTIONS, ids=[p for p, _ in FUNCTIONS])
def test_a_public_function_has_a_docstring_and_names_its_errors(path, function):
    text = inspect.getdoc(function) or ""
    assert text, f"{path} ({function.__module__})"
    if raises(function):
        assert SAYS.search(text), f"{path} ({function.__module__}) raises an error of mho: say when"
