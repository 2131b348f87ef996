"""`mho show` of real hardware: what every tile computes, stage by stage."""

from __future__ import annotations

from click.testing import CliRunner

from mho.cli import main
from mho.effects import Nonideality
from mho.effects.stages import TABLE, Stage

TILE = "mho: 1\ndefault: t\ntiles:\n  t: {{nonidealities: [{}]}}\n"


def show(tmp_path, *effects):
    file = tmp_path / "hw.yaml"
    file.write_text(TILE.format(", ".join(effects)))
    result = CliRunner().invoke(main, ["show", str(file)])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_tile_that_is_read_in_several_passes_can_be_shown(tmp_path):
    assert "passes  circuit.two_phase" in show(tmp_path, "circuit.two_phase")


def test_a_new_stage_of_the_table_is_shown_where_it_stands(tmp_path, monkeypatch):
    from mho.config import registry

    class Settles(Nonideality, kind="settles.late"):
        """Acts at a stage of its own."""

        source = "a test"

        def settle(self, y, site):
            return y

    monkeypatch.setattr(Nonideality, "settle", lambda self, y, site: y, raising=False)
    monkeypatch.setitem(TABLE, "settle", Stage("settle", "long after", "y", "vector", "a seam"))
    known = registry.Registry()
    known.register(Settles)
    with registry.using(known):
        text = show(tmp_path, "settles.late")
    assert "settle  settles.late    plain settle, long after" in text
