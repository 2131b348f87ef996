"""Hardware.varied: stronger effects, fewer parts."""

from __future__ import annotations

import math

import pytest
import torch

import mho
from mho.config import Hardware

FILE = """\
mho: 1
default: pcm
tiles:
  pcm:
    dac: {bits: 8, range: 2.5}
    adc: {bits: 6, bound: 12}
    nonidealities:
      - pcm.programming_noise
      - pcm.drift
      - {kind: circuit.output_noise, std: 0.04}
      - {kind: circuit.adc_s_curve, mean: 0.2}
      - {kind: circuit.output_noise, std: 0.01}
    scale: {pcm: 2, circuit.output_noise: 5}
  head: {nonidealities: [pcm.drift]}
layers:
  - {match: "2", tile: head}
"""


@pytest.fixture
def hw() -> Hardware:
    return Hardware.from_yaml(FILE, "hw.yaml")


def kinds(hw: Hardware, tile: str = "pcm") -> list[str]:
    return [e.kind.partition(".")[2] for e in hw.tiles[tile].nonidealities]


def test_factors_multiply_strengths_by_kind_and_by_family_on_every_tile(hw):
    new = hw.varied({"pcm": 3, "pcm.drift": 0.5, "circuit.adc_s_curve": 4})
    pcm, head = new.tiles["pcm"], new.tiles["head"]
    assert pcm.scale == {"pcm": 6, "circuit.output_noise": 5, "pcm.drift": 0.5, "circuit.adc_s_curve": 4}
    assert (pcm.factor("pcm.drift"), head.factor("pcm.drift")) == (3.0, 1.5)
    assert head.scale == {"pcm": 3, "pcm.drift": 0.5}  # no transfer curve here, so no factor on it


def test_a_factor_is_a_strength_that_many_times_as_large(hw):
    """Output noise of std 0.04 (and nothing else), three times as strong, is output noise of std 0.12."""
    quiet = mho.load(hw, set=["tiles.pcm.scale={}"]).varied(only="circuit.output_noise #1")
    stronger, written = (
        quiet.varied({"circuit.output_noise": 3.0}),
        mho.load(quiet, set=["tiles.pcm.nonidealities[0].std=0.12"]),
    )
    w, x = torch.randn(20, 30), torch.rand(50, 30)
    a, b = (mho.Tile(w, h).program(seed=1)(x) for h in (stronger, written))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("only", "left"),
    [
        ("pcm.drift", ["drift"]),
        ("pcm", ["programming_noise", "drift"]),
        (["circuit.output_noise"], ["output_noise", "output_noise"]),
        (("pcm.drift", "circuit.output_noise #2"), ["drift", "output_noise"]),
        ("dac", []),
        ((), []),
    ],
)
def test_only_keeps_kinds_families_and_single_effects(hw, only, left):
    assert kinds(hw.varied(only=only, tiles="pcm")) == left


def test_one_of_two_effects_of_a_kind_is_told_apart(hw):
    assert hw.tiles["pcm"].effect_names[2:] == ("circuit.output_noise #1", "circuit.adc_s_curve", "circuit.output_noise #2")
    assert [e.std for e in hw.varied(only="circuit.output_noise #2", tiles="pcm").tiles["pcm"].nonidealities] == [0.01]
    assert kinds(hw.varied(without="circuit.output_noise #1")) == ["programming_noise", "drift", "adc_s_curve", "output_noise"]


def test_ideal_converters_keep_what_analog_values_are_measured_in(hw):
    """The input range always; the bound of the ADC where a transfer curve is drawn relative to it."""
    drift, curve = (hw.varied(only=k).tiles["pcm"] for k in ("pcm.drift", "circuit.adc_s_curve"))
    assert (drift.dac.bits, drift.dac.range, drift.adc) == (None, 2.5, None)
    assert (curve.dac.bits, curve.adc.bits, curve.adc.bound) == (None, None, 12.0)
    assert (a := hw.varied(only="adc").tiles["pcm"]).adc == hw.tiles["pcm"].adc and a.dac.bits is None
    assert hw.varied(without="dac").tiles["pcm"].adc == hw.tiles["pcm"].adc


