"""Whatever docs/physics.md points to exists: links, pictures, code, tests, kinds and options."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import mho
from mho.config import registry

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "physics.md"
TEXT = PAGE.read_text(encoding="utf-8")
LINKS = sorted(set(re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", TEXT)))
REFERENCES = sorted(set(re.findall(r"`([\w/.-]+\.py::[\w.]+)`", TEXT)))
KINDS = sorted(set(re.findall(r"`((?:pcm|rram|circuit|ideal|mho)\.[a-z_0-9]+)", TEXT)))


@cache
def names(file):
    """Functions, classes and Class.method of a file."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{m.name}" for m in node.body if isinstance(m, ast.FunctionDef)}
    return found


@pytest.mark.parametrize("link", LINKS)
def test_a_relative_link_leads_somewhere(link):
    assert (PAGE.parent / link).exists()


@pytest.mark.parametrize("reference", REFERENCES)
def test_a_reference_to_code_or_to_a_test_exists(reference):
    path, _, name = reference.partition("::")
    assert (ROOT / path).is_file() and name in names(ROOT / path)


def test_the_page_refers_to_something():
    assert len(LINKS) >= 15 and len(REFERENCES) >= 80


def test_every_path_is_written_as_a_reference_or_exists():
    """No reference escapes the check above for being written differently."""
    for path in re.findall(r"`((?:core|plugins|tests|docs)/[\w/.-]+)`", TEXT):
        assert (ROOT / path).exists(), path
    assert TEXT.count(".py::") == len(re.findall(r"`[\w/.-]+\.py::[\w.]+`", TEXT))


def test_sections_that_the_page_links_to_exist():
    headings = {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in re.findall(r"^#+ (.*)$", TEXT, re.M)}
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= headings


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_on_the_page_is_a_kind_or_a_preset(kind):
    if kind in registry.default().presets():
        assert mho.load(kind).tiles
    else:
        assert kind == registry.default().resolve(kind).KIND


def test_figures_are_small():
    for file in (ROOT / "docs" / "img").glob("*.svg"):
        assert file.stat().st_size < 60_000, file.name
