"""`mho mvm`: the table of effects, boosts, studies, plots, and what it says to mistakes."""

import json
import sys

import pytest
from click.testing import CliRunner
from mho_lab.run.product import MvmExperiment
from mho_lab.studies.mvmtables import STUDIES, equal_error
from mho_lab.studies.mvmverb import STUDY_NAMES

import mho
from mho.cli import main

SMALL = ("--size", "64", "--matrices", "2")
TILE_MAX = ("--set", "tiles.pcm.mapping.kind=mho.tile_max")


def invoke(*args):
    return CliRunner().invoke(main, ["mvm", *args])


def rows(*args):
    result = invoke(*args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_table_names_every_effect_alone_and_removed_at_every_time():
    """R003-40, R003-45."""
    found = rows("pcm.standard", *SMALL, "--time", "1 h", "--time", "1 year")
    kinds = [e.kind for e in mho.load("pcm.standard").tiles["pcm"].nonidealities]
    names = ["all", "converters alone", *(f"{k} alone" for k in kinds), *(f"without {k}" for k in kinds)]
    assert [(r["time"], r["what"]) for r in found] == [(t, n) for t in (None, 3600.0, 31_536_000.0) for n in names]
    assert all(r["mean"] >= 0 and r["sem"] >= 0 for r in found)


def test_boosted_effects_are_rows_of_their_own():
    """R003-45: one effect, or the whole family; a factor of 0 removes it, a factor of 1 changes nothing."""
    found = rows("pcm.standard", *SMALL, *(a for b in ("pcm.drift=1", "pcm.read_noise=0", "pcm") for a in ("--boost", b)))
    by_name = {r["what"]: r["mean"] for r in found}
    assert by_name["pcm.drift x1"] == by_name["all"]
    assert by_name["pcm.read_noise x0"] == by_name["without pcm.read_noise"]
    assert by_name["pcm x2"] > 1.5 * by_name["all"]


@pytest.mark.parametrize("name", STUDY_NAMES)
def test_every_study_has_a_table_and_json(name):
    """R003-15, R003-44, R003-48, R003-52, R003-53: the studies on small matrices."""
    text = invoke("pcm.standard", *TILE_MAX, *SMALL, "--study", name).stdout
    (study,) = rows("pcm.standard", *TILE_MAX, *SMALL, "--study", name)
    assert study["study"] == name and study["title"] in text
    assert all(set(r) == {"series", "x", "value", "sem", "note"} for r in study["rows"])
    assert all(r["value"] is not None or r["note"] for r in study["rows"])


def test_the_names_on_the_command_line_are_the_studies():
    assert sorted(STUDY_NAMES) == sorted(STUDIES)


def test_drift_is_followed_with_and_without_compensation():
    """R003-22, R003-31: at the hardware's own times; without compensation the error is larger after a day."""
    (study,) = rows("pcm.standard", *TILE_MAX, *SMALL, "--study", "drift")
    assert [r["x"] for r in study["rows"]] == 2 * [1.0, 3600.0, 86_400.0, 31_536_000.0]
    with_gain, without = ([r["value"] for r in study["rows"][s]] for s in (slice(4), slice(4, 8)))
    assert all(a < b for a, b in zip(with_gain[1:], without[1:]))


def test_equal_error_says_why_an_effect_cannot_reach_its_target():
    """R003-44: drift is the identity right after programming."""
    hw = mho.load("pcm.standard", set=[TILE_MAX[1]])
    table = equal_error(hw, MvmExperiment(size=64, vectors=32, matrices=2), lambda: None)
    found = {r.x: r for r in table.rows}
    assert found["pcm.drift"].value is None and "makes no difference" in found["pcm.drift"].note
    assert found["circuit.output_noise"].value > 1 and 1 < found["pcm"].value < found["pcm.programming_noise"].value
    assert ("", "pcm.drift", "–", "", found["pcm.drift"].note) in table.cells()


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_what_is_printed_can_be_drawn(tmp_path, suffix):
    pytest.importorskip("matplotlib")
    file = tmp_path / f"mvm{suffix}"
    result = invoke("pcm.standard", *TILE_MAX, *SMALL, "--study", "graded-column", "--study", "equal-error", "--plot", str(file))
    assert result.exit_code == 0 and result.stdout.endswith(f"wrote {file}\n")
    if suffix == ".svg":
        text = file.read_text()
        assert "does not reach it" in text and "ordered share" in text and "dc:date" not in text
    else:
        assert file.read_bytes().startswith(b"\x89PNG")


def test_the_table_of_effects_can_be_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    file = tmp_path / "effects.svg"
    assert invoke("pcm.standard", *SMALL, "--plot", str(file)).exit_code == 0
    assert "without pcm.drift" in file.read_text()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("pcm.standard", "--boost", "pcm=x"), "write WHAT=FACTOR with a factor of at least 0"),
        (("pcm.standard", "--boost", "pcm=-1"), "write WHAT=FACTOR"),
        (("pcm.standard", "--boost", "fefet", *SMALL), "no effect 'fefet' with a strength"),
        (("pcm.standard", "--set", "default=digital"), "an MVM needs a tile; try --set default=pcm"),
        (("ideal.exact", "--study", "input-range", *SMALL), "has no DAC, so there is no input range"),
        (("ideal.exact", "--study", "graded-column", *SMALL), "this tile has none; add circuit.ir_drop"),
        (("pcm.standard", "--plot", "x.pdf"), "--plot draws .svg or .png"),
        (("pcm.standard", "--plot", "no/such/x.svg"), "there is no folder no/such"),
        (("pcm.standard", "--time", "soon"), "a time such as '1 h'"),
        (("nope.yaml",), "nope.yaml"),
    ],
)
def test_mistakes_end_with_one_message_and_no_traceback(args, message):
    result = invoke(*args)
    assert result.exit_code == 1 and message in result.output and "Traceback" not in result.output


def test_options_of_the_effect_table_do_not_go_with_studies():
    result = invoke("pcm.standard", "--study", "drift", "--time", "1 h")
    assert result.exit_code == 2 and "belong to the table of effects" in result.output


def test_a_plot_without_matplotlib_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = invoke("pcm.standard", *SMALL, "--plot", str(tmp_path / "x.svg"))
    assert result.exit_code == 1 and "pip install 'mho-lab[report]'" in result.output


def test_several_files_are_compared_over_time(tmp_path):
    """The totals are those of each alone, on the same matrices; studies and factors belong to one file."""
    plot = tmp_path / "schemes.svg"
    result = invoke("pcm.standard", "pcm.four_devices", *SMALL, "--time", "1 h", "--plot", str(plot), "--json")
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.output)
    assert [(r["series"], r["x"]) for r in found["rows"]] == [("pcm.standard", 3600.0), ("pcm.four_devices", 3600.0)]
    assert "pcm.four_devices" in plot.read_text()
    alone = json.loads(invoke("pcm.four_devices", *SMALL, "--time", "1 h", "--json").output)
    total = next(r["mean"] for r in alone if r["what"] == "all" and r["time"] == 3600.0)
    assert found["rows"][1]["value"] == pytest.approx(total, rel=1e-9) and total < found["rows"][0]["value"]
    assert invoke("pcm.standard", "pcm.hermes", "--study", "drift").exit_code == 2
