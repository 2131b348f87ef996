"""Footprints: R003 Table 1 from the networks in examples/networks, and how tiles, uses and operations are counted."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import mho
from mho.cli import main

NETWORKS = Path(__file__).parents[4] / "examples" / "networks"
TILES = "mho: 1\ndefault: t\ntiles: {t: {rows: 512, columns: 512, split: channel}}\n"
STANDARD = mho.Hardware.from_yaml(TILES)


def network(file):
    spec = importlib.util.spec_from_file_location(f"networks_{file}", NETWORKS / f"{file}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def small():
    return torch.randn(1, 3, 32, 32)


def large():
    return torch.randn(1, 3, 224, 224)


def tokens(n):
    return lambda: torch.zeros(1, n, dtype=torch.long)


# file, network, sample, ends digital, and Table 1: #par, mapped (M), tiles, util %, #MVM (K), reuse, Gflop. None: in
# brackets here, not reproducible from what the paper prints. Speech: 15 frames give its 0.9 Gflop.
TABLE_1 = [
    ("resnet", "resnet32", small, False, 0.36, 0.36, 34, 4.0, 14, 435, 0.1),
    ("resnet", "wrn16_8", small, False, 11, 11, 68, 61.7, 19, 286, 3.1),
    ("resnet", "resnet18", large, True, 11.7, 11.2, 75, 56.8, 40, 533, 3.4),
    ("resnet", "resnet50", large, True, 25.6, 23.4, 149, 60.0, 74, 497, 7.9),
    ("densenet", "densenet121", large, True, 8, 6.9, 266, 9.8, 143, 537, 5.4),
    ("resnet", "wide_resnet50", large, True, 69, 66.8, 296, 86.0, 101, 342, 22.6),
    ("transformer", "bert_base", tokens(128), False, 108, 85, 486, 67.1, 61, 126, 21.8),
    ("transformer", "albert_base", tokens(128), False, 12, 7.8, 48, 61.7, 61, 1285, 21.8),
    ("recurrent", "speech", lambda: torch.randn(1, 15, 140), False, 30, 30, 153, 74.8, None, None, 0.9),
    ("recurrent", "lstm_ptb", tokens(26), False, 19.8, 13.3, 88, 57.5, 2.2, 26, 0.7),
    ("recurrent", "rnn_t", lambda: (torch.randn(1, 2, 340), tokens(2)()), False, 57, 57, 304, 71.6, None, None, None),
]


@pytest.mark.parametrize("row", TABLE_1, ids=lambda row: row[1])
def test_table_1_is_reproduced(row):
    """R003 Table 1. Tolerances of docs/physics.md E17: reuse ± 1, #MVM ± 1K; tiles exact; the rest to the printed digits."""
    file, name, sample, ends, par, mapped, tiles, util, mvm, reuse, gflop = row
    code = network(file)
    with torch.device("meta"):
        model, x = getattr(code, name)(), sample()
    hw = mho.Hardware.from_yaml(TILES + network("resnet").DIGITAL_ENDS) if ends else STANDARD
    f = mho.footprint(model, x, hw)
    assert f.tiles == tiles
    assert f.parameters / 1e6 == pytest.approx(par, rel=0.03) and f.mapped / 1e6 == pytest.approx(mapped, rel=0.01)
    assert 100 * f.utilisation == pytest.approx(util, abs=0.1)
    if mvm is not None:
        assert abs(f.mvms / 1e3 - mvm) <= 1 and abs(f.reuse - reuse) <= 1
    if gflop is not None:
        assert f.flops / 1e9 == pytest.approx(gflop, abs=0.06)


def test_both_rules_for_cutting_rows():
    """R003 Table 1: 512 channels of 3x3 take 10 tiles by channel; 4608 rows are 9 tiles of 512."""
    with torch.device("meta"):
        model, x = nn.Conv2d(512, 512, 3), torch.randn(1, 512, 5, 5)
    assert mho.footprint(model, x, STANDARD).tiles == 10
    assert mho.footprint(model, x, STANDARD, split="row").tiles == 9


