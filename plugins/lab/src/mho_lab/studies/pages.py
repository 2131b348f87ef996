"""What each of the studies shows."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mho.config import format_seconds
from mho.ground import NONE, percent
from mho_lab import report
from mho_lab.errorbars import with_error
from mho_lab.measure.statistics import Interval
from mho_lab.studies.shown import Page, Part, points, short

if TYPE_CHECKING:
    from mho_lab.studies.budget import Budget, BudgetStudy
    from mho_lab.studies.diagnose import Diagnosis
    from mho_lab.studies.layers import LayerStudy
    from mho_lab.studies.robustness import Robustness
    from mho_lab.studies.sensitivity import Limit, Sensitivity

BARS = "± and bars: 95 % intervals."
FAILS = (
    "D1 expectation: the mean gradient points where the clean one does. D2 variance: single gradients scatter little enough "
    "about their mean. D3 sensitivity: the loss still answers to the weights. Named where one fails at any stage of the "
    "training; ok: all pass. The limits stand below the verdicts."
)
YES_NO = {True: "yes", False: "no", None: NONE}


def layer_name(name: str) -> str:
    """What a layer is called where it is the whole network."""
    return name or "(root)"


def _bars(title: str, values: Mapping[str, Interval], y: str) -> report.Block:
    """Means and their intervals."""
    return report.bars(title, {n: (i.mean, i.half) for n, i in values.items()}, y=y, percent=True, note=BARS)


# --- sensitivity ---


def sensitivity_page(s: Sensitivity, title: str) -> Page:
    """R003 Figs. 4 and 5 for this network."""
    first, time = next(iter(s.networks)), s.times[0]
    ranked = s.ranked(first, time)
    told = ", ".join(f"{m.case.knob} ({_reached(m)})" for m in ranked[:3])
    beyond = f"no effect grows beyond its threshold, the nearest being {told}." if told else "the converters keep the bits below."
    headline = f"After {format_seconds(time)}, {first} keeps {s.level:.0%} of its accuracy on this hardware while {beyond}"
    columns = [(n, t) for n in s.networks for t in s.times]
    by_case = {(m.case.knob, m.case.network, m.case.time): m for m in s.limits}
    cells = [[by_case[k.name, n, t] for n, t in columns] for k in s.knobs]
    heat = report.heatmap(
        "How far each knob may be turned",
        [k.name for k in s.knobs],
        [n if len(s.times) == 1 else f"{n}, {format_seconds(t)}" for n, t in columns],
        [
            [m.low / max(1.0, m.low + 4) if m.bits else 1 / (m.x or m.tried) for m in row] for row in cells
        ],  # 1: nothing may be turned
        texts=[[_reached(m) for m in row] for row in cells],
        corner="effect",
        note=f"Factor at which accuracy falls to {s.level:.0%} of what it is on this hardware, or bits that still hold; the "
        "darker, the sooner.",
    )
    curves = report.lines(
        f"Margin of {first} after {format_seconds(time)}",
        {m.case.knob: [(v, mean) for v, mean, _ in m.points] for m in ranked},
        x="factor on the strength",
        x_names=lambda v: f"{v:.3g}",
        y="score above the level",
        log=["x"],
        percent=True,
        levels={f"{s.level:.0%}": 0.0},
    )
    thresholds = Part(
        f"Thresholds at {s.level:.0%} of the accuracy on this hardware",
        ("effect", "network", "time", "threshold", "holds at", "fails at", "chips"),
        [(m.case.knob, m.case.network, format_seconds(m.case.time), _reached(m), *_ends(m), m.chips) for m in s.limits],
        "Threshold: interpolated; holds, fails: decided at 95 % each. Between them chips cannot tell.",
        (heat, curves),
    )
    return Page(title, headline, [thresholds, _equal_error(s)] if s.boosts else [thresholds])


def _equal_error(s: Sensitivity) -> Part:
    names = list(s.networks)
    bars = [
        _bars(
            f"Loss of {n} where each effect alone brings the MVM error to 20 %",
            {b.knob: b.loss[n] for b in s.boosts if n in b.loss},
            "share of the accuracy lost",
        )
        for n in names
    ]
    rows = [(b.knob, short(b.value), *(points(b.loss[n]) if n in b.loss else NONE for n in names), b.note) for b in s.boosts]
    head = ("effect", "value", *(f"{n}: loss %" for n in names), "")
    return Part("Equal MVM errors of 20 % (Rasch et al. 2023, Fig. 4)", head, rows, BARS, tuple(bars))


def _reached(m: Limit) -> str:
    if m.high is None:
        return f"> {m.tried:.3g}x" if not m.bits else "2 bits"
    if m.bits:
        return f"{m.low:.0f} bits ({short(m.x)})"
    return short(m.x, "x") if m.x is not None else f"< {m.high:.3g}x"


def _ends(m: Limit) -> tuple[str, str]:
    unit = "" if m.bits else "x"
    return short(m.low, unit), short(m.high, unit)


def _harm(m: Limit) -> float | None:
    """Colour: 1 where nothing may be turned, 0 where everything may."""
    return m.low / max(1.0, m.low + 4) if m.bits else 1 / (m.x or m.tried)


# --- layers ---


def layers_page(s: LayerStudy, title: str) -> Page:
    """R003 Fig. 7 for this network, and the mixed deployment."""
    d, when, family = s.deployment, format_seconds(s.time), " and ".join(s.families)
    kept = ", ".join(d.layers) or "no layer"
    if len(d.layers) == len(s.layers):
        outcome = f"All layers leave the tiles: nothing smaller meets the target of {s.target:.1%} after {when}."
    else:
        outcome = (
            f"With {kept} off the tiles ({d.share:.1%} of the parameters), the normalised accuracy after {when} is "
            f"{points(d.accuracy)} %, and meets the target of {s.target:.1%}."
        )
    heading = f"Accuracy with {s.scale:g} times the {family} noise in one layer, none in the others"
    heat = _bars(heading, {layer_name(a.layer.name): a.accuracy for a in s.alone}, "normalised accuracy")
    alone = Part(
        f"Sensitivity of single layers after {when} (Rasch et al. 2023, Fig. 7A)",
        ("layer", "tile", "parameters", "accuracy %"),
        [(layer_name(a.layer.name), a.layer.tile, a.layer.parameters, points(a.accuracy)) for a in s.alone],
        f"Normalised by the digital score; with {family} noise in no layer it is {points(s.quiet)} %. {BARS}",
        (heat,),
    )
    curve = report.lines(
        f"Accuracy after {when} over the share of parameters without {family} noise",
        {"most sensitive layers first": [(e.share, e.accuracy.mean, e.accuracy.half) for e in s.exemptions]},
        x="share of the parameters",
        y="normalised accuracy",
        percent=True,
        x_names=lambda v: f"{100 * v:.3g} %",
        levels={"target": s.target},
        note=BARS,
    )
    exempt = Part(
        "Exemption, the most sensitive layers first (Rasch et al. 2023, Fig. 7B, C)",
        ("exempt", "parameters %", "accuracy %"),
        [(", ".join(e.layers) or "none", percent(e.share, 2), points(e.accuracy)) for e in s.exemptions],
        f"Exempt layers have no {family} noise; their converters, output noise and read noise from cycle to cycle stay.",
        (curve,),
    )
    search = "every choice of layers" if d.every else "exemptions in the order of sensitivity, then pruned"
    mixed = Part(
        "Mixed deployment",
        ("off the tiles", "parameters %", "accuracy %", "target %", "met"),
        [(kept, percent(d.share, 2), points(d.accuracy), percent(s.target, 2), YES_NO[d.met])],
        f"Tried, the fewest parameters first: {search}. Verified on {d.accuracy.n} chips that the search has not seen; the "
        "lower end of ± is exceeded with 95 % confidence.",
    )
    worst, alike = s.alone[0], [a for a in s.alone[1:] if a.accuracy.low <= s.alone[0].accuracy.high]
    named = f"{layer_name(worst.layer.name)} is the most sensitive layer."
    if alike and worst.accuracy.high >= s.quiet.low:
        named = "No layer alone is clearly sensitive."
    elif alike:
        named = f"No layer is clearly the most sensitive: {len(alike) + 1} of {len(s.alone)} cannot be told apart."
    return Page(title, f"{named} {outcome}", [alone, exempt, mixed])


def predicted_page(s: Any, title: str) -> Page:
    """The `LayerChoice` of mho-digital."""
    table, kept = s.as_table(), ", ".join(map(layer_name, s.digital)) or "no layer"
    headline = f"With {kept} off the tiles: {table.note}, as a few backward passes predict; mho evaluate measures it."
    return Page(title, headline, [Part("Divergence of each layer alone on tiles", tuple(table.head), table.rows)])


# --- budget ---


def budget_page(s: BudgetStudy, title: str) -> Page:
    """What costs accuracy, and what would."""
    parts = []
    for b in s.budgets:
        when = format_seconds(b.time)
        alone = {layer_name(x.cause): x.alone for x in b.ranked}
        chart = _bars(f"Score lost by {b.what}s alone after {when}", alone, "score lost")
        lost = [(layer_name(x.cause), x.alone, points(x.removed)) for x in b.ranked]
        lost += [("interaction", b.interaction, ""), ("all together", b.total, "")]
        rows = [(name, points(i), removed, "yes" if i.clear else "") for name, i, removed in lost]
        note = (
            f"Points of score, paired over {s.chips} chips. {BARS} Interaction: all together less the sum of each alone; clear: "
            "the interval excludes 0."
        )
        head = (b.what, "lost alone %", "won back without it %", "clear")
        parts.append(Part(f"Budget by {b.what} after {when}", head, rows, note, (chart,)))
    if s.what_if:
        changed = [
            (", ".join(w.changes), format_seconds(w.time), points(w.score), points(w.gain), YES_NO[w.gain.clear])
            for w in s.what_if
        ]
        columns = ("change", "time", "score %", "difference %", "clear")
        parts.append(Part("What if", columns, changed, "On the same chips, changed and as they are."))
    last = max(s.scores)
    headline = (
        f"After {format_seconds(last)} the score is {points(s.scores[last])} %, digitally {percent(s.digital, 2)} %. "
        f"{_largest(next(b for b in s.budgets if b.what == 'effect' and b.time == last))} Cutting inputs off at their range "
        f"costs {percent(s.digital - s.exact, 2)}."
    )
    return Page(title, headline, parts)


def _largest(b: Budget) -> str:
    """The effect that costs most, where error bars set it apart from 0 and from the others."""
    first, *others = b.ranked
    alike = [x.cause for x in others if x.alone.clear and x.alone.high >= first.alone.low]
    if not first.alone.clear:
        return "Of the losses from single effects, none is clear of its error bar."
    if alike:
        return f"The largest losses from single effects cannot be told apart: {', '.join([first.cause, *alike])}."
    return f"The largest single loss comes from {first.cause}: {points(first.alone)} points."


# --- robustness ---


def robustness_page(s: Robustness, title: str) -> Page:
    """R002 for this network."""
    networks = list(s.trained_with)
    fits = {n: s.curve(n).midpoint for n in networks}
    best = max(networks, key=lambda n: m.mu if (m := fits[n]) else 0.0)
    middle, top = fits[networks[0]], fits[best]
    clear = best != networks[0] and top and middle and top.low > middle.high
    longer = f"; {best}, only at {short(top.mu)}." if clear and top else "."
    half = short(middle.mu if middle else None)
    headline = f"Half of the accuracy is lost at {s.mode} noise of {half} on all pre-activations{longer}"
    curves = report.lines(
        f"Score under {s.mode} noise on all pre-activations",
        {n: [(v.sigma, v.mean) for v in s.curve(n).levels] for n in networks},
        x="standard deviation of the noise",
        y="score",
        log=["x"],
        percent=True,
    )
    rows = [
        (n, short(m and m.mu), f"{m.low:.3g} to {m.high:.3g}" if m else NONE, short(m and m.k), s.curve(n).note)
        for n, m in fits.items()
    ]
    head: tuple[str, ...] = ("network", "midpoint", "95 %", "steepness", "")
    parts = [Part("Midpoint noise levels, all layers", head, rows, "", (curves,))]
    layers = [c.place.layer for c in s.walking(networks[0])]
    if layers:
        found = [[s.curve(n, x).midpoint for n in networks] for x in layers]
        texts = [[short(m and m.mu) for m in row] for row in found]
        heat = report.heatmap(
            "Midpoint of each layer alone",
            layers,
            networks,
            [[None if m is None else 1 / m.mu for m in row] for row in found],
            texts=texts,
            corner="layer",
            note="The darker, the less noise the layer bears.",
        )
        walked = [(x, *row) for x, row in zip(layers, texts)]
        parts.append(Part("Walking noise: one layer at a time", ("layer", *networks), walked, "", (heat,)))
    strengths = []
    for n in networks:
        sigma = s.trained_with[n] or (middle.mu if middle and s.mode == "additive" else 0.0)
        strengths += [(n, v.layer, short(v.weights), short(v.preactivations), short(v.snr(sigma))) for v in s.signals[n]]
    parts.append(
        Part(
            "Signals: root mean squares of weights and pre-activations",
            ("network", "layer", "weights", "pre-activations", "over noise"),
            strengths,
            "Over noise: pre-activations over the noise of the training; without one, over the first network's midpoint.",
            printed=len(strengths) <= 12,
        )
    )
    if s.errors:
        parts.append(
            Part(
                "Products on this hardware against exact ones",
                ("matrix", "gain", "error %", "systematic %", "stochastic %"),
                [(n, f"{e.gain:.3f}", *(percent(v, 2) for v in e[1:])) for n, e in s.errors.items()],
                "One chip at the first time; root mean squares of what the gain leaves, over that of the exact outputs.",
            )
        )
    return Page(title, headline, parts)


# --- diagnose ---


def diagnose_page(d: Diagnosis, title: str) -> Page:
    """R000 for this network."""
    verdicts, by_expected = d.verdicts(), {v[:3]: v for v in d.verdicts("expected")}
    known = [a for v in verdicts if (a := v.agrees(d.rules)) is not None]
    headline = (
        f"By the rules, training in mode autograd can compensate {_told(d, 'autograd')}; in mode through, {_told(d, 'through')}. "
        f"Where a point or more was lost, verdict and training agree in {sum(known)} of {len(known)} cases."
    )
    strengths = sorted({v.strength for v in verdicts})
    heat = functools.partial(report.heatmap, rows=list(d.causes), columns=[f"{s:g}x" for s in strengths], corner="cause")
    maps = []
    for m in dict.fromkeys(v.mode for v in verdicts):
        failing = [[_failing(d, c, s, m) for s in strengths] for c in d.causes]
        maps.append(
            heat(
                title=f"Phase plot, mode {m}: which diagnostics fail",
                values=[[count for count, _ in row] for row in failing],
                texts=[[names for _, names in row] for row in failing],
                low=0.0,
                high=3.0,
                note=FAILS,
            )
        )
        maps.append(
            heat(
                title=f"Accuracy that training brought back, mode {m}",
                values=[[d.shares.get((c, s, m)) for s in strengths] for c in d.causes],
                percent=True,
                note="Share of the loss, on chips that training has not seen; – where less than a point was lost.",
            )
        )
    r = d.rules
    rules = (
        f"Rules: D1 cosine of the mean gradient with the reference at least {r.cosine:g}; D2 variance at most {r.variance:g} "
        f"at one draw, growing with the strength by at most the power {r.exponent:g}; D3 losses change {r.least:g} to "
        f"{r.most:g} times as much as without hardware, in every direction, and less than {r.dead:.0%} of the weights are "
        f"dead; training helped where it recovered more than {r.recovered:.0%}."
    )
    about = ("cause", "strength", "stage", "mode")

    def where(p: Any) -> tuple[str, ...]:
        return p.setting.cause, f"{p.setting.strength:g}x", f"{p.setting.stage:.0%}", p.mode

    def cosines(x: Any) -> tuple[str, str]:
        return with_error(x.cosine, x.cosine_sem, 3), with_error(x.expected, x.expected_sem, 3)

    judged = [
        (
            v.cause, f"{v.strength:g}x", v.mode, YES_NO[v.compensable], ", ".join(v.failing) or NONE,
            YES_NO[by_expected[v[:3]].compensable], NONE if v.recovered is None else f"{percent(v.recovered, 0)} %",
            YES_NO[v.agrees(d.rules)],
        )
        for v in verdicts
    ]  # fmt: skip
    whole = [
        (
            *where(p), *cosines(p.whole), short(p.whole.bias), short(p.whole.variance), short(p.exponent),
            with_error(p.slope, p.slope_sem, 3), short(p.ratio[-1]), f"{p.still[-1]:.0%}", f"{p.whole.dead:.0%}",
        )
        for p in d.points
    ]  # fmt: skip
    layers = [(*where(p), x.layer, *cosines(x), short(x.variance), f"{x.dead:.0%}") for p in d.points for x in p.directions[1:]]
    parts = [
        Part(
            "Verdicts",
            ("cause", "strength", "mode", "compensable", "fails", "by expected loss", "recovered", "agree"),
            judged,
            rules,
            tuple(maps),
        ),
        Part(
            "Diagnostics of the whole network",
            (*about, "cos clean", "cos expected", "bias", "variance", "grows", "slope", "loss ratio", "still", "dead"),
            whole,
            "Expected: against the gradient of the expected perturbed loss (Monte Carlo, ± its standard error). Slope: how "
            "fast that loss really rises along the mode's gradient, by central differences; 1 is the steepest way, 0 or less "
            "no descent.",
            printed=False,
        ),
        Part("Layer by layer", (*about, "layer", "cos clean", "cos expected", "variance", "dead"), layers, printed=False),
    ]
    return Page(title, headline, parts)


def _told(d: Diagnosis, mode: str) -> str:
    """How many causes pass at all strengths."""
    by_cause: dict[str, bool] = {}
    for v in d.verdicts():
        if v.mode == mode:
            by_cause[v.cause] = by_cause.get(v.cause, True) and v.compensable
    return f"{sum(by_cause.values())} of {len(by_cause)} causes at all strengths" if by_cause else "nothing (not measured)"


def _failing(d: Diagnosis, cause: str, strength: float, mode: str) -> tuple[float | None, str]:
    """How many diagnostics fail at any stage, and their names."""
    here = [p.passes(d.rules) for p in d.points if (p.setting.cause, p.setting.strength, p.mode) == (cause, strength, mode)]
    if not here:
        return None, NONE
    names = [n for n in ("D1", "D2", "D3") if not all(passes[n] for passes in here)]
    return float(len(names)), " ".join(names) or "ok"
