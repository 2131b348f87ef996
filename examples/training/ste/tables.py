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
README = HERE / "README.md"
Rows = dict[str, dict[str, Any]]  # what study.py keeps of an arm, by seed


def read(name: str) -> dict[str, Any] | None:
    file = HERE / "results" / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else None


def grid(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def mean(row: dict[str, Any], how: str, time: int) -> float:
    """Of the chips of one training."""
    return sum(chip[time] for chip in row[how]) / len(row[how])


def paired(arm: Rows, other: Rows, how: str, time: int) -> tuple[float, float]:
    """Mean difference over the trainings that both have, and half of its 95 % interval (Student's t)."""
    shared = [s for s in arm if s in other]
    s = spread([[mean(arm[k], how, time) - mean(other[k], how, time)] for k in shared])
    return s["mean"][0], t95(len(shared) - 1) * s["sem"][0] if len(shared) > 1 else math.nan


def average(arm: Rows, how: str, time: int) -> str:
    return f"{sum(mean(r, how, time) for r in arm.values()) / len(arm):.2f}"


def compared(result: dict[str, Any], to: str, how: tuple[str, ...] = ("as trained", "searched")) -> str:
    """All arms at all times, in both ways of deployment, and the paired difference to one of them at the last time."""
    times, arms = range(len(result["times"])), result["arms"]
    head = ["training", *(f"{h}, {t}" for h in how for t in result["times"])]
    head += [f"{h}, {result['times'][-1]}: difference to *{to}*" for h in how] + ["trainings", "s"]
    rows = []
    for name, arm in arms.items():
        gaps = [paired(arm, arms[to], h, times[-1]) for h in how]
        seconds = sum(r["seconds"] for r in arm.values()) / len(arm)
        cells = [average(arm, h, t) for h in how for t in times]
        cells += ["" if name == to else f"{m:+.2f} ± {half:.2f}" for m, half in gaps]
        rows.append([name, *cells, str(len(arm)), f"{seconds:.0f}"])
    return grid(head, rows)


def directions(result: dict[str, Any]) -> str:
    """Cosines of the mean gradient of the whole network."""
    whole: dict[tuple[str, ...], dict[str, Any]] = {}
    for r in result["rows"]:
        if r["layer"] == "all":
            whole.setdefault((r["hardware"], r["at"], r["ranges"]), {})[r["mode"]] = r
    head = ["hardware", "weights", "ranges"]
    head += [f"{m}: cosine with {what}" for m in ("through", "ste") for what in ("clean", "expected")]
    head += ["variance of through", "of ste"]
    rows = []
    for key, modes in whole.items():
        cells = [f"{modes[m][what]:.3f}" for m in ("through", "ste") for what in ("cosine", "expected")]
        rows.append([*key, *cells, *(f"{modes[m]['variance']:.2f}" for m in ("through", "ste"))])
    return grid(head, rows)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {}


def filled(text: str) -> str:
    """The page with every table behind its marker brought up to date."""
    for name, make in TABLES.items():
        result = read(name)
        table = make(result) if result is not None else "Not run yet."
        text = re.sub(f"(<!-- {name} -->\n).*?(<!-- end -->)", lambda m, t=table: f"{m[1]}\n{t}\n\n{m[2]}", text, flags=re.S)
    return text


if __name__ == "__main__":
    README.write_text(filled(README.read_text()))
