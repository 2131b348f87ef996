"""Write files so that they are either whole or not there, whenever a process or the machine dies."""

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors import SafetensorError

from mho.ground.errors import MhoError

_ROOM, _ELSEWHERE = "make room there and try again", "choose a place that may be written"
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _ROOM),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), _ELSEWHERE),
    errno.ENAMETOOLONG: "choose a shorter name",
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "a part of the path is a file"),
}


def write_atomically(file: Path, content: str | Callable[[Path], object], *, keep: bool = False) -> Path:
    """Write a text, or whatever `content(path)` writes to a path, under a temporary name, flush it to the disk and rename it.

    `keep`: a file that is there already stays, to the byte; of several writers the first one wins, so that nobody ever
    sees two different contents. Missing folders are made. Raises `MhoError` where the file cannot be written; what was there
    before is untouched then.
    """
    if not file.name:
        raise MhoError(f"cannot write {str(file)!r}: expected the name of a file")
    part = file.with_name(f".{secrets.token_hex(8)}.part")
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            if callable(content):
                content(part)
            else:
                part.write_text(content, encoding="utf-8")
            _flush(part)
            _put(part, file, keep)
        finally:
            with contextlib.suppress(OSError):
                part.unlink()
        _flush(file.parent)
    return file


@contextlib.contextmanager
def writing(file: Path | str) -> Iterator[None]:
    """What the system refuses inside is a `MhoError` about that file."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise MhoError(f"cannot write {str(file) or repr('')}: {system_error(error)}") from error


def system_error(error: BaseException) -> str:
    """What the system says about a file, and what helps.

    >>> system_error(OSError(errno.ENOSPC, "No space left on device"))
    'No space left on device; make room there and try again'
    """
    told = re.search(r"os error (\d+)", str(error))  # safetensors
    number = int(told[1]) if told else getattr(error, "errno", None)
    said = (os.strerror(number) if number else "") or str(error)
    return f"{said}; {_REMEDIES[number]}" if number in _REMEDIES else said


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
