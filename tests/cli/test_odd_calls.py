"""Odd calls of the command line: whatever is typed, no traceback; a mistake exits with 1 or 2 and a sentence."""

import random
import string

import pytest
from click.testing import CliRunner

from mho.cli import main, plugin_verbs, verb

pytest.importorskip("mho_lab")

LONG = "x" * 300
WORDS = [
    "", " ", ".", "..", "/", "/dev/full", "/dev/null", "/proc/nothing", "-", "--", "-1", "0", "1", "1_000", "1e3", "nan", "inf",
    "9" * 30, "-" + "9" * 30, "true", "none", "[", "{", "{}", "a=b", "=", "a=", "=b", "a.b=c", ":", "💥", "\n",
    LONG, f"{LONG}.py", f"{LONG}.yaml", f"{LONG}/a", "digits", "pcm.standard", "ideal.exact", "ideal.exacd", "pcm.drift",
    "hardware.yaml", "broken.yaml", "task.py", "broken.py", "table.csv", "empty", "folder", "tiles.exact.rows=8", "tiles[0]=1",
    "tiles.exact.rows=" + "9" * 30, "1 s", "1 year", "-1 s", "1 fortnight", "2/3", "3/2", "0/0", "circuit.ir_drop", "adc.bits",
]  # fmt: skip
FILES = {
    "hardware.yaml": "mho: 1\nlike: ideal.exact\n",
    "broken.yaml": "mho: 1\nlike: ./broken.yaml\n",
    "task.py": "import mho\n\nclass Odd(mho.Task):\n    def model(self):\n        raise ValueError('no network today')\n"
    "    train_batches = score = model\n",
    "broken.py": "import not_there\n",
    "table.csv": "a,b\n1,2\n",
    "empty": "",
}
# What would work for minutes where it is right: tried with small numbers, or with tasks that raise.
SANE = {
    "task": "task.py", "what": "task.py", "hw": "hardware.yaml", "hardware": "hardware.yaml", "files": "hardware.yaml",
    "checkpoint": "empty", "data": "table.csv", "folder": "folder", "name": "pcm.drift", "preset": "ideal.exact",
}  # fmt: skip
SHORT = {"mvm": ["--size", "8", "--matrices", "1"], "new": ["--out", "projects"]}
SKIPPED = {"doctor", "test", "schema", "plugins"}  # load everything, or are slow; none takes odd values


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def odd_call(rng, verbs):
    """A verb with any of its options and odd values for all; the task, where one is asked for, is one that raises."""
    name = rng.choice(verbs)
    command, call = verb(name), [name]
    if hasattr(command, "commands"):
        call.append(rng.choice(sorted(command.commands)))
        command = command.commands[call[-1]]
    for p in command.params:
        if p.param_type_name == "argument":
            call.append(SANE[p.name] if p.name in SANE and rng.random() < 0.6 else rng.choice(WORDS))
        elif rng.random() < 0.25 and "--help" not in p.opts:
            call += [rng.choice(p.opts)] + ([] if getattr(p, "is_flag", False) else [rng.choice(WORDS)])
    if rng.random() < 0.1:
        call.append("".join(rng.choices(string.printable, k=8)))
    plugin = ["--plugin", rng.choice(WORDS)] if rng.random() < 0.1 else []
    return [*plugin, *(w for w in call if w != "digits"), *SHORT.get(name, [])]  # digits trains for minutes


def assert_quiet(call):
    result = CliRunner().invoke(main, call)
    said = result.stderr if result.exit_code else "fine"
    assert result.exit_code in (0, 1, 2), (call, result.exit_code, result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), (call, result.exception)
    assert said.strip() and "Traceback" not in said, (call, said)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.timeout(1800)
def test_no_call_ends_in_a_traceback(folder, seed):
    rng = random.Random(seed)
    verbs = sorted({"check", "show", "init", "cite", *plugin_verbs()} - SKIPPED)
    for _ in range(1000 if seed else 60):
        assert_quiet(odd_call(rng, verbs))


@pytest.mark.parametrize(
    "call", ["translate /dev/full", "fit /dev/full --kind pcm.drift", "run task.py hardware.yaml --text /dev/full"]
)
def test_devices_without_an_end_are_not_read_to_their_end(folder, call):
    pytest.importorskip("mho_exchange")
    assert_quiet(call.split())
