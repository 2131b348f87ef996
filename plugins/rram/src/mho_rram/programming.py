"""Programming noise: three measured laws of how far a conductance ends up from its target, and how it moves after."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from mho import Field, MhoError, Nonideality, Site

DAY = 86_400.0


def polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    """sum_k c_k x^k."""
    y = torch.zeros_like(x) + coefficients[-1]
    for c in coefficients[-2::-1]:
        y = y * x + c
    return y


class Law:
    """How a programmed conductance departs from its target, in µS.

    window       conductances it was measured for, as (lowest, highest) in µS; None: it scales with g_max
    last         the longest time after programming that it knows, s
    relaxes      whether it contains the relaxation of the cell, so that no other effect may add it again
    """

    window: ClassVar[tuple[float, float] | None] = None
    last: ClassVar[float] = math.inf
    relaxes: ClassVar[bool] = False

    def program(self, g: Tensor, site: Site) -> Tensor:
        raise NotImplementedError

    def age(self, g: Tensor, t: float | Tensor, site: Site) -> Tensor:
        return g


@dataclass(frozen=True)
class Wan2022(Law):
    """Total deviation sigma(x, t) from the target on the NeuRRAM chip, x = g_target/g_max, at g_max = 40 µS
    (Wan et al., Nature 608, 2022, as read off by IBM/aihwkit).

    sigma(x, t) = sum_k c_k(t) x^k with c measured at 1 s, 1 day and 2 days, linear in log t between them; t < 1 s means
    1 s. Programming adds sigma(x, 1 s) xi_1, ageing sqrt(sigma(x, t)^2 - sigma(x, 1 s)^2) xi_2.

    one_second = cubic: sigma at 1 s is another reading of the same data, a cubic in g (Sandia's CrossSim), times the
    growth sigma(x, t)/sigma(x, 1 s) of the polynomials.
    """

    one_second: Literal["cubic", "polynomial"] = "cubic"

    last: ClassVar[float] = 2 * DAY
    relaxes: ClassVar[bool] = True
    G_MAX: ClassVar[float] = 40.0
    POLYNOMIALS: ClassVar[dict[float, tuple[float, ...]]] = {
        1.0: (0.348, 16.030, -43.853, 45.393, -16.815),
        DAY: (0.701, 22.086, -50.773, 47.095, -16.458),
        2 * DAY: (0.782, 20.274, -43.507, 37.062, -11.934),
    }
    CUBIC: ClassVar[tuple[float, ...]] = (1.053, 0.2374, -1.167e-2, 1.536e-4)

    def program(self, g: Tensor, site: Site) -> Tensor:
        return g + self.sigma(site, 1.0) * site.randn_like(g)

    def age(self, g: Tensor, t: float, site: Site) -> Tensor:
        if t <= 1.0:
            return g
        growth = (self.sigma(site, t) ** 2 - self.sigma(site, 1.0) ** 2).clamp(min=0).sqrt()
        return g + growth * site.randn_like(g, per="chip", name="relaxation")

    def sigma(self, site: Site, t: float) -> Tensor:
        """Total deviation at t seconds, for the targets of the site."""
        x = site.target / site.g_max
        now = polynomial(self._coefficients(t), x).clamp(min=0)
        if self.one_second == "cubic":
            start = polynomial(self.POLYNOMIALS[1.0], x).clamp(min=1e-3)
            now = polynomial(self.CUBIC, self.G_MAX * x) * now / start
        return now * (site.g_max / self.G_MAX)

    def _coefficients(self, t: float) -> tuple[float, ...]:
        if t > self.last:
            raise MhoError(too_late("rram.programming_noise with law wan2022", "2 days", t))
        a, b = (1.0, DAY) if t <= DAY else (DAY, 2 * DAY)
        u = math.log(max(t, 1.0) / a) / math.log(b / a)
        return tuple((1 - u) * p + u * q for p, q in zip(self.POLYNOMIALS[a], self.POLYNOMIALS[b]))


@dataclass(frozen=True)
class Milo2021(Law):
    """Programming with the IGVVA-100 algorithm: sigma(g) = 4.782321 - 0.009107 g, 50 to 225 µS
    (Milo et al., IRPS 2021, Fig. 4, as fitted in Sandia's CrossSim). It says nothing about time."""

    window: ClassVar[tuple[float, float] | None] = (50.0, 225.0)
    LINE: ClassVar[tuple[float, ...]] = (4.782321, -0.009107)

    def program(self, g: Tensor, site: Site) -> Tensor:
        return g + polynomial(self.LINE, site.target) * site.randn_like(g)


@dataclass(frozen=True)
class Cmo(Law):
    """CMO/HfOx cells, 9 to 88.2 µS (Falcone, Clerico et al., as in IBM/aihwkit); t < 1 s means 1 s.

    programming   sigma(g) = 0.00106879 g + 0.00081107 (accepted within 0.2 %), 0.01129027 g + 0.01121854 (2 %)
    drift         g_P - 0.089 ln t + (0.042 ln t + 0.4118) xi, one xi per device
    read          + 0.02773 log10(g) sqrt(ln((t + 1 µs)/(2 µs))) eta for g > 1 µS, eta anew at every evaluation time
    """

    acceptance: Literal["0.2 %", "2 %"] = "0.2 %"

    window: ClassVar[tuple[float, float] | None] = (9.0, 88.2)
    relaxes: ClassVar[bool] = True
    LINES: ClassVar[dict[str, tuple[float, ...]]] = {"0.2 %": (0.00081107, 0.00106879), "2 %": (0.01121854, 0.01129027)}

    def program(self, g: Tensor, site: Site) -> Tensor:
        return g + polynomial(self.LINES[self.acceptance], site.target) * site.randn_like(g)

    def age(self, g: Tensor, t: float | Tensor, site: Site) -> Tensor:
        t = torch.as_tensor(t, dtype=torch.float64).clamp(min=1.0)
        mean, std = -0.089 * torch.log(t), 0.042 * torch.log(t) + 0.4118
        g = (g + mean + std * site.randn_like(g, per="chip", name="drift")).clamp(min=0)
        read = 0.02773 * torch.log10(g.clamp(min=1)) * torch.log((t + 1e-6) / 2e-6).sqrt()
        return g + read * site.randn_like(g, per="time", name="read")


class ProgrammingNoise(Nonideality, kind="rram.programming_noise"):
    """A programmed conductance misses its target by a Gaussian, and moves on after programming, as one of three
    measured laws says:

    wan2022    NeuRRAM, 0 to 40 µS: sigma(x, t), contains relaxation, up to 2 days, scales with g_max
    milo2021   IGVVA-100, 50 to 225 µS: sigma = 4.782 - 0.0091 g, no ageing
    cmo        CMO/HfOx, 9 to 88.2 µS: sigma = 0.0011 g + 0.0008, drift in ln t, long-term read noise
    """

    source = "Wan et al., Nature 608 (2022); Milo et al., IRPS 2021; Falcone, Clerico et al."
    bibtex = """@article{wan2022neurram,
  author  = {Wan, Weier and Kubendran, Rajkumar and Schaefer, Clemens and others},
  title   = {A compute-in-memory chip based on resistive random-access memory},
  journal = {Nature},
  volume  = {608},
  pages   = {504--512},
  year    = {2022},
}"""
    cellwise = True
    example_tile = "device: {g_max: 40 uS}"

    law: Literal["wan2022", "milo2021", "cmo"] = Field("wan2022", description="which measured law", source="the laws' papers")
    one_second: Literal["cubic", "polynomial"] = Field("cubic", source="Wan 2022, Ext. Data Fig. 3d, as fitted in CrossSim")
    """wan2022 only: sigma at 1 s, a cubic in g or the polynomial that also gives the growth with time"""
    acceptance: Literal["0.2 %", "2 %"] = Field("0.2 %", source="Falcone, Clerico et al., as in IBM/aihwkit")
    """cmo only: how near the target the write-verify loop accepts a cell"""

    def disagreements(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """An option of another law has no meaning."""
        for option, law in (("one_second", "wan2022"), ("acceptance", "cmo")):
            changed = getattr(self, option) != type(self).model_fields[option].default
            if changed and self.law != law:
                yield (option,), f"'{option}' has a meaning only with 'law: {law}'"

    def objections(self, tile: Any, times: tuple[float, ...]) -> Iterator[str]:
        """A law holds in the range and for the times that were measured, and relaxation counts once."""
        law, name = self.measured, f"rram.programming_noise with law {self.law}"
        if not self.active:
            return
        if law.relaxes and any(e.KIND == "rram.relaxation" and e.active for e in tile.nonidealities):
            yield f"law {self.law} contains relaxation already; remove rram.relaxation from this tile"
        if law.window and not law.window[0] <= tile.device.g_min < tile.device.g_max <= law.window[1]:
            low, high = law.window
            yield (
                f"law {self.law} was measured between {low:g} and {high:g} uS, the device goes from "
                f"{tile.device.g_min:g} to {tile.device.g_max:g} uS; "
                f"write device: {{g_min: {low:g} uS, g_max: {high:g} uS, pair: both}}"
            )
        if max(times) > law.last:
            yield too_late(name, f"{law.last / DAY:g} days", max(times))

    @property
    def measured(self) -> Law:
        """The law with its options."""
        if self.law == "wan2022":
            return Wan2022(self.one_second)
        return Cmo(self.acceptance) if self.law == "cmo" else Milo2021()

    def program(self, g: Tensor, site: Site) -> Tensor:
        return self.measured.program(g, site)

    def age(self, g: Tensor, t: float, site: Site) -> Tensor:
        return self.measured.age(g, t, site)


def too_late(what: str, last: str, t: float) -> str:
    """The complaint about an evaluation time that nobody measured."""
    return (
        f"{what} was measured up to {last} after programming, asked for {t / DAY:.3g} days; "
        "set `times:` in the hardware file, e.g. times: [1 s, 1 h, 1 day]"
    )
