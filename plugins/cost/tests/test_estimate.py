"""Estimates: the figures of the chips, sums, bands, and what a table does not cover."""

import json
import math

import pytest
import torch
from click.testing import CliRunner
from mho_cost.estimate import cost
from mho_cost.tables import CostTable
from torch import nn

import mho
from mho.cli import main

MACRO = "mho: 1\ndefault: t\ntiles: {t: {rows: 256, columns: 256, dac: {bits: 8}, adc: {bits: 8, bound: 10}}}"


def chip(cores=64):
    """`cores` full products, side by side."""
    return nn.Conv1d(cores * 256, cores * 256, 1, groups=cores, bias=False), torch.zeros(1, cores * 256, 1)


@pytest.mark.parametrize(
    "table, cores, tops, efficiency, area",
    [
        ("hermes2023", 64, 63.1, 9.76, 40.7),
        ("hermes2023_4phase", 64, 16.1, 2.48, 40.7),
        ("hermes_core2022", 1, 1.008, 10.5, 0.634),
    ],
)
def test_hermes_reaches_its_published_figures(table, cores, tops, efficiency, area):
    c = cost(*chip(cores), MACRO_HW, table)
    assert c.operations / c.interval == pytest.approx(tops * 1e12, rel=0.01)
    assert c.operations / c.energy == pytest.approx(efficiency * 1e12, rel=0.01)
    assert c.area == pytest.approx(area * 1e-6, rel=0.01) and c.basis()["measured"] == 1


MACRO_HW = mho.Hardware.from_yaml(MACRO)


def test_four_phases_hold_two_passes_and_one_phase_holds_one():
    hw = mho.load(MACRO_HW, set=["tiles.t.nonidealities=[circuit.two_phase]"])
    one, two = (cost(*chip(2), h, "hermes2023").energy for h in (MACRO_HW, hw))
    assert two == pytest.approx(2 * one)
    assert cost(*chip(2), hw, "hermes2023_4phase").energy == pytest.approx(2 * 52.9e-9)


def test_measured_layers_of_the_chip_are_above_the_products_alone():
    """Published: a ResNet-9 layer 1.52 us and 1.51 uJ, an LSTM step 1.43 us and 5.24 uJ. The table knows products on cores and
    nothing of transfers and digital parts; the layers here (256 channels; 50 + 504 inputs, 504 cells) are assumptions."""
    conv = cost(nn.Conv2d(256, 256, 3, bias=False), torch.zeros(1, 256, 3, 3), MACRO_HW, "hermes2023_4phase")
    lstm = cost(nn.LSTM(50, 504, bias=False), torch.zeros(1, 1, 50), MACRO_HW, "hermes2023_4phase")
    assert conv.counts[0].tiles == 10 and sum(c.tiles for c in lstm.counts) == 3 * 8
    assert conv.energy < 1.51e-6 and conv.interval < 1.52e-6
    assert lstm.energy < 5.24e-6 and lstm.interval < 1.43e-6


def component_table(**rows):
    about = {"source": "a test", "year": 2026, "node": 32.0, "basis": "simulated", "band": 0.5}
    made = [{"name": n, **about, **r} for n, r in rows.items()]
    return CostTable.model_validate({"cost": 1, "rows": tuple(made)})


