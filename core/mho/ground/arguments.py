"""Arguments as people give them: whole numbers and numbers of Python, numpy or torch, or an error that names the
argument."""

import math
import operator
from typing import Any

from mho.ground.errors import MhoError


def plain(value: Any) -> Any:
    """A scalar of numpy or torch as Python's own; anything else as it is.

    >>> import numpy as np
    >>> plain(np.float32(0.5))
    0.5
    """
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value


def whole(name: str, value: Any, least: int | None = None) -> int:
    """A whole number, `least` or larger. Raises `MhoError` for anything else: text, fractions, True.

    >>> whole("chips", 3, least=1)
    3
    """
    number = plain(value)
    try:
        number = operator.index(number)
    except TypeError:
        number = None
    if number is None or isinstance(plain(value), bool) or (least is not None and number < least):
        expected = "a whole number" if least is None else f"a whole number of at least {least}"
        raise MhoError(f"{name} must be {expected}, got {value!r}")
    return number


def number(name: str, value: Any, above: float, most: float = math.inf) -> float:
    """A number with above < number <= most (and not infinite). Raises `MhoError` for anything else.

    >>> number("cap", 10, above=0)
    10.0
    """
    given = plain(value)
    fits = isinstance(given, (int, float)) and not isinstance(given, bool)
    if not fits or not above < given <= most or math.isinf(given):
        upper = "" if math.isinf(most) else f" and at most {most:g}"
        raise MhoError(f"{name} must be a number above {above:g}{upper}, got {value!r}")
    return float(given)
