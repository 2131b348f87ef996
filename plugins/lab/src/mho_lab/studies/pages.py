"""What each of the studies shows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mho.config import format_seconds
from mho_lab import report
from mho_lab.studies.shown import Page, Part, number, points

if TYPE_CHECKING:
    from mho_lab.studies.budget import BudgetStudy
    from mho_lab.studies.diagnose import Diagnosis
    from mho_lab.studies.layers import LayerStudy
    from mho_lab.studies.robustness import Robustness
    from mho_lab.studies.sensitivity import Limit, Sensitivity


# --- sensitivity ---


def sensitivity_page(s: Sensitivity, title: str) -> Page:
    """R003 Figs. 4 and 5 for this network."""
    first, time = next(iter(s.networks)), s.times[0]
    ranked = s.ranked(first, time)
    told = [f"{m.case.knob} ({_reached(m)})" for m in ranked[:3]]
    headline = f"After {format_seconds(time)}, {first} keeps {s.level:.0%} of its accuracy on this hardware while " + (
        f"no effect grows beyond its threshold, the nearest being {', '.join(told)}."
        if told
        else "the converters keep the bits below."
    )
    columns = [(n, t) for n in s.networks for t in s.times]
    names = [n if len(s.times) == 1 else f"{n}, {format_seconds(t)}" for n, t in columns]
    by_case = {(m.case.knob, m.case.network, m.case.time): m for m in s.limits}
    cells = [[by_case[k.name, n, t] for n, t in columns] for k in s.knobs]
    heat = report.heatmap(
        "How far each knob may be turned",
        [k.name for k in s.knobs],
        names,
        [[_harm(m) for m in row] for row in cells],
        texts=[[_reached(m) for m in row] for row in cells],
        corner="effect",
        note="Factor at which normalised accuracy falls to the level, or bits that still hold; the darker, the sooner.",
    )
    curves = report.lines(
        f"Margin of {first} after {format_seconds(time)}",
        {m.case.knob: [(v, mean) for v, mean, _ in m.points] for m in ranked},
        x="factor on the strength",
        x_names=lambda v: f"{v:.3g}",
        y="normalised accuracy above the level",
        log=["x"],
        percent=True,
        levels={f"{s.level:.0%}": 0.0},
    )
    rows = [
        (
            m.case.knob,
            m.case.network,
            format_seconds(m.case.time),
            _reached(m),
            _value(m, m.low),
            _value(m, m.high),
            m.chips,
        )
        for m in s.limits
    ]
    thresholds = Part(
        f"Thresholds at {s.level:.0%} of the accuracy on this hardware",
        ("effect", "network", "time", "threshold", "holds at", "fails at", "chips"),
        rows,
        "Threshold: interpolated; holds, fails: decided at 95 % each. Between them chips cannot tell.",
        (heat, curves),
    )
    parts = [thresholds]
    if s.boosts:
        parts.append(_equal_error(s))
    return Page(title, headline, parts)


def _equal_error(s: Sensitivity) -> Part:
    names = list(s.networks)
    bars = [
        report.bars(
            f"Loss of {n} where each effect alone brings the MVM error to 20 %",
            {b.knob: (b.loss[n].mean, b.loss[n].half / 2) for b in s.boosts if n in b.loss},
            y="normalised accuracy lost",
            percent=True,
        )
        for n in names
    ]
    rows = [
        (b.knob, number(b.value), *(points(b.loss[n]) if n in b.loss else "–" for n in names), b.note) for b in s.boosts
    ]
    head = ("effect", "value", *(f"{n}: loss %" for n in names), "")
    return Part("Equal MVM errors of 20 % (Rasch et al. 2023, Fig. 4)", head, rows, "", tuple(bars))


def _reached(m: Limit) -> str:
    if m.high is None:
        return f"> {m.tried:.3g}x" if not m.bits else "2 bits"
    if m.bits:
        return f"{m.low:.0f} bits ({number(m.x)})"
    return number(m.x, "x") if m.x is not None else f"< {m.high:.3g}x"


def _value(m: Limit, value: float | None) -> str:
    return number(value, "" if m.bits else "x")


def _harm(m: Limit) -> float | None:
    """Colour: 1 where nothing may be turned, 0 where everything may."""
    if m.bits:
        return m.low / max(1.0, m.low + 4)
    return 1 / (m.x or m.tried)


# --- layers ---


def layers_page(s: LayerStudy, title: str) -> Page:
    """R003 Fig. 7 for this network, and the mixed deployment."""
    d, when = s.deployment, format_seconds(s.time)
    worst = s.alone[0].layer.name or "(root)"
    kept = ", ".join(d.layers) or "no layer"
    if len(d.layers) == len(s.layers):
        outcome = f"No layer can stay on the tiles if the target of {s.target:.1%} is to be met after {when}."
    else:
        outcome = (
            f"With {kept} off the tiles ({d.share:.1%} of the parameters), the normalised accuracy after {when} is "
            f"{points(d.accuracy)} %, and meets the target of {s.target:.1%}."
        )
    headline = f"{worst} is the most sensitive layer. {outcome}"
    family = " and ".join(s.families)
    heat = report.bars(
        f"Accuracy with {s.scale:g} times the {family} noise in one layer, none in the others",
        {a.layer.name or "(root)": (a.accuracy.mean, a.accuracy.half / 2) for a in s.alone},
        y="normalised accuracy",
        percent=True,
    )
    alone = Part(
        f"Sensitivity of single layers after {when} (R003-50)",
        ("layer", "tile", "parameters", "accuracy %"),
        [(a.layer.name or "(root)", a.layer.tile, a.layer.parameters, points(a.accuracy)) for a in s.alone],
        f"Normalised by the digital score; with {family} noise in no layer it is {points(s.quiet)} %.",
        (heat,),
    )
    curve = report.lines(
        f"Accuracy after {when} over the share of parameters off the tiles",
        {"most sensitive layers first": [(e.share, e.accuracy.mean, e.accuracy.half / 2) for e in s.exemptions]},
        x="share of the parameters",
        y="normalised accuracy",
        percent=True,
        x_names=lambda v: f"{100 * v:.3g} %",
        levels={"target": s.target},
    )
    exempt = Part(
        "Exemption, the most sensitive layers first (R003-51)",
        ("off the tiles", "parameters %", "accuracy %"),
        [(", ".join(e.layers) or "none", f"{100 * e.share:.2f}", points(e.accuracy)) for e in s.exemptions],
        "",
        (curve,),
    )
    search = "every choice of layers" if d.every else "exemptions in the order of sensitivity, then pruned"
    mixed = Part(
        "Mixed deployment",
        ("off the tiles", "parameters %", "accuracy %", "target %", "met"),
        [(kept, f"{100 * d.share:.2f}", points(d.accuracy), f"{100 * s.target:.2f}", "yes" if d.met else "no")],
        f"Tried, the fewest parameters first: {search}. Verified on {d.accuracy.n} chips that the search has not seen; the "
        "lower end of ± is exceeded with 95 % confidence.",
    )
    return Page(title, headline, [alone, exempt, mixed])


# --- budget ---


def budget_page(s: BudgetStudy, title: str) -> Page:
    """What costs accuracy, and what would."""
    parts = []
    for b in s.budgets:
        when = format_seconds(b.time)
        names = {"effect": "effects", "layer": "layers"}[b.what]
        chart = report.bars(
            f"Score lost by {names} alone after {when}",
            {x.cause or "(root)": (x.alone.mean, x.alone.half / 2) for x in b.ranked},
            y="score lost",
            percent=True,
        )
        rows: list[tuple[Any, ...]] = [
            (x.cause or "(root)", points(x.alone), points(x.removed), "yes" if x.alone.clear else "") for x in b.ranked
        ]
        rows.append(("interaction", points(b.interaction), "", "yes" if b.interaction.clear else ""))
        rows.append(("all together", points(b.total), "", "yes" if b.total.clear else ""))
        note = f"Points of score, paired over {s.chips} chips; interaction: all together less the sum of each alone."
        head = (b.what, "lost alone %", "won back without it %", "clear")
        parts.append(Part(f"Budget by {b.what} after {when}", head, rows, note, (chart,)))
    if s.what_if:
        changed: list[tuple[Any, ...]] = [
            (
                ", ".join(w.changes),
                format_seconds(w.time),
                points(w.score),
                points(w.gain),
                "yes" if w.gain.clear else "no",
            )
            for w in s.what_if
        ]
        columns = ("change", "time", "score %", "difference %", "clear")
        parts.append(Part("What if", columns, changed, "On the same chips, changed and as they are."))
    last = max(s.scores)
    first = next(b for b in s.budgets if b.what == "effect" and b.time == last).ranked[0]
    headline = (
        f"After {format_seconds(last)} the score is {points(s.scores[last])} %, digitally {100 * s.digital:.2f} %. The largest "
        f"single loss comes from {first.cause}: {points(first.alone)} points. Cutting inputs off at their range costs "
        f"{100 * (s.digital - s.exact):.2f}."
    )
    return Page(title, headline, parts)


# --- robustness ---


def robustness_page(s: Robustness, title: str) -> Page:
    """R002 for this network."""
    networks = list(s.trained_with)
    given = s.curve(networks[0])
    best = max(networks, key=lambda n: m.mu if (m := s.curve(n).midpoint) else 0.0)
    middle, top = given.midpoint, s.curve(best).midpoint
    headline = (
        f"Half of the accuracy is lost at {s.mode} noise of {number(middle.mu if middle else None)} on all pre-activations"
        + (f"; {best}, only at {number(top.mu)}." if best != networks[0] and top else ".")
    )
    curves = report.lines(
        f"Score under {s.mode} noise on all pre-activations",
        {n: [(v.sigma, v.mean) for v in s.curve(n).levels] for n in networks},
        x="standard deviation of the noise",
        y="score",
        log=["x"],
        percent=True,
    )
    rows = []
    for n in networks:
        m = s.curve(n).midpoint
        rows.append(
            (n, number(m and m.mu), f"{m.low:.3g} to {m.high:.3g}" if m else "–", number(m and m.k), s.curve(n).note)
        )
    midpoints = Part(
        "Midpoint noise levels, all layers (R002-06)",
        ("network", "midpoint", "95 %", "steepness", ""),
        rows,
        "",
        (curves,),
    )
    parts = [midpoints]
    layers = [c.place.layer for c in s.walking(networks[0])]
    if layers:
        found = [[s.curve(n, x).midpoint for n in networks] for x in layers]
        heat = report.heatmap(
            "Midpoint of each layer alone",
            layers,
            networks,
            [[None if m is None else 1 / m.mu for m in row] for row in found],
            texts=[[number(m and m.mu) for m in row] for row in found],
            corner="layer",
            note="The darker, the less noise the layer bears.",
        )
        table_rows = [(x, *(number(m and m.mu) for m in row)) for x, row in zip(layers, found)]
        parts.append(
            Part("Walking noise: one layer at a time (R002-07)", ("layer", *networks), table_rows, "", (heat,))
        )
    signal_rows = []
    for n in networks:
        for v in s.signals[n]:
            sigma = s.trained_with[n] or (middle.mu if middle and s.mode == "additive" else 0.0)
            signal_rows.append((n, v.layer, number(v.weights), number(v.preactivations), number(v.snr(sigma))))
    parts.append(
        Part(
            "Signals: root mean squares of weights and pre-activations (R002-08)",
            ("network", "layer", "weights", "pre-activations", "over noise"),
            signal_rows,
            "Over noise: pre-activations over the noise of the training; without one, over the first network's midpoint.",
            printed=len(signal_rows) <= 12,
        )
    )
    if s.errors:
        parts.append(
            Part(
                "Products on this hardware against exact ones (R002-11)",
                ("matrix", "gain", "error %", "systematic %", "stochastic %"),
                [(n, f"{e.gain:.3f}", *(f"{100 * v:.2f}" for v in e[1:])) for n, e in s.errors.items()],
                "One chip at the first time; root mean squares of what the gain leaves, over that of the exact outputs.",
            )
        )
    return Page(title, headline, parts)


# --- diagnose ---


def diagnose_page(d: Diagnosis, title: str) -> Page:
    """R000 for this network."""
    verdicts = d.verdicts()
    modes = list(dict.fromkeys(v.mode for v in verdicts))
    known = [(v, a) for v in verdicts if (a := v.agrees(d.rules)) is not None]
    agreed = sum(a for _, a in known)
    headline = (
        f"By the rules, training in mode autograd can compensate {_told(d, 'autograd')}; in mode through, {_told(d, 'through')}. "
        f"Where a point or more was lost, verdict and training agree in {agreed} of {len(known)} cases."
    )
    strengths = sorted({v.strength for v in verdicts})
    phase = [
        report.heatmap(
            f"Phase plot, mode {m}: which diagnostics fail",
            list(d.causes),
            [f"{s:g}x" for s in strengths],
            [[_failing(d, c, s, m)[0] for s in strengths] for c in d.causes],
            texts=[[_failing(d, c, s, m)[1] for s in strengths] for c in d.causes],
            corner="cause",
            low=0.0,
            high=3.0,
            note="D1 expectation, D2 variance, D3 sensitivity, against the clean gradient at any training stage; ok: all pass.",
        )
        for m in modes
    ]
    shares = {(r.cause, r.strength, r.mode): r.share for r in d.recoveries}
    recovered = [
        report.heatmap(
            f"Accuracy that training brought back, mode {m}",
            list(d.causes),
            [f"{s:g}x" for s in strengths],
            [[shares.get((c, s, m)) for s in strengths] for c in d.causes],
            corner="cause",
            percent=True,
            note="Share of the loss, on chips that training has not seen; – where less than a point was lost.",
        )
        for m in modes
    ]
    expected = {v[:3]: v for v in d.verdicts("expected")}
    rows = [
        (
            v.cause,
            f"{v.strength:g}x",
            v.mode,
            "yes" if v.compensable else "no",
            ", ".join(v.failing) or "–",
            "yes" if expected[v[:3]].compensable else "no",
            "–" if v.recovered is None else f"{100 * v.recovered:.0f} %",
            {True: "yes", False: "no", None: "–"}[v.agrees(d.rules)],
        )
        for v in verdicts
    ]
    r = d.rules
    rules = (
        f"Rules: D1 cosine of the mean gradient with the reference at least {r.cosine:g}; D2 variance at most {r.variance:g} "
        f"at one draw, growing with the strength by at most the power {r.exponent:g}; D3 losses change {r.least:g} to "
        f"{r.most:g} times as much as without hardware, in every direction, and less than {r.dead:.0%} of the weights are "
        f"dead; training helped where it recovered more than {r.recovered:.0%}."
    )
    head = ("cause", "strength", "mode", "compensable", "fails", "by expected loss", "recovered", "agree")
    parts = [Part("Verdicts", head, rows, rules, tuple(b for pair in zip(phase, recovered) for b in pair))]
    parts.append(
        Part(
            "Diagnostics of the whole network",
            ("cause", "strength", "stage", "mode", "cos clean", "cos expected", "bias", "variance", "grows", "slope",
             "loss ratio", "still", "dead"),
            [
                (
                    p.setting.cause, f"{p.setting.strength:g}x", f"{p.setting.stage:.0%}", p.mode,
                    _with(p.whole.cosine, p.whole.cosine_sem), _with(p.whole.expected, p.whole.expected_sem),
                    number(p.whole.bias), number(p.whole.variance), number(p.exponent), _with(p.slope, p.slope_sem),
                    number(p.ratio[-1]), f"{p.still[-1]:.0%}", f"{p.whole.dead:.0%}",
                )
                for p in d.points
            ],
            "Expected: against the gradient of the expected perturbed loss (Monte Carlo, ± its standard error). Slope: how "
            "fast that loss really rises along the mode's gradient, by central differences; 1 is the steepest way, 0 or less "
            "no descent.",
            printed=False,
        )
    )  # fmt: skip
    parts.append(
        Part(
            "Layer by layer",
            ("cause", "strength", "stage", "mode", "layer", "cos clean", "cos expected", "variance", "dead"),
            [
                (
                    p.setting.cause, f"{p.setting.strength:g}x", f"{p.setting.stage:.0%}", p.mode, x.layer,
                    _with(x.cosine, x.cosine_sem), _with(x.expected, x.expected_sem), number(x.variance), f"{x.dead:.0%}",
                )
                for p in d.points
                for x in p.directions[1:]
            ],
            printed=False,
        )
    )  # fmt: skip
    return Page(title, headline, parts)


def _told(d: Diagnosis, mode: str) -> str:
    """How many causes pass at all strengths."""
    by_cause: dict[str, list[bool]] = {}
    for v in d.verdicts():
        if v.mode == mode:
            by_cause.setdefault(v.cause, []).append(v.compensable)
    fine = [c for c, ok in by_cause.items() if all(ok)]
    return f"{len(fine)} of {len(by_cause)} causes at all strengths" if by_cause else "nothing (not measured)"


def _failing(d: Diagnosis, cause: str, strength: float, mode: str) -> tuple[float | None, str]:
    """How many diagnostics fail at any stage, and their names."""
    points = [p for p in d.points if (p.setting.cause, p.setting.strength, p.mode) == (cause, strength, mode)]
    if not points:
        return None, "–"
    names = [n for n in ("D1", "D2", "D3") if not all(p.passes(d.rules)[n] for p in points)]
    return float(len(names)), " ".join(names) or "ok"


def _with(value: float, sem: float) -> str:
    return number(value) if math.isnan(sem) else f"{number(value)} ± {sem:.1g}"
