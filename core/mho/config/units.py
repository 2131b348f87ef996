"""Physical quantities: "25 uS", "1 h" or "0.35 ohm" become plain numbers in the unit a field is declared in."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import PydanticCustomError, core_schema

from mho.ground import MhoError, plain

_TIME = {"ns": "1e-9", "us": "1e-6", "ms": "1e-3", "s": "1", "min": "60", "h": "3600", "day": "86400", "year": "31536000"}
# dimension: (how to call it, an example, unit -> factor to the SI unit). Decimal, so that "25 uS" is exactly 25.0 uS.
DIMENSIONS: dict[str, tuple[str, str, dict[str, str]]] = {
    "time": ("a time", "1 h", _TIME),
    "conductance": ("a conductance", "25 uS", {"nS": "1e-9", "uS": "1e-6", "mS": "1e-3", "S": "1"}),
    "resistance": ("a resistance", "0.35 ohm", {"ohm": "1", "kohm": "1e3", "Mohm": "1e6"}),
    "voltage": ("a voltage", "0.2 V", {"uV": "1e-6", "mV": "1e-3", "V": "1"}),
    "current": ("a current", "10 uA", {"nA": "1e-9", "uA": "1e-6", "mA": "1e-3", "A": "1"}),
    "temperature": ("a temperature", "300 K", {"K": "1"}),
    "frequency": ("a frequency", "1 MHz", {"Hz": "1", "kHz": "1e3", "MHz": "1e6", "GHz": "1e9"}),
    "percentage": ("a percentage", "5 %", {"%": "1"}),
}
UNITS: dict[str, tuple[str, Decimal]] = {
    unit: (dimension, Decimal(factor)) for dimension, (_, _, units) in DIMENSIONS.items() for unit, factor in units.items()
}
_SPELLINGS = {"Ω": "ohm", "kΩ": "kohm", "MΩ": "Mohm", "days": "day", "d": "day", "years": "year", "y": "year"}
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?"
_QUANTITY = re.compile(rf"\s*({_NUMBER})\s*([^\s\d].*?)?\s*")


def is_dimensional(unit: str | None) -> bool:
    """Whether a field in this unit accepts text such as "25 uS" ("1", "bit" and "count" do not)."""
    return unit in UNITS


def expected(unit: str) -> str:
    """What a field in this unit wants to be given, in words."""
    name, example, _ = DIMENSIONS[UNITS[unit][0]]
    return f"{name} such as '{example}'"


def parse(text: str, unit: str) -> float:
    """The number in `text`, converted to `unit`; text without a unit is taken to be in `unit`.

    >>> parse("0.025 mS", "uS")
    25.0
    """
    dimension, factor = UNITS[unit]
    match = _QUANTITY.fullmatch(text) if len(text) < 100 else None
    given = _canonical(match[2]) if match and match[2] else unit
    if match is None or given not in UNITS or UNITS[given][0] != dimension:
        known = "" if match is None or given in UNITS else f"; known units: {', '.join(DIMENSIONS[dimension][2])}"
        raise MhoError(f"expected {expected(unit)}, got {text!r}{known}")
    value = float(Decimal(match[1]) * UNITS[given][1] / factor)
    if not math.isfinite(value):
        raise MhoError(f"expected {expected(unit)}, got {text!r}, which is too large")
    return value


def _canonical(unit: str) -> str:
    micro = unit.replace("µ", "u").replace("μ", "u")  # U+00B5 and U+03BC look the same
    return _SPELLINGS.get(micro, micro)


def seconds(value: str | float | timedelta) -> float:
    """A time as seconds: text with a unit, a timedelta, or a number of seconds. Raises `MhoError` for anything else, and
    for times that are negative or not finite.

    >>> seconds("1 h")
    3600.0
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    number = parse(value, "s") if isinstance(value, str) else plain(value)
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number) or number < 0:
        raise MhoError(f"expected {expected('s')}, a timedelta or a number of seconds of at least 0, got {value!r}")
    return float(number)


def format_seconds(value: float) -> str:
    """A time in the largest unit that keeps the number plain.

    >>> format_seconds(3600)
    '1 h'
    """
    if value == 0:
        return "0 s"
    table = {unit: float(factor) for unit, factor in DIMENSIONS["time"][2].items()}
    whole = [unit for unit in table if value >= table[unit] and (value / table[unit]) % 1 == 0]
    fitting = [unit for unit in table if value >= table[unit]]
    unit = (whole or fitting or ["ns"])[-1]
    number = value / table[unit]
    plural = "s" if unit in ("day", "year") and number != 1 else ""
    return f"{number:.6g} {unit}{plural}"


