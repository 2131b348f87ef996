"""Accuracy over drift time while a trainer trains: what the adapters for Hugging Face and Lightning have in common."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from mho.config import format_seconds
from mho.use import Time, evaluate


@dataclass(frozen=True)
class DriftScore:
    """`score(net)` on simulated chips at several times after programming, as named numbers for a trainer's log.

    The chips are the same at every call (chip k of `seed`), so that differences between two calls come from training.
    """

    score: Callable[[nn.Module], float]
    times: Sequence[Time] | None = None  # default: those of the hardware file
    chips: int = 3
    seed: int = 0

    def __call__(self, net: nn.Module) -> dict[str, float]:
        """{"drift/1 s": mean over chips, ...}; the network is as before afterwards."""
        curve = evaluate(net, self.score, self.times, self.chips, self.seed)
        return {f"drift/{format_seconds(t)}": mean for t, mean in zip(curve.times, curve.mean)}
