"""Whatever docs/architecture.md points to exists."""

import re
from pathlib import Path

import pytest

from tests.docs.test_physics_page import names

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PLACES = sorted(set(re.findall(r"`((?:core|plugins|tests|docs)/[\w/.]+(?:::[\w.]+)?)`", TEXT)))


@pytest.mark.parametrize("place", PLACES)
def test_a_place_exists(place):
    path, _, name = place.partition("::")
    assert (ROOT / path).exists()
    assert not name or name in names(ROOT / path)


def test_every_folder_of_the_core_and_every_plugin_is_named():
    for folder in (f.parent for f in (ROOT / "core" / "mho").glob("*/__init__.py")):
        assert f"`core/mho/{folder.name}`" in TEXT
    for pyproject in (ROOT / "plugins").glob("*/pyproject.toml"):
        assert f"`{pyproject.parent.name}`" in TEXT


def test_the_picture_is_text():
    picture = (ROOT / "docs" / "img" / "house.svg").read_text(encoding="utf-8")
    assert picture.count("<text") > 40 and "<image" not in picture


def test_the_tests_mirror_the_folders():
    about_something_else = {"docs", "examples", "packaging", "plugins"}
    folders = {f.parent.name for f in (ROOT / "core" / "mho").glob("*/__init__.py")}
    assert {f.parent.name for f in (ROOT / "tests").glob("*/test_*.py")} <= folders | about_something_else
