"""Fit an effect to measurements: maximum likelihood, error bars, and a verdict on whether the model fits at all.

What an effect says so that it can be fitted is in `mho.effects.measurements`.
"""

import csv
import gzip
import io
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mho.config import Limits, suggest
from mho.effects import Column, Measurements, Nonideality, Residuals
from mho.ground import MhoError

ALPHA = 0.01  # a fit is rejected when its goodness of fit has a p-value of at most this
GROUPS = 8  # parts of the range in which residuals are judged


def read_csv(
    path: str | Path,
    columns: Mapping[str, Column],
    names: Mapping[str, str] | None = None,
    g_max: float | None = None,
    along: str = "",
) -> Measurements:
    """The columns of a CSV file (or .csv.gz) that a fit needs; `names` says how the file calls them.

    Rows with an empty cell are left out and counted. Without `g_max`, the largest value of the first µS column.
    """
    path = Path(path)
    header, lines = _lines(path)
    where = {c: (names or {}).get(c, c) for c in columns}
    missing = [c for c in columns if where[c] not in header]
    if missing:
        wanted = "\n".join(f"    {c:<14} [{columns[c].unit or 'label'}] {columns[c].meaning}" for c in missing)
        raise MhoError(
            f"{path}: missing columns\n{wanted}\n  the file has: {', '.join(header) or 'no header'}\n"
            f"  if a column is there under another name, write --map NAME_IN_FILE={missing[0]}"
        )
    at = {c: header.index(where[c]) for c in columns}
    values: dict[str, list[Any]] = {c: [] for c in columns}
    skipped = 0
    for line, row in lines:
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(header):
            raise MhoError(f"{path}:{line}: expected {len(header)} cells, got {len(row)}")
        if not all(row[i].strip() for i in at.values()):
            skipped += 1
            continue
        for c, column in columns.items():
            cell = row[at[c]].strip()
            values[c].append(_number(cell, column, f"{path}:{line}, column {where[c]!r}") if column.unit else cell)
    tensors = {c: _column(values[c], columns[c]) for c in columns}
    if g_max is None:
        ranges = [c for c, column in columns.items() if column.unit == "uS"]
        g_max = max((max(values[c], default=0.0) for c in ranges[:1]), default=0.0)
    return Measurements(tensors, g_max, str(path), skipped)


