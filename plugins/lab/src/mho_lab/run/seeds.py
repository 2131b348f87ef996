"""Several trainings of one job: each with a seed and chips of its own, in a folder of its own; then their results together.

seed-0/, seed-1/, ...     a `Job` each, so an interrupted run goes on in the middle of any of them
summary.json              means over the trainings and their standard errors
report.html               the same to look at

The unit of the statistics is the training: the mean over its chips is one number, and the standard error is that of
the mean of these numbers, so it covers initial weights, order of the data and chips. Chips of one training are no
independent trials of the whole. The standard error over chips alone stands beside it.
"""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mho.ground import spread, write_atomically
from mho.use import normalised_accuracy
from mho_lab.errorbars import t95
from mho_lab.run.job import Job, claim_folder


@dataclass
class Trainings:
    """`mho run --seeds N`: the same job with several seeds. `run()` does it all; calling it again resumes, and more
    seeds or chips go on from what is there."""

    job: Job  # what all of them have in common
    folder: Path
    seeds: Sequence[int]

    def run(self) -> dict[str, Any]:
        """Do whatever is not done yet and return the summary."""
        self.todo()
        summary = {**together([self._done(seed) or self._one(seed).run() for seed in self.seeds]), "command": self.job.command}
        write_atomically(self.folder / "summary.json", json.dumps(summary, indent=1))
        return summary

    def todo(self) -> list[int]:
        """The seeds whose training is not finished; the folder belongs to this job from now on."""
        claim_folder(self.folder, self.job.task, self.job.hardware, "several")
        return [seed for seed in self.seeds if not self._done(seed)]

    def folder_of(self, seed: int) -> Path:
        return self.folder / f"seed-{seed}"

    def _one(self, seed: int) -> Job:
        return replace(self.job, folder=self.folder_of(seed), seed=seed, label=f"seed {seed}: ", started=time.time())

    def _done(self, seed: int) -> dict[str, Any] | None:
        """The summary of a training that has been finished before, with as many chips."""
        claim_folder(self.folder_of(seed), self.job.task, self.job.hardware, seed)
        file = self.folder_of(seed) / "summary.json"
        summary: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        return summary if summary.get("chips") == self.job.chips else None


def together(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One summary of the summaries of several trainings. What is the same for all (layers, hardware) is the first's."""
    references = [p["reference"] for p in parts]
    names = [v["name"] for v in parts[0]["variants"]]
    runs = {name: [v for p in parts for v in p["variants"] if v["name"] == name] for name in names}
    return {
        **parts[0],
        "seeds": [p["seed"] for p in parts],
        "reference": sum(references) / len(references),
        "references": references,
        "reference_extra": {
            name: sum(p["reference_extra"][name] for p in parts) / len(parts) for name in parts[0]["reference_extra"]
        },
        "variants": [_variant(runs[name], parts) for name in names],
        "training": {name: [c for p in parts for c in p["training"].get(name, ())] for name in parts[0]["training"]},
        **({"difference": _difference(runs["hwa"], runs["direct"])} if "hwa" in runs else {}),
        "seconds": sum(p["seconds"] for p in parts),
    }


def _variant(runs: list[dict[str, Any]], parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean over trainings of the means over chips. Normalised accuracy is taken from each training's own reference."""
    by_seed = [r["mean"] for r in runs]
    normalised = [
        [normalised_accuracy(m, p["reference"], p["chance"]) for m in row] for row, p in zip(by_seed, parts, strict=True)
    ]
    within = zip(*(r["sem"] for r in runs))
    shares = spread(normalised)
    return {
        "name": runs[0]["name"],
        "about": "; or ".join(dict.fromkeys(r["about"] for r in runs)),
        **spread(by_seed),
        "sem_chips": [math.hypot(*sems) / len(runs) for sems in within],
        "normalised": shares["mean"],
        "normalised_sem": shares["sem"],
        "by_seed": by_seed,
        "scores": [row for r in runs for row in r["scores"]],
        "extra": {name: spread([r["extra"][name]["mean"] for r in runs]) for name in runs[0]["extra"]},
    }


def _difference(better: list[dict[str, Any]], worse: list[dict[str, Any]]) -> dict[str, Any]:
    """`better` minus `worse` of the same training, at each time: mean and half of the 95 % interval (Student's t)."""
    pairs = [[a - b for a, b in zip(x["mean"], y["mean"])] for x, y in zip(better, worse, strict=True)]
    gain = spread(pairs)
    of = f"{better[0]['name']} - {worse[0]['name']}"
    return {"of": of, "mean": gain["mean"], "half": [t95(len(pairs) - 1) * s for s in gain["sem"]]}
