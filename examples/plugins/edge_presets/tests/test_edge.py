"""A distribution without code: its presets are found, inherit, compute, and say what they need."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import mho
from mho.cli import main
from mho.config import registry

PRESETS = ("edge.robust", "edge.small")


@pytest.fixture(autouse=True)
def installed(tmp_path, monkeypatch):
    """What installing the project leaves behind: an entry point of the group mho."""
    info = tmp_path / "mho_edge-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mho-edge\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[mho]\nedge = mho_edge\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    with registry.using(registry.Registry()):
        yield


def run(*args):
    with registry.using(registry.Registry()):
        return CliRunner().invoke(main, args)


def test_the_presets_are_listed_and_in_order():
    (listed,) = [p for p in registry.providers() if p.family == "edge"]
    assert (listed.distribution, listed.version, listed.presets) == ("mho-edge", "0.1.0", PRESETS)
    doctor = run("doctor")
    assert doctor.exit_code == 0 and all(f"preset {p}" in doctor.output for p in PRESETS), doctor.output


def test_they_inherit_from_another_plugin_and_from_each_other():
    small, robust = (mho.load(name) for name in ("edge.small", "edge.robust"))
    assert (small.tiles["pcm"].rows, small.tiles["pcm"].adc.bits) == (128, 6)
    assert [e.kind for e in small.tiles["pcm"].nonidealities] == [
        e.kind for e in mho.load("pcm.standard").tiles["pcm"].nonidealities
    ]
    assert robust.tiles["pcm"].nonidealities[0].scale == 1.5 and robust.times == small.times
    assert robust.tiles["pcm"].compensation.kind == "mho.column_drift"


@pytest.mark.parametrize("name", PRESETS)
def test_they_compute(name):
    tile = mho.Tile(torch.eye(8), mho.load(name)).program(seed=0)
    assert torch.isfinite(tile.age("1 year")(torch.ones(2, 8))).all()


def test_they_can_be_copied_and_tested(tmp_path):
    assert run("init", "edge.small", str(tmp_path / "mine.yaml")).exit_code == 0
    assert run("check", str(tmp_path / "mine.yaml"), "edge.robust").exit_code == 0
    result = run("test", "edge")
    assert result.exit_code == 1 and "edge provides nothing that the conformance kit is about" in result.output
