"""The verbs that look things up: check, show, init, schema, plugins, doctor."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mho.cli import VERBS, main
from mho.config.hardware import load
from mho.ground.tables import table

GOOD = "mho: 1\ndefault: t\ntiles:\n  t: {rows: 64, nonidealities: [pcm.drift]}\n"
BAD = "mho: 1\ndefault: t\ntiles:\n  t: {rows: 0, colums: 3}\n"

pytestmark = pytest.mark.usefixtures("plugins")


@pytest.fixture(autouse=True)
def without_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The core of these tests has none to put on a tile."""
    monkeypatch.setattr("mho.cli.config._build", lambda hardware, file: None)


def mho(*args: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


@pytest.fixture
def good(tmp_path: Path) -> Path:
    file = tmp_path / "good.yaml"
    file.write_text(GOOD)
    return file


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    file = tmp_path / "bad.yaml"
    file.write_text(BAD)
    return file


def test_check_says_ok_in_one_line(good: Path) -> None:
    result = mho("check", good)
    assert (result.exit_code, result.output) == (0, f"{good}: ok, tiles: t 64x512; effects: pcm.drift\n")


def test_check_prints_all_errors_of_all_files_and_exits_with_one(good: Path, bad: Path) -> None:
    result = mho("check", bad, good)
    assert result.exit_code == 1
    assert f"{bad}:4:13  tiles.t.rows\n    expected a whole number ≥ 1, got 0" in result.stderr
    assert f"{bad}:4:16  tiles.t.colums\n    unknown key 'colums'; did you mean 'columns'?" in result.stderr
    assert "Traceback" not in result.output
    assert f"{good}: ok" in result.stdout


def test_check_takes_changes(good: Path) -> None:
    assert mho("check", good, "--set", "tiles.t.rows=0").exit_code == 1
    assert "t 8x512" in mho("check", good, "--set", "tiles.t.rows=8").output


def test_check_names_tiles_that_nothing_uses(tmp_path: Path) -> None:
    """A misspelt tile of an inherited file would otherwise change nothing in silence."""
    file = tmp_path / "hw.yaml"
    file.write_text("mho: 1\nlike: pcm.standard\ntiles:\n  pmc: {adc: {bits: 6}}\n")
    assert mho("check", file).output.rstrip().endswith("; no layer goes to: pmc")


def test_check_without_a_file_is_misuse() -> None:
    assert mho("check").exit_code == 2


def test_show_explains_every_field_of_a_kind() -> None:
    text = mho("show", "pcm.drift").output
    assert "pcm.drift  (nonideality)" in text
    assert "Conductances decay with time." in text
    assert "source: R003 Eq. 8" in text
    line = next(line for line in text.splitlines() if line.startswith("  t0"))
    assert line.split()[:5] == ["t0", "20", "s", "s", "number,"]
    assert "mean drift exponent" in text


def test_show_explains_a_preset_with_its_values() -> None:
    text = mho("show", "pcm.standard").output
    assert "tiles.pcm.nonidealities[1]: pcm.read_noise" in text
    assert "0.02*" in text
    assert "1 s, 1 h, 1 day, 1 year" in text


def test_show_gives_the_resolved_file_as_json(good: Path) -> None:
    assert json.loads(mho("show", good, "--json").output)["tiles"]["t"]["rows"] == 64


def test_show_gives_a_kind_as_json() -> None:
    fields = {f["name"]: f for f in json.loads(mho("show", "pcm.drift", "--json").output)["fields"]}
    assert fields["t0"]["unit"] == "s"


def test_show_suggests_kinds_and_presets() -> None:
    result = mho("show", "pcm.standrd")
    assert (result.exit_code, result.stderr) == (1, "no kind, preset or file 'pcm.standrd'; did you mean 'pcm.standard'?\n")


def test_init_copies_a_preset_and_says_what_to_do_next(tmp_path: Path) -> None:
    target = tmp_path / "mine.yaml"
    result = mho("init", "pcm.standard", target)
    assert result.output == f"wrote {target}; next: mho mvm {target}\n"
    assert target.read_text().startswith("# The usual PCM.\n")
    assert load(target) == load("pcm.standard")


def test_init_does_not_overwrite_without_being_told(good: Path) -> None:
    result = mho("init", "pcm.standard", good)
    assert result.exit_code == 1
    assert result.stderr == f"{good} exists already; choose another file, or overwrite it with --force\n"
    assert good.read_text() == GOOD
    assert mho("init", "pcm.standard", good, "--force").exit_code == 0
    assert good.read_text() != GOOD


def test_init_of_an_unknown_preset_suggests_one(tmp_path: Path) -> None:
    result = mho("init", "pcm.standrd", tmp_path / "x.yaml")
    assert (result.exit_code, result.stderr) == (1, "no preset 'pcm.standrd'; did you mean 'pcm.standard'?\n")
    assert not (tmp_path / "x.yaml").exists()


def test_schema_prints_json_with_the_kinds_of_plugins() -> None:
    assert "pcm.drift" in str(json.loads(mho("schema").output))


def test_plugins_lists_distributions_without_importing_them(plugin: Callable[..., None]) -> None:
    plugin("bad", "import not_there")
    lines = mho("plugins").output.splitlines()
    assert [line.split() for line in lines if line.startswith(("bad", "pcm"))] == [
        ["bad", "fake-bad", "1.0", "not", "loaded"],
        ["pcm", "fake-pcm", "1.0", "not", "loaded", "standard"],
    ]
    assert "fake_pcm" not in sys.modules


def test_plugins_load_says_what_failed_and_why(plugin: Callable[..., None]) -> None:
    plugin("bad", "import not_there")
    result = mho("plugins", "--load")
    assert result.exit_code == 0
    assert "bad (fake-bad 1.0): ModuleNotFoundError: No module named 'not_there'" in result.output
    assert "drift, read_noise" in result.output


def test_plugins_can_be_listed_as_json() -> None:
    listed = {p["family"]: p for p in json.loads(mho("plugins", "--json").output)}
    assert listed["pcm"]["state"] == "not loaded"


def test_doctor_is_content_with_what_works() -> None:
    result = mho("doctor")
    assert (result.exit_code, result.output.splitlines()[-1]) == (0, "all is in order")


def test_doctor_fails_when_a_plugin_or_preset_is_broken(plugin: Callable[..., None]) -> None:
    plugin("bad", "import not_there", chip="mho: 3\ndefault: digital")
    result = mho("doctor")
    assert result.exit_code == 1
    assert "No module named 'not_there'" in result.stdout
    assert "chip.yaml:1:6  mho: expected 1, got 3" in result.stdout
    assert "2 of " in result.stderr


def test_a_plugin_file_is_loaded_first(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("x = 1 / 0\n")
    result = mho("--plugin", file, "plugins")
    assert (result.exit_code, result.stderr) == (1, f"{file}:1: ZeroDivisionError: division by zero\n")


def test_an_unknown_verb_is_misuse_and_suggested() -> None:
    result = mho("chek")
    assert result.exit_code == 2
    assert "no verb 'chek'; did you mean 'check'?" in result.stderr


def test_help_lists_every_verb() -> None:
    text = mho("--help").output
    assert all(f"\n  {verb} " in text for verb in VERBS)


@pytest.fixture
def verb(tmp_path: Path) -> Callable[[str], None]:
    """Installs a distribution with a verb `greet` whose body is given."""

    def install(body: str) -> None:
        info = tmp_path / "site" / "greet-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mho-greet\nVersion: 1.0\nSummary: Says hello\n")
        (info / "entry_points.txt").write_text("[mho.commands]\ngreet = fake_greet:greet\n")
        (tmp_path / "site" / "fake_greet.py").write_text(f"import click\n@click.command()\ndef greet():\n    {body}\n")

    return install


def test_a_plugin_can_add_a_verb_which_is_imported_on_use(verb: Callable[[str], None]) -> None:
    verb("click.echo('hello')")
    assert re.search(r"greet +Says hello \(mho-greet 1\.0\)", mho("--help").output)
    assert "fake_greet" not in sys.modules
    assert mho("greet").output == "hello\n"


def test_a_distribution_may_say_nothing_of_itself(
    verb: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where somebody has imported importlib_metadata, asking for what is not there raises."""
    verb("click.echo('hello')")
    (tmp_path / "site" / "greet-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: mho-greet\nVersion: 1.0\n")

    def strictly(message: Message, name: str) -> Any:
        if name not in message:
            raise KeyError(name)
        return message.get(name)

    monkeypatch.setattr("importlib.metadata._adapters.Message.__getitem__", strictly)
    assert re.search(r"greet +From mho-greet 1\.0", mho("--help").output)


def test_an_interrupt_ends_with_a_word_and_130(verb: Callable[[str], None]) -> None:
    verb("raise KeyboardInterrupt")
    result = mho("greet")
    assert (result.exit_code, result.stderr) == (130, "stopped\n")


def test_a_verb_that_cannot_be_imported_is_named(verb: Callable[[str], None]) -> None:
    verb("(")
    assert "verb 'greet' of mho-greet 1.0 cannot be used: SyntaxError" in mho("greet").stderr


def test_a_long_column_is_broken_where_the_terminal_is_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    text = table(("field", "meaning", "source"), [("nu", "word " * 20, "R003")], wrap=1)
    assert all(len(line) <= 40 for line in text.splitlines())
    assert text.count("word") == 20


def test_tables_align_and_leave_out_empty_columns() -> None:
    assert table(("a", "n", "why"), [("xyz", 1, ""), ("µ", 20, "")], right=[1]) == ("a     n\n───────\nxyz   1\nµ    20")


LOOKING_UP = [["--help"], ["plugins"], ["init", "pcm.standard", "out.yaml"]]


@pytest.mark.parametrize("args", LOOKING_UP)
def test_looking_things_up_imports_no_torch(args: list[str], tmp_path: Path) -> None:
    """Nor numpy. `import torch` of a module that is needed has no effect before something of it is used."""
    code = (
        f"import sys; from mho.cli import main; main({args!r}, standalone_mode=False)\n"
        "sys.exit('torch._C' in sys.modules or 'numpy' in sys.modules)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), *filter(None, sys.path)])}
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
