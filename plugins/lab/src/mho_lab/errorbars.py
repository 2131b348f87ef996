"""Error bars: the factor that makes an interval of a standard error, and how both are written together."""

import functools
import math

from mho.ground import number, percent


@functools.cache
def t_quantile(p: float, dof: int) -> float:
    """The p-quantile of Student's t, by integrating its density; right to 1e-4 for p up to 0.9999.

    >>> round(t_quantile(0.975, 9), 3)
    2.262
    """
    import numpy as np  # only here: nobody else who prints error bars waits for it

    x = np.sinh(np.linspace(0.0, 20.0, 40_001))
    density = (1 + x * x / dof) ** (-(dof + 1) / 2)
    area = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(x))])
    return float(math.copysign(np.interp(abs(2 * p - 1), area / area[-1], x), p - 0.5))


def t95(freedom: int) -> float:
    """What turns a standard error into half of a two-sided 95 % interval."""
    return t_quantile(0.975, max(freedom, 1))


def decimals(error: float | None, unit: float = 100.0) -> int:
    """Places of a number (of a percentage: `unit` 100): as many as show the first digit of its standard error, at least 1 and
    at most 3; 1 without an error."""
    return next((n for n in (1, 2) if round(unit * error, n) > 0), 3) if error and not math.isnan(error) else 1


def with_error(
    value: float | None, sem: float | None, places: int | None = None, *, in_percent: bool = False, sign: bool = False
) -> str:
    """A value and its standard error, in percent or as they are; the value alone where there is no error. `places` None: as
    many as show the first digit of the error, at least 1 and at most 3.

    >>> with_error(0.9712, 0.0034, in_percent=True), with_error(0.9712, 0.0034), with_error(0.9712, math.nan)
    ('97.1 ± 0.3', '0.971 ± 0.003', '1.0')
    """
    write, unit = (percent, 100.0) if in_percent else (number, 1.0)
    known = sem is not None and not math.isnan(sem)
    places = decimals(sem, unit) if places is None else places
    return write(value, places, sign=sign) + (f" ± {write(sem, places)}" if known else "")
