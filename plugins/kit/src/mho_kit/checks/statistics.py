"""Checks of means and standard deviations against what the author expects, with fixed seeds and alpha = 1e-5."""

from collections.abc import Callable
from statistics import NormalDist
from typing import Any, ClassVar

import torch
from torch import Tensor

from mho_kit.bench import skip
from mho_kit.checks.base import EffectChecks

ALPHA = 1e-5
Moments = Callable[..., tuple[Any, Any]]


class StatisticsChecks(EffectChecks):
    """expected    stage -> callable with the arguments of the stage, giving (mean, std) of what it returns
    draws_taken   chips per element; the more, the smaller a wrong moment that is found
    tolerance     deviation of mean and std that is allowed besides chance, relative to the std (or to the mean without noise)
    """

    expected: ClassVar[dict[str, Moments]] = {}
    draws_taken: ClassVar[int] = 2000
    tolerance: ClassVar[float] = 0.0

    def test_expected_moments_name_its_stages(self) -> None:
        strange, stages = ", ".join(self.expected.keys() - set(self.spec.stages())), ", ".join(self.spec.stages())
        assert not strange, f"expected names {strange}, but the effect acts at {stages}"

    def test_mean_and_spread_are_as_expected(self) -> None:
        if not self.expected:
            skip("no expected moments are given")
        t = self.ages[-1]
        for stage, moments in self.expected.items():
            arguments = self.bench.arguments(stage)
            site = self.bench.site(self.spec, stage, t=t)
            extra = (t,) if stage == "age" else ()
            drawn = torch.stack([self.bench.call(self.spec, stage, chip, t=t) for chip in range(self.draws_taken)])
            given = moments(arguments[0], *extra, *arguments[1:], site)
            mean, std = (torch.as_tensor(v).to(drawn.dtype).expand_as(drawn[0]) for v in given)
            if problem := compare(drawn, mean, std, tolerance=self.tolerance):
                raise AssertionError(f"{stage}: {problem}; correct the formula or `expected`, or state a tolerance")


def compare(drawn: Tensor, mean: Tensor, std: Tensor, tolerance: float = 0.0, alpha: float = ALPHA) -> str:
    """What is wrong with the moments of `drawn` [draw, ...], "" if nothing. The error of the sample variance is estimated
    from the fourth moment, so that the draws need not be Gaussian. Bonferroni over all elements."""
    n = len(drawn)
    limit = _limit(mean, alpha)
    rounding = 1e-9 * (1 + mean.abs())
    found = drawn.mean(0)
    allowed = limit * std / n**0.5 + tolerance * torch.where(std > 0, std, mean.abs()) + rounding
    if problem := _worst("mean", found, mean, allowed):
        return f"{problem} (n = {n})"
    variance, error = _variance(drawn)
    allowed = limit * error + (2 * tolerance + tolerance**2) * std.square() + rounding.square() + 1e-12 * std.square()
    excess = (variance - std.square()).abs() / allowed.clamp(min=1e-300)
    if not (excess > 1).any():
        return ""
    at = int(excess.argmax())
    return f"std is {float(variance.flatten()[at].sqrt()):.4g}, expected {float(std.flatten()[at]):.4g} (n = {n})"


def compare_samples(a: Tensor, b: Tensor, shift: Tensor, tolerance: float, alpha: float = ALPHA) -> str:
    """What tells the moments of a [draw, ...] from those of b, "" if nothing. Allowed besides chance: means that differ by
    `shift`, standard deviations by the share `tolerance`."""
    n, limit = len(a), _limit(a[0], alpha)
    (va, ea), (vb, eb) = _variance(a), _variance(b)
    if problem := _worst("mean", a.mean(0), b.mean(0), limit * ((va + vb) / n).sqrt() + shift + 1e-12):
        return f"{problem} (n = {n})"
    allowed = limit * (ea.square() + eb.square()).sqrt() + (2 * tolerance + tolerance**2) * vb.clamp(min=1e-24)
    problem = _worst("variance", va, vb, allowed)
    return f"{problem} (n = {n})" if problem else ""


def _limit(mean: Tensor, alpha: float) -> float:
    """Standard errors that chance explains, Bonferroni over means and variances of all elements."""
    return -NormalDist().inv_cdf(alpha / (4 * mean.numel())) * 1.1  # 10 % for skewed distributions


def _variance(drawn: Tensor) -> tuple[Tensor, Tensor]:
    """The variance of draws [draw, ...], and its standard error by the fourth moment."""
    centred = drawn - drawn.mean(0)
    variance, fourth = centred.square().mean(0), centred.pow(4).mean(0)
    return variance, ((fourth - variance.square()).clamp(min=0) / len(drawn)).sqrt()


def _worst(what: str, found: Tensor, wanted: Tensor, allowed: Tensor) -> str:
    excess = (found - wanted).abs() / allowed
    if not (excess > 1).any():
        return ""
    at = int(excess.argmax())
    return f"{what} is {float(found.flatten()[at]):.5g}, expected {float(wanted.flatten()[at]):.5g}"
