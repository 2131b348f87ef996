"""Draw the figures of the documentation into docs/img. Of the physics: every law as a line, simulated tiles as points on it.

Run: python docs/make_figures.py [NAME...]
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import re
import runpy
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mho_circuit.ladder import sensed
from mho_lab.run.product import MvmExperiment
from mho_lab.studies import mvmtables
from mho_lab.studies.mvmplots import COLOURS, INK, draw, figure, plain_numbers, write
from mho_pcm.hermes import CELLS, polynomial
from mho_rram.telegraph import TelegraphNoise
from mho_rram.variability import Variability
from torch import Tensor

import mho
from mho.effects.encoding import quantise

IMG = Path(__file__).parent / "img"
TIMES = [10.0 ** (k / 4) for k in range(31)]  # 1 s to 1 year
LEVELS = [0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
BLUE, ORANGE, GREEN, PINK, _ = COLOURS
POINTS: Any = {"linestyle": "", "marker": "o", "markersize": 4}


def tile(weight: Tensor, *effects: str, **settings: str) -> mho.Tile:
    """A tile without converters, weights taken as they are."""
    given = {"rows": 512, "device": "{g_max: 25 uS}", "mapping": "mho.direct", "dac": "none", "adc": "none", **settings}
    body = "".join(f"    {k}: {v}\n" for k, v in given.items()) + f"    nonidealities: [{', '.join(effects)}]\n"
    return mho.Tile(weight, mho.Hardware.from_yaml(f"mho: 1\ndefault: t\ntiles:\n  t:\n{body}"))


def grid(start: float, stop: float, n: int = 120) -> Tensor:
    return torch.linspace(start, stop, n, dtype=torch.float64)


def standard() -> mho.Hardware:
    return mho.load("pcm.standard", set=["tiles.pcm.mapping.kind=mho.tile_max"])


def converters(f: Any) -> None:
    """Eqs. 4 and 5: a 3-bit staircase, and the ADC of the standard model."""
    left, right = f.subplots(1, 2)
    z = grid(-1.4, 1.4, 800)
    left.plot(z, quantise(z, 1.0, 3), color=BLUE, label="3 bits: 7 levels")
    left.plot(z, quantise(z, 1.0, None), color=ORANGE, label="no rounding", linewidth=1)
    left.set(xlabel="x / α", ylabel="DAC")
    left.legend()
    y = grid(-14, 14, 400)
    right.plot(y, quantise(y, 10.0, 127), color=BLUE)
    right.set(xlabel="analog output", ylabel="ADC, 8 bits, bound 10")


def mappings(f: Any) -> None:
    """Where the weights of a layer with unequal columns land on the device range."""
    ax = f.subplots()
    g = torch.Generator().manual_seed(0)
    w = torch.randn(64, 512, generator=g) * torch.logspace(-1, 0, 64)[:, None] / 4
    for name, colour in (("mho.per_column", BLUE), ("mho.tile_max", ORANGE), ("mho.direct", GREEN)):
        n = tile(w, mapping=name).tiles.normalised(w).abs().flatten()
        counts = torch.histc(n, 25, 0, 1) / n.numel()
        ax.stairs(counts, torch.linspace(0, 1, 26), color=colour, label=name)
    ax.set(xlabel="target conductance / g_max", ylabel="share of devices", yscale="log")
    ax.legend()


def programming(f: Any) -> None:
    """Eq. 7, and the fits of the HERMES chip."""
    ax = f.subplots()
    r = grid(0, 1)
    law = 0.26348 + 1.9650 * r - 1.1731 * r**2
    ax.plot(r, law / 25, color=BLUE, label="pcm.programming_noise")
    ax.plot(LEVELS, [_spread(x, "pcm.programming_noise") / 25 for x in LEVELS], color=BLUE, **POINTS)
    for devices, colour in ((1, ORANGE), (2, GREEN)):
        cell = CELLS[devices]
        name = f"pcm.hermes_programming_noise, {devices} device{'s' * (devices > 1)}"
        ax.plot(r, polynomial(cell.sigma, r) / cell.g_max, color=colour, label=name)
    ax.set(xlabel="target conductance / g_max", ylabel="σ / g_max", ylim=(0, None))
    ax.legend()


def _spread(r: float, *effects: str) -> float:
    g = tile(torch.full((256, 256), r), *effects).program(seed=0).tiles.chip.programmed
    return float(g.std())


def drift(f: Any) -> None:
    """Eqs. 8 and 9: six devices in time, and the exponents over the target."""
    left, right = f.subplots(1, 2)
    t = tile(torch.full((1, 6), 0.4), "pcm.drift").program(seed=0)
    curves = torch.stack([t.age(s).tiles.chip.weights.flatten() for s in TIMES])
    left.plot(TIMES, curves / 0.4, color=BLUE, linewidth=1)
    left.set(xlabel="time (s)", ylabel="g(t) / g_P", xscale="log")
    r = grid(0.005, 1, 200)
    mean, std = (-0.0155 * r.log() + 0.0244).clamp(0.049, 0.1), (-0.0125 * r.log() - 0.0059).clamp(0.008, 0.045)
    right.plot(r, mean, color=BLUE, label="mean of ν")
    right.plot(r, std, color=ORANGE, label="spread of ν")
    nus = [_exponents(x) for x in LEVELS[2:]]  # below, ν ≥ 0 moves the mean
    right.plot(LEVELS[2:], [float(n.mean()) for n in nus], color=BLUE, **POINTS)
    right.plot(LEVELS[2:], [float(n.std()) for n in nus], color=ORANGE, **POINTS)
    right.set(xlabel="target conductance / g_max", ylim=(0, None))
    right.legend()


def _exponents(r: float) -> Tensor:
    t = tile(torch.full((128, 128), r), "pcm.drift").program(seed=0)
    return -(t.age("1 year").tiles.chip.weights / r).log() / math.log((31_536_000 + 20) / 20)


def long_read_noise(f: Any) -> None:
    """Eqs. 10 and 11: over time, in both readings of Eq. 10 behind drift."""
    ax = f.subplots()
    spread = [math.sqrt(math.log((t + 20 + 250e-9) / 500e-9)) for t in TIMES]
    decay = [((t + 20) / 20) ** -0.049 for t in TIMES]
    q = 0.0088 * 0.8**-0.65
    ax.plot(TIMES, [0.8 * q * s * d for s, d in zip(spread, decay)], color=BLUE, label="times the drifted g (default)")
    ax.plot(TIMES, [0.8 * q * s for s in spread], color=ORANGE, label="times the target, as printed")
    for option, colour in (("drifted", BLUE), ("target", ORANGE)):
        effects = ("{kind: pcm.drift, nu_std: 0}", f"{{kind: pcm.read_noise_1f, conductance: {option}}}")
        t = tile(torch.full((128, 128), 0.8), *effects).program(seed=0)
        ax.plot(TIMES[::5], [float(t.age(s).tiles.chip.weights.std()) for s in TIMES[::5]], color=colour, **POINTS)
    ax.set(xlabel="time (s)", ylabel="σ / g_max at r = 0.8", xscale="log", ylim=(0, None))
    ax.legend()


def read_noise(f: Any) -> None:
    """Eq. 14: the variance of an output is linear in the sum of |w| x^2."""
    ax = f.subplots()
    n = torch.arange(0, 512, 32)
    x = (torch.arange(512) < n[:, None]).float()
    y = tile(torch.full((4096, 512), 0.5), "pcm.read_noise").program(seed=0)(x)
    ax.plot(grid(0, 250), 0.0175 * grid(0, 250).sqrt(), color=BLUE, label="0.0175 √s")
    ax.plot(0.5 * n, y.std(-1).detach(), color=BLUE, **POINTS)
    ax.set(xlabel="s = Σ |w| x²", ylabel="σ of an output")
    ax.legend()


def ir_drop(f: Any) -> None:
    """Eqs. 16 to 18 against the exact line, and Fig. 3C."""
    left, right = f.subplots(1, 2)
    a, n = grid(0, 1.2, 40), 512
    line = [float(sensed(*(torch.ones(*s, n, dtype=torch.float64) for s in [(1, 1)] * 3), float(v) / n**2) / n) for v in a]
    left.plot(a, line, color=ORANGE, label="exact line, gated")
    left.plot(a, 1 - 2 / 3 * (0.05 * a**3 - 0.2 * a**2 + 0.5 * a), color=BLUE, label="Eqs. 16-18")
    left.plot(a, torch.tanh(a.sqrt()) / a.sqrt(), color=GREEN, linestyle=":", label="tanh(√a)/√a")
    left.set(xlabel="a of a uniform column, x = 1", ylabel="share of the current left")
    left.legend()
    table = mvmtables.graded_column(standard(), MvmExperiment(), lambda: None)
    draw(right, table)
    right.set(title="", xlabel="ordered share of the column", ylabel="|output|, ideally 0")


def s_curve(f: Any) -> None:
    """Eq. 19, corrected and as printed."""
    ax = f.subplots()
    z = grid(-10, 10)
    readings = (("corrected", "relative", BLUE), ("printed", "relative", ORANGE), ("printed", "raw", GREEN))
    for form, argument, colour in readings:
        effect = f"{{kind: circuit.adc_s_curve, mean: 0.25, form: {form}, argument: {argument}}}"
        t = tile(torch.ones(1, 10), effect, adc="{bits: none, bound: 40}" if argument == "raw" else "{bits: none, bound: 10}")
        y = _transfer(t, z)
        ax.plot(z, y, color=colour, label=f"form: {form}, argument: {argument}")
    ax.plot(z, z, color="#5b6472", linewidth=0.8, linestyle=":")
    ax.set(xlabel="output in front of the ADC", ylabel="behind the curve")
    ax.legend(fontsize=8)


def _transfer(t: mho.Tile, z: Tensor) -> Tensor:
    """The curve alone, in front of the saturation of the ADC."""
    from mho.effects.site import Site

    effect = t.tiles.view.plan.output[0]
    site = Site(t.tiles.view.geometry, None, effect.path, "output", constants={"zeta": torch.full((1, 1), 0.25)})
    return effect.effect.transfer(z[:, None, None], site).flatten()


def polarity(f: Any) -> None:
    """One cell of five columns, read with both signs."""
    ax = f.subplots()
    x = torch.linspace(-1, 1, 41)[:, None]
    t = tile(torch.full((5, 1), 0.8), "{kind: circuit.polarity_asymmetry, std: 0.1}").program(seed=0)
    ax.plot(x, t(x).detach(), color=BLUE, linewidth=1)
    ax.set(xlabel="input", ylabel="output of w = 0.8")


def stuck(f: Any) -> None:
    """The three yield modes on top of programming noise."""
    ax = f.subplots()
    effects = ("pcm.programming_noise", "{kind: pcm.stuck_at, off: 0.02, on: 0.02, random: 0.05}")
    g = tile(torch.full((512, 512), 0.5), *effects).program(seed=0).tiles.chip.programmed
    counts = torch.histc(g, 60, 0, 25.2) / g.numel()
    ax.stairs(counts.clamp(min=1e-5), torch.linspace(0, 25.2, 61), fill=True, color=BLUE, baseline=1e-5)
    ax.set(xlabel="conductance (µS), target 12.5", ylabel="share of cells", yscale="log")


def rram(f: Any) -> None:
    """Laws of resistive memory: programming, variability, telegraph noise."""
    left, right = f.subplots(1, 2)
    g = grid(0, 40)
    cubic = 1.053 + 0.2374 * g - 1.167e-2 * g**2 + 1.536e-4 * g**3
    left.plot(g, cubic, color=BLUE, label="wan2022, 1 s")
    left.plot(grid(50, 225), 4.782321 - 0.009107 * grid(50, 225), color=ORANGE, label="milo2021")
    left.plot(grid(9, 88.2), 0.01129027 * grid(9, 88.2) + 0.01121854, color=GREEN, label="cmo, 2 %")
    left.set(xlabel="target conductance (µS)", ylabel="programming σ (µS)", ylim=(0, None))
    left.legend()
    x = grid(0.01, 1)
    d2d, c2c = Variability().spreads(x)
    jump = TelegraphNoise().amplitude(40 * x) / (40 * x)
    curves = ((d2d, "variability, device", BLUE), (c2c, "variability, cycle", ORANGE), (jump, "telegraph jump", GREEN))
    for y, name, colour in curves:
        right.plot(x, y, color=colour, label=name)
    right.set(xlabel="g / g_max, g_max = 40 µS", ylabel="relative", yscale="log")
    right.legend()


def _study(name: str) -> Callable[[Any], None]:
    def make(f: Any) -> None:
        """A study of the standard model."""
        e = MvmExperiment(matrices=4)
        draw(f.subplots(), mvmtables.STUDIES[name](standard(), e, lambda: None))

    return make


def effects(f: Any) -> None:
    """What causes the error right after programming."""
    draw(f.subplots(), mvmtables.effects(standard(), MvmExperiment(matrices=4)))


def adc_bits(f: Any) -> None:
    """MVM error over ADC bits, for three sizes of matrix and tile."""
    ax = f.subplots()
    bits = (4, 5, 6, 7, 8, 9, 10)
    for size, colour in ((128, BLUE), (256, ORANGE), (512, GREEN)):
        fields = [f"tiles.pcm.rows={size}", f"tiles.pcm.columns={size}"]
        e = MvmExperiment(size=size, matrices=4)
        each = [mho.load("pcm.standard", set=[*fields, f"tiles.pcm.adc.bits={b}"]) for b in bits]
        mean, sem = zip(*(mho.standard_mvm_error(hw, None, e) for hw in each))
        style = {"color": colour, "marker": "o", "markersize": 4, "label": f"{size} × {size}"}
        ax.errorbar(bits, [100 * m for m in mean], [100 * s for s in sem], **style)
    ax.set(xlabel="ADC bits", ylabel="MVM error (%)", ylim=(0, None))
    ax.legend()


def accuracy(f: Any) -> None:
    """The two evaluations of docs/ml_engineer.md: its code is run."""
    ax = f.subplots()
    names = _run_page("ml_engineer.md")
    ax.axhline(100 * names["reference"], color="#5b6472", linewidth=0.8, linestyle=":", label="digital")
    for key, label, colour in (("hwa", "hardware-aware", BLUE), ("direct", "direct", ORANGE)):
        curve = names[key]
        mean, sem = ([100 * v for v in values] for values in (curve.mean, curve.sem))
        ax.errorbar(curve.times, mean, sem, color=colour, marker="o", markersize=4, capsize=3, label=label)
    ax.set(xlabel="time (s)", ylabel="accuracy (%)", xscale="log")
    ax.legend()


def _run_page(page: str) -> dict[str, Any]:
    """The names that the Python blocks of a page define; its hardware files are written to where they are looked for."""
    text, code = (IMG.parent / page).read_text(encoding="utf-8"), ""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), torch.enable_grad():
        for language, block in re.findall(r"^```(python|yaml)\n(.*?)^```", text, re.M | re.S):
            if language == "yaml":
                Path(block.split(maxsplit=2)[1].rstrip(":")).write_text(block, encoding="utf-8")
            else:
                code += block
        Path("page.py").write_text(code, encoding="utf-8")
        return runpy.run_path("page.py")


def _results() -> dict[str, Any]:
    """What the studies of docs/studies.md found (they take minutes)."""
    return dict(json.loads((Path(__file__).parent / "data" / "studies.json").read_text()))


def sensitivity(f: Any) -> None:
    """Fig. 5: the factor at which each effect costs 1 % of the accuracy; Fig. 4: what equal MVM errors cost."""
    left, right = f.subplots(1, 2)
    found = sorted((t for t in _results()["thresholds"] if t["unit"] == "factor"), key=lambda t: -t["x"])
    for i, t in enumerate(found):
        left.plot([t["low"], t["high"]], [i, i], color=BLUE, linewidth=4, alpha=0.35, solid_capstyle="butt")
        left.plot(t["x"], i, color=BLUE, marker="o", markersize=5)
    left.set_yticks(range(len(found)), [t["knob"] for t in found])
    left.set(xscale="log", xlabel="factor at 99 % of the accuracy")
    plain_numbers(left.xaxis)
    costs = [e for e in _results()["equal_error"] if "mean" in e][::-1]
    half = [100 * (e["high"] - e["mean"]) for e in costs]
    right.barh(range(len(costs)), [100 * e["mean"] for e in costs], xerr=half, color=ORANGE, ecolor=INK, height=0.6)
    right.set_yticks(range(len(costs)), [e["knob"] for e in costs])
    right.set(xlabel="lost at equal MVM error (%)")


def exemption(f: Any) -> None:
    """Fig. 7: accuracy over the share of parameters off the tiles."""
    ax, found = f.subplots(), _results()["exemptions"]
    half = [100 * (e["high"] - e["mean"]) for e in found]
    ax.errorbar([100 * e["share"] for e in found], [100 * e["mean"] for e in found], half, color=BLUE, marker="o", capsize=3)
    ax.axhline(99, color=INK, linewidth=1, linestyle="--")
    ax.set(xlabel="parameters off the tiles (%)", ylabel="normalised accuracy (%)")


def robustness(f: Any) -> None:
    """R002: score over the noise on all pre-activations, for networks trained with noise."""
    ax = f.subplots()
    for curve, colour in zip(_results()["robustness"], COLOURS):
        at, score = zip(*((s, 100 * v) for s, v in curve["levels"] if 0.02 < s < 40))
        ax.plot(at, score, color=colour, marker="o", markersize=3.5, label=f"{curve['network']}: midpoint {curve['mu']:.2g}")
    ax.set(xscale="log", xlabel="noise on all pre-activations", ylabel="score (%)")
    plain_numbers(ax.xaxis)
    ax.legend()


def slices(f: Any) -> None:
    """Accuracy over time of the sweep in docs/slices.md, by the ADC, the way of slicing and the number of devices."""
    found: dict[tuple[int, str, int], dict[float, list[float]]] = {}
    with (IMG.parent / "data" / "slices.csv").open() as file:
        for r in csv.DictReader(file):
            bits, devices = int(r["grid.tiles.pcm.adc.bits"]), int(r["grid.tiles.pcm.mapping.devices"])
            over_time = found.setdefault((bits, "one device" if devices == 1 else r["arm"], devices), {})
            over_time.setdefault(float(r["time"]), []).append(100 * float(r["score"]))
    axes = f.subplots(1, 3, sharey=True)
    colours = dict(zip(("one device", "equal shares", "filled in turn", "residuals"), (INK, *COLOURS)))
    for ax, chosen in zip(axes, sorted({bits for bits, _, _ in found})):
        for (bits, way, devices), scores in found.items():
            if bits == chosen:
                style = {"color": colours[way], "linestyle": "-" if devices == 4 else "--", "marker": "o", "markersize": 3}
                label = way if devices == 1 else f"{way}, {devices}"
                ax.plot([*scores], [sum(v) / len(v) for v in scores.values()], label=label, **style)
        ax.set(xscale="log", title=f"{chosen}-bit ADC", xlabel="time (s)")
    axes[0].set_ylabel("accuracy (%)")
    axes[-1].legend(fontsize=6)


FIGURES: dict[str, tuple[Callable[[Any], None], tuple[float, float]]] = {
    "converters": (converters, (6.4, 2.6)),
    "mappings": (mappings, (4.6, 2.8)),
    "programming": (programming, (5.2, 3.0)),
    "drift": (drift, (6.4, 2.8)),
    "read_noise_1f": (long_read_noise, (5.0, 2.8)),
    "read_noise": (read_noise, (4.6, 2.6)),
    "ir_drop": (ir_drop, (6.6, 2.8)),
    "s_curve": (s_curve, (5.2, 3.0)),
    "polarity": (polarity, (4.2, 2.4)),
    "stuck": (stuck, (4.6, 2.4)),
    "rram": (rram, (6.6, 2.8)),
    "accuracy": (accuracy, (5.2, 3.0)),
    "adc_bits": (adc_bits, (5.2, 3.0)),
    "effects": (effects, (6.2, 4.2)),
    "compensation": (_study("drift"), (5.2, 2.9)),
    "fixed_point": (_study("fixed-point"), (5.2, 2.9)),
    "input_range": (_study("input-range"), (5.2, 2.9)),
    "weight_shape": (_study("weight-shape"), (5.2, 2.9)),
    "equal_error": (_study("equal-error"), (6.2, 3.0)),
    "sensitivity": (sensitivity, (7.6, 2.9)),
    "exemption": (exemption, (4.6, 2.6)),
    "robustness": (robustness, (5.2, 2.9)),
    "slices": (slices, (7.6, 3.2)),
}


def number_logarithmic_axes(f: Any) -> None:
    """Times by their names, everything else in plain numbers."""
    for ax in f.axes:
        if ax.get_xlabel() == "time (s)":
            ax.set_xticks([1, 3600, 86_400, 31_536_000], ["1 s", "1 h", "1 day", "1 year"])
            ax.minorticks_off()
            ax.set_xlabel("time after programming")
        if ax.get_yscale() == "log":
            plain_numbers(ax.yaxis)


def main(names: list[str]) -> None:
    torch.manual_seed(0)
    for name in names or FIGURES:
        make, size = FIGURES[name]
        with figure(*size) as f, torch.no_grad():
            make(f)
            number_logarithmic_axes(f)
            write(f, IMG / f"{name}.svg")


if __name__ == "__main__":
    main(sys.argv[1:])
