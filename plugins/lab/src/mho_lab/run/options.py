"""Options that verbs share, and where their results go."""

from __future__ import annotations

from pathlib import Path

import click

OUT = click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Folder of the results [mho-runs/TASK-HW-...]."
)
SEED = click.option("--seed", default=0, show_default=True, help="Same seed, same result.")
THREADS = click.option(
    "--threads",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Threads of torch; results are bit-equal only for the same number.",
)
CHIPS = click.option("--chips", default=25, show_default=True, type=click.IntRange(1), help="Simulated chips.")


def default_folder(task: str, hardware: str, digest: str, seed: int | None = None) -> Path:
    """mho-runs/digits-pcm.standard-1a2b3c4d-s0: one folder for each hardware content and seed, or for several seeds."""
    name = Path(hardware).stem if hardware.endswith((".yaml", ".yml")) else hardware
    return Path("mho-runs") / f"{task}-{name}-{digest[:8]}-{'seeds' if seed is None else f's{seed}'}"
