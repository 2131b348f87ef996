"""Programming noise, drift and read noise of a million PCM devices: the standard model of Rasch et al. 2023.

Laws and numbers: Rasch et al. 2023 (R003), Eqs. 7-14 and Table A.1. They are fits in r = g/g_max, made at
g_max = 25 µS; the noise relative to g_max is the same for every g_max.
"""

from typing import ClassVar, Literal

import torch
from mho_circuit.sources import RASCH, RASCH_BIBTEX
from mho_circuit.stuck import StuckAt
from torch import Tensor

from mho import Field, MhoError, Nonideality, Side, Site, conductance, square
from mho.config import MicroSiemens, Seconds
from mho.effects import Column, Measurements, Residuals, normal_distribution, normal_log_density

FITTED_AT = 25.0  # µS, the g_max of the measured devices


def ln(v: float | Tensor) -> Tensor:
    """The logarithm of something that goes with time: a number, or a tensor in a compiled kernel, which serves all times."""
    return torch.log(torch.as_tensor(v, dtype=torch.float64))


class ProgrammingNoise(Nonideality, kind="pcm.programming_noise"):
    """A programmed conductance misses its target by a Gaussian whose width depends on the target (Rasch et al. 2023, Eq. 7).

    sigma(r) = c0 + c1 r + c2 r^2 in µS at g_max = 25 µS, r = g_target/g_max.
    """

    source = f"{RASCH}, Eq. 7"
    bibtex = RASCH_BIBTEX
    cellwise = True

    c0: MicroSiemens = Field(0.26348, description="constant term at g_max = 25 uS", source=f"{RASCH}, Eq. 7")
    c1: MicroSiemens = Field(1.9650, description="linear coefficient in r", source=f"{RASCH}, Eq. 7")
    c2: MicroSiemens = Field(-1.1731, description="quadratic coefficient in r", source=f"{RASCH}, Eq. 7")

    def program(self, g: Tensor, site: Site) -> Tensor:
        return g + self.sigma(site.target, site.g_max) * site.randn_like(g)

    def sigma(self, target: Tensor, g_max: float) -> Tensor:
        """Width of the error in µS."""
        r = target / g_max
        return (self.c0 + self.c1 * r + self.c2 * r**2).relu() * (g_max / FITTED_AT)

    # Fit: readings g ~ N(g_target, sigma) of many devices.
    fit_columns: ClassVar[dict[str, Column]] = {
        "g_target": Column("uS", "target conductance"),
        "g": Column("uS", "conductance after programming"),
    }
    fit_fields: ClassVar[tuple[str, ...]] = ("c0", "c1", "c2")

    def log_prob(self, data: Measurements) -> Tensor:
        """ln p of every reading: ln N(g; g_target, sigma(r)), without the floor at 0."""
        sigma = self.scale * self.sigma(data["g_target"], data.g_max)
        return normal_log_density(data["g"], data["g_target"], sigma.clamp(min=1e-9))

    def residuals(self, data: Measurements) -> Residuals:
        """Phi((g - g_target)/sigma(r)) of every reading, over the target conductance."""
        sigma = self.scale * self.sigma(data["g_target"], data.g_max).clamp(min=1e-9)
        u = normal_distribution(data["g"], data["g_target"], sigma)
        return Residuals(u, data["g_target"], "target conductance, uS")

    def simulate(self, data: Measurements, seed: int) -> dict[str, Tensor]:
        """Programmed conductances `g`, µS, for the targets of the data."""
        return {"g": self.apply("program", data["g_target"], data.site(self, "program", seed, data["g_target"]))}


