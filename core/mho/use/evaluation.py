"""What accuracy survives: score a network on many simulated chips over drift time."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from mho.config import format_seconds, seconds
from mho.ground import MhoError, Table, Tabular, spread, whole
from mho.tile import tile_arrays
from mho.use.chip import Time, hearing, keeping_chip, keeping_modes, program, session_of
from mho.use.convert import remark

TIMES = ("1 s", "1 h", "1 day", "1 year")  # Rasch et al. 2023


def normalised_accuracy(score: float, reference: float, chance: float) -> float:
    """How much of a reference's advantage over guessing is left, (score - chance) / (reference - chance): 1 is the reference,
    0 is guessing (Rasch et al. 2023, Eq. 1, with scores in place of errors; R003-42).

    Raises `MhoError` where the reference is chance.
    """
    if reference == chance:
        raise MhoError("normalised accuracy needs a reference that differs from chance")
    return (score - chance) / (reference - chance)


def iso_accurate(normalised: float) -> bool:
    """Whether a network with this normalised accuracy counts as good as the digital one: above 99 % (Rasch et al. 2023)."""
    return normalised > 0.99


@dataclass(frozen=True)
class Evaluation(Tabular):
    """Scores [chip][time] of independent chips, each programmed once and read at every time."""

    times: tuple[float, ...]  # seconds
    scores: tuple[tuple[float, ...], ...]
    reference: float | None = None
    chance: float | None = None

    @property
    def chips(self) -> int:
        """How many chips were scored."""
        return len(self.scores)

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean over chips at each time."""
        return tuple(spread(self.scores)["mean"])

    @property
    def sem(self) -> tuple[float, ...]:
        """Standard error of the mean: std / sqrt(chips), with n - 1 in the variance (R003-32); nan for a single
        chip."""
        return tuple(spread(self.scores)["sem"])

    @property
    def normalised(self) -> tuple[float, ...] | None:
        """Normalised accuracy (Eq. 1) at each time, or None without reference and chance."""
        if self.reference is None or self.chance is None:
            return None
        return tuple(normalised_accuracy(m, self.reference, self.chance) for m in self.mean)

    def to_pandas(self) -> Any:
        """A pandas DataFrame with one row for each chip and time: chip, time_s, score, and normalised (Eq. 1) where reference
        and chance are known."""
        import pandas

        at = [(k, t, score) for k, row in enumerate(self.scores) for t, score in zip(self.times, row)]
        data = pandas.DataFrame(at, columns=["chip", "time_s", "score"])
        if self.reference is not None and self.chance is not None:
            data["normalised"] = [normalised_accuracy(score, self.reference, self.chance) for score in data["score"]]
        return data

    def plot(self, ax: Any = None) -> Any:
        """Scores over the logarithm of time as matplotlib draws them: chips faint, the mean with its standard errors, the
        reference dashed. On `ax`, or on a new figure; returns the axes."""
        from matplotlib import pyplot

        ax = pyplot.figure(layout="constrained").add_subplot() if ax is None else ax
        ax.plot(self.times, list(zip(*self.scores)), color="C0", alpha=0.2)
        ax.errorbar(self.times, self.mean, yerr=self.sem if self.chips > 1 else None, color="C0", marker="o", capsize=3)
        if self.reference is not None:
            ax.axhline(self.reference, color="0.3", linestyle="--")
        at = {"xscale": "symlog", "xticks": self.times, "xticklabels": [format_seconds(t) for t in self.times]}  # 0 s too
        ax.set(**at, xlabel="time after programming", ylabel=f"score, ± standard error of {self.chips} chips")
        return ax

    def as_table(self) -> Table:
        """What `print` and a notebook show."""
        columns = {
            "time": [format_seconds(t) for t in self.times],
            "score": [f"{m:.4f}" for m in self.mean],
            "SEM": [f"{s:.4f}" for s in self.sem],
        }
        if self.normalised is not None:
            columns["normalised"] = [f"{v:.3f}" for v in self.normalised]
        return Table(list(columns), list(zip(*columns.values())), title=f"{self.chips} chips")


