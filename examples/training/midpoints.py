"""Midpoint noise levels of plain, quantisation-aware and noisy training (R002-06, R002-09) on the digits.

python examples/training/midpoints.py [--seeds 3] [--epochs 30]

Every network is trained by the published schedule, stretched to --epochs, and scored under additive Gaussian noise on all
pre-activations; its midpoint is where it has lost half of what is above guessing. Results: results/midpoints.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from mho_lab.run.loop import seed_all
from mho_lab.run.task import Task, load_task
from mho_lab.studies.midpoint import fit_midpoint
from torch import nn
from tqdm import tqdm

import mho
from mho.ground import write_atomically

HERE = Path(__file__).parent
SIGMAS = [0.1 * 2 ** (k / 2) for k in range(17)]  # 0.1 ... 25.6
DRAWS = 2  # of the noise, for each test image

LEARNED, STATISTICS = {"bits": 4, "range": "learned"}, {"bits": 4, "range": "statistics"}
ARMS: dict[str, dict[str, Any]] = {
    "FP": {},
    "QAT 4 bit, learned": {"weights": LEARNED, "activations": LEARNED},
    "QAT 4 bit, statistics": {"weights": STATISTICS, "activations": STATISTICS},
    "QAT 4 bit, constant": {"weights": {"bits": 4, "range": 1.0}, "activations": {"bits": 4, "range": 2.0}},
    "QAT 2 bit, learned": {"weights": {"bits": 2}, "activations": {"bits": 2}},
    "noisy, sigma 0.5": {"sigma": 0.5},
    "noisy, sigma 1": {"sigma": 1.0},
    "noisy, sigma 2": {"sigma": 2.0},
    "noisy, sigma 2, VANT theta 1": {"sigma": 2.0, "theta": 1.0},
    "noisy, sigma 2, QAT 4 bit": {"sigma": 2.0, "weights": LEARNED, "activations": LEARNED},
}


def trained(task: Task, seed: int, schedule: mho.Schedule, sigma: float = 0.0, theta: float = 0.0, **bits: Any) -> nn.Module:
    """One network, trained by the schedule."""
    seed_all(seed)
    net = task.model()
    if bits:
        net = mho.quantise(net, **bits)
        mho.calibrate(net, task.calibration_batches(), forward=task.predict)
    noise = mho.PreactivationNoise(sigma, theta=theta).attach(net)
    optimizer = torch.optim.Adam(net.parameters(), lr=schedule.lr)
    net.train()
    for epoch in range(schedule.epochs):
        batches = list(task.train_batches(seed * 1000 + epoch))
        for k, batch in enumerate(batches):
            mho.follow(schedule, epoch + k / len(batches), optimizer, net, noise)
            optimizer.zero_grad()
            task.loss(task.predict(net, batch), batch).backward()
            optimizer.step()
    noise.detach()
    return net.eval()


@torch.no_grad()
def accuracies(task: Task, net: nn.Module) -> list[float]:
    """The score at every noise level, averaged over draws."""

    def score(sigma: float, draw: int) -> float:
        with mho.PreactivationNoise(sigma, seed=draw).on(net):
            return task.score(net)

    return [sum(score(s, d) for d in range(DRAWS)) / DRAWS for s in SIGMAS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    args = parser.parse_args()
    torch.set_num_threads(1)
    task, schedule = load_task("digits"), mho.Schedule().stretched(args.epochs)
    file = HERE / "results" / "midpoints.json"
    done: dict[str, list[Any]] = json.loads(file.read_text())["arms"] if file.exists() else {}
    for seed in tqdm(range(args.seeds), desc="seeds"):
        for arm, options in ARMS.items():
            rows = done.setdefault(arm, [])
            if len(rows) > seed:
                continue
            net = trained(task, seed, schedule, **options)
            curve = accuracies(task, net)
            rows.append({"clean": task.score(net), "curve": curve, "mu": fit_midpoint(SIGMAS, curve, task.chance).mu})
            about = {"study": "midpoints", "task": task.name, "epochs": args.epochs, "sigmas": SIGMAS}
            write_atomically(file, json.dumps({**about, "arms": done}))
            print(f"seed {seed} {arm:30s} {rows[-1]['clean']:.4f} mu {rows[-1]['mu']:.3f}", flush=True)


if __name__ == "__main__":
    main()
