"""`mho report`: pages of runs, sweeps and footprints; tables of the main objects in notebooks."""

import base64
import json
import re
from xml.etree import ElementTree

import pytest
import torch
from click.testing import CliRunner
from mho_lab import sweep
from mho_lab.report import report_of
from mho_lab.sweep.plan import SweepPlan, parsed_arms
from report_page import HOSTILE, Page
from torch import nn

import mho
from mho.cli import main

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")


def a_sweep(folder, arms=("a:", f"{HOSTILE[:20]}: tiles.pcm.adc.bits=3"), grid=None):
    """A folder as `mho sweep run` leaves it, with made-up scores: 0.8, or 0.9 for the first arm; 2 seeds, 2 chips."""
    plan = SweepPlan.checked(
        task="digits", hardware="pcm.standard", seeds=2, chips=2, times=("1 s", "1 h"), arms=parsed_arms(arms),
        grid=grid or {"tiles.pcm.rows": (256, 512)},
    )  # fmt: skip
    (folder / "sweep.yaml").write_text(plan.to_yaml())
    items, records = {}, []
    for i, p in enumerate(plan.points()):
        for seed in (0, 1):
            for k in (0, 1):
                item = {"arm": p.arm, "grid": p.grid, "seed": seed, "chip": k, "times": [1.0, 3600.0], "network": "n"}
                score = 0.9 if p.arm == next(iter(plan.all_arms)) else 0.8
                rows = [{"time": 1.0, "score": score + seed / 100}, {"time": 3600.0, "score": score - 0.1}]
                key = f"{i}{seed}{k}"
                items[key] = item
                records.append({"key": key, "item": item, "value": {"rows": rows}})
    (folder / "results").mkdir()
    for r in records:
        done = {**r, "measure": "mho_lab.sweep.points:chip", "status": "done", "provenance": {"seconds": 1.0}}
        (folder / "results" / f"{r['key']}.json").write_text(json.dumps(done))
    (folder / "plans").mkdir()
    about = {"measure": {"name": "mho_lab.sweep.points:chip"}, "identity": {"versions": {"mho": "0.1.0"}}, "plugins": []}
    about |= {"number": 1, "items": items, "command": ["/bin/mho", "sweep", "run", HOSTILE]}
    (folder / "plans" / "mho_lab.sweep.points.chip.json").write_text(json.dumps(about))
    return folder


def test_the_page_of_a_sweep_says_what_came_out(tmp_path):
    text = report_of(a_sweep(tmp_path))
    page = Page(text)
    assert "After 1 h none of 4 settings is clear of the others: 2 at the top, at 80.0 ± 0.0 %, look alike." in page.text
    assert "8 of 8" not in page.text and "16 of 16 items are measured" in page.text
    assert "95 % intervals of the mean over 2 seeds" in page.text
    assert (
        "90.5 ± 6.4 %" in page.text
    )  # Student's t of one degree of freedom: 12.706 standard errors of 0.5 and "−10.00 ± 0.00" in page.text
    for title in ("Scores", "Score over time", "Score over rows", "Score after 1 h", "Scores at every time", "Versions"):
        assert title in page.text
    assert "<script" not in text.lower() and "mho sweep run" in page.text


def test_the_best_setting_is_named_where_its_error_bar_sets_it_apart(tmp_path):
    page = Page(report_of(a_sweep(tmp_path, grid={"tiles.pcm.rows": (256,)})))
    assert "After 1 h the best is “a”, rows 256: 80.0 ± 0.0 %" in page.text and "; the worst is “" in page.text


def test_figures_and_tables_can_be_taken_away(tmp_path):
    """What lies behind the links is the table, and a figure that stands alone."""
    links = re.findall(r'download="([^"]+)" href="data:([a-z/+]+);base64,([^"]+)"', report_of(a_sweep(tmp_path)))
    files = {name: base64.b64decode(content).decode() for name, kind, content in links}
    assert files["Scores after 1 h.csv"].splitlines()[0].startswith("Arm,rows,Score,Normalised")
    figure = files["Score over rows.svg"]
    assert ElementTree.fromstring(figure).tag == "{http://www.w3.org/2000/svg}svg" and "var(" not in figure


