"""A verb from outside core is listed, explained and run."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from mho.cli import main


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """What installing the project leaves behind: an entry point of the group mho.commands."""
    info = tmp_path / "mho_lifetime-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mho-lifetime\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[mho.commands]\nlifetime = mho_lifetime:lifetime\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))


def run(*args):
    return CliRunner().invoke(main, args)


def test_the_verb_is_listed_with_its_distribution(installed):
    assert "lifetime" in run("--help").output and "From mho-lifetime 0.1.0." in run("--help").output


def test_an_exact_device_lives_long_and_a_drifting_one_shorter(installed):
    assert run("lifetime", "ideal.exact", "--limit", "0.01").output == "good until 1e+08 s\n"
    assert run("lifetime", "pcm.standard", "--limit", "0.01").output == "never good enough\n"


def test_mistakes_end_with_one_sentence(installed):
    result = run("lifetime", "no.such_preset")
    assert result.exit_code == 1 and "no installed plugin provides 'no'" in result.output
