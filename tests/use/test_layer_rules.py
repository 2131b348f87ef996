"""Partial deployment: rules by name, type and size, as R003-26 uses them on networks for ImageNet."""

import importlib.util
from pathlib import Path

import pytest

import mho

FILE = Path(__file__).parents[2] / "examples" / "networks" / "resnet.py"


@pytest.fixture
def small():
    spec = importlib.util.spec_from_file_location("networks_resnet", FILE)
    code = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code)
    return code.ResNet(code.Basic, [1, 1], [8, 16], 8, 10, large=True)


def where(model, hw, rules):
    """The layers with a matrix that stay digital."""
    text = f"mho: 1\ndefault: t\ntiles: {{t: {{rows: 512}}, u: {{rows: 64}}}}\nlayers:\n{rules}"
    report = mho.conversion_report(mho.to_analog(model, mho.Hardware.from_yaml(text)))
    return {e.name for e in report if e.where == "digital" and e.why != "by design"}, report


def test_the_first_convolution_and_the_last_layer_stay_digital(small, hardware):
    """R003-26."""
    digital, report = where(small, hardware, "  - {match: conv1, tile: digital}\n  - {match: fc, tile: digital}\n")
    assert digital == {"conv1", "fc"}
    assert {e.name for e in report.analog} >= {"stages.0.0.conv1", "stages.1.0.shortcut.0"}


def test_rules_by_type_and_by_size(small, hardware):
    digital, _ = where(small, hardware, "  - {match: '*', type: Linear, tile: digital}\n")
    assert digital == {"fc"}
    digital, _ = where(small, hardware, "  - {match: '*', type: Conv2d, max_params: 200, tile: digital}\n")
    assert digital == {"stages.1.0.shortcut.0"}
    _, report = where(small, hardware, "  - {match: 're:stages\\..*', min_params: 1000, type: Conv*, tile: u}\n")
    assert {e.name for e in report if e.tile == "u"} == {"stages.1.0.conv1", "stages.1.0.conv2"}


def test_a_rule_that_matches_nothing_is_shown_where_it_is_written(small):
    rules = "  - {match: cnv1, tile: digital}\n  - match: 'stages.*'\n    type: Linaer\n    tile: u\n"
    with pytest.raises(mho.ConfigError) as error:
        where(small, None, rules)
    first, second = error.value.problems
    assert (str(first.mark), first.path) == ("<text>:5:5", "layers[0]")
    assert first.message == "no layer is called 'cnv1'; did you mean 'conv1'?"
    assert first.mark.excerpt() == "       5 |   - {match: cnv1, tile: digital}\n         |     ^"
    assert (second.mark.line, second.path) == (5, "layers[1]")
    assert second.message.startswith("no layer is there with all of match: stages.*, type: Linaer; ")


def test_the_first_and_the_last_layer_of_any_network_stay_digital_by_position(small, hardware):
    """R003-26 without names: position counts among the layers that the rest of the rule is about."""
    ends = "  - {match: '*', position: first, tile: digital}\n  - {match: '*', position: last, tile: digital}\n"
    digital, report = where(small, hardware, ends)
    assert digital == {"conv1", "fc"}
    assert next(e.why for e in report if e.name == "fc") == "rule '*'"
    digital, _ = where(small, hardware, "  - {match: 'stages.*', type: Conv2d, position: last, tile: digital}\n")
    assert digital == {"stages.1.0.shortcut.0"}
    with pytest.raises(mho.ConfigError, match="no layer is there with all of"):
        where(small, hardware, "  - {match: '*', type: LSTM, position: first, tile: digital}\n")


def test_the_preset_with_digital_ends_is_the_standard_one_otherwise(small):
    """R003-26: first and last layer digital, for any network."""
    ends, standard = mho.load("pcm.digital_ends"), mho.load("pcm.standard")
    assert ends.tiles == standard.tiles and ends.training == standard.training
    report = mho.conversion_report(mho.to_analog(small, ends))
    assert {e.name for e in report if e.why.startswith("rule")} == {"conv1", "fc"}
