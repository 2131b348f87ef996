"""Heavy-tailed relaxation: how far the conductance of an RRAM cell moves after it was programmed."""

import math
from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from mho import Field, MhoError, Nonideality, Site
from mho.config import Seconds
from mho.effects import Column, Measurements, Residuals
from mho_rram.programming import polynomial, too_late

FIT = "docs/rram_relaxation.md"
MEASURED_AT = 40.0  # µS, g_max of the measured cells
Table = tuple[tuple[float, ...], ...]


class Relaxation(Nonideality, kind="rram.relaxation"):
    """After programming, a cell moves by a Student-t distributed amount that grows with the logarithm of time:

        g(t) = g_P + m + s T(t),   T(t) ~ Student-t with nu degrees of freedom

        m(x, t) = sum_k location_k(t) x^(k/2)              µS
        s(x, t) = exp(sum_k spread_k(t) ln(x + 0.02)^k)    µS
        nu(x, t) = exp(sum_k nu_k(t) x^k)                  x = g_P/g_max, at g_max = 40 µS

    The coefficients belong to the measured `times` and go linearly in log t between them. At 0 s nothing has moved; between
    that and `since`, and later than the last time, `age` raises MhoError. Earlier than 1 s these tails are too fat (at
    0.01 s a std of 1.06 µS where the cells have 0.93, and a 99 % quantile of 4.8 where they have 3.8 µS); from 1 s on
    both agree to the error of the measurement or 3 %, up to 1e5 s, where the 99 % quantile is 10 % short. T(t) is built from
    normal numbers z(t) and h of the device,

        T = z sqrt(nu (exp(r^2/nu) - 1)/r^2),   r^2 = z^2 + h^2,

    exactly Student-t for every nu > 0 (r^2 is exponential, so exp(-r^2/2) is uniform: Bailey's polar method). h stays;
    z is a chain through the measured times, z_k = rho_k z_(k-1) + sqrt(1 - rho_k^2) xi_k, and between two of them a
    mixture of both. All draws belong to the device, so ageing has no memory of the route.

    The tails end where the measurement ends: a move beyond `largest` is drawn once more (0.4 % of the cells at 0.01 s,
    0.04 % at 1e5 s). Without that, tails of nu near 1 would make up most of the variance, which nobody has seen.

    The defaults are fitted to 16,223 HfO2 cells (docs/rram_relaxation.md). No programming error is contained.
    """

    example_tile = "device: {g_max: 40 uS}"
    source = f"RRAM-Relaxation-Master-Model, tech C (Akash Levy, MIT), fitted by mho: {FIT}"
    bibtex = """@misc{levy_rram_relaxation,
  author = {Levy, Akash},
  title  = {RRAM-Relaxation-Master-Model},
  note   = {measured conductances of technology C, MIT licence},
}"""
    cellwise = True

    times: tuple[Seconds, ...] = Field((0.01, 0.1, 1.0, 1e5), gt=0, min_length=1, unit="s", source=FIT)
    """times that the coefficients belong to"""
    since: Seconds = Field(1.0, gt=0, source=FIT, description="earliest time of the law; before it only 0 s is known")
    location: Table = Field(
        (
            (0.0026, -0.0114, -0.0077, -0.0259),
            (-0.0008, 0.1109, -0.5881, 0.3331),
            (0.0072, 0.2402, -1.5325, 0.9881),
            (-0.0592, 3.3399, -15.1247, 10.2356),
        ),
        unit="uS",
        source=FIT,
    )
    """for every time, coefficients of the median in powers of sqrt(x)"""
    spread: Table = Field(
        (
            (-1.0457, 0.3709, 0.083, 0.0771),
            (-0.4916, 0.0814, 0.1978, 0.1106),
            (-0.0712, -0.2882, -0.0044, 0.0674),
            (0.7945, -0.5878, -0.3147, -0.0001),
        ),
        unit="1",
        source=FIT,
    )
    """for every time, coefficients of ln(s/uS) in powers of ln(x + 0.02)"""
    nu: Table = Field(((-0.2116, 0.9677), (0.153, 0.6001), (0.5113, 0.5031), (1.1407, 0.3738)), unit="1", source=FIT)
    """for every time, coefficients of ln(degrees of freedom) in powers of x"""
    correlation: tuple[float, ...] = Field((0.4155, 0.5644, 0.3149), ge=-1, le=1, unit="1", source=FIT)
    """of z at every time but the first with z at the time before"""
    largest: tuple[float, ...] = Field(
        (13.822, 18.128, 21.359, 32.406), gt=0, unit="uS", source="the largest moves among 16,223 cells"
    )
    """for every time, no cell moves farther than this"""

    def disagreements(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """One row of coefficients for every time, all of one length."""
        count = len(self.times)
        if any(a >= b for a, b in pairwise(self.times)):
            yield ("times",), "expected increasing times"
        if self.since > self.times[-1]:
            yield ("since",), f"expected a time up to the last of the times, {self.times[-1]:g} s"
        for name in ("location", "spread", "nu"):
            rows = getattr(self, name)
            if len(rows) != count or len({len(r) for r in rows}) != 1 or not rows[0]:
                yield (name,), f"expected {count} lists of coefficients, one for each of the times, all of one length"
        if len(self.largest) != count:
            yield ("largest",), f"expected {count} numbers, one for each of the times"
        if len(self.correlation) != count - 1:
            yield ("correlation",), f"expected {count - 1} numbers, one for each of the times but the first"

    def objections(self, tile: Any, times: tuple[float, ...]) -> Iterator[str]:
        """Relaxation is known at 0 s, and from `since` up to the last of its times."""
        if not self.active:
            return
        if early := [t for t in times if 0 < t < self.first]:
            yield self._too_early(early[0])
        if max(times) > self.times[-1]:
            yield too_late("rram.relaxation", f"{self.times[-1]:g} s", max(times))

    @property
    def first(self) -> float:
        """The earliest time after programming that is known, s."""
        return max(self.since, self.times[0])

    def _too_early(self, t: float) -> str:
        return (
            f"rram.relaxation describes cells from {self.first:g} s after programming on, asked for {t:g} s; "
            "set `times:` in the hardware file, e.g. times: [1 s, 1 h, 1 day]"
        )

    def age(self, g: Tensor, t: float, site: Site) -> Tensor:
        if t == 0:
            return g
        if t < self.first:
            raise MhoError(self._too_early(t))
        location, scale, nu = self.law((site.programmed / site.g_max).clamp(0, 1), t)
        (largest,) = self._at(tuple((v,) for v in self.largest), t)
        move = location + scale * student(self.latent(g, t, site), self._draw(g, site, "h"), nu)
        again = location + scale * student(self._draw(g, site, "z again"), self._draw(g, site, "h again"), nu)
        move = torch.where(move.abs() > largest, again, move).clamp(-largest, largest)
        return g + move * (site.g_max / MEASURED_AT)

    def law(self, x: Tensor, t: float) -> tuple[Tensor, Tensor, Tensor]:
        """(m, s, nu) in µS at g_max = 40 µS, for x = g_P/g_max at t seconds."""
        location = polynomial(self._at(self.location, t), x.sqrt())
        scale = polynomial(self._at(self.spread, t), torch.log(x + 0.02)).exp()
        return location, scale, polynomial(self._at(self.nu, t), x).exp()

    def latent(self, like: Tensor, t: float, site: Site) -> Tensor:
        """z(t) of every device: standard normal at every time."""
        k, u = self._between(t)
        z = self._draw(like, site, "z0")
        for i, rho in enumerate(self.correlation[:k], 1):
            z = rho * z + math.sqrt(1 - rho**2) * self._draw(like, site, f"z{i}")
        if u == 0:
            return z
        rho = self.correlation[k]
        later = rho * z + math.sqrt(1 - rho**2) * self._draw(like, site, f"z{k + 1}")
        return ((1 - u) * z + u * later) / math.sqrt((1 - u) ** 2 + u**2 + 2 * u * (1 - u) * rho)

    @staticmethod
    def _draw(like: Tensor, site: Site, name: str) -> Tensor:
        """Normal numbers that belong to the device for the life of the chip."""
        return site.randn_like(like, per="chip", name=name)

    def _between(self, t: float) -> tuple[int, float]:
        """(k, u): t lies the share u of the way from times[k] to times[k + 1], in log t."""
        if t > self.times[-1]:
            raise MhoError(too_late("rram.relaxation", f"{self.times[-1]:g} s", t))
        k = max(bisect_right(self.times, t) - 1, 0)
        if t <= self.times[k]:
            return k, 0.0
        return k, math.log(t / self.times[k]) / math.log(self.times[k + 1] / self.times[k])

    def _at(self, rows: Table, t: float) -> tuple[float, ...]:
        """Coefficients at time t, linear in log t between the measured times."""
        k, u = self._between(t)
        return rows[k] if u == 0 else tuple((1 - u) * a + u * b for a, b in zip(rows[k], rows[k + 1]))

    # --- fit: every reading is one Student-t; rho from Kendall's tau between times, rho = sin(pi tau/2) ---

    fit_columns: ClassVar[dict[str, Column]] = {
        "g_programmed": Column("uS", "conductance right after programming"),
        "device": Column("", "number or name of the device"),
        "t": Column("s", "time after programming", positive=True),
        "g": Column("uS", "conductance read at that time"),
    }
    fit_fields: ClassVar[tuple[str, ...]] = ("location", "spread", "nu")

    def log_prob(self, data: Measurements) -> Tensor:
        """ln p of every reading. Readings of one device depend on each other, but each time has coefficients of its
        own, so that their maximum and its error bars are those of independent devices."""
        location, scale, nu = self._laws(data)
        y = (data["g"] - data["g_programmed"] - location) / scale
        norm = torch.lgamma(0.5 * (nu + 1)) - torch.lgamma(0.5 * nu) - 0.5 * (torch.pi * nu).log() - scale.log()
        return norm - 0.5 * (nu + 1) * torch.log1p(y * y / nu)

    def residuals(self, data: Measurements) -> Residuals:
        """Student-t probability of every reading's change, over the programmed conductance."""
        from scipy import stats

        location, scale, nu = self._laws(data)
        y = (data["g"] - data["g_programmed"] - location) / scale
        u = torch.as_tensor(stats.t.cdf(y.numpy(), nu.numpy()))
        return Residuals(u, data["g_programmed"], "programmed conductance, uS")

    def simulate(self, data: Measurements, seed: int) -> dict[str, Tensor]:
        """Readings `g`, µS, at the times of the data."""
        programmed = data.mean_by("device", data["g_programmed"])
        early = self.model_copy(update={"since": self.times[0]})  # all that is fitted, however well
        g = torch.zeros_like(data["g"])
        for t in data["t"].unique().tolist():
            site = data.site(self, "age", seed, programmed, t=t, programmed=programmed)
            aged = early.apply("age", programmed, t, site).clamp(min=0)
            g = torch.where(data["t"] == t, aged[data["device"]], g)
        return {"g": g}

    def estimate(self, data: Measurements) -> dict[str, Any]:
        """correlation: Kendall's tau of the residuals of the devices read at both times; largest: the maximum."""
        from scipy import stats

        u, move = self.residuals(data).u, (data["g"] - data["g_programmed"]).abs() * (MEASURED_AT / data.g_max)
        at = torch.full((len(self.times), int(data["device"].max()) + 1), math.nan, dtype=torch.float64)
        for k, t in enumerate(self.times):
            at[k, data["device"][data["t"] == t]] = u[data["t"] == t]
        tau = [stats.kendalltau(a, b, nan_policy="omit").statistic for a, b in pairwise(at.numpy())]
        largest = tuple(float(move[data["t"] == t].max()) for t in self.times)
        return {"correlation": tuple(math.sin(0.5 * math.pi * float(v)) for v in tau), "largest": largest}

    def _laws(self, data: Measurements) -> tuple[Tensor, Tensor, Tensor]:
        """(m, s, nu) of every reading."""
        x = (data["g_programmed"] / data.g_max).clamp(0, 1)
        unit = data.g_max / MEASURED_AT
        result = torch.zeros(3, len(data), dtype=x.dtype)
        for t in data["t"].unique().tolist():
            rows = (data["t"] == t).nonzero()[:, 0]
            location, scale, nu = self.law(x[rows], t)
            result = result.index_copy(1, rows, torch.stack([location * unit, scale * unit, nu]))
        return result[0], result[1], result[2]


def student(z: Tensor, h: Tensor, nu: Tensor) -> Tensor:
    """Student-t numbers with nu degrees of freedom, increasing in z, from standard normal z and h."""
    r2 = (z * z + h * h).clamp(min=1e-12)
    return z * (nu * torch.expm1((r2 / nu).clamp(max=80)) / r2).sqrt()
