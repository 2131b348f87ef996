"""How much noise on its pre-activations does a network bear? Midpoint noise levels, global and layer by layer (R002)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any, NamedTuple

import torch
from mho_qat import Mode, PreactivationNoise

from mho.config import Hardware
from mho.ground import MhoError
from mho.tile import tile_arrays
from mho.use import program
from mho_lab.studies.midpoint import Midpoint, fit_midpoint
from mho_lab.studies.shown import plain
from mho_lab.studies.signals import ErrorSplit, Signal, error_by_layer, signals
from mho_lab.studies.subject import Item, Measurer, Subject, Value, network, task_of
from mho_lab.studies.training import bounded, hookable, noisy_network

ALL = "all"
COARSE = tuple(4.0**j for j in range(-4, 4))  # noise levels of the first round, in units of the typical signal
FINE = tuple(2.0 ** (j / 2) for j in range(-4, 5))  # of the second round, around the midpoint
ROUNDS = 4


class Place(NamedTuple):
    """Which network, and which layer of it is noisy ("all")."""

    network: str
    layer: str


class Level(NamedTuple):
    """Accuracies at one noise level."""

    sigma: float
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        return fmean(self.scores)


class NoiseCurve(NamedTuple):
    """Accuracy over the noise in one place, and its midpoint; None with the reason where there is none."""

    place: Place
    levels: tuple[Level, ...]
    midpoint: Midpoint | None
    note: str = ""


@dataclass(frozen=True)
class Robustness:
    """All of it. Networks are named; `trained_with` is the noise that each was trained with."""

    mode: str
    trained_with: dict[str, float]
    signals: dict[str, tuple[Signal, ...]]
    curves: tuple[NoiseCurve, ...]
    errors: dict[str, ErrorSplit]  # of the products on the hardware, by matrix

    def curve(self, network: str, layer: str = ALL) -> NoiseCurve:
        return next(c for c in self.curves if c.place == Place(network, layer))

    def walking(self, network: str) -> list[NoiseCurve]:
        """The curves of single layers, the most sensitive first."""
        mine = [c for c in self.curves if c.place.network == network and c.place.layer != ALL]
        return sorted(mine, key=lambda c: c.midpoint.mu if c.midpoint else math.inf)


def robustness(
    subject: Subject,
    hw: Hardware,
    measured: Measurer,
    out: str,
    *,
    mode: Mode = "additive",
    train_sigmas: Sequence[float] = (0.25, 1.0),
    bound: float | None = None,
    epochs: int | None = None,
    repeats: int = 3,
    walking: bool = True,
) -> Robustness:
    """Midpoints of the trained network, and of networks trained with noise (R002-03 ... R002-09).

    train_sigmas   in units of the trained network's own global midpoint; each trains a network from scratch, as does 0
    bound          train and measure those on tiles whose outputs saturate there (R002-10)
    hw             the hardware whose product errors are split into gain, systematic and stochastic parts (R002-11)
    out            folder of the networks
    """
    given = {"as it is": subject}
    curves = _curves(given, measured, mode, repeats, walking)
    middle = curves[0].midpoint
    if train_sigmas and middle is None:
        raise MhoError(f"the network has no midpoint to train around: {curves[0].note}")
    sigmas = [0.0, *(s * middle.mu for s in train_sigmas)] if middle and train_sigmas else []
    sigmas = [float(f"{s:.3g}") for s in sigmas]
    common = {"task": subject.task, "seed": subject.seed, "mode": mode, "epochs": epochs, "out": out}
    surroundings = {"bound": bound, "hardware": None if bound is None else hw.to_data()}
    made = measured([{**common, **surroundings, "sigma": s} for s in sigmas], noisy_network)
    trained = {f"trained with {s:g}": Subject(subject.task, v["file"], subject.seed) for s, v in zip(sigmas, made)}
    curves += _curves(trained, measured, mode, repeats, walking, None if bound is None else bounded(hw, bound))
    networks = {**given, **trained}
    values = measured([n.item(None) for n in networks.values()], signal_strengths)
    strengths = {n: tuple(Signal(*row) for row in v["signals"]) for n, v in zip(networks, values)}
    split = measured([subject.item(hw, time=hw.times[0])], product_errors)[0]["errors"]
    errors = {name: ErrorSplit(*row) for name, row in split.items()}
    return Robustness(mode, {"as it is": 0.0, **dict(zip(trained, sigmas))}, strengths, tuple(curves), errors)


def _curves(
    networks: dict[str, Subject], measured: Measurer, mode: str, repeats: int, walking: bool, hw: Hardware | None = None
) -> list[NoiseCurve]:
    """Accuracies in rounds: a coarse scan, then around where half is lost; further out where that is not in sight."""
    strengths = measured([n.item(hw) for n in networks.values()], signal_strengths)
    unit = {n: median(row[2] for row in v["signals"]) if mode == "additive" else 1.0 for n, v in zip(networks, strengths)}
    places = [
        Place(n, layer)
        for n, v in zip(networks, strengths)
        for layer in (ALL, *([row[0] for row in v["signals"]] if walking else ()))
    ]
    found: dict[Place, dict[float, tuple[float, ...]]] = {p: {} for p in places}
    wanted = {p: [on_grid(f * unit[p.network]) for f in COARSE] for p in places}
    for turn in range(ROUNDS):
        asked = [(p, s) for p, levels in wanted.items() for s in levels if s not in found[p]]
        items = [
            networks[p.network].item(hw, sigma=s, mode=mode, layer=p.layer, repeats=1 if turn == 0 else repeats) for p, s in asked
        ]
        for (p, s), v in zip(asked, measured(items, noisy_scores)):
            found[p][s] = tuple(v["scores"])
        wanted = {p: _next(found[p], networks[p.network].chance, last=turn > 0) for p in places}
    return [_fitted(p, found[p], networks[p.network].chance) for p in places]


def _next(found: dict[float, tuple[float, ...]], chance: float, last: bool) -> list[float]:
    """Levels to measure next: around the midpoint, or beyond the range while it is not in it."""
    sigmas = sorted(found)
    means = {s: fmean(found[s]) for s in sigmas}
    half = chance + (max(means.values()) - chance) / 2
    below = [s for s in sigmas if means[s] <= half]
    if not below:
        return [on_grid(sigmas[-1] * f) for f in (4.0, 16.0, 64.0)]
    first = below[0]
    if first == sigmas[0]:
        return [on_grid(first / f) for f in (4.0, 16.0, 64.0)]
    if last and sum(first / 5 < s < first * 5 for s in sigmas) > len(FINE) // 2:
        return []
    middle = math.sqrt(first * sigmas[sigmas.index(first) - 1])
    return [on_grid(middle * f) for f in FINE]


def on_grid(sigma: float) -> float:
    """The nearest power of the square root of 2, in three digits: all curves share their noise levels.

    >>> on_grid(0.9), on_grid(3.0)
    (1.0, 2.83)
    """
    return float(f"{2 ** (round(2 * math.log2(sigma)) / 2):.3g}")


def _fitted(place: Place, found: dict[float, tuple[float, ...]], chance: float) -> NoiseCurve:
    levels = tuple(Level(s, found[s]) for s in sorted(found))
    try:
        points = [(lv.sigma, s) for lv in levels for s in lv.scores]
        return NoiseCurve(place, levels, fit_midpoint([p[0] for p in points], [p[1] for p in points], chance))
    except MhoError as why:
        return NoiseCurve(place, levels, None, str(why))


# --- what is measured ---


def noisy_scores(item: Item) -> Value:
    """Measure: scores under noise on the pre-activations of one layer or of all, each repetition with a seed of its own."""
    task, net = task_of(item["task"]), hookable(network(item))
    found = []
    for k in range(item["repeats"]):
        noise = PreactivationNoise(item["sigma"], item["mode"], item["layer"], seed=1000 * item["seed"] + k)
        with noise.on(net), torch.no_grad():
            found.append(float(task.checked_score(net)))
    return {"scores": found}


def signal_strengths(item: Item) -> Value:
    """Measure: the signals of every layer on the calibration batches (R002-08)."""
    task, net = task_of(item["task"]), hookable(network(item))
    batches = list(task.calibration_batches())
    return {"signals": [list(s) for s in signals(net, lambda n: [task.predict(n, b) for b in batches])]}


def product_errors(item: Item) -> Value:
    """Measure: the error split of every matrix of a chip on a calibration batch (R002-11)."""
    task, net = task_of(item["task"]), network(item)
    batch = next(iter(task.calibration_batches()))
    if not tile_arrays(net):
        return {"errors": {}}
    program(net, item["seed"]).age(item["time"])
    return {"errors": {n: list(e) for n, e in error_by_layer(net, lambda m: task.predict(m, batch)).items()}}


def as_data(r: Robustness) -> dict[str, Any]:
    """Plain data of everything that was found."""

    def midpoint(c: NoiseCurve) -> dict[str, Any]:
        m = c.midpoint
        found = {} if m is None else {"mu": m.mu, "low": m.low, "high": m.high, "k": m.k, "a0": m.a0}
        return {**plain(c.place), **found, "note": c.note, "levels": [[v.sigma, v.mean] for v in c.levels]}

    found = {"study": "robustness", **plain(r), "midpoints": [midpoint(c) for c in r.curves]}
    del found["curves"]
    return found
