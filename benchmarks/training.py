"""Training steps by backward mode: time, bytes saved for the backward, and peak memory of a process (R001-04, R001-08).

python benchmarks/training.py [--rounds 15] [--batch 512] [--json FILE]

Four 512-wide linear layers with the full model of pcm.standard; "reference path" is plain fp32 code, without it a mode runs
as fast as the layer can. All modes take turns, so that a busy machine slows them alike; the figures are medians of
the ratios of one round. Peak memory is that of a fresh process
that does two steps of a small convolutional network (128 images of 32x32), above a process that stops before its first step.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import mho

REFERENCE = "precision=reference"
MODES: dict[str, list[str] | None] = {  # changes of pcm.standard
    "clean": None,  # the torch layers themselves
    "ste": ["training.backward=ste"],
    "ste, reference path": ["training.backward=ste", REFERENCE],
    "masked": ["training.backward=masked"],
    "through": ["training.backward=through"],
    "through, reference path": ["training.backward=through", REFERENCE],
    "autograd, rounding ste": ["training.backward={mode: autograd, rounding: ste}", REFERENCE],
}
BASELINE = "autograd, rounding ste"


def on_tiles(model: nn.Module, mode: str) -> nn.Module:
    """`model` on pcm.standard, or the model itself for the clean mode."""
    changes = MODES[mode]
    if changes is None:
        return model.train()
    hw = mho.load("pcm.standard", set=changes)
    net = mho.to_analog(model, hw).train()
    mho.attach(torch.optim.SGD(net.parameters(), lr=0.0), net, steps_per_epoch=1)
    return net


def stack() -> nn.Module:
    return nn.Sequential(*[m for _ in range(4) for m in (nn.Linear(512, 512), nn.ReLU())])


def small_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def step(net: nn.Module, x: torch.Tensor) -> None:
    net.zero_grad(set_to_none=True)
    net(x).pow(2).mean().backward()


def seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def saved_bytes(net: nn.Module, x: torch.Tensor) -> int:
    """Bytes of all distinct storages that the forward keeps for the backward, parameters and the input left out."""
    known = {p.untyped_storage().data_ptr() for p in [*net.parameters(), x]}
    kept: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        store = t.untyped_storage()
        if store.data_ptr() not in known:
            kept[store.data_ptr()] = store.nbytes()
        held.append(t)  # so that no address is used twice
        return t

    held: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = net(x)
    del y
    return sum(kept.values())


def peak(mode: str, steps: int, batch: int) -> int:
    """Peak resident bytes of a fresh process."""
    command = [sys.executable, __file__, "--peak", mode, "--steps", str(steps), "--batch", str(batch)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def measure_peak(mode: str, steps: int, batch: int) -> None:
    torch.manual_seed(0)
    net, x = on_tiles(small_cnn(), mode), torch.randn(batch, 3, 32, 32)
    for _ in range(steps):
        step(net, x)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def measure(rounds: int, batch: int) -> dict[str, object]:
    torch.manual_seed(0)
    x = torch.randn(batch, 512)
    nets = {mode: on_tiles(stack(), mode) for mode in MODES}
    for net in nets.values():
        step(net, x)  # warm up
    times = [{mode: seconds(lambda n=net: step(n, x)) for mode, net in nets.items()} for _ in range(rounds)]
    rows = {}
    for mode, net in nets.items():
        ratios = [t[BASELINE] / t[mode] for t in times]
        quarters = statistics.quantiles(ratios, n=4)
        idle, busy = peak(mode, 0, 128), peak(mode, 2, 128)
        rows[mode] = {
            "milliseconds": 1e3 * statistics.median(t[mode] for t in times),
            "speed_up": statistics.median(ratios),
            "quartiles": [quarters[0], quarters[2]],
            "saved_bytes": saved_bytes(net, x),
            "peak_bytes": busy - idle,
        }
    return {"rounds": rounds, "batch": batch, "threads": torch.get_num_threads(), "torch": torch.__version__, "modes": rows}


def text(result: dict) -> str:
    """The table of the README."""
    modes = result["modes"]
    lines = [
        "| backward | step, ms | speed-up | saved for backward | of clean | peak of a CNN step |",
        "|---|---|---|---|---|---|",
    ]
    for mode, r in modes.items():
        low, high = r["quartiles"]
        lines.append(
            f"| {mode} | {r['milliseconds']:.1f} | {r['speed_up']:.2f} ({low:.2f} to {high:.2f}) "
            f"| {r['saved_bytes'] / 2**20:.2f} MiB | {r['saved_bytes'] / modes['clean']['saved_bytes']:.2f} "
            f"| {r['peak_bytes'] / 2**20:.0f} MiB |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.peak:
        return measure_peak(args.peak, args.steps, args.batch)
    result = measure(args.rounds, args.batch)
    print(text(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))
    return None


if __name__ == "__main__":
    main()
