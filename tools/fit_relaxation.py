"""Fit `rram.relaxation` to measured cells and draw docs/img/rram_relaxation.png.

    python tools/fit_relaxation.py [--draws 99]

The measurements, RRAM-Relaxation-Master-Model tech C (Akash Levy, MIT licence), are not part of this project: they are
read from $MHO_RRAM_CSV or ../shared/data/rram_relax.csv.gz. What is kept here: the fitted numbers with their errors and
the quantiles of every level, in docs/data/rram_relaxation.json.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
import torch
from mho_lab.fit.fitting import Fit, fit, ks_distance
from mho_rram.relaxation import Relaxation
from scipy import stats

from mho.effects import Measurements

ROOT = Path(__file__).resolve().parents[1]
RESULT, FIGURE = ROOT / "docs/data/rram_relaxation.json", ROOT / "docs/img/rram_relaxation.png"
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
TIMES = (0.01, 0.1, 1.0, 4.0, 1e5)  # s; 4 s is held out, to check the interpolation
SHAPE = {"location": 4, "spread": 4, "nu": 2}  # coefficients at every time


def source() -> Path:
    """Where the measurements are, if they are anywhere."""
    return Path(os.environ.get("MHO_RRAM_CSV", ROOT.parent / "shared/data/rram_relax.csv.gz"))


def cells(path: Path) -> tuple[np.ndarray, np.ndarray, dict[float, np.ndarray]]:
    """(level, g right after programming, {time: g}), µS; nan where a cell was not read."""
    table = np.genfromtxt(path, delimiter=",", names=True, deletechars="")
    return table["level"].astype(int), table["g_t0"], {t: table[f"g_t{t:g}".replace("1e+05", "100000")] for t in TIMES}


def measurements(path: Path, times: tuple[float, ...]) -> Measurements:
    """One row per cell and time."""
    _, start, aged = cells(path)
    index = np.arange(len(start))
    parts = [(index[ok], start[ok], np.full(ok.sum(), t), aged[t][ok]) for t in times for ok in [~np.isnan(aged[t])]]
    device, g0, t, g = (torch.tensor(np.concatenate(v)) for v in zip(*parts))
    return Measurements({"device": device, "g_programmed": g0, "t": t, "g": g}, 40.0, path.name)


def start() -> Relaxation:
    """Where the search starts: no shift, spread 0.4 µS, two degrees of freedom."""
    times = Relaxation().times
    first = {"location": 0.0, "spread": -1.0, "nu": 0.7}
    rows = {n: tuple((first[n],) + (0.0,) * (k - 1) for _ in times) for n, k in SHAPE.items()}
    return Relaxation(**rows)


def gaussian_or_student(level: np.ndarray, change: np.ndarray) -> dict[str, float]:
    """AIC of a Gaussian and of a Student-t per level, and in how many levels Anderson-Darling rejects the Gaussian."""
    aic, rejected = {"gauss": 0.0, "student": 0.0}, 0
    for k in np.unique(level):
        y = change[level == k]
        aic["gauss"] += 4 - 2 * stats.norm.logpdf(y, y.mean(), y.std()).sum()
        aic["student"] += 6 - 2 * stats.t.logpdf(y, *stats.t.fit(y)).sum()
        rejected += anderson_p(y) < 1e-5 / 32
    return {**aic, "delta": aic["gauss"] - aic["student"], "levels_rejected": rejected}


def anderson_p(y: np.ndarray) -> float:
    """p-value of normality with fitted mean and variance: D'Agostino and Stephens 1986, table 4.9 (A^2 > 0.6)."""
    n = len(y)
    u = stats.norm.cdf(np.sort((y - y.mean()) / y.std(ddof=1))).clip(1e-300, 1 - 1e-16)
    a2 = -n - np.mean((2 * np.arange(n) + 1) * (np.log(u) + np.log1p(-u[::-1])))
    a2 *= 1 + 0.75 / n + 2.25 / n**2
    return float(np.exp(min(0.0, 1.2937 - 5.709 * min(a2, 100) + 0.0186 * min(a2, 100) ** 2)))


def quantiles(level: np.ndarray, change: np.ndarray) -> list[list[float]]:
    """For every level, the QUANTILES of the change in µS."""
    return [[round(float(q), 3) for q in np.quantile(change[level == k], QUANTILES)] for k in np.unique(level)]


def distance(effect: Relaxation, path: Path, t: float) -> float:
    """Kolmogorov-Smirnov distance between cells and model at one time."""
    return ks_distance(effect.residuals(measurements(path, (t,))).u)


def result(fitted: Fit, path: Path) -> dict:
    level, g0, aged = cells(path)
    g = fitted.goodness
    report = {
        "source": "RRAM-Relaxation-Master-Model, tech C, Akash Levy, MIT licence",
        "cells": len(g0),
        "parameters": fitted.effect.model_dump(mode="json"),
        "errors": {n: float(f"{e:.3g}") for n, e in zip(fitted.names, fitted.errors)},
        "aic": round(fitted.aic, 1),
        "goodness": g and {"p": g.p, "draws": g.draws, "statistic": g.statistic, "ks_distance": g.distance},
        "quantile_levels": QUANTILES,
        "levels_uS": [round(float(g0[level == k].mean()), 3) for k in np.unique(level)],
        "times": {},
    }
    for t, values in aged.items():
        ok = ~np.isnan(values)
        change = (values - g0)[ok]
        report["times"][f"{t:g}"] = {
            "cells": int(ok.sum()),
            "aic": gaussian_or_student(level[ok], change),
            "ks_distance": round(distance(fitted.effect, path, t), 4),
            "quantiles_uS": quantiles(level[ok], change),
        }
    return report


def draw(effect: Relaxation, report: dict, file: Path) -> None:
    """Quantiles of the change over conductance at four times, cells and model."""
    import matplotlib

    matplotlib.rcParams.update({"font.size": 9})
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = figure.subplots(1, 4)
    g = np.array(report["levels_uS"])
    x = torch.linspace(0.005, 1, 100, dtype=torch.float64)
    for panel, t in zip(panels, (0.1, 1.0, 4.0, 1e5)):
        location, scale, nu = (v.numpy() for v in effect.law(x, t))
        measured = np.array(report["times"][f"{t:g}"]["quantiles_uS"])
        for i, (q, colour) in enumerate(zip(QUANTILES, ("C3", "C1", "C0", "k", "C0", "C1", "C3"))):
            panel.plot(40 * x, np.maximum(location + scale * stats.t.ppf(q, nu), -40 * x), color=colour, lw=1)
            panel.plot(g, measured[:, i], ".", color=colour, ms=3, label=f"{100 * q:g} %")
        held = " (held out)" if t == 4 else ""
        panel.set(title=f"{t:g} s{held}", xlabel="programmed conductance, µS")
    panels[0].set_ylabel("change, µS")
    panels[-1].legend(*[v[::-1] for v in panels[-1].get_legend_handles_labels()], fontsize=6, loc="upper right", ncols=2)
    figure.suptitle(
        "Dots: quantiles of 16,223 HfO2 cells (RRAM-Relaxation-Master-Model, tech C, Akash Levy, MIT); lines: rram.relaxation",
        fontsize=9,
    )
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=0, help="simulated data sets for the verdict")
    path, draws = source(), parser.parse_args().draws
    fitted = fit(start(), measurements(path, Relaxation().times), draws=draws)
    report = result(fitted, path)
    for folder in (RESULT.parent, FIGURE.parent):
        folder.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(report, indent=1) + "\n")
    draw(fitted.effect, report, FIGURE)


if __name__ == "__main__":
    main()
