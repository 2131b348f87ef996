"""The contract of report pages: a whole HTML page from what is in a folder, and from nothing else."""

import tempfile
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, ClassVar, Self

from mho_kit.checks.base import Checks

# Elements without an end, and those whose end HTML lets us leave out
VOID = frozenset(["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"])
OPEN_ENDED = frozenset(["p", "li", "dt", "dd", "tr", "td", "th", "thead", "tbody", "tfoot", "option", "colgroup"])
FETCHED = (("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"))


class PageContract(Checks):
    """Everything a report page promises to `mho report`, as named checks for pytest.

        class TestClicks(PageContract):
            page = page_of
            files = {"telegraph.json": '{"clicks": 3}'}

    The author declares `page`, the function of the hook `mho_pages`, and `files`, name -> text of the smallest result folder
    (or overrides `fill`), and `expected_failed_checks`. Checked are that it gives one whole HTML page with a title, well nested,
    that shows without a network, the same again from the same folder, which it leaves as it is.
    Pages have no schema, so `mho test` leaves them out: this contract is for pytest only.
    """

    page: ClassVar[Callable[[Path], str]]
    files: ClassVar[Mapping[str, str]] = {}

    def fill(self, folder: Path) -> None:
        """Write into the folder what a run would have left there."""
        for name, text in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)

    def _page(self) -> str:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "results"
            folder.mkdir()
            self.fill(folder)
            return type(self).page(folder)

    def _read(self) -> Self:
        reader = _Reader()
        reader.feed(self._page())
        reader.close()
        return reader

    # -- checks -----------------------------------------------------------------------------------------------
    def test_is_a_whole_page(self) -> None:
        page = self._page()
        assert isinstance(page, str), f"it gives a {type(page).__name__}; it must be the page as text"
        start, end = page.lstrip()[:15].lower(), page.rstrip()[-7:].lower()
        assert start == "<!doctype html>" and end == "</html>", (
            f"it goes from {page[:30]!r} to {page[-30:]!r}; a whole page is <!doctype html><html>…</html>"
        )

    def test_has_a_title(self) -> None:
        assert self._read().title.strip(), "it has no <title>; browsers show it in the tab"

    def test_says_its_encoding(self) -> None:
        reader = self._read()
        assert ("meta", "charset", "utf-8") in reader.attributes, 'write <meta charset="utf-8">: files are written in UTF-8'

    def test_is_well_nested(self) -> None:
        reader = self._read()
        assert not reader.wrong, f"elements do not close in order: {'; '.join(reader.wrong[:3])}"
        assert not reader.open, f"elements stay open: {', '.join(reader.open)}"

    def test_shows_without_a_network(self) -> None:
        """A report is one file that can be sent to somebody."""
        outside = [
            value
            for element, name, value in self._read().attributes
            if (element, name) in FETCHED and not value.startswith(("data:", "#"))
        ]
        assert not outside, f"it fetches {', '.join(outside[:3])}; put scripts, styles and images (data:) into the page"

    def test_the_same_folder_gives_the_same_page(self) -> None:
        assert self._page() == self._page(), "one folder gives two pages; no dates of today, no random names, no own path"

    def test_leaves_the_folder_alone(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            self.fill(folder)
            before = _contents(folder)
            type(self).page(folder)
            after = _contents(folder)
        changed = sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))
        assert not changed, f"it writes {', '.join(changed)}; mho report writes the page, the function only reads"


class _Reader(HTMLParser):
    """What the checks look at in a page."""

    def __init__(self) -> None:
        super().__init__()
        self.title = ""
        self.attributes: set[tuple[str, str, str]] = set()
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        self.attributes |= {(tag, name, value.lower() if name == "charset" else value) for name, value in attrs if value}
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open[-1] != tag and self.open[-1] in OPEN_ENDED:
            self.open.pop()
        if self.open and self.open[-1] == tag:
            self.open.pop()
        elif tag not in VOID:
            self.wrong.append(f"</{tag}> where {f'<{self.open[-1]}>' if self.open else 'nothing'} is open")

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["title"] and "svg" not in self.open:
            self.title += data


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
