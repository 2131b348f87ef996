"""Interleaved timing: every case once per round, so that whatever else the machine does hits all of them alike."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable

import torch


def table(title: str, cases: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Print medians, ratios to the first case, and ratios of minima; returns the ratios.

    With one thread, `cpu` are ratios of the (least) processor time of that thread, which hold on a busy machine too; they
    are returned then, else the ratios of medians.
    """
    for f in cases.values():
        f(), f()
    wall: dict[str, list[float]] = {k: [] for k in cases}
    cpu: dict[str, list[float]] = {k: [] for k in cases}
    gc.disable()
    for _ in range(rounds):
        for name, f in cases.items():
            start, busy = time.perf_counter(), time.thread_time()
            f()
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.thread_time() - busy)
    gc.enable()
    first = next(iter(cases))
    alone = torch.get_num_threads() == 1
    print(f"\n{title}  [threads {torch.get_num_threads()}, load {os.getloadavg()[0]:.1f}, {rounds} rounds]")
    print(f"{'':46s} {'median ms':>10s} {'ratio':>7s} {'of min':>7s} {'cpu':>7s}")
    ratios = {}
    for name in cases:
        ratios[name] = statistics.median(wall[name]) / statistics.median(wall[first])
        least = min(wall[name]) / min(wall[first])
        share = min(cpu[name]) / min(cpu[first])
        busy = f"{share:7.2f}" if alone else f"{'-':>7s}"
        print(f"{name:46s} {statistics.median(wall[name]) * 1e3:10.2f} {ratios[name]:7.2f} {least:7.2f} {busy}", flush=True)
        ratios[name] = share if alone else ratios[name]
    return ratios
