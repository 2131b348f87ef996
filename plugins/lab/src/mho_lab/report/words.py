"""Numbers as the pages write them: with spaces that do not break, and a sign of per cent."""

import base64
import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

from mho.ground import NONE, number, percent as bare_percent
from mho_lab.errorbars import with_error as bare_with_error

SPACE = "\N{NO-BREAK SPACE}"


def percent(value: float | None, places: int = 1) -> str:
    """A fraction as a percentage.

    >>> percent(0.9712).replace(SPACE, " ")
    '97.1 %'
    """
    return NONE if value is None else f"{bare_percent(value, places)}{SPACE}%"


def with_error(value: float | None, sem: float | None) -> str:
    """A fraction with its standard error, where there is one."""
    return NONE if value is None else f"{bare_with_error(value, sem, in_percent=True)} %".replace(" ", SPACE)


def points(value: float, error: float | None = None, places: int | None = None) -> str:
    """A difference of fractions in points, with its sign, and its error where there is one."""
    return bare_with_error(value, error, places, in_percent=True, sign=True).replace(" ", SPACE)


def printable(text: Any) -> str:
    """Text on one line, without control characters; spaces that do not break stay.

    >>> printable("a\\n\\x00b")
    'a �b'
    """
    return "".join(c if c.isprintable() or c == SPACE else "�" for c in re.sub(rf"[^\S{SPACE}]+", " ", str(text)).strip(" "))


def digits(value: float) -> str:
    """Four digits of a number.

    >>> digits(-0.123456), digits(1234567.0)
    ('−0.1235', '1,234,567')
    """
    return (f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}").replace("-", "−")


def duration(seconds: float | None) -> str:
    """How long something took.

    >>> duration(192).replace(SPACE, " ")
    '3 min 12 s'
    """
    if seconds is None:
        return NONE
    if seconds < 60:
        return f"{number(seconds, 1)}{SPACE}s"
    minutes, s = divmod(round(seconds), 60)
    h, m = divmod(minutes, 60)
    return f"{h}{SPACE}h {m}{SPACE}min" if h else f"{m}{SPACE}min {s}{SPACE}s"


def csv_link(head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """A table as the address of a CSV file that lies in the page itself."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([head, *rows])
    return data_link("text/csv", out.getvalue())


def data_link(kind: str, content: str) -> str:
    """Text as an address that needs no server."""
    return f"data:{kind};base64,{base64.b64encode(content.encode()).decode()}"
