"""What the README and the documentation show really runs."""

import re
import sys
import types
from pathlib import Path

import mho
import pytest
from mho import registry

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "plugins").glob("*/README.md"))]
FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.M | re.S)


def blocks(page, language):
    return [text for found, text in FENCE.findall(page.read_text()) if found == language]


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: str(p.relative_to(ROOT)))
@pytest.mark.filterwarnings("ignore:training an analog network without")
def test_the_python_blocks_of_a_page_run_one_after_another(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("documentation")
    monkeypatch.setitem(sys.modules, "documentation", module)  # torch.compile looks a function's module up
    with registry.using(registry.Registry()):
        for block in blocks(page, "python"):
            exec(compile(block, str(page), "exec"), vars(module))


YAML = [pytest.param(t, id=f"{p.relative_to(ROOT)}-{i}") for p in PAGES for i, t in enumerate(blocks(p, "yaml"))]


@pytest.mark.parametrize("text", YAML)
def test_complete_hardware_files_are_valid(text):
    if "\nmho: 1" not in "\n" + text:
        pytest.skip("a fragment")
    assert mho.Hardware.from_yaml(text).tiles


def test_the_two_commands_stand_at_the_top_of_the_readme():
    top = (ROOT / "README.md").read_text()[:1200]
    assert "make demo" in top and "make test" in top
