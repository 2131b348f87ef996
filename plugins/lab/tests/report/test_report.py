"""The HTML report of a run: what it says, and that it is safe to open anywhere."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from mho_lab.report import write_report
from mho_lab.report.words import SPACE
from report_page import HOSTILE, Page

from mho.ground.errors import MhoError

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

HARDWARE = "mho: 1\ndefault: pcm\ntiles:\n  pcm: {rows: 256, columns: 128}\n# <script>hardware()</script>\n"


def variant(name: str, scores: list[list[float]], **changes: Any) -> dict[str, Any]:
    columns = list(zip(*scores))
    mean = [sum(c) / len(c) for c in columns]
    n = len(scores)
    sem = [math.sqrt(sum((v - m) ** 2 for v in c) / (n - 1) / n) if n > 1 else math.nan for c, m in zip(columns, mean)]
    normalised = [(m - 0.1) / 0.85 for m in mean]
    about = f"about {name}"
    return {
        "name": name, "about": about, "mean": mean, "sem": sem, "normalised": normalised, "scores": scores, **changes
    }  # fmt: skip


DIRECT = variant("direct", [[0.92, 0.80], [0.90, 0.84], [0.91, 0.82]])  # mean 0.91, 0.82; SEM 0.00577, 0.01155
HWA = variant("hwa", [[0.94, 0.93], [0.94, 0.94], [0.94, 0.95]])


def layer(name: str, where: str = "analog", **changes: Any) -> dict[str, Any]:
    entry = {"name": name, "type": "nn.Linear", "where": where, "why": "default", "tile": "pcm"}
    on_tiles = {"matrix": "64x512", "matrices": [matrix(1, 64, 512, 2, 1)], "tiles": 2}
    return {**entry, **on_tiles, "parameters": 32832, **changes}


def matrix(groups: int, outputs: int, inputs: int, down: int, across: int) -> dict[str, int]:
    """On tiles of 256 rows and 128 columns."""
    found = {"groups": groups, "outputs": outputs, "inputs": inputs, "down": down, "across": across}
    return {**found, "rows": 256, "columns": 128}


def folder_of(folder: Path, *variants: dict[str, Any], **changes: Any) -> Path:
    summary = {
        "task": "digits",
        "hardware": "a test chip",
        "reference": 0.95,
        "chance": 0.1,
        "times": [1.0, 31536000.0],
        "chips": 3,
        "seed": 7,
        "variants": list(variants),
        "layers": [layer("head")],
        "parameters": 32832,
        "versions": {"mho": "0.1.0", "torch": "2.13.0"},
        "command": "mho run digits test.yaml --seed 7",
        "seconds": 61.0,
        **changes,
    }
    lines = [{"variant": v["name"], "chip": k, "scores": s} for v in variants for k, s in enumerate(v["scores"] or ())]
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "results.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines) + '{"variant": "cut sho')
    (folder / "hardware.yaml").write_text(HARDWARE)
    return folder


def page_of(folder: Path, *variants: dict[str, Any], **changes: Any) -> tuple[Page, str]:
    text = write_report(folder_of(folder, *variants, **changes)).read_text(encoding="utf-8")
    return Page(text), text


def test_the_report_is_one_file_that_asks_for_nothing(tmp_path: Path) -> None:
    page, text = page_of(tmp_path, DIRECT, HWA)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hardware.yaml", "report.html", "results.jsonl", "summary.json"]
    assert "<script" not in text.lower()
    assert "http://" not in text
    assert "https://" not in text
    assert not page.all("link")
    assert not page.all("img")
    assert all(a["xlink:href"].startswith("#") for a in page.all("use"))
    assert not [k for _, attributes in page.tags for k in attributes if k.startswith("on")]


def test_a_strict_policy_is_the_first_thing_after_the_character_set(tmp_path: Path) -> None:
    page, _ = page_of(tmp_path, DIRECT, HWA)
    policy = page.all("meta")[1]
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert policy["content"].startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")


def test_the_headline_says_what_came_out(tmp_path: Path) -> None:
    text = page_of(tmp_path, DIRECT, HWA)[0].text
    assert (
        "After 1 year the score on digits is 94.0 ± 0.6 % when trained for the hardware "
        "and 82.0 ± 1.2 % when deployed directly; digitally it is 95.0 %."
    ) in text
    assert "gains 12.0 ± 1.3 points over direct deployment" in text


def test_the_hardware_stands_on_top_in_words_and_classes_stand_one_by_one(tmp_path: Path) -> None:
    extra = {f"class {c}": {"mean": [0.9, v], "sem": [0.0, 0.0]} for c, v in (("cat", 0.7), ("dog", 0.8))}
    folder = folder_of(tmp_path, {**DIRECT, "extra": extra}, reference_extra={"class cat": 0.95, "class dog": 0.9})
    text = Page(write_report(folder).read_text()).text
    assert "tiles of 256 × 128 weights, one active device each, 0 to 25 µS; inputs: exact" in text
    assert text.index("tiles of 256") < text.index("Score over time")
    assert "class cat 95.0 % 90.0 % 70.0 % class dog 90.0 % 90.0 % 80.0 %" in text


@pytest.mark.parametrize(
    ("hwa", "said"),
    [
        ([[0.9, 0.60], [0.9, 0.61], [0.9, 0.62]], "does not help here: against direct deployment it loses 21.0 ± 1.3 points"),
        ([[0.9, 0.83], [0.9, 0.80], [0.9, 0.84]], "makes no difference that 3 chips can show (+0.3 ± 1.7 points)"),
    ],
)
def test_it_is_honest_where_hardware_aware_training_does_not_help(tmp_path: Path, hwa: list[list[float]], said: str) -> None:
    assert said in page_of(tmp_path, DIRECT, variant("hwa", hwa))[0].text


def test_a_score_above_the_digital_one_is_explained(tmp_path: Path) -> None:
    explained = "it was trained for longer, starting from the digital network"
    assert explained in page_of(tmp_path, DIRECT, HWA, reference=0.93)[0].text
    assert explained not in page_of(tmp_path, DIRECT, HWA)[0].text


def test_two_chips_do_not_prove_what_many_would(tmp_path: Path) -> None:
    """3.2 standard errors apart, but the 95 % point of Student's t for one degree of freedom is 12.7."""
    a, b = variant("direct", [[0.9, 0.80], [0.9, 0.82]]), variant("hwa", [[0.9, 0.845], [0.9, 0.865]])
    assert "makes no difference that 2 chips can show" in page_of(tmp_path, a, b)[0].text


