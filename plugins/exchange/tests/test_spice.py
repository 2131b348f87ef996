"""A tile as a SPICE circuit: ngspice against the nodal analysis of mho-circuit."""

import os
import shutil

import pytest
import torch

import mho
from mho import exchange

WIRES = {"r_word": 300.0, "r_bit": 500.0, "r_driver": 2000.0, "r_sense": 1000.0}


def tile(w, wires, device):
    fields = ", ".join(f"{k}: {v}" for k, v in wires.items())
    text = f"mho: 1\ndefault: t\ntiles:\n  t:\n    rows: 8\n    columns: 6\n    mapping: mho.direct\n    device: {device}\n"
    effect = f"{{kind: circuit.ir_drop_nodal, g_line: 24 uS, {fields}}}" if wires else ""
    hw = mho.Hardware.from_yaml(f"{text}    nonidealities: [{effect}]\n")
    return mho.Tile(w, hw).program(seed=0)


def uniform(*shape, seed=0):
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1


@pytest.fixture
def ngspice():
    if shutil.which("ngspice") is None:
        if os.environ.get("CI"):
            pytest.fail("ngspice is required in continuous integration: apt-get install ngspice")
        pytest.skip("ngspice is not installed (make system-deps)")


@pytest.mark.parametrize("wires", [WIRES, {**WIRES, "r_word": 0.0, "r_driver": 0.0}, {}])
@pytest.mark.parametrize("device", ["{g_max: 24 uS}", "{g_min: 1 uS, g_max: 25 uS, pair: both}"])
def test_ngspice_solves_a_tile_to_the_nodal_result(ngspice, wires, device):
    """Every row tile and column block of 11 x 15 weights, to 1e-9 of the largest current: Kirchhoff's laws solved twice, by
    elimination of blocks there, by a sparse solver here"""
    t = tile(uniform(11, 15), wires, device)
    array = t.tiles
    for number, rows in enumerate(array.layout.rows_of_tiles):
        for block in range(array.layout.block_count):
            x = uniform(rows, seed=number + 1)
            current = exchange.solved(exchange.netlist(array, x, tile=number, block=block))
            expected = 24e-6 * array.chip.weights[number, array.layout.block == block, :rows] @ x
            assert (current - expected).abs().max() < 1e-9 * expected.abs().max()
    if wires:
        ideal = 24e-6 * array.chip.target[number, array.layout.block == block, :rows] @ x
        assert (current - ideal).abs().max() > 1e-3 * ideal.abs().max()  # the wires matter here


def test_wires_may_be_given_and_mistakes_are_said(ngspice):
    t = tile(uniform(4, 5), {}, "{g_max: 24 uS}")
    x = uniform(5, seed=1)
    lossy = exchange.solved(exchange.netlist(t.tiles, x, wires=WIRES))
    expected = 24e-6 * tile(uniform(4, 5), WIRES, "{g_max: 24 uS}").tiles.chip.weights[0] @ x
    assert (lossy - expected).abs().max() < 1e-9 * expected.abs().max()
    with pytest.raises(mho.MhoError, match="has 5 rows: give as many voltages"):
        exchange.netlist(t.tiles, x[:3])
    with pytest.raises(mho.MhoError, match="ngspice found no currents"):
        exchange.solved("* nothing\nVS0 a 0 nonsense\n.end\n")
    mho.use.unprogram(t)
    with pytest.raises(mho.MhoError, match="no chip is on layer"):
        exchange.netlist(t.tiles, x)


def test_without_ngspice_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(mho.MhoError, match="apt-get install ngspice"):
        exchange.solved("* nothing\n.end\n")
