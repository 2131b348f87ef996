"""Broken plugins beside working ones: everything else works, and the message names distribution, version and cause.

The broken ones are distributions as pip leaves them behind (a module and a dist-info folder on sys.path), found among
everything that is really installed.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mho.cli import main
from mho.config import registry

Plugin = Callable[..., None]
HEAD = "import torch\nfrom mho import Field, Nonideality, hookimpl\n"
HOOK = "\n@hookimpl\ndef mho_nonidealities():\n    return [Noise]\n"
NOISE = '''
class Noise(Nonideality, kind="bad.noise"):
    """Noise on the weights that are read."""
    source = "an example"
    sigma: float = Field(0.1, ge=0, unit="1", description="relative")
    def read(self, w, site):
        return w * (1 + self.sigma * site.randn_like(w))
'''
GOOD = HEAD + NOISE + HOOK

# name -> (code of the plugin of family `bad`, what the message says)
CANNOT_LOAD = {
    "fails to import": ("import not_there", "ModuleNotFoundError: No module named 'not_there'"),
    "leaves while it is imported": ("raise SystemExit(3)", "SystemExit: 3"),
    "is no Python": ("class (", "SyntaxError: invalid syntax"),
    "has kinds of another family": (GOOD.replace("bad.noise", "pcm.drift"), "must start with 'bad.'"),
    "has kinds of the core": (GOOD.replace("bad.noise", "mho.dac"), "must start with 'bad.'"),
    "has a kind of no form": (GOOD.replace("bad.noise", "Bad-Noise"), "is not of the form family.effect"),
    "has a field without a default": (GOOD.replace("Field(0.1, ", "Field("), "no default for sigma; give every field one"),
    "raises in its hook": (GOOD.replace("return [Noise]", "return [Noise][1]"), "IndexError: list index out of range"),
    "returns rubbish from its hook": (GOOD.replace("return [Noise]", "return Noise"), "must return a list of classes"),
    "misspells its hook": (GOOD.replace("mho_nonidealities", "mho_effects"), "unknown hook 'mho_effects'"),
    "is no module": (None, "ModuleNotFoundError: No module named 'fake_absent'"),
}


def mho(*args: object) -> Result:
    """`mho ARGS` with a registry of its own: everything that is installed now."""
    with registry.using(registry.Registry()):
        return CliRunner().invoke(main, [str(a) for a in args])


OTHERS = [
    ("check", "pcm.standard", "rram.wan2022"),
    ("show", "pcm.drift"),
    ("show", "rram.cmo"),
    ("cite", "pcm.standard"),
    ("schema", "pcm", "circuit"),
    ("mvm", "ideal.quantised", "--size", "8", "--matrices", "1", "--json"),
]


@functools.cache
def before(command: tuple[str, ...]) -> tuple[int, str]:
    """What a command says where nothing is broken."""
    result = mho(*command)
    return result.exit_code, result.stdout


@pytest.fixture(autouse=True)
def undisturbed() -> None:
    for command in OTHERS:
        before(command)


def assert_others_work(*skipped: str) -> None:
    """Every command about something else says what it says without the broken plugin."""
    for command in OTHERS:
        if not any(s in word for s in skipped for word in command):
            result = mho(*command)
            assert (result.exit_code, result.stdout) == before(command), result.output
    listed = mho("plugins")
    assert listed.exit_code == 0 and "mho-rram" in listed.stdout
    assert mho("--help").exit_code == mho("plugins", "--load").exit_code == 0


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "hw.yaml"
    path.write_text("mho: 1\ndefault: t\ntiles:\n  t:\n    nonidealities: [bad.noise]\n")
    yield path
    sys.modules.pop("fake_bad", None)


@pytest.mark.parametrize("case", CANNOT_LOAD)
def test_a_plugin_that_cannot_be_loaded(case: str, plugin: Plugin, file: Path) -> None:
    code, cause = CANNOT_LOAD[case]
    plugin("bad", code or "", distribution="mho-bad", version="1.2")
    if code is None:
        point = next(p for p in sys.path if (Path(p) / "fake_bad").is_dir())
        (Path(point) / "mho_bad-1.2.dist-info" / "entry_points.txt").write_text("[mho]\nbad = fake_absent\n")
    assert_others_work()
    result = mho("check", file)
    assert result.exit_code == 1 and "Traceback" not in result.output
    assert "hw.yaml:5:21  tiles.t.nonidealities[0]" in result.output
    assert "plugin 'bad' (mho-bad 1.2) cannot be used: " in result.output and cause in result.output
    for verb in ("doctor", "plugins --load"):
        told = mho(*verb.split())
        assert "bad" in told.output and "1.2" in told.output and "failed" in told.output
        assert cause in told.output
    assert mho("doctor").exit_code == 1
    assert mho("test", "bad").exit_code == 1


def test_a_plugin_that_claims_the_family_of_another(plugin: Plugin) -> None:
    plugin("pcm", GOOD, distribution="mho-thief", module="fake_thief")
    assert_others_work("pcm")
    result = mho("check", "pcm.standard")
    assert result.exit_code == 1
    assert "2 distributions claim the family 'pcm': mho-thief 1.0 and mho-pcm 0.1.0; uninstall all but one" in result.output
    assert "fake_thief" not in sys.modules


def test_a_plugin_that_claims_the_family_of_the_core(plugin: Plugin) -> None:
    plugin("mho", GOOD, distribution="impostor", module="fake_impostor", version="0.3")
    assert_others_work()
    told = mho("plugins").output
    assert "mho (impostor 0.3): family 'mho' is reserved for mho itself" in told
    assert "fake_impostor" not in sys.modules


def test_a_family_that_yaml_could_not_name(plugin: Plugin) -> None:
    plugin("Bad-Device", GOOD, distribution="mho-bad", module="fake_bad")
    assert_others_work()
    told = mho("doctor")
    assert told.exit_code == 1 and "'Bad-Device' cannot be a family: expected lower-case letters" in told.output


@pytest.mark.parametrize("requires", ["mho>=9.5", "mho<0.0.1", "mho (~=7.0)", 'mho>=9.5; python_version > "3"'])
def test_a_plugin_that_needs_another_mho(plugin: Plugin, file: Path, requires: str) -> None:
    plugin("bad", GOOD, distribution="mho-bad", version="1.2", requires=requires)
    assert_others_work()
    for told in (mho("check", file), mho("plugins"), mho("doctor")):
        assert "it needs mho" in told.output and "but mho 0.1.0 is installed" in told.output
        assert "try: pip install -U mho mho-bad" in told.output
    assert "plugin 'bad' (mho-bad 1.2) cannot be used: it needs mho" in mho("check", file).output
    assert "fake_bad" not in sys.modules


@pytest.mark.parametrize("requires", ["mho>=0.1,<1", "mho", 'mho>=9; extra == "test"', "torch", "not a requirement !"])
def test_a_plugin_that_fits_is_loaded(plugin: Plugin, file: Path, requires: str) -> None:
    plugin("bad", GOOD, distribution="mho-bad", requires=requires)
    assert mho("check", file).exit_code == 0


def test_a_broken_preset_harms_itself_alone(plugin: Plugin, file: Path) -> None:
    presets = {"torn": "mho: 1\ndefault: [", "wrong": "mho: 1\ndefault: t\ntiles:\n  t: {rows: 0}\n"}
    plugin("bad", GOOD, distribution="mho-bad", fine="mho: 1\ndefault: digital", **presets)
    assert_others_work("schema")  # it lists the names of all presets
    assert mho("check", file).exit_code == mho("check", "bad.fine").exit_code == 0
    assert "torn.yaml:2:" in mho("check", "bad.torn").output
    assert "wrong.yaml:4:13  tiles.t.rows" in mho("check", "bad.wrong").output
    doctor = mho("doctor")
    assert doctor.exit_code == 1 and "2 of " in doctor.output
    assert "wrong.yaml:4:13  tiles.t.rows: expected a whole number ≥ 1, got 0" in doctor.output


RAISES = {
    "program": ("def program(self, g, site):", "ZeroDivisionError: division by zero"),
    "age": ("def age(self, g, t, site):", "ZeroDivisionError: division by zero"),
    "read": ("def read(self, w, site):", "ZeroDivisionError: division by zero"),
    "objections": ("def objections(self, tile, times):", "ZeroDivisionError: division by zero"),
}


@pytest.mark.parametrize("stage", RAISES)
def test_an_effect_that_raises_when_it_acts(plugin: Plugin, file: Path, stage: str) -> None:
    head, cause = RAISES[stage]
    code = GOOD.replace("def read(self, w, site):", head).replace("return w * (1 + self.sigma * site.randn_like(w))", "1 / 0")
    plugin("bad", code, distribution="mho-bad", version="1.2")
    assert_others_work()
    result = mho("mvm", file, "--size", "8", "--matrices", "1", "--time", "1 s")
    assert result.exit_code == 1 and "Traceback" not in result.output, result.exception
    assert "plugin 'bad' (mho-bad 1.2) failed in " in result.output and cause in result.output
    assert f"{stage} (" in result.output and "fake_bad" in result.output
    assert "mho --traceback mvm ..." in result.output
    assert isinstance(mho("--traceback", "mvm", file, "--size", "8").exception, ZeroDivisionError)


def test_an_effect_whose_check_raises_is_a_located_error(plugin: Plugin, file: Path) -> None:
    check = "from pydantic import model_validator\n"
    method = "\n    @model_validator(mode='after')\n    def _check(self):\n        raise KeyError('x')\n"
    plugin("bad", check + GOOD.replace(HOOK, method + HOOK), distribution="mho-bad")
    assert_others_work()
    told = mho("check", file).output
    assert "hw.yaml:5:21" in told and "the check of 'bad.noise' itself failed (KeyError: 'x')" in told


# --- verbs ---


@pytest.fixture
def verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs a distribution with one verb."""
    site = tmp_path / "verbs"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def install(name: str, distribution: str, code: str) -> None:
        info = site / f"{distribution}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[mho.commands]\n{name} = fake_{distribution}:command\n")
        (site / f"fake_{distribution}.py").write_text(code)

    return install


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("import not_there", "No module named 'not_there'"),
        ("raise SystemExit", "SystemExit"),
        ("command = 3", "3 is no click command"),
        ("", "no attribute 'command'"),
    ],
)
def test_a_verb_that_cannot_be_used(verb: Callable[..., None], code: str, cause: str) -> None:
    verb("greet", "greeter", code)
    assert_others_work()
    told = mho("greet")
    assert told.exit_code == 1 and "verb 'greet' of greeter 1.2 cannot be used" in told.output and cause in told.output
    doctor = mho("doctor")
    assert doctor.exit_code == 1 and cause in doctor.output
    sys.modules.pop("fake_greeter", None)


