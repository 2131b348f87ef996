"""Files are whole or not there, and of several writers the first one wins where that is asked for."""

import pytest

from mho.ground import MhoError
from mho.ground.files import write_atomically


def test_a_text_or_whatever_a_function_writes(tmp_path):
    assert write_atomically(tmp_path / "new" / "a.txt", "ä").read_text(encoding="utf-8") == "ä"
    write_atomically(tmp_path / "new" / "a.txt", lambda p: p.write_bytes(b"1"))
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.txt"] and (tmp_path / "new/a.txt").read_bytes() == b"1"


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    file = write_atomically(tmp_path / "a.txt", "old")

    def fail(path):
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(MhoError, match=r"cannot write .*a\.txt: disk full"):
        write_atomically(file, fail)
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


def test_the_first_writer_wins_with_keep(tmp_path):
    for text in ("first", "second"):
        write_atomically(tmp_path / "a.txt", text, keep=True)
    assert (tmp_path / "a.txt").read_text() == "first" and len(list(tmp_path.iterdir())) == 1


def test_files_are_as_readable_as_any_other(tmp_path):
    (tmp_path / "plain.txt").write_text("")
    ours = write_atomically(tmp_path / "a.txt", "")
    assert ours.stat().st_mode == (tmp_path / "plain.txt").stat().st_mode