def evaluate(
    net: nn.Module,
    score: Callable[[nn.Module], float],
    times: Iterable[Time] | Time | None = None,
    chips: int = 25,
    seed: int = 0,
    *,
    reference: float | None = None,
    chance: float | None = None,
    batch_axis: int = 0,
    lean: bool | str = False,
    progress: bool = False,
    done: dict[int, tuple[float, ...]] | None = None,
    on_chip: Callable[[int, tuple[float, ...]], Any] | None = None,
) -> Evaluation:
    """Score `net` on `chips` chips of `seed` at each of `times` after programming: seconds, text ("1 h") or timedeltas, one
    or several (default: those of the hardware file).

    `score(net)` returns a fraction, higher is better; it runs in eval mode without gradients. `reference` and `chance`
    give normalised accuracy. `batch_axis` is 1 for networks that are given [time, batch, ...]: noise is drawn by the
    number of the sample, so the result does not depend on how `score` cuts its data into batches. `lean` chips take no memory,
    or that of their codes, see `program`. `done` holds the scores
    of chips known already, `on_chip(k, scores)` is told of new ones: that is how a run resumes. The network, the chip
    that was on it and its training mode are as before afterwards; until then the network belongs to this call (in other
    threads evaluate copies, `copy.deepcopy(net)`).

    A warning, and `conversion_report(net)`, name layers on tiles that no forward has entered while chips were
    scored: their weights are idle, or read past the tiles. Raises `MhoError` for a network without analog layers, a score
    that is no number, and arguments that are none of those above.
    """
    chips, seed, at = whole("chips", chips, least=1), whole("seed", seed), _times(net, times)
    rows: list[tuple[float, ...]] = []
    if batch_axis not in (0, 1):
        raise MhoError(f"batch_axis is 0 for [batch, ...] or 1 for [time, batch, ...], got {batch_axis!r}")
    arrays, entered = tile_arrays(net), set[str]()
    with keeping_chip(net), keeping_modes(net), hearing(arrays, lambda array, _: entered.add(array.name)):
        session_of(net).batch_axis = batch_axis
        for k in tqdm(range(chips), desc="chips", disable=not progress, leave=False):
            row = (done or {}).get(k)
            if row is None:
                row = one_chip(net, score, at, seed, k, lean)
                if on_chip is not None:
                    on_chip(k, row)
            if len(row) != len(at):
                raise MhoError(f"done[{k}] must have a score for each of {len(at)} times, got {len(row)}")
            rows.append(row)
    if entered:  # or else the score has used copies, or other processes
        missed = {a.name for a in arrays} - entered
        remark(
            net, "evaluation", missed, "no forward of the evaluation entered it",
            "no forward entered {} while the score was computed: weights there are idle, or read past the tiles "
            "(F.linear(x, layer.weight)), where nothing analog happens to them",
        )  # fmt: skip
    return Evaluation(at, tuple(rows), reference, chance)


def _times(net: nn.Module, times: Iterable[Time] | Time | None) -> tuple[float, ...]:
    """In seconds."""
    hardware = session_of(net).hardware
    if times is None:
        times = hardware.times if hardware is not None else TIMES
    several = isinstance(times, Iterable) and not isinstance(times, str) and getattr(times, "ndim", 1) != 0
    at = tuple(seconds(t) for t in (times if several else (times,)))  # type: ignore[union-attr, arg-type]
    if not at:
        raise MhoError("times is empty: give at least one time, such as '1 h', or None for those of the hardware")
    return at


@torch.no_grad()
def one_chip(
    net: nn.Module, score: Callable[[nn.Module], float], times: tuple[float, ...], seed: int, k: int, lean: bool | str = False
) -> tuple[float, ...]:
    """Scores of chip k of this seed at each time, in seconds; the chip stays on the network, which is in eval mode.
    Raises `MhoError` for a score that is no number."""
    chip, row = program(net, seed, index=k, age=next(iter(times), 0.0), lean=lean), []
    for n, t in enumerate(times):
        if n:
            chip.age(t)
        net.eval()
        scored = score(net)
        try:
            row.append(float(scored))
        except (TypeError, ValueError, RuntimeError):
            raise MhoError(f"score(net) must return a number, got {type(scored).__name__}") from None
    return tuple(row)
