"""Hardware files: inheritance, changes from the command line, and where errors are."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from mho.config.hardware import Hardware, LayerRule, TileSpec, json_schema, load
from mho.config.registry import Registry
from mho.config.units import Sigmas, Span
from mho.ground.errors import ConfigError, MhoError

pytestmark = pytest.mark.usefixtures("plugins")

HW = """\
mho: 1
default: pcm
tiles:
  pcm:
    rows: 256
    device: {g_max: 20 uS}
    mapping: {clip: 2.5 sigma}
    dac: {bits: 8, range: 3}
    adc: {bits: 6}
    nonidealities:
      - pcm.drift
      - kind: pcm.read_noise
        sigma: 0.03
    compensation: mho.global_drift
  precise:
    like: pcm
    adc: {bits: 10}
    override: {pcm.read_noise: none, pcm.drift: {t0: 1 min}}
    append: [pcm.read_noise]
layers:
  - {match: head, tile: digital}
  - {match: "re:layer[12]", tile: precise, type: Linear, min_params: 10}
training:
  backward: ste
  inject: {scale: 3, ramp: 10 epochs}
  clip: 2 sigma
times: [1 s, 1 h]
"""


def hardware(text: str, *changes: str) -> Hardware:
    return Hardware.from_yaml(text, "hw.yaml", set=changes)


def said(text: str, *changes: str) -> str:
    with pytest.raises(ConfigError) as error:
        hardware(text, *changes)
    return str(error.value)


def tile(body: str) -> str:
    """A hardware file with one tile of these fields."""
    return f"mho: 1\ndefault: t\ntiles:\n  t: {body}\n"


# --- reading ---


def test_a_file_becomes_a_hardware_in_the_units_of_the_schema() -> None:
    hw = hardware(HW)
    pcm = hw.tile("pcm")
    assert (pcm.rows, pcm.columns, pcm.device.g_max) == (256, 512, 20.0)
    assert (pcm.mapping.kind, pcm.mapping.clip) == ("mho.per_column", Sigmas(2.5))
    assert (pcm.dac.range, pcm.adc.bits, pcm.adc.bound) == (3.0, 6, 10.0)
    assert [e.kind for e in pcm.nonidealities] == ["pcm.drift", "pcm.read_noise"]
    assert (hw.training.backward.mode, hw.training.inject.ramp) == ("ste", Span(10, "epochs"))
    assert (hw.training.clip, hw.times) == (Sigmas(2.0), (1.0, 3600.0))


def test_everything_has_a_default() -> None:
    hw = hardware(tile("{}"))
    spec = hw.tile("t")
    assert (spec.rows, spec.split, spec.device.pair, spec.mapping.kind) == (512, "channel", "active", "mho.per_column")
    assert (spec.dac, spec.adc, spec.compensation, spec.nonidealities) == (None, None, None, ())
    assert (hw.training.backward.mode, hw.training.inject.scale, hw.training.clip) == ("through", 1.0, 1.0)
    assert hw.times == (1.0, 3600.0, 86_400.0, 31_536_000.0)


@pytest.mark.parametrize("field", ["dac", "adc", "compensation"])
@pytest.mark.parametrize("word", ["none", "null", "~", ""])
def test_none_turns_a_part_off(field: str, word: str) -> None:
    assert getattr(hardware(f"mho: 1\ndefault: t\ntiles:\n  t:\n    {field}: {word}\n").tile("t"), field) is None


def test_training_without_noise_and_clip() -> None:
    training = hardware(tile("{}") + "training: {inject: none, clip: none}").training
    assert (training.inject, training.clip) == (None, None)


def test_canonical_yaml_reads_back_as_an_equal_hardware() -> None:
    hw = hardware(HW)
    again = Hardware.from_yaml(hw.to_yaml())
    assert again == hw
    assert hash(again) == hash(hw)
    assert again.digest == hw.digest
    assert again.to_yaml() == hw.to_yaml()


def test_another_value_is_another_hardware() -> None:
    assert hardware(HW) != hardware(HW, "tiles.pcm.rows=255")
    assert len({hardware(HW), hardware(HW), hardware(HW, "tiles.pcm.rows=255")}) == 2


def test_order_of_keys_and_spelling_of_units_do_not_matter() -> None:
    assert hardware(tile("{rows: 8, device: {g_max: 0.02 mS}}")) == hardware(tile("{device: {g_max: 20.0}, rows: 8}"))


def test_a_preset_can_be_loaded_by_name() -> None:
    assert load("pcm.standard").tile("pcm").nonidealities[1].sigma == 0.02


def test_a_hardware_loads_as_itself_and_can_be_changed() -> None:
    hw = hardware(HW)
    assert load(hw) is hw
    assert load(hw, set=["tiles.pcm.rows=64"]).tile("pcm").rows == 64


def test_a_missing_file_is_named_with_the_presets() -> None:
    with pytest.raises(MhoError, match=r"^no file 'nope\.yaml'; presets: pcm\.standard$"):
        load("nope.yaml")


def test_a_plugin_file_can_be_loaded_first(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from typing import ClassVar\nfrom mho.config.hooks import hookimpl\nfrom mho.config.schema import Kinded\n"
        "class Mine(Kinded, kind='mine.noise'):\n    CATEGORY: ClassVar[str] = 'nonideality'\n"
        "@hookimpl\ndef mho_nonidealities():\n    return [Mine]\n"
    )
    (tmp_path / "hw.yaml").write_text(tile("{nonidealities: [mine.noise]}"))
    hw = load(tmp_path / "hw.yaml", plugins=[tmp_path / "mine.py"])
    assert hw.tile("t").nonidealities[0].kind == "mine.noise"


# --- layers ---


def where(hw: Hardware, *layer: Any) -> tuple[str, int | None]:
    """The tile of a layer, and the first rule that is about it."""
    return next(((rule.tile, i) for i, rule in enumerate(hw.layers) if rule.matches(*layer)), (hw.default, None))


def test_the_first_rule_that_matches_decides() -> None:
    hw = hardware(HW)
    assert where(hw, "head", "Linear", 5) == ("digital", 0)
    assert where(hw, "layer1", "Linear", 10) == ("precise", 1)
    assert where(hw, "layer1", "Linear", 9) == ("pcm", None)
    assert where(hw, "layer1", "Conv2d", 10) == ("pcm", None)
    assert where(hw, "layer12", "Linear", 10) == ("pcm", None)


@pytest.mark.parametrize(
    ("match", "name", "hit"),
    [
        ("layer1.*", "layer1.conv", True),
        ("layer1.*", "layer1", False),
        ("Layer*", "layer1", False),
        ("a.b", "axb", False),
        ("re:a.b", "axb", True),
        ("re:a", "ab", False),
        ("*", "any.thing", True),
    ],
)
def test_patterns_are_case_sensitive_and_cover_the_whole_name(match: str, name: str, hit: bool) -> None:
    assert LayerRule(match=match, tile="t").matches(name, "Linear", 1) is hit


def test_rules_remember_where_they_are_written() -> None:
    assert hardware(HW).rule_sources == ("hw.yaml:21:5", "hw.yaml:22:5")


def test_a_rule_may_name_a_preset_whose_default_tile_is_then_taken_along() -> None:
    hw = hardware(tile("{}") + "layers: [{match: a, tile: pcm.standard}]")
    assert hw.tile("pcm.standard").adc.bits == 8
    assert Hardware.from_yaml(hw.to_yaml()) == hw


def test_the_default_may_be_digital_or_a_preset() -> None:
    assert where(hardware("mho: 1\ndefault: digital"), "a", "Linear", 1) == ("digital", None)
    assert hardware("mho: 1\ndefault: pcm.standard").tile("pcm.standard").adc.bits == 8


# --- like, override, append ---


def test_a_tile_like_another_merges_mappings_and_replaces_lists() -> None:
    hw = hardware(HW)
    precise = hw.tile("precise")
    assert (precise.rows, precise.dac.range, precise.adc.bits) == (256, 3.0, 10)
    assert hw.tile("pcm").adc.bits == 6


def test_override_changes_one_effect_and_append_adds_one() -> None:
    effects = hardware(HW).tile("precise").nonidealities
    assert [e.kind for e in effects] == ["pcm.drift", "pcm.read_noise"]
    assert effects[0].t0 == 60.0
    assert effects[1].sigma == 0.0175


def test_a_list_replaces_the_inherited_one() -> None:
    hw = hardware("like: pcm.standard\ntiles: {pcm: {nonidealities: [pcm.read_noise]}}")
    assert [e.sigma for e in hw.tile("pcm").nonidealities] == [0.0175]


def test_a_file_like_a_preset_inherits_everything() -> None:
    hw = hardware("like: pcm.standard\ntiles: {pcm: {rows: 64}}\ntraining: {backward: {rounding: ste}}")
    assert (hw.tile("pcm").rows, hw.tile("pcm").adc.bits) == (64, 8)
    assert (hw.training.backward.mode, hw.training.backward.rounding) == ("autograd", "ste")


def test_a_tile_like_a_preset_takes_its_default_tile() -> None:
    assert hardware(tile("{like: pcm.standard, rows: 3}")).tile("t").adc.bits == 8


def test_another_kind_on_top_drops_the_fields_of_the_old_one() -> None:
    text = (
        "like: pcm.standard\n"
        "tiles: {pcm: {mapping: {kind: mho.tile_max, headroom: 2}}, other: {like: pcm, mapping: {kind: mho.per_column}}}"
    )
    assert hardware(text).tile("other").mapping.kind == "mho.per_column"


def test_fields_can_be_put_on_top_of_a_bare_kind() -> None:
    text = "like: pcm.standard\ntiles: {pcm: {compensation: {vectors: 5}}}"
    assert hardware(text).tile("pcm").compensation.vectors == 5


def test_a_bare_kind_on_top_means_all_defaults() -> None:
    text = HW.replace("adc: {bits: 10}", "mapping: mho.per_column")
    assert hardware(text).tile("precise").mapping.clip is None


def test_an_effect_that_stands_twice_cannot_be_overridden() -> None:
    text = tile("{nonidealities: [pcm.drift, pcm.drift], override: {pcm.drift: none}}")
    assert "'pcm.drift' stands 2 times in the list; write the whole list instead" in said(text)


def test_an_effect_that_is_not_there_cannot_be_overridden() -> None:
    text = tile("{nonidealities: [pcm.drift], override: {pcm.drfit: none}}")
    assert "no 'pcm.drfit' to change; did you mean 'pcm.drift'?" in said(text)


def test_tiles_like_each_other_in_a_circle_are_an_error() -> None:
    text = "mho: 1\ndefault: a\ntiles:\n  a: {like: b}\n  b: {like: c}\n  c: {like: a}\n"
    assert said(text).splitlines()[:2] == [
        "hw.yaml:6:13  tiles.c.like",
        "    tiles are like each other in a circle: a -> b -> c -> a",
    ]


def test_presets_like_each_other_in_a_circle_are_an_error(plugin: Callable[..., None], plugins: Registry) -> None:
    plugin("ring", "", one="like: ring.two\n", two="like: ring.one\n")
    with pytest.raises(ConfigError, match=r"presets inherit in a circle: ring\.one -> ring\.two -> ring\.one"):
        load("ring.one")


def test_an_unknown_tile_is_suggested() -> None:
    text = "mho: 1\ndefault: pcm\ntiles:\n  pcm: {}\n  b: {like: pmc}\n"
    assert "hw.yaml:5:13  tiles.b.like\n    no tile 'pmc'; did you mean 'pcm'?" in said(text)


def test_an_unknown_preset_is_suggested_and_nothing_else_said() -> None:
    assert said("like: pcm.standrd").splitlines()[:2] == [
        "hw.yaml:1:7  like",
        "    no preset 'pcm.standrd'; did you mean 'pcm.standard'?",
    ]
    assert "missing" not in said("like: pcm.standrd")


def test_an_error_in_an_inherited_file_is_reported_there(plugin: Callable[..., None]) -> None:
    plugin("bad", "", chip="mho: 1\ndefault: t\ntiles:\n  t: {rows: 0, columns: 5}\n")
    text = said("like: bad.chip\ntiles: {t: {columns: -1}}")
    first, second = [line for line in text.splitlines() if "  tiles.t." in line and "|" not in line]
    assert first.endswith("chip.yaml:4:13  tiles.t.rows")
    assert second == "hw.yaml:2:22  tiles.t.columns"


# --- errors ---


def test_the_format_of_an_error() -> None:
    text = "mho: 1\ndefault: t\ntiles:\n  t:\n    nonidealities:\n      - kind: pcm.drift\n        nu_sdt: 1e-2\n"
    assert said(text) == (
        "hw.yaml:7:9  tiles.t.nonidealities[0].nu_sdt\n"
        "    unknown key 'nu_sdt'; did you mean 'nu_std'?\n"
        "       7 |         nu_sdt: 1e-2\n"
        "         |         ^"
    )


def test_all_errors_are_reported_at_once_in_the_order_of_the_file() -> None:
    text = (
        "mho: 1\ndefault: pmc\ntiles:\n  pcm: {rows: 0, dac: {bits: 99}, "
        "nonidealities: [off, {kind: pcm.read_noise, sigma: -1}]}\n"
        "layers: [{match: a, tile: q}]\ntraining: {clip: loud}\nbogus: 1\n"
    )
    with pytest.raises(ConfigError) as error:
        hardware(text)
    assert [p.path for p in error.value.problems] == [
        "default",
        "tiles.pcm.rows",
        "tiles.pcm.dac.bits",
        "tiles.pcm.nonidealities[0]",
        "tiles.pcm.nonidealities[1].sigma",
        "layers[0].tile",
        "training.clip",
        "bogus",
    ]


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        (tile("{nonidealities: [{kind: pcm.drift, t0: 25 uS}]}"), "4:45  ", "expected a time such as '1 h', got '25 uS'"),
        (tile("{nonidealities: [{kind: pcm.read_noise, sigma: -1}]}"), "4:53  ", "expected a number ≥ 0, got -1"),
        (tile("{adc: {bits: 99}}"), "4:19  ", "expected a whole number ≥ 2 and ≤ 16 or none, got 99"),
        (tile("{compensation: off}"), "4:21  ", "expected a compensation such as 'mho.global_drift' or none, got 'off'"),
        (tile("{nonidealities: [off]}"), "4:23  ", "expected a nonideality such as 'pcm.drift', got 'off'"),
        (tile("{nonidealities: pcm.drift}"), "4:22  ", "expected a list, got 'pcm.drift'"),
        (tile("{nonidealities: [{nu: 1}]}"), "4:23  ", "missing key 'kind': expected a nonideality such as 'pcm.drift'"),
        (tile("{mapping: pcm.drift}"), "4:16  ", "'pcm.drift' is a nonideality, not a mapping"),
        (tile("{dac: {kind: pcm.drift}}"), "4:19  ", "'pcm.drift' is a nonideality, not a DAC"),
        (tile("{dac: {kind: mho.adc}}"), "4:19  ", "'mho.adc' is an ADC, not a DAC"),
        (tile("{device: {g_min: 5 uS}}"), "4:7  ", "g_min above 0 needs 'pair: both'"),
        (tile("{device: {g_max: 1, g_min: 2, pair: both}}"), "4:7  ", "g_max (1 uS) must be larger than g_min (2 uS)"),
        (tile("{split: rows}"), "4:14  ", "expected 'channel' or 'row', got 'rows'; did you mean 'row'?"),
        (tile("7"), "4:6  ", "expected keys with values, got 7"),
        ("mho: 2\ndefault: digital", "1:6  ", "expected 1, got 2"),
        ("default: digital", "1:1  ", "missing key 'mho': version of this schema; write 'mho: 1'"),
        ("mho: 1\ndefault: digital\ntiles: {digital: {}}", "3:9  ", "'digital' is not a tile"),
        ("mho: 1\ndefault: digital\ntiles: {a b: {}}", "3:9  ", "expected a tile name"),
        ("mho: 1\ndefault: digital\nlayers: [{match: 're:(', tile: digital}]", "3:18  ", "not a regular expression"),
        ("mho: 1\ndefault: digital\nlayers: [{match: '', tile: digital}]", "3:18  ", "expected text that is not empty"),
        (
            "mho: 1\ndefault: digital\nlayers:\n- {match: a, tile: digital}\n- {match: a, tile: digital}",
            "5:3  ",
            "never used: rule 0 has the same conditions; remove one",
        ),
        ("mho: 1\ndefault: digital\ntimes: [1 h, 3 V]", "3:14  ", "expected a time such as '1 h', got '3 V'"),
        ("mho: 1\ndefault: digital\ntimes: []", "3:1  ", "expected a list of at least 1, got an empty list"),
        ("mho: 1\ndefault: digital\ntimes: 1 h", "3:8  ", "expected a list, got '1 h'"),
        (
            "mho: 1\ndefault: digital\ntraining: {backward: stee}",
            "3:22  ",
            "expected 'through', 'ste', 'masked', 'surrogate' or 'autograd'",
        ),
        ("mho: 1\ndefault: digital\ntraining: {backward: {rounding: ste}}", "3:12  ", "'rounding: ste' has a meaning only"),
        ("mho: 1\ndefault: digital\nrequires: [mho-nope]", "3:12  ", "mho-nope is not installed; try: pip install 'mho-nope'"),
        ("mho: 1\ndefault: digital\nrequires: ['pytest>=999']", "3:12  ", "pytest>=999 is needed, but"),
        ("mho: 1\ndefault: digital\nrequires: ['pytest<8']", "3:12  ", "pytest<8 is needed, but"),
        ("mho: 1\ndefault: digital\nrequires: ['pytest @ file:x']", "3:12  ", "expected a requirement such as 'mho-pcm>=0.1'"),
        ("- a", "1:1", "expected a hardware file that begins with 'mho: 1', got a list"),
        ("", "1:1", "expected a hardware file that begins with 'mho: 1', got nothing"),
    ],
)
def test_every_error_has_a_place_and_says_what_was_expected(text: str, place: str, message: str) -> None:
    head, sentence = said(text).splitlines()[:2]
    assert head.startswith(f"hw.yaml:{place}")
    assert sentence.strip().startswith(message)


def test_a_broken_plugin_is_reported_where_the_file_names_it(plugin: Callable[..., None]) -> None:
    plugin("bad", "import not_there", distribution="mho-bad")
    assert said(tile("{nonidealities: [pcm.drift, bad.noise]}")).splitlines()[:2] == [
        "hw.yaml:4:34  tiles.t.nonidealities[1]",
        "    plugin 'bad' (mho-bad 1.0) cannot be used: ModuleNotFoundError: No module named 'not_there'",
    ]


def test_a_check_of_a_plugin_that_itself_fails_is_an_error_of_the_file(plugin: Callable[..., None]) -> None:
    plugin(
        "odd",
        "from typing import ClassVar\nfrom pydantic import model_validator\nfrom mho.config.hooks import hookimpl\n"
        "from mho.config.schema import Kinded\nclass Odd(Kinded, kind='odd.noise'):\n"
        "    CATEGORY: ClassVar[str] = 'nonideality'\n"
        "    @model_validator(mode='after')\n    def check(self):\n        return {}['x']\n"
        "@hookimpl\ndef mho_nonidealities():\n    return [Odd]\n",
    )
    assert "the check of 'odd.noise' itself failed (KeyError: 'x')" in said(tile("{nonidealities: [odd.noise]}"))


def test_a_python_mistake_is_refused_in_the_same_words() -> None:
    with pytest.raises(ValueError, match="unknown key 'row'; did you mean 'rows'"):
        TileSpec(row=3)


# --- changes from the command line ---


@pytest.mark.parametrize(
    ("changes", "path", "value"),
    [
        (["tiles.pcm.rows=3"], "rows", 3),
        (["tiles.pcm.mapping.kind=mho.tile_max"], "mapping.kind", "mho.tile_max"),
        (["tiles.pcm.mapping.kind=mho.tile_max", "tiles.pcm.mapping.headroom=2"], "mapping.headroom", 2.0),
        (["tiles.pcm.mapping=mho.tile_max", "tiles.pcm.mapping.headroom=2"], "mapping.headroom", 2.0),
        (["tiles.pcm.mapping.clip=none"], "mapping.clip", None),
        (["tiles.pcm.device.g_max=30 uS"], "device.g_max", 30.0),
        (["tiles.pcm.adc=none"], "adc", None),
        (["tiles.pcm.adc=none", "tiles.pcm.adc.bits=4"], "adc.bits", 4),
        (["tiles.pcm.adc={bits: 4}"], "adc.bits", 4),
        (["tiles.pcm.compensation.vectors=3"], "compensation.vectors", 3),
        (["tiles.pcm.nonidealities[pcm.drift].nu_std=0"], "nonidealities.0.nu_std", 0.0),
        (["tiles.pcm.nonidealities[1].sigma=0.5"], "nonidealities.1.sigma", 0.5),
        (["tiles.pcm.nonidealities[pcm.drift]=none"], "nonidealities.0.kind", "pcm.read_noise"),
        (["tiles.pcm.nonidealities=[pcm.drift]"], "nonidealities.0.kind", "pcm.drift"),
    ],
)
def test_set_changes_one_value(changes: list[str], path: str, value: object) -> None:
    found: Any = hardware(HW, *changes).tile("pcm")
    for step in path.split("."):
        found = found[int(step)] if step.isdigit() else getattr(found, step)
    assert found == value


def test_set_reaches_through_shorthands_and_defaults_of_training() -> None:
    training = hardware(HW, "training.backward=autograd", "training.backward.rounding=ste", "training.remap=1 epoch").training
    assert (training.backward.mode, training.backward.rounding, training.remap) == ("autograd", "ste", Span(1, "epochs"))
    assert hardware(tile("{}"), "training.inject.scale=2").training.inject.scale == 2.0


def test_set_reaches_tiles_whose_names_contain_dots() -> None:
    assert hardware("mho: 1\ndefault: pcm.standard", "tiles.pcm.standard.rows=7").tile("pcm.standard").rows == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("tiles.pmc.rows=3", "no such path: no tile 'pmc'; did you mean 'pcm'?"),
        ("tiles.pcm.rows.x=3", "no such path: tiles.pcm.rows is 256, which has no parts"),
        ("tiles.pcm.nonidealities[pcm.drft].t0=3", "no such path: no 'pcm.drft' to change; did you mean 'pcm.drift'?"),
        ("tiles.pcm.nonidealities[7].t0=3", "no such path: tiles.pcm.nonidealities has 2 entries, counted from 0"),
        ("tiles.pcm.nonidealities.t0=3", "no such path: tiles.pcm.nonidealities is a list; write [0] or [kind]"),
        ("tiles[0]=3", "no such path: tiles is not a list; write .name instead of [0]"),
        ("tiles.pcm.rows", "expected PATH=VALUE, e.g. tiles.pcm.rows=256"),
        ("a..b=3", "expected PATH=VALUE, e.g. tiles.pcm.rows=256"),
        ("tile.pcm.rows=3", "unknown key 'tile'; did you mean 'tiles'?"),
        ("tiles.pcm.rows=lots", "expected a whole number ≥ 1, got 'lots'"),
        ("tiles.pcm.rows=[", "not YAML"),
        ("tiles.pcm.rows=!x 3", "tags (!x) are not used here"),
    ],
)
def test_a_wrong_change_is_quoted_and_explained(change: str, message: str) -> None:
    head, sentence = said(HW, change).splitlines()[:2]
    assert head.startswith(f"--set {change}")
    assert sentence.strip().startswith(message)


# --- JSON schema ---


def test_the_json_schema_knows_all_kinds_of_all_plugins() -> None:
    schema = json_schema()
    effects = schema["$defs"]["TileSpec"]["properties"]["nonidealities"]["items"]["anyOf"]
    assert effects[0]["enum"] == ["pcm.drift", "pcm.read_noise"]
    full = [{**schema["$defs"].get(e.get("$ref", "").rpartition("/")[2], {}), **e} for e in effects]
    drift = next(e for e in full if e.get("title") == "Drift")  # in place or behind a $ref, as pydantic likes
    assert drift["required"] == ["kind"]
    assert drift["properties"]["kind"]["const"] == "pcm.drift"
    assert drift["properties"]["nu_mean"]["source"] == "R003 Eq. 9"


def test_the_json_schema_knows_inheritance() -> None:
    schema = json_schema()
    assert "like" in schema["properties"]
    assert {"like", "override", "append"} <= set(schema["$defs"]["TileSpec"]["properties"])


def test_a_broken_plugin_does_not_spoil_the_json_schema(plugin: Callable[..., None]) -> None:
    plugin("bad", "import not_there")
    assert "pcm.drift" in str(json_schema())


# --- whatever is written ---


def only_located_errors(text: str, *changes: str) -> None:
    try:
        hardware(text, *changes)
    except ConfigError as error:
        assert error.problems
        assert str(error)


FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(st.text(max_size=200))
def test_any_text_is_a_hardware_or_a_located_error(text: str) -> None:
    only_located_errors(text)


@FUZZ
@given(st.data())
def test_any_mutation_of_a_valid_file_is_a_hardware_or_a_located_error(data: st.DataObject) -> None:
    words = HW.split(" ")
    for _ in range(data.draw(st.integers(1, 4))):
        i, j = (data.draw(st.integers(0, len(words) - 1)) for _ in range(2))
        fresh = data.draw(st.sampled_from(["none", "[]", "{}", "-1", "&a", "like:", "pcm", "\n", "1e999", "pcm.drift", ""]))
        words[i], words[j] = (words[j], words[i]) if data.draw(st.booleans()) else (fresh, words[j])
    only_located_errors(" ".join(words))


@FUZZ
@given(
    st.lists(
        st.sampled_from(
            [
                "tiles",
                "pcm",
                "rows",
                ".",
                "[",
                "]",
                "[0]",
                "[pcm.drift]",
                "nonidealities",
                "adc",
                "kind",
                "=",
                "none",
                "3",
                "{}",
                "training",
            ]
        )
    )
)
def test_any_change_is_a_hardware_or_a_located_error(parts: list[str]) -> None:
    only_located_errors(HW, "".join(parts))


def test_reading_a_file_imports_no_torch(tmp_path: Path) -> None:
    code = "import sys, mho.config.hardware, mho.config.registry, mho.config.hooks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


SHRINK = """
from mho.config.hooks import hookimpl
from mho.config.recipe import TrainingMethod
from mho.config.schema import Field

