"""The midpoint fit (R002-06): known curves recovered, outliers resisted, honest errors."""

import numpy as np
import pytest
from mho_lab.studies.midpoint import Midpoint, fit_midpoint

import mho

SIGMAS = np.geomspace(0.02, 5.0, 14)
TRUE = Midpoint(0.31, 2.4, 0.93, 0.1, 0.0)


@pytest.mark.parametrize("seed", range(8))
def test_a_known_curve_with_half_a_percent_of_noise_is_recovered_within_3_percent(seed):
    """R002-06."""
    noise = 0.005 * np.random.default_rng(seed).standard_normal(len(SIGMAS))
    found = fit_midpoint(SIGMAS, TRUE.at(SIGMAS) + noise, 0.1)
    assert found.mu == pytest.approx(0.31, rel=0.03)
    assert found.k == pytest.approx(2.4, rel=0.1)
    assert found.a0 == pytest.approx(0.93, abs=0.01)


def test_without_noise_the_curve_is_found_exactly():
    found = fit_midpoint(SIGMAS, TRUE.at(SIGMAS), 0.1)
    assert (found.mu, found.k, found.a0) == pytest.approx((0.31, 2.4, 0.93), rel=1e-6)


def test_one_outlier_does_not_move_the_midpoint_by_3_percent():
    y = TRUE.at(SIGMAS) + 0.005 * np.random.default_rng(0).standard_normal(len(SIGMAS))
    y[5] -= 0.3
    assert fit_midpoint(SIGMAS, y, 0.1).mu == pytest.approx(0.31, rel=0.03)


def test_the_interval_of_the_midpoint_covers_it():
    """400 fits of 14 points: 95 %, or a little less, since the asymptotic formula is used at few points."""
    rng = np.random.default_rng(1)
    found = [fit_midpoint(SIGMAS, TRUE.at(SIGMAS) + 0.01 * rng.standard_normal(14), 0.1) for _ in range(400)]
    assert np.mean([f.low < 0.31 < f.high for f in found]) > 0.91


def test_a_curve_that_never_falls_is_refused():
    with pytest.raises(mho.MhoError, match="both sides"):
        fit_midpoint(SIGMAS[:3], [0.9, 0.9, 0.9], 0.1)
    with pytest.raises(mho.MhoError, match="both sides"):
        fit_midpoint(SIGMAS, np.full(14, 0.9), 0.1)
