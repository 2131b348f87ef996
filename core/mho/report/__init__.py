"""The report of a run: one HTML file that needs nothing else, no script and no network."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import Any

from mho.errors import MhoError
from mho.report import figures, words
from mho.report.study import Product, Study, read_study


def write_report(folder: Path) -> Path:
    """Write report.html from summary.json, results.jsonl and hardware.yaml of `folder`; its path."""
    study = read_study(Path(folder))
    page = render(study)
    file = Path(folder) / "report.html"
    part = file.with_suffix(".html.part")
    part.write_text(page, encoding="utf-8")
    os.replace(part, file)
    return file


def render(study: Study) -> str:
    """The page of a study."""
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError:
        raise MhoError("the report needs matplotlib and jinja2: pip install 'mho[report]'") from None
    template = resources.files("mho.report").joinpath("templates/report.html.j2").read_text(encoding="utf-8")
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page.globals.update(figures=figures, words=words)
    page.filters.update(percent=words.percent, number=words.plain_number, decimals=words.decimals)
    return page.from_string(template).render(study=study, **_parts(study)) + "\n"


def _parts(study: Study) -> dict[str, Any]:
    """What the template shows besides the study itself. Figures are markup that escaped its texts already."""
    from markupsafe import Markup

    last = study.time_names[-1] if study.times else ""
    layers = [x for x in study.layers if x.occupied]
    spread = (
        f"Scores of single chips after {last} for {len(study.curves)} variants. The numbers are in the table below."
    )
    tiles = f"Tiles of {len(layers)} layers and how much of each is used. The numbers are in the table of layers."
    bars = (
        figures.effect_bars(study.product, _product_label(study.product))
        if study.product and study.product.causes
        else ""
    )
    return {
        "effect_bars": Markup(bars),  # noqa: S704
        "drift_curve": Markup(figures.drift_curve(study, _curve_label(study))),  # noqa: S704
        "chip_spread": Markup(figures.chip_spread(study, spread)),  # noqa: S704
        "tile_map": Markup(figures.tile_map(layers, tiles)) if layers else None,  # noqa: S704
        "mapped": layers,
        "last": last,
        "parameters": max(sum(x.parameters for x in study.layers), 1),
    }


def _curve_label(study: Study) -> str:
    """The drift curve in one sentence for those who do not see it."""
    runs = [
        f"{c.name} from {words.percent(c.mean[0])} after {study.time_names[0]} to {words.percent(c.mean[-1])}"
        for c in study.curves
        if c.mean
    ]
    end = f" after {study.time_names[-1]}" if study.times else ""
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