class Decay(TrainingMethod, kind="shrink.decay"):
    rate: float = Field(0.1, ge=0, unit="1", description="share that goes")

@hookimpl
def mho_training():
    return [Decay]
"""


def test_a_plugin_claims_a_key_of_training_from_its_metadata(plugin: Callable[..., None]) -> None:
    plugin("shrink", SHRINK, sections="decay = shrink.decay")
    hw = hardware(tile("{}") + "training: {decay: {rate: 0.2}}")
    assert hw.training.method("shrink.decay").rate == 0.2 and list(hw.training.all_methods) == ["decay"]
    assert hw == Hardware.from_yaml(hw.to_yaml())
    assert hw.digest != hardware(tile("{}") + "training: {decay: {}}").digest
    assert hardware(tile("{}") + "training: {decay: none}") == hardware(tile("{}"))
    properties = json_schema()["$defs"]["TrainingSpec"]["properties"]
    assert properties["decay"]["anyOf"][0]["properties"]["rate"]["minimum"] == 0


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("dacay: {}", "unknown key 'dacay'; did you mean 'decay'?"),
        ("clib: 2", "unknown key 'clib'; did you mean 'clip'?"),
        ("noise: {}", "no installed plugin provides 'qat'; try: pip install mho-qat; installed: other, pcm, shrink"),
        ("twice: {}", "other.gone and shrink.decay both claim this key; list the one that you mean in 'methods'"),
        ("gone: {}", "plugin 'other' (fake-other 1.0) cannot be used: ModuleNotFoundError: No module named 'missing'"),
    ],
)
def test_a_key_of_training_that_cannot_be_used_says_why(plugin: Callable[..., None], keys: str, message: str) -> None:
    plugin("shrink", SHRINK, sections="decay = shrink.decay\ntwice = shrink.decay")
    plugin("other", "import missing", sections="gone = other.gone\ntwice = other.gone")
    with pytest.raises(ConfigError) as error:
        hardware(tile("{}") + f"training: {{{keys}}}")
    assert [p.path for p in error.value.problems] == ["training." + keys.partition(":")[0]]
    assert message in error.value.problems[0].message


def test_files_inherit_from_files_beside_them(plugins, tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "base.yaml").write_text("mho: 1\nlike: pcm.standard\ndescription: base\ntiles:\n  pcm: {columns: 64}\n")
    (tmp_path / "chip.yaml").write_text("mho: 1\nlike: ./parts/base.yaml\ntiles:\n  pcm: {rows: 128}\n")
    (tmp_path / "tile.yaml").write_text("mho: 1\ndefault: own\ntiles:\n  own: {like: chip.yaml, columns: 32}\n")
    chip, own = load(tmp_path / "chip.yaml").tiles["pcm"], load(tmp_path / "tile.yaml").tiles["own"]
    assert (chip.rows, chip.columns, own.rows, own.columns) == (128, 64, 128, 32)
    assert [e.kind for e in own.nonidealities] == ["pcm.drift", "pcm.read_noise"]


@pytest.mark.parametrize(("files", "says"), [
    ({"a": "b.yaml", "b": "./a.yaml"}, r"b\.yaml:2:7  like\n    presets inherit in a circle: .*a\.yaml -> .*b\.yaml -> .*a"),
    ({"a": "./a.yaml"}, r"presets inherit in a circle"),
    ({"a": "../outside.yaml"}, r"'\.\./outside\.yaml' leads out of .*; expected a file there, or below it"),
    ({"a": "/etc/x.yaml"}, r"'/etc/x\.yaml' leads out of"),
    ({"a": "link.yaml"}, r"'link\.yaml' leads out of"),
    ({"a": "bse.yaml", "base": "pcm.standard"}, r"a\.yaml:2:7  like\n    no file '.*bse\.yaml'; did you mean 'base\.yaml'\?"),
    ({"a": "base.yaml", "base": "[x"}, r"base\.yaml:3:1.*\n    not YAML"),
])  # fmt: skip
def test_files_that_cannot_be_inherited_are_located_errors(plugins, tmp_path, files, says):
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "outside.yaml").write_text("mho: 1\nlike: pcm.standard\n")
    (home / "link.yaml").symlink_to(tmp_path / "outside.yaml")
    for name, like in files.items():
        (home / f"{name}.yaml").write_text(f"mho: 1\nlike: {like}\n")
    with pytest.raises(ConfigError, match=says):
        load(home / "a.yaml")


def test_files_that_inherit_without_end_are_refused(plugins, tmp_path):
    for n in range(100):
        (tmp_path / f"f{n}.yaml").write_text(f"mho: 1\nlike: f{n + 1}.yaml\n")
    with pytest.raises(ConfigError, match="inherit from each other over more than 50 steps"):
        load(tmp_path / "f0.yaml")
