"""What the README and the documentation show really runs."""

import re
from pathlib import Path

import mho
import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "plugins").glob("*/README.md"))]
FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.M | re.S)


def blocks(language):
    for page in PAGES:
        for i, (found, text) in enumerate(FENCE.findall(page.read_text())):
            if found == language:
                yield pytest.param(text, id=f"{page.relative_to(ROOT)}-{i}")


@pytest.mark.parametrize("code", list(blocks("python")))
@pytest.mark.filterwarnings("ignore:training an analog network without")
def test_python_blocks_run(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "documentation", "exec"), {"__name__": "documentation"})


@pytest.mark.parametrize("text", list(blocks("yaml")))
def test_complete_hardware_files_are_valid(text):
    if "\nmho: 1" not in "\n" + text:
        pytest.skip("a fragment")
    assert mho.Hardware.from_yaml(text).tiles


def test_the_two_commands_stand_at_the_top_of_the_readme():
    top = (ROOT / "README.md").read_text()[:1200]
    assert "make demo" in top and "make test" in top
