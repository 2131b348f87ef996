"""Fuzzed hardware files: whatever is in a text, the answer is a hardware or located errors, in less than a second.

Texts are the presets and the files of the documentation with characters, words, lines and values exchanged, and random
structure. 300 in the quick lane, 10,000 in the slow one.
"""

from __future__ import annotations

import functools
import random
import re
import time
from pathlib import Path

import pytest

from mho.config import registry
from mho.config.hardware import Hardware
from mho.ground.errors import ConfigError

ROOT = Path(__file__).parents[2]
LIMIT = 1.0  # seconds of processor time
AT_THE_LIMIT = 3.0  # of files as large as mho accepts
VALUES = (
    "null", "~", "none", "true", "-1", "0", "1", "1e309", "-.5", ".inf", ".nan", "0x1F", "010", "1_000", "12:30:45",
    "2020-01-01", "1" * 30, "25 uS", "1 h", "-3 s", "1e999 s", "10 epochs", "2.5 sigma", "pcm.drift", "pcm.standard",
    "mho.adc", "fefet.noise", "no kind", "digital", "''", '""', '"\\u0000"', '"\\ud800"', "[]", "{}", "[[]]", "{a: b}",
    "[pcm.drift, pcm.drift]", "{kind: pcm.drift}", "*alias", "&anchor x", "!!python/object:os.system x", "!tag x", "<<",
    "re:(", "re:.*", "|", ">", "- ", "? ", "%YAML 1.2", "---", "...", "# comment", "\t", "é", "µS", "💥", "\x00",
    "\u2028", "\ufeff", "a" * 300, "..", "a.b.c", "like", "__class__", "={}",
)  # fmt: skip
CHARACTERS = ":{}[],-#&*!|>'\"%@`?\n\n  \t\\0aZ.é💥\x01\u2029"


@functools.cache
def seeds() -> tuple[str, ...]:
    """Every preset that is installed, and every hardware file in the documentation and the examples."""
    texts = [registry.preset_path(name).read_text(encoding="utf-8") for name in registry.presets()]
    for page in sorted([*ROOT.glob("docs/**/*.md"), ROOT / "README.md"]):
        texts += re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    texts += [f.read_text(encoding="utf-8") for f in sorted(ROOT.glob("examples/**/*.yaml"))]
    assert len(texts) >= 10
    return tuple(texts)


def fuzzed(rng: random.Random) -> str:
    """A seed after one to six changes, or random structure."""
    if rng.random() < 0.15:
        return _structure(rng, 0)
    text = rng.choice(seeds())
    for _ in range(rng.randint(1, 6)):
        text = rng.choice((_character, _word, _value, _line, _cut, _spliced))(text, rng)
    return text


def _character(text: str, rng: random.Random) -> str:
    at = rng.randint(0, len(text))
    return text[:at] + rng.choice(CHARACTERS) + text[at + rng.randint(0, 2) :]


def _word(text: str, rng: random.Random) -> str:
    words = list(re.finditer(r"[\w.]+", text))
    if not words:
        return text
    a, b = rng.choice(words), rng.choice(words)
    return text[: a.start()] + rng.choice((b[0], b[0][:-1], b[0] * 2)) + text[a.end() :]


def _value(text: str, rng: random.Random) -> str:
    values = list(re.finditer(r"(?<=: )[^\n,}]+", text))
    if not values:
        return text + rng.choice(VALUES)
    at = rng.choice(values)
    return text[: at.start()] + rng.choice(VALUES) + text[at.end() :]


