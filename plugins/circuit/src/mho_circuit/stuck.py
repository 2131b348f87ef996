"""Stuck cells, the base class that every device family shares (R003-27)."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from mho import Field, Nonideality, Site
from mho_circuit.sources import RASCH

FIG_5 = f"{RASCH}, Fig. 5"


class StuckAt(Nonideality):
    """A share of the cells, at random places of each chip, keeps a conductance of its own whatever is written, and does
    not age: stuck off at g_min (or 0), stuck on at g_max, or stuck anywhere between, uniformly.

    `scale` multiplies all three shares. A device family subclasses it to give it a kind.
    """

    cellwise = True
    own_scale = True
    final = True
    source: ClassVar[str] = ""
    example: ClassVar[dict[str, Any]] = {"off": 0.03, "on": 0.03, "random": 0.03}

    off: float = Field(0.0, ge=0, le=1, unit="1", description="share of cells stuck at the lowest conductance", source=FIG_5)
    on: float = Field(0.0, ge=0, le=1, unit="1", description="share of cells stuck at g_max", source=FIG_5)
    random: float = Field(0.0, ge=0, le=1, unit="1", description="share of cells stuck at U(g_min, g_max)", source=FIG_5)

    @classmethod
    def cross_check(cls, value: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Shares are needed, and together they are at most all cells."""
        if not isinstance(value, Mapping):
            return
        shares = [value.get(n, cls.model_fields[n].default) for n in ("off", "on", "random")]
        if not all(isinstance(s, (int, float)) for s in shares):
            return
        if sum(shares) > 1:
            yield (), f"off, on and random are shares of all cells, together at most 1, got {sum(shares):g}"
        if sum(shares) == 0:
            yield (), "say which share of the cells is stuck: off, on or random, e.g. {off: 0.01}"

    def program(self, g: Tensor, site: Site) -> Tensor:
        return self._stuck(g, site)

    def age(self, g: Tensor, t: float, site: Site) -> Tensor:
        return self._stuck(g, site)

    def _stuck(self, g: Tensor, site: Site) -> Tensor:
        """The same cells at every time; one uniform number decides, so that no cell is stuck twice."""
        place = site.rand_like(g, per="chip", name="place")
        level = site.rand_like(g, per="chip", name="level")
        off, on, anywhere = (self.scale * share for share in (self.off, self.on, self.random))
        g = torch.where(place < off, torch.full_like(g, site.g_min), g)
        g = torch.where((place >= off) & (place < off + on), torch.full_like(g, site.g_max), g)
        between = site.g_min + level * (site.g_max - site.g_min)
        return torch.where((place >= off + on) & (place < off + on + anywhere), between, g)