def test_means_errors_and_normalised_accuracy_are_in_the_table(tmp_path: Path) -> None:
    text = page_of(tmp_path, DIRECT, HWA)[0].text
    assert "1 s 91.0 % 0.6 % 0.953" in text
    assert "1 year 82.0 % 1.2 % 0.847" in text


def test_every_figure_has_a_text_alternative_a_caption_and_a_table(tmp_path: Path) -> None:
    page, _ = page_of(tmp_path, DIRECT, HWA)
    drawn = [a for a in page.all("svg") if a.get("role") == "img"]
    assert len(drawn) == len(page.all("figure")) == len(page.all("figcaption")) == 2
    assert all("table" in a["aria-label"] for a in drawn)
    assert "direct from 91.0 % after 1 s to 82.0 %" in drawn[0]["aria-label"].replace(SPACE, " ")
    assert len(page.all("table")) >= 3


def test_ids_are_unique_and_references_find_theirs(tmp_path: Path) -> None:
    page, _ = page_of(tmp_path, DIRECT, HWA)
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["xlink:href"][1:] for a in page.all("use")} <= set(ids)


def test_hostile_names_are_text(tmp_path: Path) -> None:
    attack = variant(HOSTILE, [[0.9, 0.8], [0.8, 0.7]], about="</section><b onclick=x>")
    layers = [
        layer(HOSTILE, why="<img src=x>", type="<i>"),
        layer("rest", "left digital", why="<u>", tile="", matrix="", tiles=0),
    ]
    changes = {"task": HOSTILE, "hardware": "<em>", "versions": {"<s>": "<s>"}, "command": HOSTILE}
    page, text = page_of(tmp_path, attack, layers=layers, **changes)
    assert "<script" not in text.lower()
    assert not {"b", "i", "u", "s", "em", "img", "script"} & {t for t, _ in page.tags}
    assert "<script>alert('x')</script>$\\frac{" in page.text
    assert "<script>hardware()</script>" in page.text
    in_figures = [w for w in page.words if w.startswith("<script") and "…" in w]
    assert len(in_figures) == 1  # the axis of chips, cut to length; the tile map has room for it


