"""`mho new` writes a project that says nothing false, and never overwrites anything. Installing it: tests/packaging."""

import subprocess
import sys
import tomllib

import pytest
from click.testing import CliRunner
from mho_kit.fixtures import needs
from mho_kit.new import FILES

from mho.cli import main
from mho.config import registry


def new(name, out):
    with registry.using(registry.Registry()):
        return CliRunner().invoke(main, ["new", name, "--out", str(out)])


def test_a_project_is_complete(tmp_path):
    result = new("my-device", tmp_path)
    assert result.exit_code == 0, result.output
    folder = tmp_path / "mho-my-device"
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert files == {t.replace("@MODULE@", "mho_my_device") for t in FILES.values()}
    assert not [p for p in folder.rglob("*") if p.is_file() and "@FAMILY@" in p.read_text()]
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == "mho-my-device"
    assert project["entry-points"]["mho"] == {"my_device": "mho_my_device"}
    assert any(d.startswith("mho>=") and "<" in d for d in project["dependencies"])


@pytest.mark.parametrize("name", ["telegraph", "mho-telegraph", "mho_telegraph", "x", "a_rather_long_name_of_29_chars"])
def test_the_project_lints(tmp_path, name):
    assert new(name, tmp_path).exit_code == 0
    (folder,) = tmp_path.iterdir()
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", "."], cwd=folder, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "words"),
    [
        pytest.param("pcm", "is taken by mho-pcm", marks=needs("mho-pcm")),
        ("mho", "reserved"),
        ("digital", "reserved"),
        ("class", "cannot be a family"),
        ("Telegraph", "cannot be a family"),
        ("two words", "cannot be a family"),
        ("../escape", "cannot be a family"),
        ("", "cannot be a family"),
        ("1t1r", "cannot be a family"),
        ("a" * 31, "at most 30"),
    ],
)
def test_bad_names_are_refused_and_nothing_is_written(tmp_path, name, words):
    result = new(name, tmp_path)
    assert result.exit_code == 1 and words in result.output and "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "mho-telegraph").mkdir()
    (tmp_path / "mho-telegraph" / "mine.txt").write_text("mine")
    result = new("telegraph", tmp_path)
    assert result.exit_code == 1 and "exists already" in result.output
    assert [p.name for p in (tmp_path / "mho-telegraph").iterdir()] == ["mine.txt"]


def test_it_imports_no_torch(tmp_path):
    """That is what makes it answer in a fraction of a second."""
    code = (
        "import sys; from mho.cli import main\n"
        f"main(['new', 'telegraph', '--out', {str(tmp_path)!r}], standalone_mode=False)\n"
        "assert 'torch.nn' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
