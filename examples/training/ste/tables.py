"""Write the tables of README.md from the files in results/.   python examples/training/ste/tables.py"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mho_lab.errorbars import t95

from mho.ground import spread

HERE = Path(__file__).parent
README, RESULTS = HERE / "README.md", HERE / "results"
Rows = dict[str, dict[str, Any]]  # what study.py keeps of an arm, by seed


def read(name: str) -> dict[str, Any] | None:
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else None


def grid(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def mean(row: dict[str, Any], how: str, time: int) -> float:
    """Of the chips of one training."""
    return sum(chip[time] for chip in row[how]) / len(row[how])


def paired(arm: Rows, other: Rows, how: str, others: str, time: int) -> tuple[float, float]:
    """Mean difference over the trainings that both have, and half of its 95 % interval (Student's t)."""
    shared = [s for s in arm if s in other]
    s = spread([[mean(arm[k], how, time) - mean(other[k], others, time)] for k in shared])
    return s["mean"][0], t95(len(shared) - 1) * s["sem"][0] if len(shared) > 1 else math.nan


def average(arm: Rows, how: str, time: int) -> str:
    return f"{sum(mean(r, how, time) for r in arm.values()) / len(arm):.2f}"


WAYS = ("as trained", "searched")


def best(arm: Rows, time: int) -> str:
    """The way of deployment with the smaller mean."""
    return min(WAYS, key=lambda how: sum(mean(r, how, time) for r in arm.values()) / len(arm))


def compared(result: dict[str, Any], to: str) -> str:
    """All arms at all times, in both ways of deployment, and paired differences to one of them at the first time."""
    times, arms = range(len(result["times"])), result["arms"]
    head = ["training", "n", *(f"{how}, {t}" for t in result["times"] for how in WAYS)]
    head += [*(f"{how}: difference to *{to}*" for how in WAYS), "better way of each: difference", "processor s"]
    rows = []
    for name, arm in arms.items():
        seconds = sum(r["seconds"] for r in arm.values()) / len(arm)
        cells = [average(arm, how, t) for t in times for how in WAYS]
        gaps = [paired(arm, arms[to], how, how, 0) for how in WAYS]
        gaps.append(paired(arm, arms[to], best(arm, 0), best(arms[to], 0), 0))
        said = ["" if name == to else f"{m:+.2f}" + (f" ± {half:.2f}" if len(arm) > 1 else "") for m, half in gaps]
        rows.append([name, str(len(arm)), *cells, *said, f"{seconds:.0f}"])
    about = (
        f"Setting {result['about']}; {result['task']}, {result['chips']} chips a training; pairs of trainings, 95 % intervals."
    )
    return f"{about}\n\n{grid(head, rows)}"


def searched(*names: str) -> Callable[[], str]:
    """The searches on seed 0: every arm in both ways."""

    def table() -> str:
        found = {n: r for n in names if (r := read(n)) is not None}
        head = ["training", *(f"{n.replace('_dev', '').replace('_', ' ')}, {how}" for n in found for how in WAYS)]
        arms = list(dict.fromkeys(a for r in found.values() for a in r["arms"]))
        rows = [[r["arms"].get(a) for r in found.values()] for a in arms]
        return grid(head, [[a, *(average(s, w, 0) if s else "" for s in row for w in WAYS)] for a, row in zip(arms, rows)])

    return table


def beyond(result: dict[str, Any]) -> str:
    """The share of outputs beyond the bound of the ADC, layer by layer, behind every training."""
    rows = [(name, [r["beyond"] for r in arm.values() if "beyond" in r]) for name, arm in result["arms"].items()]
    layers = list(dict.fromkeys(n for _, found in rows for f in found for n in f))
    cells = [[name, *(f"{100 * sum(f[n] for f in found) / len(found):.1f} %" for n in layers)] for name, found in rows if found]
    return grid(["training", *(f"layer {n}" for n in layers)], cells)


def directions(result: dict[str, Any]) -> str:
    """Cosines of the mean gradients of the whole network."""
    whole: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for r in result["rows"]:
        if r["layer"] == "all":
            whole.setdefault((r["hardware"], r["at"]), []).append(r)
    modes = [r["mode"] for r in next(iter(whole.values()))]
    head = ["hardware", "weights", *(f"{m}: cosine with the clean / the expected gradient" for m in modes)]
    cell = "{cosine:.2f} ± {cosine_sem:.2f} / {expected:.2f} ± {expected_sem:.2f}"
    return grid(head, [[*key, *(cell.format(**r) for r in rows)] for key, rows in whole.items()])


def of(name: str, make: Callable[..., str], *args: str) -> Callable[[], str]:
    """A table of one file of results."""

    def table() -> str:
        result = read(name)
        return "Not run yet." if result is None else make(result, *args)

    return table


def parts() -> str:
    """Mean errors at the first time with one part of the chain changed, and the paired difference of `ste` to `through`."""
    names = {"A": "why"} | {f.stem[5:].replace("_", " "): f.stem for f in sorted(RESULTS.glob("part-*.json"))}
    modes = ("Gaussian", "through", "masked", "ste")
    rows = []
    for name, file in names.items():
        arms = (read(file) or {"arms": {}})["arms"]
        if all(arms.get(m) for m in modes):
            gap, half = paired(arms["ste"], arms["through"], WAYS[0], WAYS[0], 0)
            cells = [average(arms[m], WAYS[0], 0) for m in modes]
            rows.append([name, str(len(arms["ste"])), *cells, f"{gap:+.2f} ± {half:.2f}"])
    return grid(["hardware", "n", *modes, "*ste* less *through*"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "why": of("why", compared, "ste"),
    "parts": parts,
    "directions": of("directions", directions),
    "search-B": searched("digits_dev", "fashion_dev", "text_dev"),
    "search-C": searched("coarse_digits_dev", "coarse_fashion_dev", "coarse_text_dev"),
    "search-D": searched("search_digits_C", "search_fashion_D", "search_text_D"),
    "digits-C": of("compare_digits_C", compared, "Gaussian"),
    "fashion-D": of("compare_fashion_D", compared, "Gaussian"),
    "text-D": of("compare_text_D", compared, "Gaussian"),
    "beyond": of("compare_digits_C", beyond),
}


def filled(text: str) -> str:
    """The page with every table behind its marker brought up to date."""
    for name, make in TABLES.items():
        table = make()
        text = re.sub(f"(<!-- {name} -->\n).*?(<!-- end -->)", lambda m, t=table: f"{m[1]}\n{t}\n\n{m[2]}", text, flags=re.S)
    return text


if __name__ == "__main__":
    README.write_text(filled(README.read_text()))