def _line(text: str, rng: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    if len(lines) < 2:
        return text * 2
    a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
    act = rng.randrange(4)
    if act == 0:
        del lines[a]
    elif act == 1:
        lines.insert(a, lines[b])
    elif act == 2:
        lines[a], lines[b] = lines[b], lines[a]
    else:
        lines[a] = " " * rng.randint(1, 5) + lines[a]
    return "".join(lines)


def _cut(text: str, rng: random.Random) -> str:
    return text[: rng.randint(0, len(text))]


def _spliced(text: str, rng: random.Random) -> str:
    other = rng.choice(seeds())
    return text[: rng.randint(0, len(text))] + other[rng.randint(0, len(other)) :]


def _structure(rng: random.Random, depth: int) -> str:
    """Collections in collections, some very deep or very long."""
    if depth == 0 and rng.random() < 0.1:
        n = rng.choice((100, 2000, 20_000))
        return rng.choice(
            ("[" * n, "{a: " * n, "- " * n, "? " * n, "a: [" + "x, " * n + "]", "\n".join(f"k{i}: {i}" for i in range(n)))
        )
    if depth > 4 or rng.random() < 0.3:
        return rng.choice(VALUES)
    keys = ("mho", "default", "tiles", "layers", "training", "times", "like", "requires", "nonidealities", "adc", "kind", "x y")
    inner = [_structure(rng, depth + 1) for _ in range(rng.randint(0, 4))]
    if rng.random() < 0.3:
        return "[" + ", ".join(inner) + "]"
    if depth and rng.random() < 0.7:
        return "{" + ", ".join(f"{rng.choice(keys)}: {v}" for v in inner) + "}"
    return "\n".join(f"{rng.choice(keys)}: {v}" for v in ["1", *inner])


def check(text: str, limit: float = LIMIT) -> str:
    """What is wrong with how mho answers; "" if nothing."""
    start = time.process_time()
    try:
        Hardware.from_yaml(text, "fuzz.yaml")
    except ConfigError as error:
        lines = 1 + len(re.findall(r"\r\n|\r|\n", text))
        beyond = [p for p in error.problems if p.mark.source.name == "fuzz.yaml" and p.mark.line > lines]
        if beyond or not error.problems:
            return f"no place: {error}"
        str(error)  # it must be printable
    except RecursionError as error:
        return f"RecursionError {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    seconds = time.process_time() - start
    return f"{seconds:.2f} s" if seconds > limit else ""


def fuzz(n: int, seed: int) -> None:
    registry.default().load_all()  # importing plugins is not what is timed
    rng, wrong = random.Random(seed), []
    for _ in range(n):
        text = fuzzed(rng)
        if answer := check(text):
            wrong.append(f"{answer[:300]}\n{text[:1500]!r}")
        if len(wrong) == 5:
            break
    assert not wrong, "\n\n".join(wrong)


def test_fuzzed_files_give_located_errors() -> None:
    fuzz(300, seed=0)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(4))
def test_ten_thousand_fuzzed_files_give_located_errors(part: int) -> None:
    fuzz(2500, seed=1 + part)


HEAD = "mho: 1\ndefault: t\ntiles:\n  t:\n"
LARGE = {
    "unknown keys": "\n".join(f"k{i}: {i}" for i in range(2900)),
    "too many values": "a: [" + "x, " * 9000 + "]",
    "unknown kinds": HEAD + "    nonidealities: [" + "pcm.x, " * 5900 + "]",
    "tiles that are like each other": "mho: 1\ndefault: t0\ntiles:\n"
    + "".join(f"  t{i}: {{like: t{i + 1}}}\n" for i in range(900)),
    "rules on presets that are not there": "mho: 1\ndefault: digital\nlayers:\n"
    + "".join(f"  - {{match: a{i}, tile: pcm.x{i}}}\n" for i in range(1100)),
    "requirements": "mho: 1\ndefault: digital\nrequires: [" + "mho-x, " * 5900 + "]",
}


@pytest.mark.parametrize("case", LARGE)
def test_large_files_are_answered_in_time(case: str) -> None:
    registry.default().load_all()
    assert check(LARGE[case], AT_THE_LIMIT) == ""
    with pytest.raises(ConfigError):
        Hardware.from_yaml(LARGE[case])
