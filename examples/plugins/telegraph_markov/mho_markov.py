"""Telegraph noise that remembers: a trap is filled or empty, and stays so for a while.

Redraw events come as a Poisson process of rate 1/tau; at each, the trap is filled with probability p. The state is then
a two-state Markov process with occupancy p and autocorrelation exp(-dt/tau). Nothing is stored: the event times of
every window of length tau are asked for again, so that the state at time t is a pure function of the chip and t.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from mho import Field, Nonideality, Site, hookimpl
from mho.config import Seconds

EVENTS = 8  # more in one window have a chance of 1e-6
WINDOWS = 24  # no event in that many has a chance of e^-24


class MarkovTelegraph(Nonideality, kind="markov.rtn"):
    """A filled trap lowers the conductance: g (1 - depth s(t)), with s in {0, 1}, mean p, and autocovariance
    p (1 - p) exp(-dt/tau)."""

    source = "Kirton, Uren 1989 (two-state model)"
    strength: ClassVar[str] = "depth"
    cellwise = True

    depth: float = Field(0.1, ge=0, lt=1, unit="1", description="relative drop while the trap is filled")
    occupancy: float = Field(0.3, ge=0, le=1, unit="1", description="share of the time that a trap is filled")
    tau: Seconds = Field(1.0, gt=0, description="correlation time")

    def age(self, g: Tensor, t: float, site: Site) -> Tensor:
        return torch.where(self.filled(g, t, site), g * (1 - self.depth), g)

    def filled(self, g: Tensor, t: float, site: Site) -> Tensor:
        """The state of every trap at time t: that of the last event before it."""
        now = math.floor(t / self.tau)
        state = site.rand_like(g, per="chip", name="start") < self.occupancy
        open_ = torch.ones_like(state)  # cells whose last event is not found yet
        for back in range(WINDOWS):
            until = t / self.tau - now if back == 0 else 1.0
            found, new = self._last_event(g, now - back, until, site)
            state = torch.where(open_ & found, new, state)
            open_ = open_ & ~found
            if not open_.any():
                break
        return state

    def _last_event(self, g: Tensor, window: int, until: float, site: Site) -> tuple[Tensor, Tensor]:
        """(whether a cell has an event in this window before `until`, the state that the last of them leaves)."""
        count = _poisson(site.rand_like(g, per="chip", name=f"{window} count"))
        last = torch.full_like(g, -1.0)
        state = torch.zeros_like(g, dtype=torch.bool)
        for i in range(EVENTS):
            when = site.rand_like(g, per="chip", name=f"{window} time {i}")
            later = (count > i) & (when <= until) & (when > last)
            last = torch.where(later, when, last)
            drawn = site.rand_like(g, per="chip", name=f"{window} state {i}") < self.occupancy
            state = torch.where(later, drawn, state)
        return last >= 0, state


def _poisson(u: Tensor) -> Tensor:
    """Poisson numbers of mean 1 from uniform ones, at most EVENTS."""
    steps, term, total = torch.zeros_like(u), math.exp(-1.0), 0.0
    for i in range(EVENTS):
        total += term
        steps = steps + (u > total)
        term /= i + 1
    return steps


@hookimpl
def mho_nonidealities() -> list[type[Nonideality]]:
    return [MarkovTelegraph]
