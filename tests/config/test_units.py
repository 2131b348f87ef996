"""Quantities with units."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mho.config.units import Sigmas, Span, format_seconds, parse, seconds
from mho.ground.errors import MhoError


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("25 uS", "uS", 25.0),
        ("25uS", "uS", 25.0),
        ("25 µS", "uS", 25.0),
        ("25 μS", "uS", 25.0),
        ("0.025 mS", "uS", 25.0),
        ("25e-6 S", "uS", 25.0),
        ("100 nS", "uS", 0.1),
        ("1h", "s", 3600.0),
        ("1 h", "s", 3600.0),
        ("2 days", "s", 172_800.0),
        ("1 day", "s", 86_400.0),
        ("1 year", "s", 31_536_000.0),
        ("3 years", "s", 94_608_000.0),
        ("5 min", "s", 300.0),
        ("100 ns", "s", 1e-7),
        ("7", "s", 7.0),
        (".5 ohm", "ohm", 0.5),
        ("0.35 Ω", "ohm", 0.35),
        ("2 kohm", "ohm", 2000.0),
        ("200 mV", "V", 0.2),
        ("3 nA", "uA", 0.003),
        ("300 K", "K", 300.0),
        ("1 GHz", "MHz", 1000.0),
        ("5 %", "%", 5.0),
        ("-3 mV", "V", -0.003),
    ],
)
def test_text_with_a_unit_becomes_exactly_that_number(text: str, unit: str, value: float) -> None:
    assert parse(text, unit) == value


def test_another_dimension_is_refused_and_an_example_given() -> None:
    with pytest.raises(MhoError) as error:
        parse("25 s", "uS")
    assert str(error.value) == "expected a conductance such as '25 uS', got '25 s'"


def test_an_unknown_unit_is_refused_with_the_known_ones() -> None:
    with pytest.raises(MhoError, match="got '3 parsec'; known units: ns, us, ms, s, min, h, day, year"):
        parse("3 parsec", "s")


@pytest.mark.parametrize("text", ["", "uS", "1 2 uS", "1e999 uS", "nan uS", "inf", "0x1 uS", "1_0 uS", "9" * 200])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(MhoError, match="expected a conductance"):
        parse(text, "uS")


@pytest.mark.parametrize("value", ["1 h", "3600", 3600, 3600.0, timedelta(hours=1)])
def test_seconds_takes_text_timedelta_and_numbers(value: object) -> None:
    assert seconds(value) == 3600.0


@pytest.mark.parametrize("value", [-1, float("nan"), True, "-1 s", None, "25 uS"])
def test_seconds_refuses_what_is_no_time(value: object) -> None:
    with pytest.raises(MhoError, match="expected a time"):
        seconds(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 s"),
        (1, "1 s"),
        (20, "20 s"),
        (60, "1 min"),
        (3600, "1 h"),
        (86_400, "1 day"),
        (172_800, "2 days"),
        (31_536_000, "1 year"),
        (1e-9, "1 ns"),
    ],
)
def test_times_are_shown_in_the_largest_unit_that_stays_plain(value: float, text: str) -> None:
    assert format_seconds(value) == text


@pytest.mark.parametrize(
    ("text", "count", "unit"), [("10 epochs", 10, "epochs"), ("1 epoch", 1, "epochs"), ("500 steps", 500, "steps")]
)
def test_a_span_counts_epochs_or_steps(text: str, count: int, unit: str) -> None:
    span = Span.parse(text)
    assert (span.count, span.unit, str(span)) == (count, unit, text)


@pytest.mark.parametrize("text", ["10", "0 epochs", "-1 steps", "1.5 epochs", "10 minutes", "epochs"])
def test_a_span_of_something_else_is_refused(text: str) -> None:
    with pytest.raises(MhoError, match="expected a stretch of training such as '10 epochs' or '500 steps'"):
        Span.parse(text)


@pytest.mark.parametrize(("text", "count"), [("2.5 sigma", 2.5), ("3sigma", 3.0), ("1e-3 sigma", 1e-3)])
def test_sigmas_survive_being_written_out(text: str, count: float) -> None:
    assert Sigmas.parse(text) == Sigmas(count) == Sigmas.parse(str(Sigmas(count)))


@pytest.mark.parametrize("text", ["2.5", "-1 sigma", "0 sigma", "sigma", "2.5 sigmas"])
def test_sigmas_must_be_a_positive_number_of_sigma(text: str) -> None:
    with pytest.raises(MhoError, match="expected a number of standard deviations"):
        Sigmas.parse(text)
