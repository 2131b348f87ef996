"""Write the tables of README.md from the files in results/.   python examples/training/tables.py"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from mho_lab.errorbars import t95

from mho.config import format_seconds
from mho.ground import spread

HERE = Path(__file__).parent
README = HERE / "README.md"


def read(name: str) -> dict[str, Any] | None:
    file = HERE / "results" / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else None


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half width of the 95 % interval (Student's t)."""
    s = spread([[v] for v in values])
    return s["mean"][0], t95(len(values) - 1) * s["sem"][0]


def grid(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def errors(result: dict[str, Any]) -> str:
    """Test error of every arm at every time, and what each arm loses against the last one at the last time."""
    scores, times = result["scores"], [format_seconds(t) for t in result["times"]]
    best = list(scores)[-1]
    seeds = min(len(v) for v in scores.values())
    rows = []
    for arm, runs in scores.items():
        wrong = [[100 * (1 - v) for v in chip] for seed in runs[:seeds] for chip in seed]
        s = spread(wrong)
        cells = [f"{m:.2f} ± {e:.2f}" for m, e in zip(s["mean"], s["sem"])]
        mean, half = interval([gap(runs[k], scores[best][k]) for k in range(seeds)]) if seeds > 1 else (math.nan, math.nan)
        rows.append([arm, *cells, "" if arm == best or seeds < 2 else f"{mean:+.2f} ± {half:.2f}"])
    about = (
        f"{result['about']}: test error in %, mean ± SEM over {seeds} trainings x {result['chips']} chips; last column: paired "
        f"difference to *{best}* at {times[-1]}, 95 % interval over the trainings."
    )
    return f"{about}\n\n{grid(['training', *times, 'difference'], rows)}"


def gap(arm: list[list[float]], best: list[list[float]]) -> float:
    """Mean difference of the error over the chips at the last time, in points."""
    return sum(100 * (b[-1] - a[-1]) for a, b in zip(arm, best)) / len(arm)


def midpoints(result: dict[str, Any]) -> str:
    """Accuracy without noise, midpoint, and its ratio to that of the plain network, paired by seed."""
    arms = result["arms"]
    seeds = min(len(v) for v in arms.values())
    plain = [r["mu"] for r in next(iter(arms.values()))]
    rows = []
    for arm, runs in arms.items():
        accuracy = sum(r["clean"] for r in runs[:seeds]) / seeds
        mu = math.exp(sum(math.log(r["mu"]) for r in runs[:seeds]) / seeds)
        mean, half = interval([math.log(r["mu"] / p) for r, p in zip(runs[:seeds], plain)]) if seeds > 1 else (0.0, math.nan)
        ratio = f"{math.exp(mean):.2f} ({math.exp(mean - half):.2f} to {math.exp(mean + half):.2f})"
        rows.append([arm, f"{100 * accuracy:.1f}", f"{mu:.2f}", ratio if mean else "1"])
    about = f"{seeds} trainings of {result['epochs']} epochs; ratios are paired by seed, with 95 % intervals over the trainings."
    return f"{about}\n\n{grid(['training', 'accuracy without noise, %', 'midpoint', 'of FP'], rows)}"


TABLES = {
    "ablation-standard": errors,
    "ablation-harsh": errors,
    "ablation-stdlib": errors,
    "ablation-stdlib-standard": errors,
    "ablation-vowels": errors,
    "ablation-vowels-standard": errors,
    "noise-models": errors,
    "midpoints": midpoints,
}


def filled(text: str) -> str:
    """The page with every table behind its marker brought up to date."""
    for name, make in TABLES.items():
        result = read(name)
        table = make(result) if result is not None else "Not run yet."
        text = re.sub(f"(<!-- {name} -->\n).*?(<!-- end -->)", lambda m, t=table: f"{m[1]}\n{t}\n\n{m[2]}", text, flags=re.S)
    return text


if __name__ == "__main__":
    README.write_text(filled(README.read_text()))
