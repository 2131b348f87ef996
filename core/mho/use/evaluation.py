"""What accuracy survives: score a network on many simulated chips over drift time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from mho.config.units import format_seconds, seconds
from mho.ground.errorbars import spread
from mho.ground.errors import MhoError
from mho.ground.notebook import html_table
from mho.ground.tables import table
from mho.tile.session import Session
from mho.use.chip import Time, keeping_chip, keeping_modes, program, session_of

TIMES = ("1 s", "1 h", "1 day", "1 year")  # R003-31


def normalised_accuracy(score: float, reference: float, chance: float) -> float:
    """R003 Eq. 1 with scores in place of errors: 1 - (e - e_FP)/(e_chance - e_FP); 1 = the reference, 0 = guessing (R003-42)."""
    if reference == chance:
        raise MhoError("normalised accuracy needs a reference that differs from chance")
    return (score - chance) / (reference - chance)


def iso_accurate(normalised: float) -> bool:
    """Whether the paper would call a network with this normalised accuracy as good as the digital one: above 99 %
    (R003-43)."""
    return normalised > 0.99


@dataclass(frozen=True)
class Evaluation:
    """Scores [chip][time] of independent chips, each programmed once and read at every time (R003-31, R003-32)."""

    times: tuple[float, ...]  # seconds
    scores: tuple[tuple[float, ...], ...]
    reference: float | None = None
    chance: float | None = None

    @property
    def chips(self) -> int:
        return len(self.scores)

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean over chips at each time."""
        return tuple(spread(self.scores)["mean"])

    @property
    def sem(self) -> tuple[float, ...]:
        """Standard error of the mean: std / sqrt(chips), with n - 1 in the variance; nan for a single chip."""
        return tuple(spread(self.scores)["sem"])

    @property
    def normalised(self) -> tuple[float, ...] | None:
        """Normalised accuracy (Eq. 1) at each time, or None without reference and chance."""
        if self.reference is None or self.chance is None:
            return None
        return tuple(normalised_accuracy(m, self.reference, self.chance) for m in self.mean)

    def __str__(self) -> str:
        return table(*self._table())

    def _repr_html_(self) -> str:
        return html_table(*self._table(), title=f"{self.chips} chips")

    def _table(self) -> tuple[list[str], list[tuple[str, ...]]]:
        head = ["time", "score", "SEM"]
        columns = [
            [format_seconds(t) for t in self.times],
            [f"{m:.4f}" for m in self.mean],
            [f"{s:.4f}" for s in self.sem],
        ]
        if self.normalised is not None:
            head.append("normalised")
            columns.append([f"{v:.3f}" for v in self.normalised])
        return head, list(zip(*columns))


def evaluate(
    net: nn.Module,
    score: Callable[[nn.Module], float],
    times: Iterable[Time] | None = None,
    chips: int = 25,
    seed: int = 0,
    *,
    reference: float | None = None,
    chance: float | None = None,
    batch_axis: int = 0,
    progress: bool = False,
    done: dict[int, tuple[float, ...]] | None = None,
    on_chip: Callable[[int, tuple[float, ...]], Any] | None = None,
) -> Evaluation:
    """Score `net` on `chips` chips at each of `times` (default: those of the hardware file).

    `score(net)` returns a fraction, higher is better; it runs in eval mode without gradients. `reference` and `chance`
    give normalised accuracy. `batch_axis` is 1 for networks that are given [time, batch, ...]: noise is drawn by the
    number of the sample, so the result does not depend on how `score` cuts its data into batches. `done` holds the scores
    of chips known already, `on_chip(k, scores)` is told of new ones: that is how a run resumes. The network, the chip
    that was on it and its training mode are as before afterwards; until then the network belongs to this call (in other
    threads evaluate copies, `copy.deepcopy(net)`).
    """
    session = session_of(net)
    hardware_times = session.hardware.times if session.hardware is not None else TIMES
    at = tuple(seconds(t) for t in (hardware_times if times is None else times))
    rows: list[tuple[float, ...]] = []
    with keeping_chip(net), keeping_modes(net), batches_along(session, batch_axis):
        for k in tqdm(range(chips), desc="chips", disable=not progress, leave=False):
            row = (done or {}).get(k)
            if row is None:
                row = one_chip(net, score, at, seed, k)
                if on_chip is not None:
                    on_chip(k, row)
            rows.append(row)
    return Evaluation(at, tuple(rows), reference, chance)


@contextmanager
def batches_along(session: Session, axis: int) -> Iterator[None]:
    """Root forwards find their samples along this axis of their first tensor."""
    if axis not in (0, 1):
        raise MhoError(f"batch_axis is 0 for [batch, ...] or 1 for [time, batch, ...], got {axis!r}")
    before, session.batch_axis = session.batch_axis, axis
    try:
        yield
    finally:
        session.batch_axis = before


@torch.no_grad()
def one_chip(
    net: nn.Module, score: Callable[[nn.Module], float], times: tuple[float, ...], seed: int, k: int
) -> tuple[float, ...]:
    """Scores of chip k of this seed at each time, in seconds; the chip stays on the network, which is in eval mode."""
    chip, row = program(net, seed, index=k, age=next(iter(times), 0.0)), []
    for n, t in enumerate(times):
        if n:
            chip.age(t)
        net.eval()
        row.append(_number(score(net)))
    return tuple(row)


def _number(score: Any) -> float:
    try:
        return float(score)
    except (TypeError, ValueError, RuntimeError):
        raise MhoError(f"score(net) must return a number, got {type(score).__name__}") from None
