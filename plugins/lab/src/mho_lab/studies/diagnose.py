"""Can training compensate it? R000's diagnostics for every cause, strength and training stage, and what training recovers.

The verdict is computed from stated thresholds (`Rules`), never promised by class: it names its mode, strength and stage.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from statistics import fmean, median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mho.config import Hardware
from mho.effects import draws
from mho.tile import tile_arrays
from mho.use import keeping_chip, keeping_modes, one_chip, program
from mho_lab.measure.statistics import standard_error
from mho_lab.run.inspection import parameters_on_tiles
from mho_lab.run.task import Task
from mho_lab.studies import gradients, variants
from mho_lab.studies.shown import plain
from mho_lab.studies.subject import Item, Measurer, Subject, Value, column, network, scores, task_of
from mho_lab.studies.training import states

EVERYTHING = "everything"  # all causes together: the hardware as it is
STRENGTHS = (1.0, 4.0, 16.0)
EARLY_AND_LATE = (0.1, 1.0)


@dataclass(frozen=True)
class Rules:
    """When a diagnostic passes (R000-01 ... R000-03), and when training counts as having helped (R000-06)."""

    cosine: float = 0.9  # D1: at least, with the reference gradient
    variance: float = 10.0  # D2: at most, at one draw per step
    exponent: float = 2.3  # D2: at most, of the growth of the variance with the strength
    least: float = 0.1  # D3: loss changes at least and at most this often as much as the clean loss
    most: float = 10.0
    dead: float = 0.1  # D3: less than this share of the weights
    recovered: float = 0.5  # of the accuracy that is lost


class Setting(NamedTuple):
    """One point of the study: a cause, how strong, and at which share of the training."""

    cause: str
    strength: float
    stage: float


@dataclass(frozen=True)
class Diagnostics:
    """The diagnostics of one mode at one setting.

    directions   D1 and D2 in the whole network ("all") and in every layer
    exponent     of the variance against the strength, from the next weaker setting; None for the weakest
    slope        how fast the expected perturbed loss falls along the mode's mean gradient, relative to the length of that
                 loss's gradient, by central differences on the same chips: 1 is steepest descent, below 0 it rises
    ratio        D3: median |change of the perturbed loss| / |change of the clean loss| in random directions, step by step
    still        D3: share of directions in which the perturbed loss does not change at all, step by step
    """

    setting: Setting
    mode: str
    directions: tuple[gradients.Direction, ...]
    exponent: float | None
    slope: float
    slope_sem: float
    ratio: tuple[float, ...]
    still: tuple[float, ...]

    @property
    def whole(self) -> gradients.Direction:
        return self.directions[0]

    def passes(self, rules: Rules, reference: str = "clean") -> dict[str, bool]:
        """Each diagnostic by name; D1 against the clean gradient, or that of the expected perturbed loss. What noise
        hides (nan) does not pass."""
        d = self.whole
        cosine = d.cosine if reference == "clean" else d.expected
        grows = self.exponent is not None and self.exponent > rules.exponent
        return {
            "D1": cosine >= rules.cosine,
            "D2": d.variance <= rules.variance and not grows,
            "D3": rules.least <= self.ratio[-1] <= rules.most and self.still[-1] == 0 and d.dead < rules.dead,
        }


class Recovery(NamedTuple):
    """Accuracies on chips that training has not seen, before and after it, beside the clean one (R000-06)."""

    cause: str
    strength: float
    mode: str
    before: float
    after: float
    clean: float
    chance: float

    @property
    def share(self) -> float | None:
        """The share of the lost accuracy that came back; None where less than a point was lost."""
        lost = self.clean - self.before
        return (self.after - self.before) / lost if lost >= 0.01 else None


class Verdict(NamedTuple):
    """Whether all diagnostics pass at every stage (R000-04), for one cause, strength and mode; which fail where."""

    cause: str
    strength: float
    mode: str
    reference: str
    compensable: bool
    failing: tuple[str, ...]
    recovered: float | None

    def agrees(self, rules: Rules) -> bool | None:
        """Whether the verdict says what training showed; None where nothing was lost or nothing was trained."""
        return None if self.recovered is None else self.compensable == (self.recovered > rules.recovered)


@dataclass(frozen=True)
class Diagnosis:
    """All of it."""

    rules: Rules
    causes: tuple[str, ...]
    strengths: tuple[float, ...]
    stages: tuple[float, ...]
    time: float
    points: tuple[Diagnostics, ...]
    recoveries: tuple[Recovery, ...]

    def verdicts(self, reference: str = "clean") -> list[Verdict]:
        """One for every cause, strength and mode."""
        found: dict[tuple[str, float, str], list[Diagnostics]] = {}
        for p in self.points:
            found.setdefault((p.setting.cause, p.setting.strength, p.mode), []).append(p)
        verdicts = []
        for key, points in found.items():
            failed = [(p, [n for n, fine in p.passes(self.rules, reference).items() if not fine]) for p in points]
            told = tuple(f"{' '.join(names)} at {p.setting.stage:.0%}" for p, names in failed if names)
            verdicts.append(Verdict(*key, reference, not told, told, self.shares.get(key)))
        return verdicts

    @property
    def shares(self) -> dict[tuple[str, float, str], float | None]:
        """What training brought back, by cause, strength and mode."""
        return {(r.cause, r.strength, r.mode): r.share for r in self.recoveries}


def diagnose(
    subject: Subject,
    hw: Hardware,
    measured: Measurer,
    out: str,
    *,
    causes: Sequence[str] = (),
    strengths: Sequence[float] = STRENGTHS,
    stages: Sequence[float] = EARLY_AND_LATE,
    modes: Sequence[str] = gradients.MODES,
    time: float = 3600.0,
    chips: int = 4,
    batch: int = 64,
    seeds: int = 1,
    epochs: int | None = None,
    steps: int = 30,
    rules: Rules | None = None,
) -> Diagnosis:
    """Measure gradients under every cause of `hw` alone and under all together, at every strength and training stage; then
    train under each and score chips that training has not seen.

    The task's own training, from scratch, gives the stages (R000-20). A strength is a factor on the cause, or for a
    converter the step in units of the file's (4: two bits less). `seeds` independent trainings are averaged.
    """
    wanted = variants.chosen(causes, [*variants.causes(hw), EVERYTHING], "cause")
    settings = [Setting(c, s, t) for c in wanted for s in _possible(hw, c, strengths) for t in stages]
    trained = _stages(subject, measured, out, stages, seeds, epochs)
    bare = hw.varied(only=())

    def item(s: Setting, k: int) -> Item:
        more = {"chips": chips, "time": time, "batch": batch, "modes": list(modes), "clean": bare.to_data()}
        return trained[s.stage, k].item(under(hw, s.cause, s.strength), **more)

    values = measured([item(s, k) for s in settings for k in range(seeds)], gradients_at)
    by_setting = {s: values[i * seeds : (i + 1) * seeds] for i, s in enumerate(settings)}
    points = [_point(s, m, by_setting) for s in settings for m in modes]
    recoveries = _recoveries(trained[stages[-1], 0], hw, settings, modes, measured, time, steps, batch) if steps else ()
    return Diagnosis(rules or Rules(), tuple(wanted), tuple(strengths), tuple(stages), time, tuple(points), tuple(recoveries))


def under(hw: Hardware, cause: str, strength: float) -> Hardware:
    """`hw` with a cause alone (or with everything), this much stronger. An ADC keeps its bound."""
    if cause == EVERYTHING:
        return hw.varied({e.kind: strength for e in variants.effects_of(hw) if e.strength and e.active})
    alone = hw.varied(only=cause)
    knob = variants.knob_of(alone, cause)
    return alone if strength == 1 or knob is None else knob.turned(alone, math.log2(strength))


def _possible(hw: Hardware, cause: str, strengths: Sequence[float]) -> list[float]:
    """The strengths that the fields of a cause allow; 1 where it has none."""
    knob = None if cause == EVERYTHING else variants.knob_of(hw.varied(only=cause), cause)
    return [s for s in strengths if knob is not None and math.log2(s) <= knob.highest] or [1.0]


def _stages(
    subject: Subject, measured: Measurer, out: str, stages: Sequence[float], seeds: int, epochs: int | None
) -> dict[tuple[float, int], Subject]:
    """The networks of the stages, by stage and number of the training."""
    names = [subject.seed + 1000 * k for k in range(seeds)]
    items = [{"task": subject.task, "seed": s, "stages": list(stages), "epochs": epochs, "out": out} for s in names]
    files = [v["files"] for v in measured(items, states)]
    return {(t, k): Subject(subject.task, f[f"{t:g}"], s) for k, (f, s) in enumerate(zip(files, names)) for t in stages}


def _point(s: Setting, mode: str, values: dict[Setting, list[Value]]) -> Diagnostics:
    """The means over trainings."""
    mine = [v["modes"][mode] for v in values[s]]
    layers = [
        gradients.Direction(*rows[0][:2], *(fmean(c) for c in zip(*(r[2:] for r in rows))))
        for rows in zip(*(m["directions"] for m in mine))
    ]
    weaker = max((o for o in values if o[::2] == s[::2] and o.strength < s.strength), default=None)
    exponent = None
    if weaker is not None:
        before = [v["modes"][mode]["directions"][0] for v in values[weaker]]
        variance = fmean([gradients.Direction(*d).variance for d in before])
        exponent = _exponent(variance, layers[0].variance, s.strength / weaker.strength)
    return Diagnostics(
        s,
        mode,
        tuple(layers),
        exponent,
        fmean([m["slope"] for m in mine]),
        fmean([m["slope_sem"] for m in mine]) / math.sqrt(len(mine)),
        tuple(fmean(r) for r in zip(*(v["ratio"] for v in values[s]))),
        tuple(fmean(r) for r in zip(*(v["still"] for v in values[s]))),
    )


def _exponent(before: float, after: float, factor: float) -> float | None:
    """p of variance ~ strength^p."""
    if not (before > 0 and after > 0 and math.isfinite(before) and math.isfinite(after)):
        return None
    return math.log(after / before) / math.log(factor)


# --- measured: gradients ---


def gradients_at(item: Item) -> Value:
    """Measure: D1, D2 and D3 of every mode for one cause, strength and network.

    The clean reference is the same network on the same tiles without any cause: what its input ranges cut off is cut off on
    both sides, and no cause is blamed for it.
    """
    task, net, k = task_of(item["task"]), network(item), item["chips"]
    clean = network({**item, "hardware": item["clean"]})
    example = _batch(task, item["batch"])

    def loss(n: nn.Module) -> Tensor:
        return task.loss(task.predict(n, example), example)

    modes = tuple(dict.fromkeys([*item["modes"], gradients.EXPECTED]))
    alone = gradients.sample_gradients(clean, loss, modes=[gradients.EXPECTED], chips=1)  # deterministic: one draw is all
    bare = alone.draws[gradients.EXPECTED]
    reference = [v[0] for v in bare.values()]
    g = gradients.sample_gradients(net, loss, modes=modes, chips=k, time=item["time"], seed=item["seed"], clean=reference)
    found = gradients.directions(g, item["modes"])
    slopes = {m: _slope(net, loss, g, m, item) for m in item["modes"]}
    ratio, still = _sensitivity(net, clean, loss, item, task.lr)
    return {
        "modes": {
            m: {"directions": [list(d) for d in found if d.mode == m], "slope": slopes[m][0], "slope_sem": slopes[m][1]}
            for m in item["modes"]
        },
        "ratio": ratio,
        "still": still,
    }


def _batch(task: Task, size: int) -> Any:
    """The first `size` samples of the calibration batches, in the type of a batch; the whole first batch where its parts are
    not tensors, or not as long in every batch (padding)."""
    batches = list(islice(iter(task.calibration_batches()), 4))
    first = batches[0]
    if not isinstance(first, (tuple, list)) or not all(isinstance(v, Tensor) for v in first):
        return first
    if len({tuple(v.shape[1:] for v in batch) for batch in batches}) > 1:
        return first
    parts = [torch.cat(column)[:size] for column in zip(*batches)]
    return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)


def _slope(net: nn.Module, loss: Any, g: gradients.GradientDraws, mode: str, item: Item) -> tuple[float, float]:
    """How the expected perturbed loss changes along the mean gradient of a mode: its directional derivative by central
    differences on every chip, over the length of its gradient; with the standard error over chips."""
    along = [g.draws[mode][n].mean(0) for n in g.clean]
    length = math.sqrt(sum(float(v.double() @ v.double()) for v in along))
    if not length:
        return 0.0, 0.0
    draws = g.draws[gradients.EXPECTED].values()
    steep = math.sqrt(max(0.0, sum(gradients.off_diagonal(d.double() @ d.double().T) for d in draws)))
    parameters = list(parameters_on_tiles(net).values())
    size = 3e-3 * math.sqrt(sum(float(p.detach().double().square().sum()) for p in parameters))
    found = []
    with keeping_chip(net), keeping_modes(net):
        net.eval()
        for chip in range(item["chips"]):
            ends = []
            for sign in (1, -1):
                with gradients.moved(net, parameters, [v * (sign * size / length) for v in along]):
                    ends.append(gradients.loss_on_chip(net, loss, item["time"], item["seed"], chip))
            found.append((ends[0] - ends[1]) / (2 * size))
    return (fmean(found) / steep, standard_error(found) / steep) if steep else (0.0, 0.0)


def _sensitivity(
    net: nn.Module, clean: nn.Module, loss: Any, item: Item, lr: float, count: int = 6
) -> tuple[list[float], list[float]]:
    """R000-03: losses at random directions of a tenth of an optimiser step and of a whole one (`lr` for every weight), on one
    chip, relative to those of the clean network."""
    pair = [(n, list(parameters_on_tiles(n).values())) for n in (net, clean)]

    def losses(direction: Sequence[Tensor]) -> list[float]:
        found = []
        for n, parameters in pair:
            with gradients.moved(n, parameters, direction):
                found.append(gradients.loss_on_chip(n, loss, item["time"], item["seed"], 0))
        return found

    ratios, stills = [], []
    with keeping_chip(net), keeping_chip(clean), keeping_modes(net):
        net.eval()
        here = losses([torch.zeros_like(p) for p in pair[0][1]])
        for step in (0.1 * lr, lr):
            changes = []
            for i in range(count):
                source = torch.Generator().manual_seed(i)
                there = losses([step * torch.randn(p.numel(), generator=source) for p in pair[0][1]])
                changes.append((abs(there[0] - here[0]), abs(there[1] - here[1])))
            ratios.append(median(a / c for a, c in changes if c) if any(c for _, c in changes) else 0.0)
            stills.append(sum(a == 0 for a, _ in changes) / count)
    return ratios, stills


# --- measured: training ---


def _recoveries(
    subject: Subject,
    hw: Hardware,
    settings: Sequence[Setting],
    modes: Sequence[str],
    measured: Measurer,
    time: float,
    steps: int,
    batch: int,
    chips: int = 4,
) -> list[Recovery]:
    """R000-06: accuracy before; where a point or more is lost, after training in each mode. Clean are tiles without any
    cause, see `gradients_at`."""
    cases = list(dict.fromkeys((s.cause, s.strength) for s in settings))
    clean = column(measured([subject.chips(hw.varied(only=()), 0, 1, time)], scores))[0]
    unseen = replace(subject, seed=draws.words("unseen", subject.seed)[0] & 0x7FFFFFFF)  # chips of no training
    before = measured([unseen.chips(under(hw, c, s), 0, chips, time) for c, s in cases], scores)
    lost = [(c, s, fmean(column([v]))) for (c, s), v in zip(cases, before)]
    chance = subject.chance
    worth = [(c, s, b, m) for c, s, b in lost if clean - b >= 0.01 for m in modes]
    items = [
        subject.item(under(hw, c, s), mode=m, steps=steps, batch=batch, time=time, chips=chips, unseen=unseen.seed)
        for c, s, _, m in worth
    ]
    after = measured(items, trained_under)
    found = {(c, s, m): Recovery(c, s, m, b, fmean(column([v])), clean, chance) for (c, s, b, m), v in zip(worth, after)}
    return [found.get((c, s, m), Recovery(c, s, m, b, b, clean, chance)) for c, s, b in lost for m in modes]


def trained_under(item: Item) -> Value:
    """Measure: train a network under its hardware for some steps, every step on a fresh chip, and score unseen ones."""
    task, net = task_of(item["task"]), network(item)
    optimizer = task.optimizer([p for p in net.parameters() if p.requires_grad], task.hwa_lr)
    done = 0
    while done < item["steps"]:
        for example in islice(
            iter(task.train_batches(draws.words("hat", item["seed"], done)[0] & 0x7FFFFFFF)), item["steps"] - done
        ):
            _step(net, task, example, optimizer, item, done)
            done += 1
    net.eval()
    times = (item["time"],)
    return {"scores": [list(one_chip(net, task.checked_score, times, item["unseen"], k)) for k in range(item["chips"])]}


def _step(net: nn.Module, task: Task, example: Any, optimizer: Any, item: Item, k: int) -> None:
    """One update on chip k, the tiles deployed, everything else in train mode."""
    program(net, item["seed"], index=k).age(item["time"])
    net.train()
    for array in tile_arrays(net):
        array.train(False)
    optimizer.zero_grad()
    with gradients.backward_by(net, item["mode"]):
        task.loss(task.predict(net, example), example).backward()
    optimizer.step()


def as_data(d: Diagnosis) -> dict[str, Any]:
    """Plain data of everything that was found; nan and infinity are null."""
    points = []
    for p in d.points:
        found = plain(p)
        passes = {"passes": p.passes(d.rules), "passes_expected": p.passes(d.rules, "expected")}
        points.append({**found.pop("setting"), "layers": found.pop("directions"), **found, **passes})
    verdicts = [{**plain(v), "agrees": v.agrees(d.rules)} for r in ("clean", "expected") for v in d.verdicts(r)]
    recoveries = [{**plain(r), "share": r.share} for r in d.recoveries]
    return {"study": "diagnose", **plain(d), "points": points, "verdicts": verdicts, "recoveries": recoveries}
