"""Blocks of report pages: numbers beside every figure, hostile texts as text, nothing loaded."""

import math

import pytest
from mho_lab import report
from report_page import HOSTILE, Page

from mho.ground.errors import MhoError

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")


def page(*blocks, title="A study", **kw):
    text = report.page(title, blocks, **kw)
    return Page(text), text


def every_block(name):
    """One of each, with `name` wherever a text goes."""
    points = [(1, 0.5, 0.01), (10, 0.7), (100, None), (1000, math.nan, 0.1)]
    return [
        report.text(name, name),
        report.lines(name, {name: points, "other": points}, x=name, y=name, log=("x",), levels={name: 0.6}, note=name),
        report.bars(name, {name: (1.5, 0.1), "b": 2, "c": None}, y=name, note=name),
        report.heatmap(name, [name], [name, "b", "c"], [[0.5, -0.2, None]], corner=name, note=name),
        report.histogram(name, [0, 1, 2], {name: [3, 1]}, x=name, note=name),
        report.table(name, [name, "n"], [[name, 3]], note=name),
        report.tiles(name, [report.TileGrid(name, "64x512", 2, 1, 0.5, 0.25)], note=name),
        report.facts(name, {name: name}, note=name),
        report.code(name, name, summary=name),
    ]


def test_hostile_texts_are_text_in_every_block():
    made, text = page(*every_block(HOSTILE), title=HOSTILE, headline=HOSTILE, note=HOSTILE)
    assert "<script" not in text.lower() and not {"script", "img", "b"} & {t for t, _ in made.tags}
    assert made.text.count("<script>alert('x')</script>") > 20


def test_a_page_asks_for_nothing_and_forbids_scripts():
    made, text = page(*every_block("a name"))
    assert "default-src 'none'" in made.all("meta")[1]["content"]
    assert not made.all("link") and "http:" not in text and "https:" not in text
    assert not [k for _, attributes in made.tags for k in attributes if k.startswith("on")]


def test_figures_have_text_alternatives_and_their_numbers_as_a_table():
    made, _ = page(*every_block("effect"))
    drawn = [a for a in made.all("svg") if a.get("role") == "img"]
    assert len(drawn) == 3 and all("table" in a["aria-label"] for a in drawn)
    assert len(made.all("table")) == 6  # lines, bars, heat-map, histogram, table, tiles


def test_ids_are_unique_even_for_equal_blocks():
    made, _ = page(*every_block("same"), *every_block("same"))
    ids = [a["id"] for _, a in made.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["xlink:href"][1:] for a in made.all("use")} <= set(ids)


def test_lines_list_their_points_by_setting():
    curves = {"direct": [(6, 0.9, 0.012), (5, 0.81)], "hwa": [(6, 0.95)]}
    made, _ = page(report.lines("Bits", curves, x="ADC bits", y="accuracy", percent=True, levels={"digital": 0.98}))
    assert "ADC bits direct hwa 5 81.0 % – 6 90.0 ± 1.2 % 95.0 % digital 98.0 % 98.0 %" in made.text


def test_a_heatmap_is_darkest_where_the_value_is_largest_and_tells_signs_apart():
    made, _ = page(report.heatmap("Loss", ["a"], ["x", "y", "z", "none"], [[0.1, 0.2, -0.1, None]], percent=True))
    cells = [a for a in made.all("td") if "class" in a]
    assert [(c["class"], c.get("style")) for c in cells] == [
        ("n cool", "--p:25%"), ("n cool", "--p:50%"), ("n warm", "--p:25%"), ("n cool", None)
    ]  # fmt: skip
    assert "a 10.0 % 20.0 % −10.0 % –" in made.text


def test_a_histogram_shows_shares():
    made, _ = page(report.histogram("g", [0, 1, 2], {"target": [3, 1], "none": [0, 0]}, x="uS"))
    assert "0 to 1 75.0 % 0.0 % 1 to 2 25.0 % 0.0 %" in made.text


@pytest.mark.parametrize("log", [(), ("x",), ("y",), ("x", "y")])
def test_logarithmic_axes_take_zeros_and_have_plain_numbers(log):
    block = report.lines("t", {"a": [(0, 0.0), (1, 1.0), (1e8, 100.0)]}, log=log)
    made, text = page(block)
    assert "$" not in "".join(made.words) and "mathdefault" not in text


def test_tiles_of_one_layer_are_drawn_each_or_as_one_area_when_there_are_thousands():
    few, many = (page(report.tiles("t", [report.TileGrid("a", "8x8", n, n, 1, 0.5)]))[1] for n in (3, 64))
    assert few.count("z") > many.count("z") and len(many) < len(few) + 4000
    assert "4,096 tiles (64 × 64), 50 % used" in many


def test_equal_layers_of_large_networks_share_a_card():
    grids = [report.TileGrid(f"layer{i}", "8x8" if i % 2 else "8x16", 1, 1, 1, 1) for i in range(60)]
    made, _ = page(report.tiles("t", grids))
    assert len(made.all("svg")) == 2
    assert "30 × layer0 … layer58" in made.text and "30 × layer1 … layer59" in made.text
    assert made.text.count("layer17") == 1  # in the table


def test_a_page_that_was_kept_is_made_again(tmp_path):
    """The same to the byte, whatever is on it; `mho report` does it."""
    blocks = every_block(HOSTILE)
    blocks.append(report.lines("Named", {"a": [(1, 0.1), (60, 0.2)]}, x_names=lambda v: f"{v:.0f} seconds"))
    first = report.write_page(tmp_path / "report.html", "A", blocks, headline="h", note="n", keep=True).read_text()
    assert report.report_of(tmp_path) == first and "60 seconds" in first


@pytest.mark.parametrize("text", ["{", "[]", '{"blocks": [{"block": "exec"}]}', '{"blocks": [{"block": "text", "x": 1}]}'])
def test_a_page_that_mho_did_not_keep_is_refused(tmp_path, text):
    (tmp_path / "page.json").write_text(text)
    with pytest.raises(MhoError, match="not a page that mho wrote"):
        report.report_of(tmp_path)


def test_the_same_blocks_give_the_same_page(tmp_path):
    first, second = (report.write_page(tmp_path / n, "A", every_block("x")).read_text() for n in ("a.html", "b.html"))
    assert first == second
