"""`python benchmarks/layers.py [1250,2500,5000]`: what conversion, programming, ageing, saving and loading take per layer, for
networks of so many linear layers of 32 x 32 on `pcm.standard`, beside each other in one list."""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from torch import nn

import mho


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    counts = [int(n) for n in (sys.argv[1] if len(sys.argv) > 1 else "1250,2500,5000").split(",")]
    print("ms of processor time per layer")
    print(
        f"{'layers':>8}"
        + "".join(f"{what:>12}" for what in ("convert", "program", "age", "save", "load", "save chip", "load chip"))
    )
    for n in counts:
        taken: list[float] = []

        def timed(f: object) -> object:
            start = time.process_time()
            result = f()  # type: ignore[operator]
            taken.append((time.process_time() - start) / n * 1e3)  # noqa: B023
            return result

        net = timed(lambda: mho.to_analog(nn.Sequential(*[nn.Linear(32, 32) for _ in range(n)]), "pcm.standard"))  # noqa: B023
        chip = timed(lambda: mho.program(net, seed=0))  # noqa: B023
        timed(lambda: chip.age("1 h"))  # noqa: B023
        with tempfile.TemporaryDirectory() as folder:
            file, saved = Path(folder) / "net.safetensors", Path(folder) / "chip.safetensors"
            timed(lambda: mho.save_model(net, file))  # noqa: B023
            timed(lambda: mho.load_model(net, file))  # noqa: B023
            timed(lambda: chip.save(saved))  # noqa: B023
            timed(lambda: mho.load_chip(net, saved))  # noqa: B023
        print(f"{n:>8}" + "".join(f"{t:>12.2f}" for t in taken), flush=True)


if __name__ == "__main__":
    main()
