"""Run the code blocks of a Markdown page one after another, as a reader would, and compare what the page says comes out.

python    run, all blocks of a page in one namespace; an `output` block right behind it is what it prints
console   `$` lines are commands, the lines behind them their output
bash      every line is a command
yaml      a hardware file, which must be valid; a fragment is laid over pcm.standard. `sweep: 1`: a sweep file,
          `cost: 1`: a cost table
toml      must parse
text      nothing: formulas, trees of files
{...}     a directive of Sphinx

A python, yaml or toml block that begins with a comment `# NAME.py`, … is written to a file of that name in the folder that
the commands of the page run in; such Python is then run by commands only. In output, `…` stands for anything, a line
of `…` for any lines, and numbers may differ by 3 in their last digit or by 1 % of
the largest one of their line; whole numbers may not. MHO_UPDATE=1 writes new output.

`<!-- slow -->` in front of a block leaves it to the slow tests. `*Not run by the tests: REASON.*` in front of it
leaves it out. `<!-- fails -->`: a hardware file that must be refused, or commands that must end with an error.
"""

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import types
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner
from mho_cost import CostTable
from mho_lab.sweep.plan import SweepPlan

import mho
from mho.cli import main
from mho.config import registry

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```([^\s`]*)[^\n]*\n(.*?)^```$", re.M | re.S)
NOT_RUN = re.compile(r"\*Not run by the tests: ([^*]+)\.\*\s*\Z")
SLOW = re.compile(r"<!-- slow -->\s*\Z")
FAILS = re.compile(r"<!-- fails -->\s*\Z")
FILE = re.compile(r"# (\w[\w.-]*\.(?:py|yaml|toml))\b")
RUN = re.compile(r"-[0-9a-f]{8}-s\d+")  # the end of a folder's name, which depends on everything
NUMBER = re.compile(r"(\d+(?:\.\d+)?)")
SHARED = ("docs", "examples", "plugins")  # folders of the repository that commands may read


def pages() -> list[Path]:
    """Everything people read."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]
    found += [*(ROOT / "plugins").glob("*/README.md"), *(ROOT / "examples").glob("**/README.md")]
    return sorted(p for p in found if p.is_file())


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    line: int  # of the fence, from 1
    span: tuple[int, int]  # of the text in the page
    slow: bool
    fails: bool
    not_run: str  # the reason, "" if it is run

    @property
    def file(self) -> str:
        """The file that the block is written to, "" if it is none."""
        found = FILE.match(self.text) if self.language in ("python", "yaml", "toml") else None
        return found.group(1) if found else ""


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        before, reason = text[: match.start()], NOT_RUN.search(text[: match.start()])
        line = before.count("\n") + 1
        slow = SLOW.search(before) is not None
        language = match.group(1)
        fails = FAILS.search(before) is not None
        why = reason.group(1) if reason else ""
        found.append(Block(language, match.group(2), line, match.span(2), slow, fails, why))
    return found


class Page:
    """Runs the blocks of one page in the current folder."""

    def __init__(self, path: Path) -> None:
        self.path, self.blocks = path, blocks(path)
        self.module = types.ModuleType("documentation")
        self.printed = ""
        self.new: list[tuple[tuple[int, int], str]] = []  # with MHO_UPDATE: place and text

    def run(self, *, slow: bool) -> int:
        """Run all blocks, or all but the slow ones; gives how many ran."""
        for name in SHARED:
            Path(name).symlink_to(ROOT / name)
        sys.modules[self.module.__name__] = self.module  # torch.compile looks a function's module up
        here, known = os.getcwd(), set(sys.modules)
        sys.path.insert(0, here)  # as for a script in this folder
        ran = 0
        try:
            with registry.using(registry.Registry()):
                for block in self.blocks:
                    if (block.slow and not slow) or block.not_run:
                        continue
                    self._one(block)
                    ran += block.language not in ("text",) and not block.language.startswith("{")
        finally:
            del sys.modules[self.module.__name__]
            sys.path.remove(here)
            for name in set(sys.modules) - known:
                if (getattr(sys.modules[name], "__file__", None) or "").startswith(here + os.sep):
                    del sys.modules[name]
            self._update()
        return ran

    def _one(self, block: Block) -> None:
        if block.file:
            Path(block.file).write_text(block.text, encoding="utf-8")
        if block.language.startswith("{") or block.language == "text":
            return
        run = getattr(self, f"_{block.language}", None)
        assert run is not None, f"{self._at(block)}: nothing is known about blocks of language {block.language!r}"
        run(block)

    def _at(self, block: Block) -> str:
        return f"{self.path.relative_to(ROOT)}:{block.line}"

    # --- languages ---

    def _python(self, block: Block) -> None:
        code = compile("\n" * block.line + block.text, str(self.path), "exec")
        if block.file:
            return
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(code, vars(self.module))
        self.printed = out.getvalue()

    def _output(self, block: Block) -> None:
        self._compare(block, block.text, self.printed, block.span)

    def _yaml(self, block: Block) -> None:
        if re.search(r"^sweep: 1", block.text, re.M):
            assert list(SweepPlan.from_file(block.file).points())
            return
        if re.search(r"^cost: 1", block.text, re.M):
            assert CostTable.from_file(block.file).rows
            return
        complete = re.search(r"^mho: 1", block.text, re.M)
        text = block.text if complete else "mho: 1\nlike: pcm.standard\n" + block.text
        with pytest.raises(mho.ConfigError) if block.fails else contextlib.nullcontext():
            assert mho.Hardware.from_yaml(text, self._at(block)).tiles

    def _toml(self, block: Block) -> None:
        assert tomllib.loads(block.text)

    def _json(self, block: Block) -> None:
        assert json.loads(block.text)

    def _bash(self, block: Block) -> None:
        for command in block.text.replace("\\\n", " ").splitlines():
            if command.strip() and not command.startswith("#"):
                code, output = run_command(command)
                assert code == 0, f"{self._at(block)}: {command}\n{output}"

    def _console(self, block: Block) -> None:
        assert block.text.startswith("$ "), f"{self._at(block)}: a console block begins with '$ '"
        start = block.span[0]
        for part in re.split(r"^(?=\$ )", block.text, flags=re.M)[1:]:
            command = re.match(r"\$ (?:[^\n]*\\\n)*[^\n]*\n", part).group()
            shown = part[len(command) :]
            code, output = run_command(command[2:].replace("\\\n", " "))
            assert (code != 0) is block.fails, f"{self._at(block)}: {command}ends with {code}\n{output}"
            if shown.strip():
                self._compare(block, shown, output, (start + len(command), start + len(part)))
            start += len(part)

    # --- output ---

    def _compare(self, block: Block, shown: str, got: str, span: tuple[int, int]) -> None:
        if agree(shown, got):
            return
        if os.environ.get("MHO_UPDATE") and "…\n" not in shown:
            lines = [RUN.sub("-…", line.rstrip()) for line in got.strip("\n").splitlines()]
            self.new.append((span, "\n".join(lines) + "\n"))
            return
        raise AssertionError(f"{self._at(block)} shows\n{shown}\nbut this comes out:\n{got}\nMHO_UPDATE=1 renews it")

    def _update(self) -> None:
        text = self.path.read_text(encoding="utf-8")
        for (start, end), new in sorted(self.new, reverse=True):
            text = text[:start] + new + text[end:]
        if self.new:
            self.path.write_text(text, encoding="utf-8")


def run_command(command: str) -> tuple[int, str]:
    """Exit code and output. `mho` runs in this process: it is the same code, without the start of an interpreter."""
    words = shlex.split(command, comments=True)
    if words[0] == "mho":
        result = CliRunner().invoke(main, words[1:], prog_name="mho")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        done = re.sub(r"[^\n]*\r", "", result.output)  # without progress, which slow machines show
        return result.exit_code, done
    known = ("python", "torchrun", "cat", "ls", "head")
    assert words[0] in known, f"{command!r}: commands of a page are mho, {', '.join(known)}"
    modules = {"python": [sys.executable], "torchrun": [sys.executable, "-m", "torch.distributed.run"]}
    words[:1] = modules.get(words[0], words[:1])
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def agree(shown: str, got: str) -> bool:
    """Whether output is what a page shows."""
    want, have = ([line.rstrip() for line in t.strip("\n").splitlines() if line.strip()] for t in (shown, got))
    chunks: list[list[str]] = [[]]
    for line in want:
        chunks.append([]) if line.strip() == "…" else chunks[-1].append(line)
    at = 0
    for i, chunk in enumerate(chunks):
        last = len(have) - len(chunk)
        starts = [at] if i == 0 else [last] if i == len(chunks) - 1 and chunk else range(at, last + 1)
        place = next((s for s in starts if s >= at and all(map(same, chunk, have[s : s + len(chunk)]))), None)
        if place is None or place > last:
            return False
        at = place + len(chunk)
    return at == len(have) or want[-1:] == ["…"]


def same(shown: str, got: str) -> bool:
    """Whether two lines are alike: words equal, numbers nearly, `…` anything."""
    if "…" in shown:
        return re.fullmatch(".*".join(map(re.escape, shown.split("…"))), got) is not None
    want, have = NUMBER.split(shown), NUMBER.split(got)
    if len(want) != len(have):
        return False
    words = all(" ".join(a.split()) == " ".join(b.split()) for a, b in zip(want[::2], have[::2]))
    largest = max((float(n) for n in want[1::2] if "." in n), default=0.0)
    return words and all(near(a, b, 0.01 * largest) for a, b in zip(want[1::2], have[1::2]))


def near(shown: str, got: str, tolerance: float) -> bool:
    digits = len(shown.partition(".")[2])
    if not digits:
        return shown == got
    return abs(float(shown) - float(got)) <= max(3.01 * 10**-digits, tolerance)