def test_components_add_up_by_hand():
    table = component_table(
        array={"per": "cell_read", "energy": 0.002, "latency": 100.0, "area": 0.001},
        dac={"per": "input_bit", "energy": 0.4},
        adc={"per": "conversion", "energy": 2.0, "latency": 1.0, "area": 1000.0, "shared": 4},
        digital={"per": "multiply_add", "energy": 0.5, "latency": 1.0, "units": 2},
        write={"per": "write", "energy": 100.0},
    )
    hw = mho.Hardware.from_yaml(
        "mho: 1\ndefault: t\ntiles: {t: {rows: 16, columns: 8, split: row, dac: {bits: 7}, adc: {bits: 6, bound: 10}}}"
    )
    c = cost(nn.Linear(40, 20), torch.zeros(5, 40), hw, table)
    by = c.by("component")
    assert by["array"][0] == pytest.approx(0.002e-12 * 8000) and by["dac"][0] == pytest.approx(0.4e-12 * 4200)
    assert by["adc"][0] == pytest.approx(2e-12 * 300) and by["digital"][0] == pytest.approx(0.5e-12 * 100)
    assert c.energy == pytest.approx(sum(v[0] for v in by.values())) == pytest.approx(sum(v[0] for v in c.by("layer").values()))
    assert c.band == pytest.approx((c.energy / 1.5, c.energy * 1.5))
    assert c.programming == pytest.approx(100e-12 * 800)
    array, adc, digital = 5 * 100e-9, 5 * 4e-9, 50e-9
    assert c.latency == pytest.approx(array + adc + digital) and c.interval == pytest.approx(array)
    assert c.area == pytest.approx(1e-12 * (9 * 128 * 2 * 0.001 + 9 * 2 * 1000))
    assert c.missing == {"scale": 300, "byte": c.counts[0].byte}
    assert c.power == pytest.approx(c.energy / c.latency) and c.throughput == pytest.approx(1 / c.interval)


def test_energy_goes_with_the_number_of_samples():
    one, three = (cost(nn.Linear(64, 64), torch.zeros(n, 64), MACRO_HW, "components32") for n in (1, 3))
    assert three.energy == pytest.approx(3 * one.energy) and three.area == one.area


def test_a_macro_that_is_not_full_could_take_as_little_as_its_used_cells():
    c = cost(nn.Linear(64, 32, bias=False), torch.zeros(1, 64), MACRO_HW, "hermes2023")
    assert c.energy == pytest.approx(13.43e-9)
    assert c.band == pytest.approx((13.43e-9 * 64 * 32 / 256**2 / 1.05, 13.43e-9 * 1.05))


def test_the_row_with_the_fewest_sufficient_bits_counts():
    hw = mho.load(MACRO_HW, set=["tiles.t.columns=128", "tiles.t.dac.bits=5", "tiles.t.adc.bits=6"])
    c = cost(nn.Linear(256, 128, bias=False), torch.zeros(1, 256), hw, "neurram")
    assert c.energy == pytest.approx((30.926 + 44.212 + 14.025) * 1e-15 * 2 * 256 * 128)  # inputs 5, outputs 7 bits
    assert set(c.by("component")) == {"core: word lines", "core: neurons and control", "core: input pulses"}


@pytest.mark.parametrize(
    "changes, table, said",
    [
        (["tiles.t.adc.bits=10"], "hermes2023", "has 8 and 10"),
        (["tiles.t.adc=none"], "hermes2023", "ideal"),
        (["tiles.t.adc.bits=none"], "components32", "ideal ADC"),
        (["tiles.t.dac.bits=none"], "components32", "ideal DAC"),
        (["tiles.t.rows=512"], "hermes2023", "tile 't' is 512 x 256"),
        ([], "aladdin40", "no row for products on tiles"),
    ],
)
def test_what_a_table_does_not_cover_is_refused(changes, table, said):
    with pytest.raises(mho.MhoError, match=said):
        cost(nn.Linear(8, 8), torch.zeros(1, 8), mho.load(MACRO_HW, set=changes), table)


def test_the_verb_prints_counts_alone_and_energies_with_a_table(tmp_path):
    run = CliRunner().invoke
    alone = run(main, ["cost", "digits", "pcm.hermes"])
    assert alone.exit_code == 0 and "MVMs" in alone.output and "J" not in alone.output
    page = tmp_path / "cost.html"
    priced = run(main, ["cost", "digits", "pcm.hermes", "--table", "hermes2023_digital", "--json", "--out", str(page)])
    found = json.loads(priced.output[: priced.output.rindex("}") + 1])
    assert found["energy"] == pytest.approx(sum(s["energy"] for s in found["shares"]))
    assert math.isclose(sum(found["basis"].values()), 1) and found["missing"].keys() == {"byte", "write"}
    text = page.read_text()
    assert "Energy by layer and component" in text and "Le Gallo" in text and "second-hand" in text.lower()
    assert run(main, ["cost", "digits", "pcm.hermes", "--out", str(page)]).exit_code == 1
    assert mho.cost is cost