def test_groups_have_tiles_of_their_own():
    f = mho.footprint(nn.Conv2d(6, 12, 3, groups=3), torch.randn(2, 6, 5, 5), STANDARD)
    (conv,) = f
    assert (conv.groups, conv.rows, conv.columns, conv.tiles, conv.uses) == (3, 18, 4, 3, 18)
    assert f.mapped == 216 and f.mvms == 54 and f.flops == (2 * 18 + 1) * 12 * 18


@pytest.mark.parametrize(("cell", "each"), [("{g_max: 25 uS}", 1), ("{g_min: 1 uS, g_max: 25 uS, pair: both}", 2)])
def test_devices_are_counted_for_every_weight(cell, each):
    """Both devices of a pair where the idle one is there too: as many as a chip really holds"""
    hw = mho.load(STANDARD, set=[f"tiles.t.device={cell}"])
    model, x = nn.Conv2d(6, 12, 3, groups=3), torch.randn(1, 6, 5, 5)
    f = mho.footprint(model, x, hw)
    assert f.devices == each * f.mapped == each * 216 and f[0].devices == each and "432" * (each == 2) in str(f)
    net = mho.to_analog(nn.Sequential(model), hw)
    mho.program(net, seed=0)
    assert net[0].tiles.chip.programmed.numel() == f.devices


def test_shared_layers_and_recurrences_count_every_use():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
            self.b.weight = self.a.weight
            self.r = nn.LSTM(8, 4, bidirectional=True)

        def forward(self, x):
            return self.r(self.b(self.a(self.a(x))))

    model = Shared()
    f = mho.footprint(model, torch.randn(5, 1, 8), STANDARD)
    assert [(e.name, e.uses) for e in f] == [
        ("a", 15),
        ("r.weight_ih_l0", 5),
        ("r.weight_hh_l0", 5),
        ("r.weight_ih_l0_reverse", 5),
        ("r.weight_hh_l0_reverse", 5),
    ]
    assert f.parameters == sum(p.numel() for p in model.parameters())
    assert f.mapped == 8 * 8 + 2 * (16 * 8 + 16 * 4)


def test_every_matrix_is_in_the_table_and_in_json():
    f = mho.footprint(nn.Sequential(nn.Linear(600, 3), nn.ReLU(), nn.Linear(3, 2)), torch.randn(1, 600), STANDARD)
    text = str(f)
    assert "Linear" in text and "600" in text and "1,811 parameters, 1,806 on 3 tiles" in text
    back = json.loads(f.to_json())
    assert back["tiles"] == 3 and [m["name"] for m in back["matrices"]] == ["0", "2"]


def test_the_model_is_left_alone():
    model = nn.Sequential(nn.Linear(4, 4)).train()
    mho.footprint(model, {"input": torch.randn(1, 4)}, STANDARD)
    assert type(model[0]) is nn.Linear and model.training


def test_the_verb_counts_one_sample_of_a_task():
    pytest.importorskip("sklearn")
    result = CliRunner().invoke(main, ["footprint", "digits", "ideal.exact", "--json"])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.output)
    assert (figures["tiles"], figures["mvms"], figures["mapped"]) == (4, 130, 38160)
    assert "4 tiles" in CliRunner().invoke(main, ["footprint", "digits", "ideal.exact", "--split", "row"]).output


def test_a_drawn_footprint_can_be_drawn_again(tmp_path):
    for extra in ("sklearn", "jinja2"):
        pytest.importorskip(extra)
    drawn = tmp_path / "map.html"
    assert CliRunner().invoke(main, ["footprint", "digits", "ideal.exact", "--out", str(drawn)]).exit_code == 0
    again = CliRunner().invoke(main, ["report", str(tmp_path), "--out", str(tmp_path / "again.html")])
    assert again.exit_code == 0 and (tmp_path / "again.html").read_text() == drawn.read_text()
