"""Effects of `--plugin` files in every verb; `mho cite`, and the plan that `mho show` prints."""

import hashlib
import json
import subprocess
import sys
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


def test_cite_names_exactly_what_is_used_and_each_once(mho_command, file):
    effects = "[verbs.fade, verbs.fade2, {kind: pcm.drift, scale: 0}]"
    path = file("hw.yaml", f"mho: 1\ndefault: t\ntiles:\n  t:\n    nonidealities: {effects}\n")
    result = mho_command("--plugin", file("cited_fade.py", GOOD), "cite", path)
    assert result.exit_code == 0, result.output
    assert result.output.count("@misc{fade") == 1 and "% verbs.fade, verbs.fade2" in result.output
    assert "rasch" not in result.output


def test_show_prints_the_plan_in_stage_order(mho_command):
    lines = mho_command("show", "pcm.standard", "--set", "tiles.pcm.nonidealities[pcm.drift].scale=0").output.splitlines()
    table = lines[lines.index("plan of tiles.pcm") + 3 :]
    plan = [line.split()[:2] for line in table[: (*table, "").index("")]]
    wanted = ["map", "program", "age", "compensate", "dac", "mvm", "accumulate", "accumulate", "output", "adc", "off"]
    assert [p[0] for p in plan] == wanted
    assert ["off", "pcm.drift"] in plan and ["program", "pcm.programming_noise"] in plan


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


def test_two_files_keep_what_each_provides(mho_command, file):
    layer = (
        "from mho import AnalogLinear, hookimpl\n@hookimpl\ndef mho_layers():\n    return [{0}]\n"
        "class {0}(AnalogLinear):\n    'A linear layer under another name.'\n"
    )
    first, second = (file(f"{n.lower()}_layer.py", layer.format(n)) for n in ("First", "Second"))
    result = mho_command("plugins", "--plugin", first, "--plugin", second)
    assert "layer First" in result.output and "layer Second" in result.output
    with registry.using(registry.Registry()):
        for path in (first, second):
            registry.load_file(path)
        assert [cls.__name__ for cls in registry.provided("layer")][:2] == ["First", "Second"]


CLASH = "mho: 1\ndefault: t\ntiles:\n  t: {nonidealities: [circuit.two_phase, circuit.two_phase]}\n"
CURVE = "mho: 1\ndefault: digital\ntiles:\n  odd: {adc: none, nonidealities: [circuit.adc_s_curve]}\n"


@pytest.mark.parametrize(("text", "says"), [
    (CLASH, "tiles.t\n    circuit.two_phase and circuit.two_phase both say"),
    (CURVE, "tiles.odd\n    circuit.adc_s_curve bends relative to the output bound"),
])  # fmt: skip
def test_check_finds_what_run_would_refuse(mho_command, file, text, says):
    """Also on a tile that no layer goes to."""
    result = mho_command("check", file("hw.yaml", text))
    assert result.exit_code == 1 and f"hw.yaml  {says}" in result.stderr


def test_a_plugin_file_may_import_what_lies_beside_it(mho_command, file):
    file("beside_depth.py", "DEPTH = 0.25\n")
    code = GOOD.replace("from mho", "from beside_depth import DEPTH\nfrom mho", 1).replace("Field(0.1", "Field(DEPTH")
    result = mho_command("--plugin", file("fade.py", code), "show", "verbs.fade")
    assert result.exit_code == 0 and "0.25" in result.stdout, result.output


def test_python_minus_m_mho_is_mho():
    ran = subprocess.run([sys.executable, "-m", "mho", "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("mho, version ")


@pytest.mark.parametrize(("error", "says"), [
    (OSError(28, "x", "big.bin"), "big.bin: No space left on device; make room there"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 4 bytes"), "not enough memory"),
])  # fmt: skip
def test_what_the_machine_refuses_is_a_sentence(mho_command, monkeypatch, error, says):
    def refuse(*_):
        raise error

    monkeypatch.setattr("mho_lab.cite.citations", refuse)
    result = mho_command("cite", "ideal.exact")
    assert result.exit_code == 1 and result.stderr.startswith(says) and "Traceback" not in result.output