def test_two_settings_become_a_map_for_each_arm(tmp_path):
    grid = {"tiles.pcm.rows": (256, 512), "tiles.pcm.adc.bits": (6, 8)}
    page = Page(report_of(a_sweep(tmp_path, arms=(), grid=grid)))
    assert "rows 256" in page.text and "adc.bits 8" in page.text and page.all("td")
    assert "Difference" not in page.text


def measured(item):
    return {"double": 2 * item["n"], "why": HOSTILE}


def test_the_page_of_any_other_sweep_is_its_table(tmp_path):
    sweep.run([{"n": n} for n in range(3)], measured, tmp_path)
    text = report_of(tmp_path)
    page = Page(text)
    assert "3 results." in page.text and "0 0 <script>alert" in page.text and "<script" not in text.lower()


def test_what_failed_is_on_the_page(tmp_path):
    (a_sweep(tmp_path) / "failed").mkdir()
    (tmp_path / "results" / "000.json").unlink()
    failed = {"key": "000", "item": {}, "status": "raised", "attempts": 2}
    failed["error"] = {"type": "ValueError", "message": HOSTILE, "traceback": ""}
    (tmp_path / "failed" / "000.json").write_text(json.dumps(failed))
    text = report_of(tmp_path)
    assert "What failed" in text and "ValueError" in text and "<script" not in text.lower()


def test_the_command_writes_into_the_folder_or_elsewhere(tmp_path):
    a_sweep(tmp_path)
    assert CliRunner().invoke(main, ["report", str(tmp_path)]).exit_code == 0
    assert CliRunner().invoke(main, ["report", str(tmp_path), "--out", str(tmp_path / "x.html")]).exit_code == 0
    assert (tmp_path / "report.html").read_text() == (tmp_path / "x.html").read_text()


def test_a_folder_of_nothing_is_refused(tmp_path):
    result = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert result.exit_code == 1 and "nor a sweep" in result.output


def test_a_footprint_draws_its_tiles(tmp_path):
    out = tmp_path / "tiles.html"
    result = CliRunner().invoke(main, ["footprint", "digits", "pcm.standard", "--out", str(out)])
    assert result.exit_code == 0, result.output
    page = Page(out.read_text())
    assert "digits needs 4 tiles" in page.text and len(page.all("svg")) == 4
    assert "64 × 512, 1 tile, 12 % used" in page.text


# -- notebooks ------------------------------------------------------------------------------------------------------
def objects():
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module(HOSTILE.replace(".", ""), nn.Linear(8, 4))
    net = mho.to_analog(model, "pcm.standard")
    x = torch.rand(4, 8)
    chip = mho.program(net, 0)
    return {
        "hardware": mho.load("pcm.standard"),
        "evaluation": mho.evaluate(net, lambda m: float(m(x).mean()), ["1 s"], chips=2),
        "footprint": mho.footprint(model, x, "pcm.standard"),
        "conversion": mho.conversion_report(net),
        "chip": chip,
        "tile": mho.Tile(torch.rand(4, 8), "pcm.standard").program(0),
        "table": sweep.Table(({"a": HOSTILE, "b": 1.23456789},)),
        "inspection": mho.inspect_layers(net, [x], ["1 s"]),
    }


def test_main_objects_show_a_small_escaped_table_in_notebooks():
    shown = {name: thing._repr_html_() for name, thing in objects().items()}
    for name, text in shown.items():
        Page(text)  # well-formed
        assert "<table>" in text and "<script" not in text.lower() and len(text) < 5000, name
    assert "pcm.drift" in shown["hardware"] and "512 x 512" in shown["hardware"]
    assert "2 chips" in shown["evaluation"] and "1.23457" in shown["table"]
    assert "&lt;script&gt;" in shown["footprint"] and "&lt;script&gt;" in shown["conversion"]
    assert "age" in shown["chip"] and "4 x 8" in shown["tile"] and "MVM error" in shown["inspection"]


def test_the_page_of_a_run_shows_what_happens_inside(tmp_path):
    from mho_lab.report.blocks import page
    from mho_lab.run.page import inspection_blocks

    data = objects()["inspection"].to_data()
    made = Page(page("inside", inspection_blocks(json.loads(json.dumps(data)))))
    assert "MVM error, 1 s" in made.text and "conductance (µS)" in made.text and "after 1 s" in made.text
