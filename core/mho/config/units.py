"""Physical quantities: "25 uS", "1 h" or "0.35 ohm" become plain numbers in the unit a field is declared in."""

import functools
import math
import re
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any, Self

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
    "energy": ("an energy", "2 pJ", {"fJ": "1e-15", "pJ": "1e-12", "nJ": "1e-9", "uJ": "1e-6", "J": "1"}),
    "area": ("an area", "600 um2", {"nm2": "1e-18", "um2": "1e-12", "mm2": "1e-6", "m2": "1"}),
    "percentage": ("a percentage", "5 %", {"%": "1"}),
}
UNITS: dict[str, tuple[str, Decimal]] = {
    unit: (dimension, Decimal(factor)) for dimension, (_, _, units) in DIMENSIONS.items() for unit, factor in units.items()
}
_SPELLINGS = {"Ω": "ohm", "kΩ": "kohm", "MΩ": "Mohm", "days": "day", "d": "day", "years": "year", "y": "year"}
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?"
_QUANTITY = re.compile(rf"\s*({_NUMBER})\s*([^\s\d].*?)?\s*")


def problem(message: str, type_: str = "mho") -> PydanticCustomError:
    """A validation error that says exactly `message`."""
    return PydanticCustomError(type_, "{message}", {"message": message})


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
    micro = text.replace("µ", "u").replace("μ", "u")  # U+00B5 and U+03BC look the same
    match = _QUANTITY.fullmatch(micro) if len(text) < 100 else None
    given = _SPELLINGS.get(match[2], match[2]) if match and match[2] else unit
    if match is None or given not in UNITS or UNITS[given][0] != dimension:
        known = "" if match is None or given in UNITS else f"; known units: {', '.join(DIMENSIONS[dimension][2])}"
        raise MhoError(f"expected {expected(unit)}, got {text!r}{known}")
    value = float(Decimal(match[1]) * UNITS[given][1] / factor)
    if not math.isfinite(value):
        raise MhoError(f"expected {expected(unit)}, got {text!r}, which is too large")
    return value


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
    unit = (whole or [unit for unit in table if value >= table[unit]] or ["ns"])[-1]
    number = value / table[unit]
    plural = "s" if unit in ("day", "year") and number != 1 else ""
    return f"{number:.6g} {unit}{plural}"


@dataclass(frozen=True)
class Quantity:
    """Marks a pydantic field as a number in `unit` that may also be written as text with a unit."""

    unit: str

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise TypeError(f"no unit {self.unit!r}; expected one of: {', '.join(UNITS)}")

    def convert(self, value: Any, *, lenient: bool = False) -> Any:
        """Text becomes a number; everything else is left to the field's own checks, and where `lenient` so is text that is no
        quantity: the error then names the item of a list, or another branch of a union takes it."""
        if isinstance(value, tuple):
            return tuple(self.convert(v, lenient=True) for v in value)
        if not isinstance(value, str) or value == "none":
            return value
        try:
            return parse(value, self.unit)
        except MhoError as error:
            if lenient:
                return value
            raise problem(str(error)) from None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        inner: Any = handler(source)
        core = inner["schema"] if inner["type"] == "nullable" else inner
        convert = functools.partial(self.convert, lenient=core["type"] == "union")
        return core_schema.no_info_before_validator_function(convert, inner)

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
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


class _Word:
    """A value that is written as one piece of text, e.g. "10 epochs"; base of Span and Sigmas."""

    WHAT = ""
    EXAMPLE = ""
    PATTERN = ""  # of the text; its groups are the parts

    @classmethod
    def parse(cls, text: str) -> Self:
        """The value that `text` stands for. Raises `MhoError` if it stands for none."""
        match = re.fullmatch(rf"\s*{cls.PATTERN}\s*", text)
        if match is None:
            raise MhoError(f"expected {cls.WHAT}, got {text!r}")
        return cls._of(*match.groups())

    @classmethod
    def _of(cls, *parts: str) -> Self:
        raise NotImplementedError

    @classmethod
    def _validate(cls, value: Any) -> Self:
        if isinstance(value, cls):
            return value
        if not isinstance(value, str):
            raise problem(f"expected {cls.WHAT}, got {value!r}")
        try:
            return cls.parse(value)
        except MhoError as error:
            raise problem(str(error)) from None

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        written = core_schema.to_string_ser_schema(when_used="always")
        return core_schema.no_info_plain_validator_function(cls._validate, serialization=written)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "pattern": rf"^\s*{cls.PATTERN}\s*$", "description": cls.WHAT, "examples": [cls.EXAMPLE]}


@dataclass(frozen=True)
class Span(_Word):
    """A stretch of training: "10 epochs" or "500 steps"."""

    count: int
    unit: str

    WHAT = "a stretch of training such as '10 epochs' or '500 steps'"
    EXAMPLE = "10 epochs"
    PATTERN = r"([1-9][0-9]{0,11})\s*(epoch|step)s?"

    def __post_init__(self) -> None:
        if self.count < 1 or self.unit not in ("epochs", "steps"):
            raise MhoError(f"expected {self.WHAT}, got {self.count} {self.unit}")

    @classmethod
    def _of(cls, *parts: str) -> Self:
        return cls(int(parts[0]), parts[1] + "s")

    def __str__(self) -> str:
        return f"{self.count} {self.unit if self.count > 1 else self.unit[:-1]}"


@dataclass(frozen=True)
class Sigmas(_Word):
    """A clip in standard deviations of the weights: "2.5 sigma"."""

    count: float

    WHAT = "a number of standard deviations such as '2.5 sigma'"
    EXAMPLE = "2.5 sigma"
    PATTERN = rf"({_NUMBER})\s*sigma"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.count) and self.count > 0):
            raise MhoError(f"expected {self.WHAT} above 0, got {self.count!r} sigma")

    @classmethod
    def _of(cls, *parts: str) -> Self:
        return cls(float(parts[0]))

    def __str__(self) -> str:
        return f"{self.count!r} sigma".replace(".0 ", " ")
