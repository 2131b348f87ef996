"""The midpoint noise level: a robust fit of accuracy over the logarithm of the noise (R002-06)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mho.ground import MhoError
from mho_lab.errorbars import t_quantile

HUBER = 1.345  # 95 % efficiency for Gaussian errors


class Midpoint(NamedTuple):
    """acc(sigma) = chance + (a0 - chance) / (1 + exp(k (log sigma - log mu))), with the half width of the 95 % interval of
    log mu.

    mu  the noise at which half of what is above guessing is lost
    k   how suddenly
    a0  the accuracy without noise
    """

    mu: float
    k: float
    a0: float
    chance: float
    log_half: float

    def at(self, sigma: float | np.ndarray) -> np.ndarray:
        """The fitted accuracy."""
        return _curve(np.array([math.log(self.mu), math.log(self.k), self.a0]), np.log(np.asarray(sigma, float)), self.chance)

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval of mu."""
        return self.mu * math.exp(-self.log_half)

    @property
    def high(self) -> float:
        return self.mu * math.exp(self.log_half)


def fit_midpoint(sigmas: Sequence[float], accuracies: Sequence[float], chance: float) -> Midpoint:
    """Least squares with Huber's weights: single outliers count little. Needs accuracies on both sides of the midpoint."""
    x, y = np.log(np.asarray(sigmas, float)), np.asarray(accuracies, float)
    half = chance + (y.max() - chance) / 2
    if len(x) < 4 or not (y.min() < half < y.max()):
        raise MhoError("a midpoint needs at least 4 noise levels, with accuracies on both sides of half the loss")
    p = np.array([x[np.abs(y - half).argmin()], math.log(3.0), y.max()])
    damping, weights = 1e-3, np.ones_like(y)
    for _ in range(200):
        r = y - _curve(p, x, chance)
        weights = _huber(r)
        slope = _slopes(p, x, chance)
        normal = slope.T @ (weights[:, None] * slope)
        step = np.linalg.solve(normal + damping * (np.diag(np.diag(normal)) + 1e-12 * np.eye(3)), slope.T @ (weights * r))
        new = p + np.clip(step, -1.0, 1.0)
        after = float((weights * (y - _curve(new, x, chance)) ** 2).sum())
        before = float((weights * r**2).sum())
        p, damping = (new, damping / 3) if after <= before else (p, damping * 5)
        if (after <= before and (np.abs(step) < 1e-10).all()) or damping > 1e12:
            break
    half_width = t_quantile(0.975, len(x) - 3) * _error(p, x, y, chance)
    return Midpoint(math.exp(p[0]), math.exp(p[1]), float(p[2]), chance, half_width)


def _error(p: np.ndarray, x: np.ndarray, y: np.ndarray, chance: float) -> float:
    """The standard error of log mu of a Huber fit: s^2 (J^T J)^-1 with s^2 = sum psi^2 / (n - 3) / (mean psi')^2."""
    slope, r = _slopes(p, x, chance), y - _curve(p, x, chance)
    weights = _huber(r)
    s = math.sqrt(float(((weights * r) ** 2).sum()) / (len(x) - 3)) / float((weights == 1).mean())
    return s * math.sqrt(np.linalg.pinv(slope.T @ slope)[0, 0])


def _curve(p: np.ndarray, x: np.ndarray, chance: float) -> np.ndarray:
    """p = (log mu, log k, a0), x = log sigma."""
    return chance + (p[2] - chance) * _falling(p, x)


def _falling(p: np.ndarray, x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 - np.tanh(0.5 * np.exp(p[1]) * (x - p[0])))  # 1 / (1 + exp(z)) without overflow


def _slopes(p: np.ndarray, x: np.ndarray, chance: float) -> np.ndarray:
    """Derivatives of the curve [level, parameter]."""
    s, k = _falling(p, x), np.exp(p[1])
    inner = -(p[2] - chance) * s * (1 - s)  # d curve / d z
    return np.stack([-k * inner, k * (x - p[0]) * inner, s], 1)


def _huber(r: np.ndarray) -> np.ndarray:
    """Weights of the residuals: 1, and smaller than 1 for those further off than 1.345 robust standard deviations."""
    scale = np.median(np.abs(r)) / 0.6745
    return np.ones_like(r) if scale == 0 else np.minimum(1.0, HUBER * scale / np.maximum(np.abs(r), 1e-300))