@pytest.mark.parametrize("missing", [math.nan, None])
def test_one_chip_has_no_error_bar(tmp_path: Path, missing: float | None) -> None:
    single = variant("direct", [[0.91, 0.82]], sem=[missing, missing])
    text = page_of(tmp_path, single, chips=1)[0].text
    assert "1 s 91.0 % – 0.953" in text
    assert "score on digits is 82.0 % when deployed directly" in text
    assert "no error bar" in text
    assert "nan" not in text.lower()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7])
def test_any_number_of_variants_with_any_names(tmp_path: Path, count: int) -> None:
    names = ["ζ variant", "日本語", "mho", "", "a" * 90, "x y", "z"][:count]
    page, _ = page_of(tmp_path, *(variant(n, [[0.9, 0.5 + i / 20], [0.8, 0.5 + i / 20]]) for i, n in enumerate(names)))
    assert all(n in page.text for n in names)
    assert len([a for a in page.all("svg") if a.get("role") == "img"]) == 2


def test_unknown_variants_are_compared_by_their_scores(tmp_path: Path) -> None:
    a, b = variant("four bits", HWA["scores"]), variant("two bits", DIRECT["scores"])
    assert "“four bits” is best, 12.0 ± 1.3 points ahead of “two bits”." in page_of(tmp_path, b, a)[0].text


def test_missing_parts_leave_dashes(tmp_path: Path) -> None:
    bare = variant("direct", [[0.9, 0.8]]) | dict.fromkeys(("scores", "sem", "normalised", "about"))
    page, _ = page_of(tmp_path, bare, reference=None, chance=None, layers=[], command="", versions={}, seconds=None)
    assert "1 year 80.0 % – –" in page.text
    assert "The command was not recorded." in page.text
    assert "dashed" not in page.text


def test_single_chips_come_from_results_where_the_summary_has_none(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, DIRECT)
    summary = json.loads((folder / "summary.json").read_text())
    del summary["variants"][0]["scores"]
    (folder / "summary.json").write_text(json.dumps(summary))
    assert "direct 3 80.0 % 82.0 % 84.0 %" in Page(write_report(folder).read_text()).text


def test_times_are_shown_in_order_and_zero_has_a_place(tmp_path: Path) -> None:
    late_first = variant("direct", [[0.7, 0.9, 0.8], [0.7, 0.9, 0.8]])
    text = page_of(tmp_path, late_first, times=[31536000.0, 0.0, 3600.0])[0].text
    assert "After 1 year the score on digits is 70.0 ± 0.0 %" in text
    assert "0 s 90.0 % 0.0 % 0.941 1 h 80.0 % 0.0 % 0.824 1 year 70.0 %" in text


def test_utilisation_follows_from_matrix_and_tile_size(tmp_path: Path) -> None:
    """64x512 on two tiles of 256 rows and 128 columns: every row, half of the columns."""
    layers = [
        layer("halved"),
        layer("gates", matrix="128x256 128x128", matrices=[matrix(1, 128, 256, 1, 1), matrix(1, 128, 128, 1, 1)]),
        layer("shared", tiles=0),  # its tiles count where the matrix came up first
        layer("<many>", matrix="1280x2560", matrices=[matrix(1, 1280, 2560, 10, 10)], tiles=100),
    ]
    text = page_of(tmp_path, DIRECT, layers=layers)[0].text
    assert "halved nn.Linear analog pcm 64×512 2 50.0 %" in text
    assert "gates nn.Linear analog pcm 128×256 128×128 2 75.0 %" in text
    assert "shared nn.Linear analog pcm 64×512 – –" in text
    assert "<many> 1280 × 2560, 100 tiles (10 × 10), 100 % used" in text