def _lines(path: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    try:
        text = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode("utf-8-sig")
    except FileNotFoundError:
        raise MhoError(f"no file {str(path)!r}") from None
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise MhoError(f"cannot read {str(path)!r}: {error}") from None
    lines = _rows(path, csv.reader(io.StringIO(text)))
    return [cell.strip() for cell in next(lines, (0, []))[1]], lines


def _rows(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Every row with its line."""
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise MhoError(f"{path}:{reader.line_num}: {error}; is this a table of comma-separated values?") from None


def _number(cell: str, column: Column, where: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        raise MhoError(f"{where}: expected a number in {column.unit}, got {cell!r}") from None
    if not math.isfinite(value):
        raise MhoError(f"{where}: expected a finite number, got {cell!r}")
    if column.positive and value <= 0:
        raise MhoError(f"{where}: expected a number above 0, got {cell!r}")
    return value


def _column(values: list[Any], column: Column) -> Tensor:
    if column.unit:
        return torch.tensor(values, dtype=torch.float64)
    numbers = {label: i for i, label in enumerate(dict.fromkeys(values))}
    return torch.tensor([numbers[v] for v in values], dtype=torch.long)


# --- parameters as a vector ---


@dataclass(frozen=True)
class Parameters:
    """Which numbers of an effect are free, and how they lie in one vector."""

    effect: Nonideality
    fields: tuple[str, ...]
    extras: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """`sigma`, or `scale[0][2]` inside a list."""
        return [name for _, name, _ in self._own()] + list(self.extras)

    def start(self, extras: Mapping[str, float]) -> np.ndarray:
        return np.array([v for *_, v in self._own()] + [extras[n] for n in self.extras], dtype=np.float64)

    def bounds(self) -> np.ndarray:
        """[number, 2]: lowest and highest; infinite where there is none."""
        return np.array([_bounds(type(self.effect), f) for f, *_ in self._own()] + [(1e-12, math.inf)] * len(self.extras))

    def _own(self) -> Iterator[tuple[str, str, float]]:
        """Field, name and value of every number of the effect."""
        return ((f, *leaf) for f in self.fields for leaf in _leaves(f, getattr(self.effect, f)))

    def split(self, vector: Sequence[Any] | Tensor) -> tuple[dict[str, Any], dict[str, Any]]:
        """(fields, extras) that a vector stands for; its items may be tensors."""
        items = iter(vector)
        return {f: _filled(getattr(self.effect, f), items) for f in self.fields}, {n: next(items) for n in self.extras}

    def model(self, vector: Tensor) -> tuple[Nonideality, dict[str, Any]]:
        """The effect with these tensors in its fields: for `log_prob` only, nothing is validated."""
        fields, extras = self.split(vector)
        return self.effect.model_copy(update=fields), extras

    def spec(self, vector: np.ndarray) -> tuple[Nonideality, dict[str, float]]:
        """The validated effect with these numbers."""
        fields, extras = self.split([float(v) for v in vector])
        return with_fields(self.effect, fields), extras


def with_fields(effect: Nonideality, fields: Mapping[str, Any]) -> Nonideality:
    """The effect with some fields changed, validated."""
    return type(effect).model_validate({**{n: getattr(effect, n) for n in type(effect).model_fields}, **fields})


def _leaves(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if not isinstance(value, tuple):
        yield name, float(value)
        return
    for i, item in enumerate(value):
        yield from _leaves(f"{name}[{i}]", item)


def _filled(shape: Any, items: Iterator[Any]) -> Any:
    """The items in the nesting of `shape`."""
    return tuple(_filled(s, items) for s in shape) if isinstance(shape, tuple) else next(items)


def _bounds(cls: type[Nonideality], field: str) -> tuple[float, float]:
    """Limits of a field as a closed interval."""
    low, high = -math.inf, math.inf
    for m in cls.model_fields[field].metadata:
        if isinstance(m, Limits):
            low = m.ge if m.ge is not None else -math.inf if m.gt is None else m.gt + 1e-9
            high = m.le if m.le is not None else math.inf if m.lt is None else m.lt - 1e-9
    return low, high


# --- maximum likelihood ---


class Goodness(NamedTuple):
    """How well the residuals fit: Anderson-Darling in groups along the range, compared with simulated data."""

    statistic: float
    p: float
    draws: int
    distance: float  # Kolmogorov-Smirnov distance of all residuals from uniform: the size of the misfit

    @property
    def rejected(self) -> bool:
        return self.p <= ALPHA


@dataclass(frozen=True)
class Fit:
    """Fitted numbers with standard errors (nan where a number is at its bound), and how far to trust them."""

    effect: Nonideality
    extras: Mapping[str, float]
    names: tuple[str, ...]
    values: np.ndarray
    errors: np.ndarray
    log_likelihood: float
    data: Measurements
    goodness: Goodness | None
    residuals: Residuals

    @property
    def aic(self) -> float:
        """Akaike's information criterion, 2 k - 2 ln L."""
        return 2 * len(self.values) - 2 * self.log_likelihood


def fit(
    effect: Nonideality,
    data: Measurements,
    *,
    fixed: Sequence[str] = (),
    draws: int = 99,
    seed: int = 0,
    tick: Callable[[], object] = lambda: None,
) -> Fit:
    """Fit an effect to measurements, starting from its values; `fixed` fields and extras stay as they are.

    Standard errors come from the observed information, the Hessian of -ln L at the maximum. Goodness of fit is a
    parametric bootstrap: `draws` data sets are simulated from the fitted model and fitted again (0: no verdict).
    """
    _check(effect, data)
    cls: Any = type(effect)
    start = dict(getattr(cls, "fit_extras", {}))
    p = Parameters(effect, tuple(f for f in cls.fit_fields if f not in fixed), tuple(n for n in start if n not in fixed))
    constants = {n: v for n, v in start.items() if n in fixed}
    if not p.names:
        raise MhoError("everything is fixed: there is nothing to fit")
    if len(data) < len(p.names) + 10:
        raise MhoError(
            f"{data.name}: {len(data)} complete rows are too few for {len(p.names)} numbers; "
            f"at least {len(p.names) + 10} are needed"
        )
    values, errors, log_likelihood = _maximum(p, data, p.start(start), constants)
    spec, extras = p.spec(values)
    spec, extras = _closed(spec, data), {**constants, **extras}
    residuals = _residuals(spec, data, extras)
    goodness = _bootstrap(p, data, values, constants, residuals, draws, seed, tick) if draws else None
    return Fit(spec, extras, tuple(p.names), values, errors, log_likelihood, data, goodness, residuals)


def fittable(cls: type) -> bool:
    """Whether a class has what a fit needs."""
    return all(hasattr(cls, n) for n in ("fit_columns", "fit_fields", "log_prob", "residuals", "simulate"))


def _check(effect: Nonideality, data: Measurements) -> None:
    if not fittable(type(effect)):
        raise MhoError(f"{effect.kind} does not say how it is fitted; see the docstring of mho.fit for what it needs")
    if not len(data):
        raise MhoError(f"{data.name}: no complete rows")
    if not data.g_max > 0:
        raise MhoError(f"{data.name}: cannot tell the range of the devices; set it with --g-max")


def _objective(p: Parameters, data: Measurements, constants: Mapping[str, float]) -> Callable[[Tensor], Tensor]:
    """-ln L / n as a differentiable function of the vector."""
    n = len(data)

    def value(vector: Tensor) -> Tensor:
        model, extras = p.model(vector)
        like: Any = model
        return -like.log_prob(data, **constants, **extras).sum() / n

    return value


def _maximum(
    p: Parameters, data: Measurements, start: np.ndarray, constants: Mapping[str, float]
) -> tuple[np.ndarray, np.ndarray, float]:
    """(values, standard errors, ln L) by L-BFGS inside the bounds, then Newton with the exact Hessian for whatever is not at
    a bound."""
    from scipy import optimize

    f = _objective(p, data, constants)
    scale = np.maximum(np.abs(start), 0.05)
    bounds = p.bounds() / scale[:, None]

    def value_and_slope(u: np.ndarray) -> tuple[float, np.ndarray]:
        vector = torch.tensor(u * scale, requires_grad=True)
        value = f(vector)
        if not torch.isfinite(value):
            return 1e10, np.zeros_like(u)
        (slope,) = torch.autograd.grad(value, vector)
        return float(value.detach()), np.nan_to_num(slope.numpy()) * scale

    u = start / scale
    for _ in range(3):  # a fresh start forgets a poor curvature estimate
        found = optimize.minimize(
            value_and_slope, u, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 500, "maxcor": 30}
        )
        u = found.x
    at_bound = (np.abs(u[:, None] - bounds) < 1e-6).any(1)
    values = _newton(f, u * scale, ~at_bound, p.bounds())
    information = _hessian(f, values, ~at_bound) * len(data)
    errors = np.full(len(values), np.nan)
    errors[~at_bound] = _standard_errors(information)
    return values, errors, -float(f(torch.tensor(values))) * len(data)


def _newton(f: Callable[[Tensor], Tensor], values: np.ndarray, free: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Newton steps on the free numbers, halved until they improve; stays inside the bounds."""
    best = float(f(torch.tensor(values)))
    for _ in range(20):
        vector = torch.tensor(values, requires_grad=True)
        (slope,) = torch.autograd.grad(f(vector), vector)
        g = slope.numpy()[free]
        curvature, axes = np.linalg.eigh(_hessian(f, values, free))
        step = np.zeros_like(values)
        step[free] = -axes @ ((axes.T @ g) / np.maximum(np.abs(curvature), 1e-10))
        if abs(g @ step[free]) < 1e-13:
            break
        for size in 0.5 ** np.arange(12):
            trial = np.clip(values + size * step, *bounds.T)
            new = float(f(torch.tensor(trial)))
            if math.isfinite(new) and new < best:
                values, best = trial, new
                break
        else:
            break
    return values


def _hessian(f: Callable[[Tensor], Tensor], values: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Second derivatives with respect to the free numbers."""
    where = torch.tensor(np.flatnonzero(free))

    def of_free(part: Tensor) -> Tensor:
        return f(torch.tensor(values).index_copy(0, where, part))

    h = torch.autograd.functional.hessian(of_free, torch.tensor(values)[where]).numpy()
    if not np.isfinite(h).all():
        raise MhoError("the likelihood has no finite curvature where the search went; begin elsewhere with --start")
    return h


def _standard_errors(information: np.ndarray) -> np.ndarray:
    curvature, axes = np.linalg.eigh(information)
    if len(curvature) and curvature.min() <= 1e-12 * curvature.max():
        raise MhoError("the data do not determine all numbers: the likelihood is flat; fix some of them with --fix")
    return np.sqrt(np.einsum("ij,j,ij->i", axes, 1 / curvature, axes))


def _closed(effect: Nonideality, data: Measurements) -> Nonideality:
    estimate = getattr(effect, "estimate", None)
    return with_fields(effect, estimate(data)) if estimate is not None else effect


# --- goodness of fit ---


def _residuals(effect: Any, data: Measurements, extras: Mapping[str, float]) -> Residuals:
    found: Residuals = effect.residuals(data, **extras)
    return found._replace(u=found.u.clamp(1e-12, 1 - 1e-12))


def anderson_darling(u: Tensor) -> float:
    """A^2 of numbers that should be U(0, 1): -n - sum_i (2i - 1)/n (ln u_i + ln(1 - u_{n+1-i}))."""
    u = u.sort().values
    n = len(u)
    weight = (2 * torch.arange(1, n + 1, dtype=u.dtype) - 1) / n
    return float(-n - (weight * (u.log() + (1 - u.flip(0)).log())).sum())


def misfit(r: Residuals) -> float:
    """Anderson-Darling, summed over equally filled groups along the range: a law may fit on average only."""
    count = max(1, min(GROUPS, len(r.u) // 20))
    order = r.along.argsort(stable=True)
    return sum(anderson_darling(part) for part in r.u[order].tensor_split(count))


def _bootstrap(
    p: Parameters,
    data: Measurements,
    values: np.ndarray,
    constants: Mapping[str, float],
    residuals: Residuals,
    draws: int,
    seed: int,
    tick: Callable[[], object],
) -> Goodness:
    """How often data simulated from the fitted model, fitted again, look as bad as the data."""
    spec, extras = p.spec(values)
    model: Any = spec
    extras = {**constants, **extras}
    observed, worse = misfit(residuals), 0
    for k in range(draws):
        again = data.replaced(model.simulate(data, 1 + seed * draws + k, **extras))
        refitted = _newton(_objective(p, again, constants), values, np.ones(len(values), dtype=bool), p.bounds())
        new, new_extras = p.spec(refitted)
        worse += misfit(_residuals(_closed(new, again), again, {**constants, **new_extras})) >= observed
        tick()
    return Goodness(observed, (1 + worse) / (1 + draws), draws, ks_distance(residuals.u))


def ks_distance(u: Tensor) -> float:
    """sup |F_n(u) - u|."""
    u = u.sort().values
    n = len(u)
    steps = torch.arange(n + 1, dtype=u.dtype) / n
    return float(torch.maximum((u - steps[:-1]).abs().max(), (steps[1:] - u).abs().max()))


def known(kinds: Mapping[str, type]) -> str:
    """The kinds that can be fitted, for messages."""
    return ", ".join(k for k, cls in kinds.items() if fittable(cls)) or "none installed"


def column_names(pairs: Sequence[str], columns: Mapping[str, Column]) -> dict[str, str]:
    """`--map NAME_IN_FILE=COLUMN` as {column: name in file}."""
    names = {}
    for pair in pairs:
        name, _, column = pair.rpartition("=")
        if not name or not column:
            raise MhoError(f"expected --map NAME_IN_FILE=COLUMN, got {pair!r}")
        if column not in columns:
            raise MhoError(f"--map {pair}: no column {column!r} is needed; {suggest(column, columns, 'needed')}")
        names[column] = name
    return names
