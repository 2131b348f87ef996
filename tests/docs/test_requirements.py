"""Every requirement of the list is named by the code that meets it and by a test that shows it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIST = ROOT / "tests" / "requirements" / "R003.txt"
IDS = [line for line in LIST.read_text().splitlines() if line and not line.startswith("#")]
CODE = [*(ROOT / "core").rglob("*.py"), *(ROOT / "plugins").glob("*/src/**/*.py")]
TESTS = [*(ROOT / "tests").rglob("test_*.py"), *(ROOT / "plugins").glob("*/tests/**/test_*.py")]


def named(files):
    """The ids that occur in some files, "R003-60 to R003-62" and "R003-60 ... R003-62" being the two ends."""
    return {i for file in files for i in re.findall(r"R003-\d\d\b", file.read_text(encoding="utf-8"))}


IN_CODE, IN_TESTS = named(CODE), named(TESTS)


def test_the_list_is_complete_and_in_order():
    assert len(IDS) == len(set(IDS)) == 63 and sorted(IDS) == IDS


@pytest.mark.parametrize("requirement", IDS)
def test_a_requirement_is_named_in_code_and_in_a_test(requirement):
    assert requirement in IN_CODE, f"{requirement} stands in no docstring or source of core or plugins"
    assert requirement in IN_TESTS, f"{requirement} stands in no test"


@pytest.mark.parametrize("requirement", IDS)
def test_the_physics_page_says_what_a_requirement_is(requirement):
    assert requirement in (ROOT / "docs" / "physics.md").read_text(encoding="utf-8")
