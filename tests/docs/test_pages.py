"""Every code block of every page runs, and shows what comes out."""

import re

import pytest

from tests.docs.blocks import ROOT, Page, agree, blocks, pages, same

PAGES = pages()
NAMES = [str(p.relative_to(ROOT)) for p in PAGES]
SLOW = [p for p in PAGES if any(b.slow for b in blocks(p))]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of its own for a page, and a terminal of fixed width."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
@pytest.mark.filterwarnings("ignore:training an analog network without")
def test_the_blocks_of_a_page_run(page, folder):
    Page(page).run(slow=False)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("page", SLOW, ids=[str(p.relative_to(ROOT)) for p in SLOW])
@pytest.mark.filterwarnings("ignore:training an analog network without")
def test_all_blocks_of_a_page_run(page, folder):
    Page(page).run(slow=True)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_no_block_escapes(page):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"^ +```", text, re.M), "an indented fence is not run"
    assert text.count("\n```") == 2 * len(blocks(page)), "a fence is not closed, or not at the start of a line"
    for block in blocks(page):
        assert block.language, f"line {block.line}: name a language; text for what is no code"
        if block.language == "text":
            assert not re.search(r"^\s*(\$|mho [a-z]+|import |pip )", block.text, re.M), f"line {block.line} is code"


def test_a_reason_is_given_for_what_is_not_run():
    reasons = [b.not_run for p in PAGES for b in blocks(p) if b.not_run]
    assert all(len(r.split()) >= 3 for r in reasons)


@pytest.mark.parametrize(
    ("shown", "got", "alike"),
    [
        ("error 14.4 ± 0.1", "error 14.5 ± 0.1", True),
        ("error 14.4", "error 15.0", False),
        ("error 14.4", "fault 14.4", False),
        ("25 chips", "26 chips", False),
        ("report: runs/…/report.html", "report: runs/abc/report.html", True),
        ("report: runs/…/report.html", "report: walks/abc/report.html", False),
    ],
)
def test_lines_are_compared_by_words_and_numbers(shown, got, alike):
    assert same(shown, got) is alike


@pytest.mark.parametrize(
    ("shown", "alike"),
    [("a\nb\nc", True), ("a\n…", True), ("…\nc", True), ("a\n…\nc", True), ("a\nc", False), ("a\nb", False), ("…\nb", False)],
)
def test_a_line_of_dots_stands_for_lines(shown, alike):
    assert agree(shown, "a\nb\nc\n") is alike
