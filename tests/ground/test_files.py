"""Files are whole or not there, and of several writers the first one wins where that is asked for."""

import subprocess
import sys
from pathlib import Path

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


def test_what_the_system_refuses_names_the_file_and_what_helps(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MhoError, match=r"cannot write .*file/a: File exists; a part of the path is a file"):
        write_atomically(tmp_path / "file" / "a", "")
    with pytest.raises(MhoError, match=r"File name too long; choose a shorter name"):
        write_atomically(tmp_path / ("x" * 300), "")
    with pytest.raises(MhoError, match="expected the name of a file"):
        write_atomically(Path(), "")


FULL = """
import resource, signal, torch, mho
from pathlib import Path
from mho.ground import write_atomically
net = torch.nn.Linear(200, 200)
mho.save_model(net, "net.safetensors")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
for write in (lambda: mho.save_model(net, "net.safetensors"), lambda: write_atomically(Path("t"), "x" * 20_000)):
    try:
        write()
    except mho.MhoError as error:
        print(error)
"""


def test_a_disk_that_is_full_keeps_what_was_there(tmp_path):
    """A limit on the size of files, which the system reports like a full disk."""
    ran = subprocess.run([sys.executable, "-c", FULL], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == [
        f"cannot write {n}: File too large; make room there and try again" for n in ("net.safetensors", "t")
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"] and (tmp_path / "net.safetensors").stat().st_size > 160_000
