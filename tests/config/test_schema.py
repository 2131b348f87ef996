"""Strict models, fields with units, and kinds."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any, ClassVar, Literal

import pytest
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from mho.config.schema import Field, Kinded, Strict, allows_none
from mho.config.units import Seconds, Sigmas, Span


class Effect(Kinded):
    CATEGORY: ClassVar[str] = "nonideality"
    strength: ClassVar[str | None] = "scale"
    scale: float = Field(1.0, ge=0, unit="1")

    @classmethod
    def _adjust_fields(cls, fields: dict[str, FieldInfo]) -> None:
        if cls.strength != "scale":
            fields.pop("scale", None)


class Drift(Effect, kind="pcm.drift"):
    """Conductances decay."""

    source = "R003"
    nu_mean: float = Field(0.06, ge=0, unit="1", source="Eq. 9", description="mean exponent")
    nu_std: float = Field(0.02, ge=0, lt=1)
    t0: Seconds = Field(20.0, gt=0)
    g: float | None = Field(25.0, gt=0, unit="uS")
    span: float | Literal["learned", "dynamic"] = Field("learned", gt=0)
    clip: float | Sigmas | None = Field(1.0, gt=0)
    limit: float | Literal["auto"] = Field("auto", gt=0, unit="V")
    ramp: Span | None = None
    times: tuple[Seconds, ...] = Field((1.0,), ge=0)
    bits: int | None = Field(8, ge=2, le=16)
    flag: bool = False


class Stuck(Effect, kind="pcm.stuck"):
    strength = "share"
    share: float = Field(0.01, ge=0, le=1)


class StuckAgain(Stuck, kind="pcm.stuck_again"):
    pass


def message(**fields: Any) -> str:
    """What is said about these fields of a Drift."""
    with pytest.raises(ValidationError) as error:
        Drift(**fields)
    (only,) = error.value.errors()
    return only["msg"]


def test_an_unknown_key_suggests_the_nearest_known_one() -> None:
    assert message(nu_sdt=1.0) == "unknown key 'nu_sdt'; did you mean 'nu_std'?"


def test_an_unknown_key_like_no_other_lists_the_known_keys() -> None:
    with pytest.raises(ValidationError) as error:
        Stuck(zebra=1)
    assert error.value.errors()[0]["msg"] == "unknown key 'zebra'; known keys: kind, share"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"nu_mean": -1}, "expected a number ≥ 0, got -1"),
        ({"nu_std": 1}, "expected a number ≥ 0 and < 1, got 1"),
        ({"nu_mean": "much"}, "expected a number ≥ 0, got 'much'"),
        ({"nu_mean": float("nan")}, "expected a finite number ≥ 0, got nan"),
        ({"nu_mean": True}, "expected a number ≥ 0, got true"),
        ({"bits": 99}, "expected a whole number ≥ 2 and ≤ 16 or none, got 99"),
        ({"bits": 8.5}, "expected a whole number ≥ 2 and ≤ 16 or none, got 8.5"),
        ({"flag": 1}, "expected true or false, got 1"),
        ({"t0": "25 uS"}, "expected a time such as '1 h', got '25 uS'"),
        ({"t0": "-3 s"}, "expected a time such as '1 h', > 0 s, got -3.0"),
        ({"g": "25 s"}, "expected a conductance such as '25 uS' or none, got '25 s'"),
        ({"span": "learnt"}, "expected a number > 0 or 'learned' or 'dynamic', got 'learnt'"),
        ({"span": -1.0}, "expected a number > 0 or 'learned' or 'dynamic', got -1.0"),
        ({"limit": "25 uS"}, "expected a voltage such as '0.2 V', > 0 V or 'auto', got '25 uS'"),
        ({"ramp": 10}, "expected a stretch of training such as '10 epochs' or '500 steps' or none, got 10"),
        ({"kind": "pcm.other"}, "expected 'pcm.drift', got 'pcm.other'"),
        ({"times": 3.0}, "expected a list, got 3.0"),
    ],
)
def test_errors_say_in_plain_words_what_was_expected(fields: dict[str, Any], said: str) -> None:
    assert message(**fields) == said


def test_an_item_of_a_list_is_named() -> None:
    with pytest.raises(ValidationError) as error:
        Drift(times=(1.0, "3 V"))
    assert [(e["loc"], e["msg"]) for e in error.value.errors()] == [(("times", 1), "expected a time such as '1 h', got '3 V'")]


def test_quantities_are_converted_to_the_unit_of_the_field() -> None:
    drift = Drift(t0="1 h", g="0.03 mS", times=("1 s", 2, "1 min"), clip="2.5 sigma", ramp="3 epochs")
    assert (drift.t0, drift.g, drift.times) == (3600.0, 30.0, (1.0, 2.0, 60.0))
    assert (drift.clip, drift.ramp) == (Sigmas(2.5), Span(3, "epochs"))


@pytest.mark.parametrize("name", ["g", "clip", "ramp", "bits"])
def test_the_word_none_means_none_where_none_is_allowed(name: str) -> None:
    assert getattr(Drift(**{name: "none"}), name) is None


def test_a_field_without_none_does_not_take_the_word() -> None:
    assert message(nu_mean="none") == "expected a number ≥ 0, got 'none'"


def test_a_quantity_may_share_a_field_with_a_word() -> None:
    assert (Drift(limit="200 mV").limit, Drift(limit="auto").limit) == (0.2, "auto")


def test_models_are_immutable() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Drift().nu_mean = 1.0


def test_the_kind_is_a_field_with_a_fixed_value() -> None:
    assert Drift.KIND == Drift().kind == "pcm.drift"
    assert Effect.KIND is None


def test_an_effect_with_a_strength_of_its_own_has_no_scale() -> None:
    assert list(Stuck.model_fields) == ["kind", "share"] == list(StuckAgain.model_fields)
    assert "scale" in Drift.model_fields


@pytest.mark.parametrize("kind", ["drift", "pcm.", ".drift", "Pcm.drift", "pcm.dri-ft", "a.b.c", "1a.b", ""])
def test_a_kind_of_another_form_is_refused_when_the_class_is_made(kind: str) -> None:
    with pytest.raises(TypeError, match="not of the form family"):
        type("Wrong", (Effect,), {}, kind=kind)


def test_bounds_on_a_field_without_numbers_are_refused() -> None:
    with pytest.raises(TypeError, match="must hold a number"):

        class Wrong(Strict):
            name: str = Field("x", ge=0)


def test_the_json_schema_allows_text_where_units_are_accepted() -> None:
    fields = Drift.model_json_schema()["properties"]
    number, text = fields["t0"]["anyOf"]
    assert number == {"exclusiveMinimum": 0, "type": "number"}
    assert (text["type"], text["examples"]) == ("string", ["1 h"])
    assert all(re.search(text["pattern"], t) for t in ("1 h", " 2.5e3 days ", "3µs", "7"))
    assert not any(re.search(text["pattern"], t) for t in ("1 V", "h", "1 hour", "-1 h"))
    assert fields["nu_mean"]["unit"] == "1"
    assert fields["nu_mean"]["source"] == "Eq. 9"
    assert fields["nu_mean"]["minimum"] == 0
    assert {"const": "none"} in fields["bits"]["anyOf"]
    assert {"minimum": 2, "maximum": 16, "type": "integer"} in fields["bits"]["anyOf"]


def test_every_field_can_be_explained() -> None:
    note = next(n for n in Drift.notes() if n.name == "nu_mean")
    assert (note.default, note.unit, note.accepts, note.description, note.source) == (
        0.06,
        "1",
        "number, ≥ 0",
        "mean exponent",
        "Eq. 9",
    )


def test_specs_survive_copy_and_pickle() -> None:
    drift = Drift(nu_mean=0.1)
    assert copy.deepcopy(drift) == drift == pickle.loads(pickle.dumps(drift))


def test_a_dump_reads_back_equal() -> None:
    drift = Drift(clip="2.5 sigma", ramp="5 steps", g="none")
    data = drift.model_dump(mode="json")
    assert Drift(**{**data, "times": tuple(data["times"])}) == drift


@pytest.mark.parametrize(
    ("annotation", "allowed"), [(int, False), (int | None, True), (float | Literal["none"], False), (None, False)]
)
def test_only_types_with_none_allow_none(annotation: Any, allowed: bool) -> None:
    assert allows_none(annotation) is allowed
