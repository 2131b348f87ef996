"""Finding, loading and refusing plugins."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mho.config import hooks, registry
from mho.config.hooks import Door
from mho.config.registry import Registry
from mho.config.schema import Kinded
from mho.ground.errors import PluginError

HEAD = """
from typing import ClassVar
from mho.config.hooks import hookimpl
from mho.config.schema import Field, Kinded

class Effect(Kinded):
    CATEGORY: ClassVar[str] = "nonideality"
"""

Plugin = Callable[..., None]


class Base(Kinded):
    CATEGORY: ClassVar[str] = "nonideality"


@pytest.fixture
def found(plugins: Registry) -> Registry:
    return plugins


def refusal(function: Callable[..., Any], *args: Any) -> str:
    with pytest.raises(PluginError) as error:
        function(*args)
    return str(error.value)


def test_a_kind_is_found_in_its_plugin(found: Registry) -> None:
    assert found.resolve("pcm.drift", "nonideality").KIND == "pcm.drift"


def test_providers_are_listed_without_importing_them(found: Registry) -> None:
    states = [(p.family, str(p), p.state, p.presets) for p in found.providers()]
    assert states == [("mho", "mho 1.0", "not loaded", ()), ("pcm", "fake-pcm 1.0", "not loaded", ("pcm.standard",))]
    assert "fake_pcm" not in sys.modules


def test_only_the_family_that_is_named_is_imported(found: Registry) -> None:
    found.resolve("mho.dac")
    assert "fake_pcm" not in sys.modules
    assert "fake_core" in sys.modules


def test_presets_are_found_without_importing_the_plugin(found: Registry) -> None:
    assert found.presets() == ("pcm.standard",)
    assert found.preset_path("pcm.standard").name == "standard.yaml"
    assert "fake_pcm" not in sys.modules


def test_an_unknown_family_says_what_to_install(plugin: Plugin, tmp_path: Path) -> None:
    for family in ("rram", "circuit", "pcm", "ideal"):
        plugin(family, "")
    plugin("mho", "", distribution="mho", module="fake_core")
    assert refusal(Registry([str(tmp_path / "site")]).resolve, "fefet.noise") == (
        "no installed plugin provides 'fefet'; try: pip install mho-fefet; installed: circuit, ideal, pcm, rram"
    )


def test_a_misspelt_family_is_suggested(found: Registry) -> None:
    assert refusal(found.resolve, "pmc.drift").startswith("no installed plugin provides 'pmc'; did you mean 'pcm'?")


def test_a_misspelt_kind_is_suggested_and_the_kinds_listed(found: Registry) -> None:
    assert refusal(found.resolve, "pcm.drit") == (
        "unknown kind 'pcm.drit'; did you mean 'pcm.drift'? (pcm provides: pcm.drift, pcm.read_noise)"
    )


def test_a_kind_of_another_category_is_named_as_what_it_is(found: Registry) -> None:
    assert refusal(found.resolve, "pcm.drift", "mapping") == "'pcm.drift' is a nonideality, not a mapping"


def test_what_is_no_kind_is_refused(found: Registry) -> None:
    assert refusal(found.resolve, "off").startswith("'off' is not a kind; expected family.name")


def test_an_unknown_preset_is_suggested(found: Registry) -> None:
    assert refusal(found.preset_path, "pcm.standrd") == "no preset 'pcm.standrd'; did you mean 'pcm.standard'?"


BROKEN = {
    "ModuleNotFoundError: No module named 'not_there'": "import not_there",
    "SystemExit: 3": "import sys; sys.exit(3)",
    "ValueError: from the hook": HEAD + "@hookimpl\ndef mho_nonidealities():\n    raise ValueError('from the hook')",
    "mho_nonidealities must return a list of classes, not 3": HEAD + "@hookimpl\ndef mho_nonidealities():\n    return 3",
    "mho_nonidealities must return a list of classes, not 'ab'": HEAD + "@hookimpl\ndef mho_nonidealities():\n    return 'ab'",
    "mho_nonidealities must return classes, not 1": HEAD + "@hookimpl\ndef mho_nonidealities():\n    return [1]",
    "fake_bad.Effect has no kind": HEAD + "@hookimpl\ndef mho_nonidealities():\n    return [Effect]",
    "unknown hook 'mho_nonidealitys'": HEAD + "@hookimpl\ndef mho_nonidealitys():\n    return []",
    "mho_nonidealities is not marked; write @hookimpl above it": HEAD + "def mho_nonidealities():\n    return []",
    "kind 'bad.a' is given twice: fake_bad.A and fake_bad.B": HEAD
    + "class A(Effect, kind='bad.a'): ...\nclass B(Effect, kind='bad.a'): ...\n"
    + "@hookimpl\ndef mho_nonidealities():\n    return [A, B]",
    "fake_bad.A has kind 'pcm.drift'; kinds of this plugin must start with 'bad.'": HEAD
    + "class A(Effect, kind='pcm.drift'): ...\n@hookimpl\ndef mho_nonidealities():\n    return [A]",
    "'bad.a' is a nonideality, not a mapping": HEAD
    + "class A(Effect, kind='bad.a'): ...\n@hookimpl\ndef mho_mappings():\n    return [A]",
    "'bad.taken' is both a kind and a preset (taken.yaml); rename one of them": HEAD
    + "class A(Effect, kind='bad.taken'): ...\n@hookimpl\ndef mho_nonidealities():\n    return [A]",
    "TypeError: A: kind 'bad' is not of the form": HEAD + "class A(Effect, kind='bad'): ...",
    "fake_bad.A has no default for depth, width; give every field one": HEAD
    + "class A(Effect, kind='bad.a'):\n    depth: float\n    width: float = Field(ge=0)\n"
    + "@hookimpl\ndef mho_nonidealities():\n    return [A]",
    "'bad.a' is a nonideality, not a training method": HEAD
    + "class A(Effect, kind='bad.a'): ...\n@hookimpl\ndef mho_training():\n    return [A]",
    "Argument(s) {'x'} are declared in the hookimpl": HEAD + "@hookimpl\ndef mho_nonidealities(x):\n    return []",
}


@pytest.mark.parametrize("cause", BROKEN)
def test_a_broken_plugin_is_named_with_its_cause_and_harms_no_other(cause: str, plugin: Plugin, found: Registry) -> None:
    plugin("bad", BROKEN[cause], distribution="mho-bad", taken="mho: 1")
    text = refusal(found.resolve, "bad.a")
    assert text.startswith("plugin 'bad' (mho-bad 1.0) cannot be used: ")
    assert cause in text
    assert not [k for k in found.kinds() if k.startswith("bad.")]
    assert found.resolve("pcm.drift").KIND == "pcm.drift"


def test_a_broken_plugin_fails_in_the_same_words_the_second_time(plugin: Plugin, found: Registry) -> None:
    plugin("bad", "import not_there")
    assert refusal(found.resolve, "bad.a") == refusal(found.resolve, "bad.a")


def test_load_all_says_which_plugin_failed_and_why(plugin: Plugin, found: Registry) -> None:
    plugin("bad", "import not_there")
    states = {p.family: (p.state, p.reason) for p in found.load_all()}
    assert states["bad"] == ("failed", "ModuleNotFoundError: No module named 'not_there'")
    assert states["pcm"] == ("ok", "")


def test_two_distributions_with_one_family_are_both_refused_and_named(plugin: Plugin, found: Registry) -> None:
    plugin("twin", HEAD, distribution="mho-one", module="fake_one", nice="mho: 1")
    plugin("twin", HEAD, distribution="mho-two", module="fake_two")
    text = refusal(found.resolve, "twin.a")
    assert text.startswith("2 distributions claim the family 'twin': ")
    assert "mho-one 1.0" in text
    assert "mho-two 1.0" in text
    assert [p.state for p in found.providers() if p.family == "twin"] == ["conflict", "conflict"]
    assert "twin.nice" not in found.presets()


def test_nobody_else_may_claim_the_family_of_the_core(plugin: Plugin, found: Registry) -> None:
    plugin("mho", "import not_there", distribution="impostor", module="fake_impostor")
    states = {p.distribution: p.state for p in found.providers() if p.family == "mho"}
    assert states == {"mho": "not loaded", "impostor": "conflict"}
    assert found.resolve("mho.dac").KIND == "mho.dac"


def test_a_class_can_be_registered_by_hand(found: Registry) -> None:
    @found.register
    class Mine(Base, kind="mine.noise"):
        pass

    assert found.resolve("mine.noise", "nonideality") is Mine


def test_registering_a_class_of_the_same_name_again_replaces_it(found: Registry) -> None:
    def make() -> type[Kinded]:
        class Mine(Base, kind="mine.noise"):
            pass

        return found.register(Mine)

    make()
    again = make()
    assert found.resolve("mine.noise") is again


def test_another_class_of_a_registered_kind_is_refused(found: Registry) -> None:
    class Mine(Base, kind="mine.noise"):
        pass

    class Other(Base, kind="mine.noise"):
        pass

    found.register(Mine)
    assert "kind 'mine.noise' is already registered by" in refusal(found.register, Other)


def test_the_family_of_an_installed_plugin_cannot_be_registered_by_hand(found: Registry) -> None:
    class Mine(Base, kind="pcm.noise"):
        pass

    assert "family 'pcm' belongs to fake-pcm 1.0; choose another family" in refusal(found.register, Mine)


def test_a_class_without_a_kind_cannot_be_registered(found: Registry) -> None:
    assert "has no kind; write: class Base(Base, kind=" in refusal(found.register, Base)


MINE = HEAD + "class Mine(Effect, kind='mine.noise'): ...\n@hookimpl\ndef mho_nonidealities():\n    return [Mine]\n"


def test_a_file_can_be_loaded_and_loaded_again(found: Registry, tmp_path: Path) -> None:
    file = tmp_path / "my_effects.py"
    file.write_text(MINE)
    assert list(found.load_file(file).kinds) == ["mine.noise"]
    first = found.resolve("mine.noise")
    found.load_file(file)
    assert found.resolve("mine.noise") is not first


@pytest.mark.parametrize(
    ("code", "line", "cause"),
    [
        ("x = 1\nx / 0\n", 2, "ZeroDivisionError: division by zero"),
        ("x = (\n", 1, "SyntaxError: '\\(' was never closed"),
        ("import not_there", 1, "ModuleNotFoundError: No module named 'not_there'"),
    ],
)
def test_a_broken_file_is_named_with_its_line(code: str, line: int, cause: str, found: Registry, tmp_path: Path) -> None:
    file = tmp_path / "my_effects.py"
    file.write_text(code)
    assert re.match(rf"{re.escape(str(file))}:{line}: {cause}", refusal(found.load_file, file))
    assert not any(name.startswith("mho_file_my_effects") for name in sys.modules)


def test_a_file_without_hooks_is_refused(found: Registry, tmp_path: Path) -> None:
    file = tmp_path / "empty.py"
    file.write_text("x = 1\n")
    assert "provides nothing; expected a function such as mho_nonidealities" in refusal(found.load_file, file)


def test_a_missing_file_is_named(found: Registry) -> None:
    assert refusal(found.load_file, "nope.py") == "no file 'nope.py'; expected a Python file with mho hooks"


def test_layers_of_plugins_come_before_those_of_the_core(plugin: Plugin, tmp_path: Path) -> None:
    code = (
        "from mho.config.hooks import hookimpl\nclass {0}:\n    torch_type = int\n@hookimpl\ndef mho_layers():\n    return [{0}]"
    )
    plugin("mho", code.format("Core"), distribution="mho", module="fake_core")
    plugin("lay", code.format("Mine"))
    with registry.using(Registry([str(tmp_path / "site")])) as found:
        found.load("mho")
        found.load("lay")
        assert [cls.__name__ for cls in registry.provided("layer")] == ["Mine", "Core"]


DOORS = (
    Door("mho_layers", ("layer",), needs="torch_type", what="subclasses of mho.AnalogLayer"),
    Door("mho_tasks", ("task",), names="family.name"),
)

LATE = (
    HEAD
    + """
