"""Write files so that they are either whole or not there, whenever a process or the machine dies."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path


def write_atomically(file: Path, content: str | Callable[[Path], object], *, keep: bool = False) -> Path:
    """Write a text, or whatever `content(path)` writes to a path, under a temporary name, flush it to the disk and rename it.

    `keep`: a file that is there already stays, to the byte; of several writers the first one wins, so that nobody ever
    sees two different contents. Missing folders are made.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{secrets.token_hex(8)}.part")
    try:
        if callable(content):
            content(part)
        else:
            part.write_text(content, encoding="utf-8")
        _flush(part)
        _put(part, file, keep)
    finally:
        part.unlink(missing_ok=True)
    _flush(file.parent)
    return file


def _put(part: Path, file: Path, keep: bool) -> None:
    if not keep:
        os.replace(part, file)
        return
    try:
        os.link(part, file)  # fails where the file exists, in one step
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        if not file.exists():
            os.replace(part, file)


def _flush(path: Path) -> None:
    """Onto the disk, not only into its cache; folders cannot be flushed everywhere."""
    with contextlib.suppress(PermissionError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