@dataclass(frozen=True)
class Quantity:
    """Marks a pydantic field as a number in `unit` that may also be written as text with a unit."""

    unit: str

    def __post_init__(self) -> None:
        if not is_dimensional(self.unit):
            raise TypeError(f"no unit {self.unit!r}; expected one of: {', '.join(UNITS)}")

    def convert(self, value: Any) -> Any:
        """Text becomes a number; everything else is left to the field's own checks."""
        if isinstance(value, tuple):
            return tuple(self._item(v) for v in value)
        if not isinstance(value, str) or value == "none":
            return value
        try:
            return parse(value, self.unit)
        except MhoError as error:
            raise PydanticCustomError("mho", "{message}", {"message": str(error)}) from None

    def _item(self, value: Any) -> Any:
        """Like `convert`, but text that is no quantity stays: an error then names the item, not the whole list."""
        try:
            return self.convert(value)
        except PydanticCustomError:
            return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        inner = handler(source)
        core: Any = inner["schema"] if inner["type"] == "nullable" else inner
        # In a union such as `float | Literal["learned"]`, text that is no quantity is for the other branches.
        convert = self._item if core["type"] == "union" else self.convert
        return core_schema.no_info_before_validator_function(convert, inner)

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return self._or_text(handler(schema))

    def _or_text(self, number: dict[str, Any]) -> dict[str, Any]:
        if number.get("type") == "array" and "items" in number:
            return {**number, "items": self._or_text(number["items"])}
        dimension = UNITS[self.unit][0]
        units = (*DIMENSIONS[dimension][2], *(s for s, unit in _SPELLINGS.items() if UNITS[unit][0] == dimension))
        spelt = "|".join(dict.fromkeys([*units, *(u.replace("u", m) for u in units if u[0] == "u" for m in "µμ")]))
        value = _NUMBER.replace("[-+]?", "[+]?", 1) if min(_bounds(number), default=-1) >= 0 else _NUMBER
        text = {"type": "string", "pattern": rf"^\s*{value}\s*({spelt})?\s*$", "examples": [DIMENSIONS[dimension][1]]}
        choices = number.get("anyOf", [number])
        return {"anyOf": choices if text in choices else [*choices, text]}


def _bounds(number: dict[str, Any]) -> list[float]:
    """The lower bounds in the JSON schema of a number."""
    choices = [number, *number.get("anyOf", ())]
    return [c[k] for c in choices for k in ("minimum", "exclusiveMinimum") if k in c]


Seconds = Annotated[float, Quantity("s")]
MicroSiemens = Annotated[float, Quantity("uS")]
Ohms = Annotated[float, Quantity("ohm")]
Volts = Annotated[float, Quantity("V")]
Amperes = Annotated[float, Quantity("A")]
Kelvin = Annotated[float, Quantity("K")]
Hertz = Annotated[float, Quantity("Hz")]


class _Word:
    """A value that is written as one piece of text, e.g. "10 epochs"; base of Span and Sigmas."""

    WHAT = ""
    EXAMPLE = ""
    PATTERN = ""

    @classmethod
    def parse(cls, text: str) -> Any:
        """The value that `text` stands for."""
        raise NotImplementedError

    @classmethod
    def _validate(cls, value: Any) -> Any:
        if isinstance(value, cls):
            return value
        message = f"expected {cls.WHAT}, got {value!r}"
        try:
            if isinstance(value, str):
                return cls.parse(value)
        except MhoError as error:
            message = str(error)
        raise PydanticCustomError("mho", "{message}", {"message": message})

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._validate, serialization=core_schema.to_string_ser_schema(when_used="always")
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "pattern": cls.PATTERN, "description": cls.WHAT, "examples": [cls.EXAMPLE]}


@dataclass(frozen=True)
class Span(_Word):
    """A stretch of training: "10 epochs" or "500 steps"."""

    count: int
    unit: str

    WHAT = "a stretch of training such as '10 epochs' or '500 steps'"
    EXAMPLE = "10 epochs"
    PATTERN = r"^[1-9][0-9]{0,11} (epoch|step)s?$"

    def __post_init__(self) -> None:
        if self.count < 1 or self.unit not in ("epochs", "steps"):
            raise MhoError(f"expected {self.WHAT}, got {self.count} {self.unit}")

    @classmethod
    def parse(cls, text: str) -> Span:
        """The span that `text` stands for."""
        match = re.fullmatch(r"\s*([1-9][0-9]{0,11})\s*(epoch|step)s?\s*", text)
        if match is None:
            raise MhoError(f"expected {cls.WHAT}, got {text!r}")
        return cls(int(match[1]), match[2] + "s")

    def __str__(self) -> str:
        return f"{self.count} {self.unit if self.count > 1 else self.unit[:-1]}"


@dataclass(frozen=True)
class Sigmas(_Word):
    """A clip in standard deviations of the weights: "2.5 sigma"."""

    count: float

    WHAT = "a number of standard deviations such as '2.5 sigma'"
    EXAMPLE = "2.5 sigma"
    PATTERN = r"^[0-9.eE+-]+ sigma$"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.count) and self.count > 0):
            raise MhoError(f"expected {self.WHAT} above 0, got {self.count!r} sigma")

    @classmethod
    def parse(cls, text: str) -> Sigmas:
        """The clip that `text` stands for."""
        match = re.fullmatch(rf"\s*({_NUMBER})\s*sigma\s*", text)
        if match is None:
            raise MhoError(f"expected {cls.WHAT}, got {text!r}")
        return cls(float(match[1]))

    def __str__(self) -> str:
        return f"{self.count!r} sigma".replace(".0 ", " ")