from mho.config.hooks import hookspec
asked = []

@hookimpl
def mho_layers():
    asked.append("layers")
    return [type("Wide", (), {"torch_type": int})]

@hookimpl
def mho_tasks():
    asked.append("tasks")
    return {"late.morse": "fake_late:asked", "late.sums": list}
"""
)


@pytest.fixture
def with_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook of names, as if it were one of ours."""
    monkeypatch.setattr(hooks, "mho_tasks", hooks.hookspec(lambda: {}), raising=False)
    monkeypatch.setattr(hooks, "DOORS", DOORS)


@pytest.mark.usefixtures("with_tasks")
def test_what_has_no_kind_is_asked_for_by_category_and_only_once(plugin: Plugin, found: Registry) -> None:
    plugin("late", LATE)
    assert found.named("task") == {}  # nobody has loaded it
    late = found.load("late")
    asked = sys.modules["fake_late"].asked
    assert asked == []
    assert found.named("task") == found.named("task") == {"late.morse": "fake_late:asked", "late.sums": list}
    assert asked == ["tasks"]
    assert registry.thing("fake_late:asked") is asked and registry.thing(list) is list
    assert late.classes == ("task late.morse", "task late.sums", "layer Wide")
    assert [cls.__name__ for cls in found.provided("layer")] == ["Wide"]


