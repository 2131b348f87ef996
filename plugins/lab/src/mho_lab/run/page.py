"""The page of a run of the main job."""

from pathlib import Path
from typing import Any

from mho.config import Hardware, format_seconds
from mho.ground import NONE, MhoError
from mho_lab.report import figures, words
from mho_lab.report.blocks import Block, drawn, heatmap, histogram, lines, render
from mho_lab.run import drawings, findings
from mho_lab.run.results import Product, RunResults, read_results

TRAINED = 5  # seeds whose trainings are drawn


def run_page(folder: Path) -> str:
    """From summary.json, results.jsonl and hardware.yaml of a folder that `mho run` has written."""
    run = read_results(folder)
    return render("run.html.j2", __package__, run=run, **_parts(run))


def _parts(run: RunResults) -> dict[str, Any]:
    """What the template shows besides the run itself. Figures are markup that escaped its texts already."""
    last = run.time_names[-1] if run.times else ""
    grids = [g for x in run.layers for g in x.grids]
    spread = f"Scores of single chips after {last} for {len(run.curves)} variants. The numbers are in the table below."
    bars = drawings.effect_bars(run.product, _product_label(run.product)) if run.product and run.product.causes else ""
    return {
        "findings": findings,
        "on": _in_words(run.hardware_text),
        "classes": drawn(_classes(run)),
        "training": drawn(_training(run.summary.get("training") or {}), "training"),
        "effect_bars": figures.markup(bars),
        "drift_curve": figures.markup(drawings.drift_curve(run, _curve_label(run))),
        "chip_spread": figures.markup(drawings.chip_spread(run, spread)),
        "tile_cards": figures.tile_cards(grids),
        "inside": drawn(inspection_blocks(run.inside)) if run.inside else [],
        "last": last,
        "parameters": max(sum(x.parameters for x in run.layers), 1),
    }


def _in_words(text: str) -> list[tuple[str, str]]:
    """Tile by tile: size, devices, bits, effects; nothing where a plugin of that hardware is not there any more."""
    try:
        tiles = Hardware.from_yaml(text, "hardware.yaml").tiles
    except MhoError:
        return []
    said = []
    for name, t in tiles.items():
        devices = "one active device" if t.device.pair == "active" else "a pair of devices"
        bits = [f"{b} bits" if (b := getattr(c, "bits", None)) else "exact" for c in (t.dac, t.adc)]
        effects = ", ".join(e.kind for e in t.nonidealities) or "none"
        repairs = ", ".join(c.kind for c in (*t.corrections, t.compensation) if c is not None) or "none"
        about = (
            f"tiles of {t.rows} × {t.columns} weights, {devices} each, {t.device.g_min:g} to {t.device.g_max:g} µS; inputs: "
            f"{bits[0]}; outputs: {bits[1]}; effects: {effects}; repaired digitally: {repairs}"
        )
        said.append((name, about))
    return said


def _classes(run: RunResults) -> list[Block]:
    """Figures that a task names "class ..." (`mho.Score`), class by class: digital, and every variant over time."""
    known = {c.name: {e.name: e for e in c.extra if e.name.startswith("class ")} for c in run.curves}
    names = list(dict.fromkeys(n for found in known.values() for n in found))
    if not names:
        return []
    columns = ["digital", *(f"{v}, {t}" for v in known for t in run.time_names)]
    rows = []
    for n in names:
        figures_of = [found.get(n) for found in known.values()]
        rows.append([next((e.digital for e in figures_of if e), None)])
        rows[-1] += [m for e in figures_of for m in (e.mean if e else [None] * len(run.times))]
    low = min((v for row in rows for v in row if v is not None), default=0.0)
    note = f"Means over chips; pale: the lowest, {words.percent(low)}; {NONE}: not measured."
    return [heatmap("Class by class", names, columns, rows, percent=True, low=low, note=note)]


def _training(curves: dict[str, list[dict[str, Any]]]) -> list[Block]:
    """Loss and accuracy over the epochs of both trainings, a line for each seed."""
    blocks = []
    for what, options in (("loss", {}), ("accuracy", {"percent": True})):
        series = {
            f"{name}, seed {c['seed']}" if len(made) > 1 else name: [(float(e), v) for e, v in enumerate(c[what], 1)]
            for name, made in curves.items()
            for c in made[:TRAINED]
            if None not in c[what]
        }
        more = (
            f" The first {TRAINED} seeds; summary.json has all." if any(len(made) > TRAINED for made in curves.values()) else ""
        )
        note = f"Means over the batches of an epoch, while it trains; hwa: with the hardware in the loop.{more}"
        if series:
            blocks.append(lines(f"{what.capitalize()} in training", series, x="epoch", y=what, note=note, **options))
    return blocks


def inspection_blocks(inside: dict[str, Any]) -> list[Block]:
    """What `Inspection.to_data` holds: errors and clipping by layer, and the conductances."""
    times = [format_seconds(t) for t in inside["times"]]
    columns = [f"{what}, {t}" for what in ("MVM error", "ADC clips") for t in times] + ["DAC clips", "weights clipped"]
    layers = inside["layers"]
    values = [[*x["error"], *x["adc"], x["dac"], x["weights"]] for x in layers]
    about = (
        "Of one chip, with the inputs that really arrive at a layer. MVM error: mean |y - exact| / mean |exact| "
        "(Rasch et al. 2023, Eq. 20). Clipped: inputs beyond the input range, outputs of single tiles at the output "
        "bound, weights beyond the device range."
    )
    names = [x["layer"] or "(root)" for x in layers]
    counts = {"target": "target", "programmed": "programmed", "aged": f"after {times[-1]}"}
    return [
        heatmap("Layer by layer", names, columns, values, corner="layer", percent=True, note=about),
        histogram(
            "Conductances",
            inside["edges"],
            {shown: inside["conductances"][name] for name, shown in counts.items()},
            x="conductance (µS)",
            note="All devices of one chip; of a differential pair the magnitude of the difference.",
        ),
    ]


def _curve_label(run: RunResults) -> str:
    """The drift curve in one sentence for those who do not see it."""
    runs = [
        f"{c.name} from {words.percent(c.mean[0])} after {run.time_names[0]} to {words.percent(c.mean[-1])}"
        for c in run.curves
        if c.mean
    ]
    end = f" after {run.time_names[-1]}" if run.times else ""
    return f"Mean score over time: {'; '.join(runs)}{end}. The numbers are in the table of scores."


def _product_label(product: Product) -> str:
    """The bars of causes in one sentence."""
    total = product.causes[0]
    errors = [f"{words.percent(v)} at {t}" for v, t in zip(total.alone, product.times)]
    largest = max(product.causes[1:] or (total,), key=lambda c: c.alone[-1] or 0.0)
    return (
        f"MVM error of each effect alone and of all together, {' and '.join(errors)}; "
        f"the largest alone is {largest.name}. The numbers are in the table of causes."
    )
