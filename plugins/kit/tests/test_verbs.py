"""`mho test` on files and families."""

import json
import textwrap
from pathlib import Path

import pytest
from click.testing import CliRunner

from mho.cli import main
from mho.config import registry

GOOD = '''
from mho import Field, Nonideality, hookimpl

class Fade(Nonideality, kind="verbs.fade"):
    """Every weight is read 10 % too small."""

    source = "an example"
    bibtex = "@misc{fade, title = {Fading}}"
    depth: float = Field(0.1, ge=0, lt=1, unit="1", description="relative loss")
    strength = "depth"

    def read(self, w, site):
        return w * (1 - self.depth)

class Fade2(Fade, kind="verbs.fade2"):
    """The same with another name, cited once."""

@hookimpl
def mho_nonidealities():
    return [Fade, Fade2]
'''


@pytest.fixture
def mho_command(tmp_path):
    """mho_command(*args) -> result, with a registry of its own."""

    def run(*args):
        with registry.using(registry.Registry()):
            return CliRunner().invoke(main, [str(a) for a in args])

    return run


@pytest.fixture
def file(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return path

    return write


def test_a_good_file_passes(mho_command, file):
    result = mho_command("test", file("good_fade.py", GOOD), "--kind", "verbs.fade")
    assert result.exit_code == 0, result.output
    assert "0 failed" in result.output and "keeps its contract" in result.output


def test_a_bad_file_fails_and_says_what_to_change(mho_command, file):
    bad = GOOD.replace("w * (1 - self.depth)", "w.mul_(1 - self.depth)").replace('unit="1", ', "")
    result = mho_command("test", file("bad_fade.py", bad), "--kind", "verbs.fade")
    assert result.exit_code == 1
    assert "leaves_its_inputs_alone" in result.output and "every_number_has_a_unit" in result.output
    assert "Traceback" not in result.output


def test_a_cause_is_said_once_with_its_place(mho_command, file):
    """However many checks it fails: an effect that leaves torch, and one that raises"""
    numpy = GOOD.replace("return w", "return w.detach()", 1)
    raises = GOOD.replace("        return w", "        raise OSError('the table is gone')\n        return w", 1)
    told = mho_command("test", file("numpy_fade.py", numpy), "--kind", "verbs.fade").output
    assert told.count("no gradient comes back: what it returns is cut off") == 1 and "3 failed" in told
    path = file("raising_fade.py", raises)
    told = mho_command("test", path, "--kind", "verbs.fade").output
    line = 1 + Path(path).read_text().splitlines().index("        raise OSError('the table is gone')")
    assert told.count(f"OSError: the table is gone ({path}:{line})") == 1


def test_a_declared_failure_is_said_and_no_failure(mho_command, file):
    declared = GOOD.replace('source = "an example"', 'expected_failed_checks = {"names_its_source": "not published yet"}', 1)
    result = mho_command("test", file("declared_fade.py", declared), "--kind", "verbs.fade")
    assert result.exit_code == 0, result.output
    assert "0 failed" in result.output and "1 failed as declared" in result.output
    assert "names_its_source\n      expected to fail: not published yet" in result.output


def test_an_effect_is_tested_with_given_values(mho_command, file):
    path = file("given_fade.py", GOOD)
    result = mho_command("test", path, "--kind", "verbs.fade", "--with", "{kind: verbs.fade, depth: 0.2}", "--json")
    assert result.exit_code == 0, result.output
    assert {c["state"] for c in json.loads(result.output)["verbs.fade"]} <= {"passed", "skipped"}
    result = mho_command("test", path, "--with", "{kind: verbs.fade, depth: 2}")
    assert result.exit_code == 1 and "verbs.fade cannot be made" in result.output


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("fefet",), "no installed plugin provides 'fefet'"),
        (("mho", "--kind", "mho.direkt"), "did you mean 'mho.direct'?"),
        (("no_such_file.py",), "no file"),
        (("mho", "--with", "3"), "expected an effect with its kind"),
    ],
)
def test_mistakes_end_with_one_sentence(mho_command, args, words):
    result = mho_command("test", *args)
    assert result.exit_code == 1 and words in result.output and "Traceback" not in result.output


def test_the_kit_tests_the_family_of_a_file(mho_command, file):
    result = mho_command("test", "verbs", "--plugin", file("family_fade.py", GOOD), "--kind", "verbs.fade")
    assert result.exit_code == 0, result.output
    assert "verbs.fade: " in result.output and "keeps its contract" in result.output


def test_a_misspelt_family_of_a_file_is_suggested(mho_command, file):
    path = file("near_fade.py", GOOD)
    for verb in ("test", "schema"):
        result = mho_command(verb, "verb", "--plugin", path)
        assert result.exit_code == 1
        assert "no installed plugin provides 'verb'; did you mean 'verbs'?" in result.output


def test_columns_of_sweeps_are_tested_with_their_example(mho_command, file):
    text = """
    from mho import MhoError, hookimpl

    def share(task, hw, text):
        "Rows that a tile gives away."
        if not text.isdigit():
            raise MhoError(f"expected a number of rows, got {text!r}")
        return {"value": int(text) / hw.tile(hw.default).rows, "unit": UNIT}

    share.example = "2"

    @hookimpl
    def mho_columns():
        return {"given.away": share}
    """
    good = mho_command("test", file("good_column.py", text.replace("UNIT", "'1'")))
    assert good.exit_code == 0 and "column given.away: 7 passed, 0 failed" in good.output, good.output
    bad = mho_command("test", file("bad_column.py", text.replace("UNIT", "1")))
    assert bad.exit_code == 1 and "says_its_unit" in bad.output and "its unit is 1" in bad.output