@pytest.mark.usefixtures("with_tasks")
def test_names_of_all_installed_plugins_leave_broken_ones_out(plugin: Plugin, found: Registry) -> None:
    plugin("bad", HEAD + "@hookimpl\ndef mho_tasks():\n    return {}['x']")
    plugin("late", LATE)
    assert list(found.named("task", everywhere=True)) == ["late.morse", "late.sums"]
    assert next(p.reason for p in found.providers() if p.family == "bad") == "KeyError: 'x'"


LATE_MISTAKES = {
    "mho_layers must return subclasses of mho.AnalogLayer; fake_bad.Effect has no 'torch_type'": ("layers", "[Effect]"),
    "mho_layers must return classes, not 3": ("layers", "[3]"),
    'mho_tasks must return a dict, name -> "module:attribute", not [3]': ("tasks", "[3]"),
    "mho_tasks must return name -> \"module:attribute\" or the thing itself, not 'bad.x': 'nowhere'": (
        "tasks",
        "{'bad.x': 'nowhere'}",
    ),
    "task 'good.x': names of this plugin must start with 'bad.'": ("tasks", "{'good.x': list}"),
    "ZeroDivisionError: division by zero": ("tasks", "1 / 0"),
}


@pytest.mark.usefixtures("with_tasks")
@pytest.mark.parametrize("cause", LATE_MISTAKES)
def test_a_hook_that_fails_when_it_is_asked_late_is_named_too(cause: str, plugin: Plugin, found: Registry) -> None:
    hook, value = LATE_MISTAKES[cause]
    plugin("bad", HEAD + f"@hookimpl\ndef mho_{hook}():\n    return {value}", distribution="mho-bad")
    found.load("bad")
    assert refusal(found.named, hook[:-1]) == f"plugin 'bad' (mho-bad 1.0) cannot be used: {cause}"
    assert {p.family: p.reason for p in found.load_all()}["bad"] == cause


def test_another_registry_can_be_used_for_a_while(found: Registry) -> None:
    with registry.using(Registry([])) as empty:
        assert registry.default() is empty
        assert registry.presets() == ()
    assert registry.default() is found


def test_a_broken_file_is_named_with_its_line_when_given_by_a_relative_path(tmp_path, monkeypatch) -> None:
    (tmp_path / "broken.py").write_text("x = 1\nraise RuntimeError('boom')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PluginError, match=r"^broken\.py:2: .*boom"):
        Registry([]).load_file("broken.py")
