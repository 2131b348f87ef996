"""Take the results of `mho run … --seeds N` into the READMEs of the examples, and draw their figures.

Run: python examples/results.py [FOLDER...]

Each FOLDER of a run becomes examples/TASK/results/HARDWARE.json, which is what the tables and figures are made from;
without one, only they are made again. Nothing between the marks of a README is typed by hand.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mho_lab.errorbars import t95
from mho_lab.report.figures import log_positions
from mho_lab.studies.mvmplots import COLOURS, MARKERS, figure, write

import mho
from mho.config import format_seconds
from mho.ground import spread

HERE = Path(__file__).parent
KEPT = (
    "task", "hardware", "reference", "references", "reference_extra", "chance", "times", "chips", "seeds", "variants",
    "difference", "parameters", "versions",
)  # fmt: skip
NAMED = ("pcm.standard", "harsh")  # hardware, in the order of the tables
NOTHING = "*Not measured yet.*"
DRAWN = (COLOURS[1], COLOURS[0])  # direct and hwa, as in reports
MARK = re.compile(r"(<!-- (\w+): made by examples/results.py -->\n).*?(<!-- end -->)", re.S)
Result = dict[str, Any]

# What the networks are: task -> (folder, words), in the order of the table of ranks.
NETWORKS = {
    "fashion": ("fashion", "residual CNN, Fashion-MNIST"),
    "stdlib": ("stdlib", "LSTM, Python's library"),
    "vowels": ("vowels", "transformer, Japanese Vowels"),
    "vowels-lstm": ("vowels", "LSTM, Japanese Vowels"),
    "vowels-cnn": ("vowels", "residual CNN, Japanese Vowels"),
}


def main(folders: Sequence[str]) -> None:
    for folder in folders:
        take(Path(folder))
    for readme in [*sorted(HERE.glob("*/README.md")), HERE / "README.md"]:
        if MARK.search(readme.read_text()):
            readme.write_text(filled(readme))
    draw_all()


def take(folder: Path) -> None:
    """Keep what tables and figures need of the summary of a run."""
    summary = json.loads((folder / "summary.json").read_text())
    if "seeds" not in summary:
        raise mho.MhoError(f"{folder} holds a single training; run it with --seeds")
    kept = {k: summary[k] for k in KEPT}
    file = result_file(summary["task"], hardware_name(summary))
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(kept, indent=1) + "\n")


def hardware_name(r: Result) -> str:
    return "harsh" if "three times" in r["hardware"] else "pcm.standard"


def result_file(task: str, hardware: str) -> Path:
    return HERE / NETWORKS[task][0] / "results" / f"{task}-{hardware}.json"


def result(task: str, hardware: str) -> Result | None:
    file = result_file(task, hardware)
    return json.loads(file.read_text()) if file.exists() else None


def filled(readme: Path) -> str:
    """The text of a README with its tables as the results have them."""
    makers: dict[str, Callable[[Path], str]] = {"results": results_of, "ranks": ranks, "gaps": gaps}
    return MARK.sub(lambda m: f"{m[1]}\n{makers[m[2]](readme.parent)}\n\n{m[3]}", readme.read_text())


# -- tables -----------------------------------------------------------------------------------------------------------
def results_of(folder: Path) -> str:
    """All results of a folder, hardware by hardware."""
    tasks = [t for t, (name, _) in NETWORKS.items() if name == folder.name]
    found = [r for hw in NAMED for t in tasks if (r := result(t, hw))]
    return "\n\n".join(table(r) for r in found) or NOTHING


def table(r: Result) -> str:
    """Scores over time as a Markdown table."""
    times = [format_seconds(t) for t in r["times"]]
    rows = [["", *times], ["---"] * (1 + len(times))]
    for v in r["variants"]:
        rows.append([f"{v['name']}, accuracy %", *(with_error(m, s) for m, s in zip(v["mean"], v["sem"]))])
        normalised = zip(v["normalised"], v["normalised_sem"])
        rows.append([f"{v['name']}, normalised %", *(with_error(m, s, 1) for m, s in normalised)])
        for name, e in v["extra"].items():
            rows.append([f"{v['name']}, {name}", *(f"{m:.3f} ± {s:.3f}" for m, s in zip(e["mean"], e["sem"]))])
    gain = r["difference"]
    rows.append([f"{gain['of']}, 95 % interval", *(with_error(m, h) for m, h in zip(gain["mean"], gain["half"]))])
    picture = f"![Accuracy over time](results/{result_file(r['task'], hardware_name(r)).stem}.svg)"
    return f"{heading(r)}\n\n{markdown(rows)}\n\n{picture}"


def heading(r: Result) -> str:
    reference = spread([[v] for v in r["references"]])
    extra = "".join(f", {name} {v:.3f}" for name, v in r["reference_extra"].items())
    words = NETWORKS[r["task"]][1].split(",")[0]
    return (
        f"**{words[0].upper()}{words[1:]} on {r['hardware']}**: {r['parameters']:,} parameters, digital "
        f"{with_error(reference['mean'][0], reference['sem'][0])} %{extra}; {len(r['seeds'])} trainings with "
        f"{r['chips']} chips each, mean ± SEM over trainings."
    )


def ranks(_: Path) -> str:
    """What every network loses, on each hardware, at the first and the last time."""
    rows = [["network", "hardware", "digital %", "direct, first", "direct, last", "hwa, first", "hwa, last"]]
    rows.append(["---"] * len(rows[0]))
    for hw in NAMED:
        for task, (_, words) in NETWORKS.items():
            if r := result(task, hw):
                lost = [with_error(*loss(v, k), 1) for v in r["variants"] for k in (0, -1)]
                rows.append([words, hw, f"{100 * r['reference']:.1f}", *lost])
    return f"![Losses of all networks](ranks.svg)\n\n{markdown(rows)}" if len(rows) > 2 else NOTHING


def gaps(_: Path) -> str:
    """CNN minus RNN: differences of the losses at the last time with 95 % intervals (Welch)."""
    pairs = (("fashion", "stdlib"), ("vowels-cnn", "vowels-lstm"), ("vowels", "vowels-lstm"))
    rows = [["loss of … minus loss of …", "hardware", "direct", "hwa"], ["---"] * 4]
    for hw in NAMED:
        for one, other in pairs:
            if (a := result(one, hw)) and (b := result(other, hw)):
                cells = [with_error(*welch(x, y), 1) for x, y in zip(a["variants"], b["variants"])]
                rows.append([f"{NETWORKS[one][1]} − {NETWORKS[other][1]}", hw, *cells])
    return markdown(rows) if len(rows) > 2 else NOTHING


def loss(variant: Result, k: int) -> tuple[float, float]:
    """1 - normalised accuracy, and its standard error."""
    return 1 - variant["normalised"][k], variant["normalised_sem"][k]


def welch(a: Result, b: Result) -> tuple[float, float]:
    """Difference of two losses at the last time and half of its 95 % interval; variances may differ."""
    (x, sx), (y, sy) = loss(a, -1), loss(b, -1)
    n, m = len(a["by_seed"]), len(b["by_seed"])
    variance = sx**2 + sy**2
    if not variance:
        return x - y, 0.0
    freedom = variance**2 / (sx**4 / (n - 1) + sy**4 / (m - 1))
    return x - y, t95(int(freedom)) * variance**0.5


def with_error(mean: float, error: float, places: int = 2) -> str:
    """In percent."""
    return f"{100 * mean:z.{places}f} ± {100 * error:.{places}f}".replace("-", "−")


def markdown(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


# -- figures ----------------------------------------------------------------------------------------------------------
def draw_all() -> None:
    for task in NETWORKS:
        for hw in NAMED:
            if r := result(task, hw):
                draw_curves(r, result_file(task, hw).with_suffix(".svg"))
    if any(result(task, hw) for task in NETWORKS for hw in NAMED):
        draw_ranks(HERE / "ranks.svg")


def draw_curves(r: Result, file: Path) -> None:
    """Accuracy over drift time; faint lines are single trainings."""
    x = log_positions(r["times"])
    with figure(6.2, 3.2) as f:
        ax = f.subplots()
        for v, colour, marker in zip(r["variants"], DRAWN, MARKERS):
            for row in v["by_seed"]:
                ax.plot(x, [100 * s for s in row], color=colour, alpha=0.3, linewidth=0.8)
            mean, sem = ([100 * s for s in v[k]] for k in ("mean", "sem"))
            ax.errorbar(x, mean, yerr=sem, color=colour, marker=marker, capsize=4, label=v["name"])
        ax.axhline(100 * r["reference"], color="#1b1f26", linestyle=(0, (5, 3)), linewidth=1, label="digital")
        ax.set_xticks(x, [format_seconds(t) for t in r["times"]])
        ax.set(xlabel="time after programming (logarithmic)", ylabel="accuracy (%)")
        ax.legend()
        write(f, file)


def draw_ranks(file: Path) -> None:
    """What is lost at the last time: one row for each network, one panel for each hardware."""
    hardware = [hw for hw in NAMED if any(result(t, hw) for t in NETWORKS)]
    with figure(7.5, 3.0) as f:
        panels = f.subplots(1, len(hardware), sharey=True, squeeze=False)[0]
        for ax, hw in zip(panels, hardware):
            _losses(ax, hw)
            ax.set_title(hw)
        panels[0].set_yticks([-i for i in range(len(NETWORKS))], [words for _, words in NETWORKS.values()])
        f.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
        write(f, file)


def _losses(ax: Any, hw: str) -> None:
    for k, (name, colour) in enumerate(zip(("direct", "hwa"), DRAWN)):
        found = [(-i + 0.12 - 0.24 * k, loss(r["variants"][k], -1)) for i, t in enumerate(NETWORKS) if (r := result(t, hw))]
        y, lost = zip(*found)
        mean, sem = ([100 * v[j] for v in lost] for j in (0, 1))
        ax.errorbar(mean, y, xerr=sem, color=colour, marker=MARKERS[k], linestyle="", capsize=3, label=name)
    ax.axvline(0, color="#5b6472", linewidth=0.8)
    ax.set_xlabel("lost after 1 year (%)")


if __name__ == "__main__":
    main(sys.argv[1:])
