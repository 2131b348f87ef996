"""What comes out of a fit: YAML, plain data and a figure."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mho.ground import needed
from mho_lab.fit.fitting import Fit


def fragment(result: Fit) -> str:
    """The fitted effect as YAML, with a comment on where it comes from and the standard errors."""
    d, g = result.data, result.goodness
    verdict = "not tested" if g is None else f"p = {g.p:.2g} ({g.draws} simulated data sets)"
    lines = [
        f"# fitted by mho fit to {Path(d.name).name}: {len(d)} rows, g_max {d.g_max:g} uS, ln L = {result.log_likelihood:.6g}",
        f"# goodness of fit: {verdict}" + (", REJECTED" if g is not None and g.rejected else ""),
        "nonidealities:",
        f"  - kind: {result.effect.kind}",
    ]
    error = dict(zip(result.names, result.errors))
    default = type(result.effect)
    for name, info in default.model_fields.items():
        value = getattr(result.effect, name)
        known = [n for n in result.names if n == name or n.startswith(name + "[")]
        if name == "kind" or (not known and value == info.default):
            continue
        text = _rounded(value, error, name)
        if known == [name]:
            text += "  # " + (f"± {error[name]:.2g}" if math.isfinite(error[name]) else "at its bound")
        lines.append(f"    {name}: {text}")
    lines += [f"  # {n} of the measurement: {v:.4g}" for n, v in result.extras.items()]
    return "\n".join(lines) + "\n"


def _rounded(value: Any, error: Mapping[str, float], name: str) -> str:
    """A number to a hundredth of its standard error (or 6 digits), lists in brackets."""
    if isinstance(value, tuple):
        return "[" + ", ".join(_rounded(v, error, f"{name}[{i}]") for i, v in enumerate(value)) + "]"
    if not isinstance(value, float):
        return str(value)
    e = error.get(name, math.nan)
    if not math.isfinite(e) or e <= 0:
        return repr(float(f"{value:.6g}"))
    return repr(round(value, 2 - math.floor(math.log10(e))))


def as_data(result: Fit) -> dict[str, Any]:
    """Everything about a fit as plain data; nan becomes null."""
    g = result.goodness
    return {
        "kind": result.effect.kind,
        "data": result.data.name,
        "rows": len(result.data),
        "rows_skipped": result.data.skipped,
        "g_max_uS": result.data.g_max,
        "parameters": {
            n: {"value": float(v), "error": float(e) if math.isfinite(e) else None}
            for n, v, e in zip(result.names, result.values, result.errors)
        },
        "effect": result.effect.model_dump(mode="json"),
        "log_likelihood": result.log_likelihood,
        "aic": result.aic,
        "goodness": None if g is None else {**g._asdict(), "rejected": g.rejected},
    }


def figure(result: Fit, path: str | Path) -> None:
    """Two panels: residual quantiles against uniform ones, and residuals along the range with their quartiles."""
    r = result.residuals
    module = needed("matplotlib.figure", "a figure needs matplotlib", "'mho-lab[report]'")
    drawing = module.Figure(figsize=(9, 4), layout="constrained")
    left, right = drawing.subplots(1, 2)
    u = r.u.sort().values
    expected = (torch.arange(len(u), dtype=u.dtype) + 0.5) / len(u)
    thin = max(1, len(u) // 2000)
    left.plot([0, 1], [0, 1], color="0.7", lw=1)
    left.plot(expected[::thin], u[::thin], lw=1.5)
    left.set(xlabel="expected", ylabel="residual (probability)", title=result.effect.kind)
    order = r.along.argsort()
    parts = list(zip(r.along[order].tensor_split(20), r.u[order].tensor_split(20)))
    centre = [float(a.mean()) for a, _ in parts if len(a)]
    for q in (0.05, 0.25, 0.5, 0.75, 0.95):
        right.axhline(q, color="0.7", lw=1)
        right.plot(centre, [float(v.quantile(q)) for _, v in parts if len(v)], ".-", color="C0", lw=1)
    g = result.goodness
    title = "5, 25, 50, 75, 95 % of the residuals" + ("" if g is None else f"; p = {g.p:.2g}")
    right.set(xlabel=r.label, ylabel="residual (probability)", ylim=(0, 1), title=title)
    drawing.savefig(path)