def test_verbs_that_are_claimed_twice_or_belong_to_the_core(verb: Callable[..., None]) -> None:
    hello = "import click\n@click.command()\ndef command():\n    click.echo('hello')\n"
    verb("greet", "first", hello)
    verb("check", "thief", hello)
    assert mho("greet").output == "hello\n"
    assert "a verb of mho itself" in mho("doctor").output
    verb("greet", "second", hello)
    assert_others_work()
    told = mho("greet")
    assert told.exit_code == 1
    assert all(f"{name} 1.2" in told.output for name in ("first", "second"))


# --- MHO_PLUGINS ---


def test_only_allowed_families_are_used(plugin: Plugin, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin("bad", "import not_there", distribution="mho-bad", version="1.2", chip="mho: 3")
    monkeypatch.setenv("MHO_PLUGINS", "rram, circuit")
    assert mho("check", "rram.wan2022").exit_code == 0
    for command in (("check", file), ("show", "bad.noise"), ("check", "bad.chip")):
        told = mho(*command)
        assert told.exit_code == 1
        assert "family 'bad' is switched off: MHO_PLUGINS allows rram, circuit" in told.output
    assert "family 'pcm' is switched off" in mho("check", "pcm.standard").output
    states = {p["family"]: p["state"] for p in json.loads(mho("plugins", "--load", "--json").stdout)}
    assert {"bad", "ideal", "lab", "pcm", "qat"} <= states.keys()
    assert states == {family: "ok" if family in ("mho", "rram", "circuit") else "off" for family in states}
    doctor = mho("doctor")
    assert doctor.exit_code == 0, doctor.output
    assert "plugin bad" in doctor.output and "off" in doctor.output and "bad.chip" not in doctor.output
    assert "fake_bad" not in sys.modules


def test_an_empty_list_leaves_the_core_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MHO_PLUGINS", "")
    with registry.using(registry.Registry()) as found:
        assert found.presets() == ()
        assert found.resolve("mho.dac").KIND == "mho.dac"


def test_a_family_that_is_allowed_but_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MHO_PLUGINS", "pcmm,circuit")
    assert "MHO_PLUGINS names 'pcmm'; did you mean 'pcm'?" in mho("plugins").output
    doctor = mho("doctor")
    assert doctor.exit_code == 1 and "did you mean 'pcm'?" in doctor.output
