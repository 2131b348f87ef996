"""`mho test`, `mho cite` and the plan that `mho show` prints."""

import hashlib
import json
import textwrap

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
        (("pcm", "--kind", "pcm.drft"), "did you mean 'pcm.drift'?"),
        (("no_such_file.py",), "no file"),
        (("pcm", "--with", "3"), "expected an effect with its kind"),
    ],
)
def test_mistakes_end_with_one_sentence(mho_command, args, words):
    result = mho_command("test", *args)
    assert result.exit_code == 1 and words in result.output and "Traceback" not in result.output


def test_cite_names_exactly_what_is_used_and_each_once(mho_command, file):
    effects = "[verbs.fade, verbs.fade2, {kind: pcm.drift, scale: 0}]"
    path = file("hw.yaml", f"mho: 1\ndefault: t\ntiles:\n  t:\n    nonidealities: {effects}\n")
    result = mho_command("--plugin", file("cited_fade.py", GOOD), "cite", path)
    assert result.exit_code == 0, result.output
    assert result.output.count("@misc{fade") == 1 and "% verbs.fade, verbs.fade2" in result.output
    assert "rasch" not in result.output


def test_show_prints_the_plan_in_stage_order(mho_command):
    lines = mho_command(
        "show", "pcm.standard", "--set", "tiles.pcm.nonidealities[pcm.drift].scale=0"
    ).output.splitlines()
    table = lines[lines.index("plan of tiles.pcm") + 3 :]
    plan = [line.split()[:2] for line in table[: (*table, "").index("")]]
    wanted = ["map", "program", "age", "compensate", "dac", "mvm", "accumulate", "accumulate", "output", "adc", "off"]
    assert [p[0] for p in plan] == wanted
    assert ["off", "pcm.drift"] in plan and ["program", "pcm.programming_noise"] in plan


# --- effects of a file ---


def test_effects_of_a_file_are_found_by_every_verb(mho_command, file):
    path = file("local_fade.py", GOOD)
    hardware = file("hw.yaml", "mho: 1\ndefault: t\ntiles:\n  t:\n    nonidealities: [verbs.fade]\n")
    for command in (
        ("check", hardware),
        ("show", "verbs.fade"),
        ("cite", hardware),
        ("schema", "verbs"),
        ("mvm", hardware, "--size", 8, "--matrices", 1),
        ("plugins",),
    ):
        for args in ((*command, "--plugin", path), ("--plugin", path, *command)):
            result = mho_command(*args)
            assert result.exit_code == 0, result.output
            assert command[0] in ("cite", "check") or "fade" in result.output
    listed = json.loads(mho_command("plugins", "--json", "--plugin", path).output)
    (mine,) = [p for p in listed if p["family"] == "verbs"]
    assert (mine["distribution"], mine["state"]) == ("local_fade.py", "ok")
    assert mine["kinds"] == ["verbs.fade", "verbs.fade2"]
    assert mine["version"] == hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    assert "verbs.fade" in mho_command("schema", "verbs", "--plugin", path).output


def test_the_kit_tests_the_family_of_a_file(mho_command, file):
    result = mho_command("test", "verbs", "--plugin", file("family_fade.py", GOOD), "--kind", "verbs.fade")
    assert result.exit_code == 0, result.output
    assert "verbs.fade: " in result.output and "keeps its contract" in result.output


def test_two_files_keep_what_each_provides(mho_command, file):
    head = "from mho import TrainingMethod, hookimpl"
    hook = "\nclass {0}(TrainingMethod, kind='{0}.fade'): ...\n@hookimpl\ndef mho_training():\n    return [{0}]\n"
    first, second = (file(f"{n}_hook.py", head + hook.format(n)) for n in ("first", "second"))
    result = mho_command("plugins", "--plugin", first, "--plugin", second)
    assert [result.output.count(f"{n}_hook.py") for n in ("first", "second")] == [1, 1]
    with registry.using(registry.Registry()):
        for path in (first, second):
            registry.load_file(path)
        assert list(registry.kinds("training")) == ["first.fade", "second.fade"]


def test_a_misspelt_family_of_a_file_is_suggested(mho_command, file):
    path = file("near_fade.py", GOOD)
    for verb in ("test", "schema"):
        result = mho_command(verb, "verb", "--plugin", path)
        assert result.exit_code == 1
        assert "no installed plugin provides 'verb'; did you mean 'verbs'?" in result.output


def test_the_hardware_of_a_result_names_every_plugin_with_its_version(mho_command, file):
    from mho_lab.measure.identity import versions

    path = file("versioned_fade.py", GOOD)
    with registry.using(registry.Registry()):
        registry.load_file(path)
        found = versions()
    assert found["versioned_fade.py"] == hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    assert {"mho", "mho-pcm", "mho-circuit", "torch", "python"} <= found.keys()
