"""Which page a result folder gets: plugins say which folders they know, through the hook `mho_pages`."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mho.config import registry
from mho.ground import MhoError, PluginError, write_atomically


def write_report(folder: str | Path) -> Path:
    """Write report.html into the folder of a run, a sweep or a study, from what is in it; its path."""
    return write_atomically(Path(folder) / "report.html", report_of(Path(folder)))


def report_of(folder: Path) -> str:
    """The page of a result folder: of the first plugin that knows one of the files or folders in it.

    Files given with --plugin are asked first, then mho-lab, then all others. Raises `MhoError` where nobody knows it.
    """
    for holds, make in _pages():
        if (folder / holds).exists():
            return str(registry.thing(make)(folder))
    raise MhoError(
        f"no finished run in {folder}, nor a sweep: expected summary.json (of `mho run`) or plans/ (of `mho sweep run`)"
    )


def _pages() -> Iterator[tuple[str, Any]]:
    """Imports a plugin only when those before it do not know the folder."""
    plugins = registry.default()
    yield from plugins.named("page").items()
    for family in sorted(plugins.claims, key=lambda family: family != "lab"):
        with contextlib.suppress(PluginError):  # `mho doctor` tells
            yield from plugins.load(family).named("page").items()