def test_grouped_layers_lie_on_tiles_of_their_own(tmp_path: Path) -> None:
    """A depthwise convolution: 8 matrices of 1x9 on 8 tiles of 256 rows and 128 columns."""
    depthwise = layer("depthwise", matrix="8 of 1x9", matrices=[matrix(8, 1, 9, 1, 8)], tiles=8)
    text = page_of(tmp_path, DIRECT, layers=[depthwise])[0].text
    assert "depthwise 8 of 1 × 9, 8 tiles (1 × 8), 0 % used" in text


def test_layers_that_could_not_go_on_tiles_are_named(tmp_path: Path) -> None:
    odd = layer("odd", "left digital", why="no analog layer for this type", tile="", matrix="", tiles=0)
    text = page_of(tmp_path, DIRECT, layers=[layer("head"), odd])[0].text
    assert "2 tiles; the layers on them hold 50.0 % of the 65,664 parameters" in text
    assert "Not on tiles although no rule said so: odd (no analog layer for this type)." in text


def test_provenance_is_complete(tmp_path: Path) -> None:
    text = page_of(tmp_path, DIRECT)[0].text
    assert "mho run digits test.yaml --seed 7 Seed 7 Chips 3 Time of the last call 1 min 1 s mho 0.1.0 torch 2.13.0" in text
    assert HARDWARE.splitlines()[3] in " ".join(page_of(tmp_path, DIRECT)[0].words)


def test_the_same_numbers_give_the_same_file_and_matplotlib_keeps_its_settings(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    assert page_of(tmp_path, DIRECT, HWA)[1] == page_of(tmp_path, DIRECT, HWA)[1]
    assert dict(matplotlib.rcParams) == before


def test_a_folder_without_a_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MhoError, match="no finished run"):
        write_report(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"times": [1], "variants": [{"name": "a", "mean": []}]}'])
def test_a_broken_summary_is_refused(tmp_path: Path, text: str) -> None:
    (folder_of(tmp_path, DIRECT) / "summary.json").write_text(text)
    with pytest.raises(MhoError, match="mho wrote"):
        write_report(tmp_path)


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_missing_extra_is_named(tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MhoError, match=r"pip install 'mho-lab\[report\]'"):
        write_report(folder_of(tmp_path, DIRECT))


CAUSES = [
    {"time": t, "what": what, "mean": mean, "sem": 0.001}
    for t, rest in ((None, 0.0), (31536000.0, 0.05))
    for what, mean in (("all", 0.15 + rest), ("converters alone", 0.02), ("pcm.drift alone", rest), ("without pcm.drift", 0.15))
]
MVM = {"size": 512, "matrices": 2, "mapping": "mho.per_column", "rows": CAUSES}


def test_the_causes_of_the_mvm_error_are_bars_beside_their_numbers(tmp_path: Path) -> None:
    page, _ = page_of(tmp_path, DIRECT, mvm=MVM)
    assert "One matrix-vector product" in page.text and "mean of 2 matrices" in page.text
    assert "Effect Alone, programming Without it Alone, 1 year Without it" in page.text
    assert "all 15.0 % – 20.0 % –" in page.text and "pcm.drift 0.0 % 15.0 % 5.0 % 15.0 %" in page.text
    (label,) = [a["aria-label"] for a in page.all("svg") if "MVM error" in (a.get("aria-label") or "")]
    assert label is not None and "all together, 15.0" in label and "the largest alone is pcm.drift" in label


def test_a_run_without_a_tile_by_default_says_why_there_are_no_causes(tmp_path: Path) -> None:
    page, _ = page_of(tmp_path, DIRECT, mvm={"skipped": "the default is <b>digital</b>"})
    assert "Not measured: the default is <b>digital</b>." in page.text and not page.all("b")


def test_the_tails_of_the_weights_are_listed_by_layer(tmp_path: Path) -> None:
    """R003-49"""
    tails = [{"layer": "head", "weights": 3.21, "conductances": math.nan}]
    assert "head 3.210 –" in page_of(tmp_path, DIRECT, kurtosis=tails)[0].text