class Drift(Nonideality, kind="pcm.drift"):
    """Conductance relaxes as a power law of time: g(t) = g_P ((t + t0)/t0)^-nu (Rasch et al. 2023, Eqs. 8, 9).

    nu ~ N(mean(r), std(r)), at least 0, is drawn once per device and belongs to it for the life of the chip:
    mean = clip(-0.0155 ln r + 0.0244, 0.049, 0.1), std = clip(-0.0125 ln r - 0.0059, 0.008, 0.045), r = g_target/g_max.
    """

    source = f"{RASCH}, Eqs. 8, 9"
    bibtex = RASCH_BIBTEX
    cellwise = True
    own_scale = True  # scales nu: the drift in log-log

    t0: Seconds = Field(20.0, gt=0, description="time of the first read after programming", source=f"{RASCH}, Eq. 8")
    nu_mean: float = Field(1.0, ge=0, unit="1", description="factor on the mean of nu", source="mho")
    nu_std: float = Field(1.0, ge=0, unit="1", description="factor on the spread of nu", source="mho")

    def age(self, g: Tensor, t: float | Tensor, site: Site) -> Tensor:
        nu = self.scale * self.exponent(site)
        return g * torch.exp(-nu * ln((t + self.t0) / self.t0))

    def exponent(self, site: Site) -> Tensor:
        """nu of every device, the same at every time."""
        mean, std = self.moments(site.target / site.g_max)
        return (mean + std * site.randn_like(mean, per="chip", name="nu")).clamp(min=0)

    def moments(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of nu (Eq. 9)."""
        ln_r = torch.log(r.clamp(min=1e-9))
        mean = (-0.0155 * ln_r + 0.0244).clamp(0.049, 0.1) * self.nu_mean
        std = (-0.0125 * ln_r - 0.0059).clamp(0.008, 0.045) * self.nu_std
        return mean, std

    # Fit: ln g = a - nu L + noise xi, L = ln((t + t0)/t0), with one a and one nu per device. The slope of a straight
    # line through one device's readings, b, scatters by more than nu does, var b = var nu + noise^2/S,
    # S = sum (L - mean L)^2: taking the spread of b for that of nu would overstate it. So nu is integrated out.
    fit_columns: ClassVar[dict[str, Column]] = {
        "g_target": Column("uS", "target conductance of the device", positive=True),
        "device": Column("", "number or name of the device"),
        "t": Column("s", "time after programming"),
        "g": Column("uS", "conductance read at that time", positive=True),
    }
    fit_fields: ClassVar[tuple[str, ...]] = ("nu_mean", "nu_std")
    fit_extras: ClassVar[dict[str, float]] = {"noise": 0.01}  # relative noise of a reading

    def log_prob(self, data: Measurements, noise: Tensor | float) -> Tensor:
        """ln of the integral over nu of prod N(ln g; a - nu L, noise) p(nu), p = N(mean, std) moved up to 0 where it
        would be negative, for every device; a has a flat prior."""
        n, s, b, rest = self._lines(data)
        mean, std = self._moments(data)
        sigma2 = torch.as_tensor(noise, dtype=torch.float64) ** 2
        v = sigma2 / s  # variance of the slope given nu
        inside = normal_log_density(b, mean, (std**2 + v).sqrt())
        posterior = (mean * v + b * std**2) / (std * (v * (std**2 + v)).sqrt())  # mean over std of nu given b
        at_zero = normal_log_density(b, 0.0, v.sqrt()) + _log_ndtr(-mean / std)
        slope = torch.logsumexp(torch.stack([inside + _log_ndtr(posterior), at_zero]), 0)  # logaddexp: nan curvature
        return slope - 0.5 * (n - 2) * (2 * torch.pi * sigma2).log() - 0.5 * rest / sigma2

    def residuals(self, data: Measurements, noise: float) -> Residuals:
        """Of every device: the slope against its distribution, and (3 readings or more) the scatter around the line
        against chi^2 with n - 2 degrees of freedom."""
        n, s, b, rest = self._lines(data)
        mean, std = self._moments(data)
        r = data.mean_by("device", data["g_target"])
        width = torch.sqrt(torch.as_tensor(noise**2) / s)
        # P(slope <= b) = E over nu of Phi((b - nu)/width), the midpoints of 400 equally likely nu
        z = torch.special.ndtri((torch.arange(400, dtype=torch.float64) + 0.5) / 400)
        nu = (mean[:, None] + std[:, None] * z).clamp(min=0)
        u = torch.special.ndtr((b[:, None] - nu) / width[:, None]).mean(1)
        many = n > 2
        scatter = torch.special.gammainc(0.5 * (n[many] - 2), 0.5 * rest[many] / noise**2)
        return Residuals(torch.cat([u, scatter]), torch.cat([r, r[many]]), "target conductance, uS")

    def simulate(self, data: Measurements, seed: int, noise: float) -> dict[str, Tensor]:
        """Readings `g`, µS, at the times of the data, with a relative error `noise` of each reading."""
        site = data.site(self, "age", seed, data.mean_by("device", data["g_target"]))
        nu = self.scale * self.exponent(site)[data["device"]]
        g = data["g_target"] * ((data["t"] + self.t0) / self.t0) ** -nu
        return {"g": g * torch.exp(noise * site.randn_like(g, per="chip", name="reading"))}

    def _moments(self, data: Measurements) -> tuple[Tensor, Tensor]:
        mean, std = self.moments(data.mean_by("device", data["g_target"]) / data.g_max)
        return self.scale * mean, (self.scale * std).clamp(min=1e-9)

    def _lines(self, data: Measurements) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The straight line of every device: readings n, sum of squares S of L, slope b, rest of the squares."""
        time = torch.log((data["t"] + self.t0) / self.t0)
        ln_g = torch.log(data["g"])
        n = data.sum_by("device", torch.ones_like(ln_g))
        x = time - data.mean_by("device", time)[data["device"]]
        y = ln_g - data.mean_by("device", ln_g)[data["device"]]
        s = data.sum_by("device", x * x)
        if (s <= 0).any():
            raise MhoError("pcm.drift needs at least two times of every device")
        b = -data.sum_by("device", x * y) / s
        rest = data.sum_by("device", y * y) - b**2 * s
        return n, s, b, rest.clamp(min=0)


def _log_ndtr(x: Tensor) -> Tensor:
    """ln Phi(x) where its second derivative is still exact."""
    return torch.special.log_ndtr(x.clamp(-1e3, 1e3))


class LongTermReadNoise(Nonideality, kind="pcm.read_noise_1f"):
    """1/f noise between programming and evaluation: drawn once per evaluation time, then fixed (Rasch et al. 2023, Eqs. 10, 11).

    sigma = g min(0.0088 (g_P/g_max)^-0.65, 0.2) sqrt(ln((t + t0 + T)/(2 T))), T the duration of a read. g is the
    drifted conductance, g_P the programmed one (docs/physics.md E3); t0 counts from programming (E4), so that the noise is
    there at age 0 s already.
    """

    source = f"{RASCH}, Eqs. 10, 11"
    bibtex = RASCH_BIBTEX
    cellwise = True
    noise = True

    t0: Seconds = Field(20.0, ge=0, source=f"{RASCH}, Eq. 8; the clock of Eq. 10 starts with it")
    """time of the first read after programming"""
    t_read: Seconds = Field(250e-9, gt=0, description="duration of a read", source=f"{RASCH}, Table A.1")
    conductance: Literal["drifted", "target"] = Field("drifted", source=f"{RASCH}, Eqs. 10, 12")
    """what the noise multiplies: the drifted conductance, or the target as Eq. 10 is printed"""

    def age(self, g: Tensor, t: float | Tensor, site: Site) -> Tensor:
        printed = self.conductance == "target"
        g_q = site.target if printed else site.programmed
        q = (0.0088 * torch.exp(-0.65 * torch.log((g_q / site.g_max).clamp(min=1e-9)))).clamp(max=0.2)  # ** takes longer
        spread = ln((t + self.t0 + self.t_read) / (2 * self.t_read)).clamp(min=0).sqrt()
        return g + (site.target if printed else g) * q * spread * site.randn_like(g)


class ReadNoise(Nonideality, kind="pcm.read_noise"):
    """Short-term read noise, fresh for every MVM, referred to the output: sigma sqrt(sum_j l_ij x_j^2) xi_i
    (Rasch et al. 2023, Eq. 14), l_ij = |w_ij| + 2 g_min/(g_max - g_min): both devices of a pair are
    noisy (g_min = 0 in the paper)."""

    source = f"{RASCH}, Eq. 14"
    bibtex = RASCH_BIBTEX
    strength: ClassVar[str] = "sigma"
    sides: ClassVar[dict[str, Side]] = {"s": Side(conductance, square)}

    sigma: float = Field(0.0175, ge=0, unit="1", source=f"{RASCH}, Table A.1")
    """noise of one fully-on row through one full weight"""

    def variance(self, site: Site, s: Tensor) -> Tensor:
        return self.sigma**2 * s


class PcmStuckAt(StuckAt, kind="pcm.stuck_at"):
    """Cells that cannot be programmed: stuck at RESET (0), at SET (g_max), or anywhere between (Rasch et al. 2023, Methods)."""

    source = f"{RASCH}, sec. 2.4"
    bibtex = RASCH_BIBTEX