class CurvedDac(mho.Dac, kind="curves.dac"):
    """A DAC that bends."""

    source = "a test"
    bend: float = mho.Field(0.1, ge=0, unit="1", description="how much")


def test_an_ideal_converter_of_a_plugin_is_the_cores_without_rounding(hw):
    curved = Hardware.model_validate({"mho": 1, "default": "t", "tiles": {"t": {"dac": CurvedDac(range=0.5), "adc": None}}})
    assert curved.varied(without="dac").tiles["t"].dac == mho.Dac(bits=None, range=0.5)


def test_without_any_part_products_are_exact(hw):
    """y = W x for inputs inside the range."""
    w, x = torch.randn(20, 30, dtype=torch.float64), torch.rand(50, 30, dtype=torch.float64)
    exact = mho.load(hw.varied(only=()), set=["precision=reference"])
    torch.testing.assert_close(mho.Tile(w, exact).program(seed=1)(x), x @ w.T)


def test_only_and_without_are_complements(hw):
    parts = [*dict.fromkeys(hw.tiles["pcm"].effect_names), "dac", "adc"]
    for part in parts:
        others = [p for p in parts if p != part]
        assert hw.varied(only=part, tiles="pcm") == hw.varied(without=others, tiles="pcm")


def test_factors_on_effects_that_are_gone_go_too(hw):
    assert hw.varied(without="pcm", tiles="pcm").tiles["pcm"].scale == {"circuit.output_noise": 5}
    assert hw.varied(only="pcm.drift", tiles="pcm").tiles["pcm"].scale == {"pcm": 2}


def test_only_the_named_tiles_change(hw):
    new = hw.varied({"pcm.drift": 0}, tiles=["head"])
    assert new.tiles["pcm"] == hw.tiles["pcm"] and new.tiles["head"].scale == {"pcm.drift": 0}


def test_the_result_is_a_hardware_file_that_knows_where_its_rules_are_written(hw):
    for new in (hw.varied({"pcm": 3}), hw.varied(only="circuit.adc_s_curve"), hw.varied(without=["adc", "pcm"])):
        assert Hardware.from_yaml(new.to_yaml()) == new != hw
        assert new.rule_sources == hw.rule_sources == ("hw.yaml:16:5",)
    assert hw.varied() == hw == Hardware.from_yaml(FILE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"factors": {"pcm.drif": 2}}, "no effect 'pcm.drif' with a strength in this hardware; did you mean 'pcm.drift'?"),
        ({"factors": {"circuit.output_noise #1": 2}}, "no effect 'circuit.output_noise #1' with a strength"),
        ({"factors": {"pcm.drift": 2}, "without": "pcm.drift"}, "no effect 'pcm.drift' with a strength"),
        ({"only": "pcm.drif"}, "no effect 'pcm.drif' in this hardware; did you mean 'pcm.drift'?"),
        ({"without": ["adcs"]}, "no effect 'adcs' in this hardware; did you mean 'adc'?"),
        ({"without": "circuit.output_noise", "tiles": "head"}, "no effect 'circuit.output_noise' in this hardware"),
        ({"tiles": "haed"}, "no tile 'haed'; did you mean 'head'?"),
        ({"factors": {"pcm.drift": -1}}, "expected a factor of at least 0 on 'pcm.drift', got -1"),
        ({"factors": {"pcm.drift": math.inf}}, "expected a factor of at least 0 on 'pcm.drift', got inf"),
    ],
)
def test_names_and_factors_are_checked(hw, arguments, message):
    with pytest.raises(mho.MhoError) as error:
        hw.varied(**arguments)
    assert message in str(error.value)


def test_parts_that_need_each_other_are_refused():
    hw = Hardware.model_validate({"mho": 1, "default": "t", "tiles": {"t": {"nonidealities": (Follows(), mho_drift())}}})
    with pytest.raises(mho.ConfigError, match="needs drift beside it"):
        hw.varied(without="pcm.drift")


class Follows(mho.Nonideality, kind="follows.drift"):
    """Makes no sense without drift."""

    source = "a test"

    def read(self, w, site):
        return w

    def objections(self, tile, times):
        if not any(e.kind == "pcm.drift" for e in tile.nonidealities):
            yield "needs drift beside it"


def mho_drift():
    from mho.config import registry

    return registry.resolve("pcm.drift")()
