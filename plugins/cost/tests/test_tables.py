"""Cost tables: published figures, the ADC survey, and what a wrong table is told."""

import pytest
from mho_cost.tables import CostTable, adc_area, adc_energy, presets, table_of

from mho import MhoError
from mho.ground import ConfigError

HEAD = "cost: 1\nsource: our lab\nyear: 2026\nnode: 40\nbasis: measured\nband: 0.1\n"
CORE = "{name: core, per: mvm, rows: 64, columns: 64, energy: 1 nJ, latency: 50 ns}"


def table(tmp_path, text, name="t.yaml"):
    file = tmp_path / name
    file.write_text(text)
    return CostTable.from_file(file)


# Values of the model of Andrulis et al., pJ per conversion: node -> bits 4, 6, 8, 10, 12 at 100 MS/s, and 12 bits at 10 MS/s.
SURVEY = {
    14: (0.195, 0.225, 0.362, 0.700, 6.14, 1.52),
    32: (0.924, 1.065, 1.714, 3.31, 29.1, 7.17),
    65: (3.50, 4.04, 6.49, 12.5, 110, 27.2),
}


@pytest.mark.parametrize("node", SURVEY)
def test_the_adc_survey_model_gives_its_check_values(node):
    *at_100, slow = SURVEY[node]
    assert [adc_energy(b, 1e8, node) for b in (4, 6, 8, 10, 12)] == pytest.approx(at_100, rel=0.01)
    assert adc_energy(12, 1e7, node) == pytest.approx(slow, rel=0.01)


def test_the_area_of_the_adc_survey_model():
    assert adc_area(8, 1e7, 32) == pytest.approx(2598, rel=0.01)


NEURRAM = {(1, 3): 43.08, (2, 4): 40.33, (3, 5): 23.09, (4, 6): 15.95, (5, 7): 11.03, (7, 9): 7.750, (8, 10): 6.437}
TOPS = {
    (1, 3): 2.1223,
    (2, 4): 1.7931,
    (3, 5): 1.1654,
    (4, 6): 0.7439,
    (5, 7): 0.5254,
    (6, 8): 0.4177,
    (7, 9): 0.3439,
    (8, 10): 0.2639,
}


def test_seven_of_eight_rows_of_neurram_sum_to_the_published_efficiency():
    """The eighth, 8,6 bits, was split for the one-phase value 9.122; in two phases 8.257 TOPS/W are published."""
    rows = {(r.input_bits, r.output_bits): r for r in table_of("neurram").rows}
    operations = 2 * 256 * 128
    efficiency = {bits: operations / sum(r.parts(None).values()) for bits, r in rows.items()}  # per pJ: TOPS/W
    assert len(efficiency) == 8
    for bits, published in NEURRAM.items():
        assert efficiency[bits] == pytest.approx(published, rel=0.02)
    assert efficiency[6, 8] == pytest.approx(9.122, rel=0.01) and efficiency[6, 8] / 8.257 == pytest.approx(1.11, abs=0.01)
    assert {b: 48 * operations / r.latency * 1e-3 for b, r in rows.items()} == pytest.approx(TOPS, rel=0.001)


def test_every_number_of_every_preset_says_where_it_is_from():
    for name in presets():
        rows = table_of(name).rows
        assert rows and all(r.source and r.year and r.node and r.basis and r.band is not None for r in rows), name
    assert all(r.basis == "projected" for r in table_of("cim3d").rows)
    assert all("CiMLoop" in r.via for r in table_of("neurram").rows)


def test_a_table_of_ones_own_takes_ten_lines(tmp_path):
    made = table(tmp_path, f"{HEAD}rows:\n  - {CORE}\n  - {{name: digital, per: multiply_add, energy: 0.2 pJ, band: 1}}\n")
    core, digital = made.rows
    assert (core.energy, core.band, core.source) == (1000, 0.1, "our lab") and digital.band == 1


def test_a_number_without_a_source_is_refused_where_it_stands(tmp_path):
    with pytest.raises(ConfigError) as raised:
        table(tmp_path, f"{HEAD.replace('source: our lab', 'via: somebody')}rows:\n  - {CORE}\n")
    (problem,) = raised.value.problems
    assert problem.path == "rows[0]" and problem.mark.line == 7 and "has no source" in problem.message


@pytest.mark.parametrize(
    "change, line, said",
    [
        (("energy: 1 nJ", "energy: 1 ns"), 8, "expected an energy such as '2 pJ'"),
        (("energy: 1 nJ", "enrgy: 1 nJ"), 8, "did you mean 'energy'?"),
        (("per: mvm", "per: mvn"), 8, "did you mean 'mvm'?"),
        (("columns: 64, ", ""), 8, "needs rows and columns"),
        (("basis: measured", "basis: guessed"), 5, "'measured', 'simulated' or 'projected'"),
        (("energy: 1 nJ", "energy: 1 nJ, split: {a: 2.0}"), 8, "one of energy, split and model"),
        (("band: 0.1", "band: -1"), 6, "≥ 0"),
    ],
)
def test_mistakes_are_located(tmp_path, change, line, said):
    with pytest.raises(ConfigError) as raised:
        table(tmp_path, f"{HEAD}rows:\n  - {CORE}\n".replace(*change))
    assert said in str(raised.value) and raised.value.problems[0].mark.line + 1 == line


@pytest.mark.parametrize(
    "rows, said",
    [
        ("[{name: ADC, per: conversion, energy: 1 pJ}]", "no row per cell_read, drive"),
        ("[]", "no row per"),
        (f"[{CORE}, {{name: ADC, per: conversion, energy: 1 pJ}}]", "twice"),
    ],
)
def test_the_analog_product_is_paid_for_once(tmp_path, rows, said):
    with pytest.raises(ConfigError, match=said):
        table(tmp_path, f"{HEAD}rows: {rows}\n")


def test_nodes_are_not_mixed_silently(tmp_path):
    table(tmp_path, f"{HEAD}rows:\n  - {CORE}\n", "core.yaml")
    text = "cost: 1\ninclude: [core.yaml, hermes2023]\n"
    with pytest.raises(MhoError, match="14 nm and 40 nm; write 'mix_nodes: true'"):
        table(tmp_path, text, "both.yaml")
    assert table(tmp_path, text + "mix_nodes: true\n", "both.yaml").nodes == (14, 40)


def test_circles_and_unknown_tables(tmp_path):
    with pytest.raises(MhoError, match="in a circle"):
        table(tmp_path, "cost: 1\ninclude: [a.yaml]\n", "a.yaml")
    with pytest.raises(MhoError, match="did you mean 'hermes2023'"):
        table_of("hermes203")
