"""Sequential decisions and thresholds: quantiles, coverage, known crossings."""

import math
import random

import pytest
from mho_lab.errorbars import t95, t_quantile
from mho_lab.measure.statistics import Ask, Effort, Threshold, crossing, decide, interval, threshold
from scipy import stats


@pytest.mark.parametrize("dof", [1, 2, 3, 7, 15, 100])
@pytest.mark.parametrize("p", [0.9, 0.975, 0.9975])
def test_quantiles_are_those_of_students_t(p, dof):
    assert t_quantile(p, dof) == pytest.approx(stats.t.ppf(p, dof), rel=2e-4)
    assert t_quantile(1 - p, dof) == pytest.approx(-t_quantile(p, dof))
    assert t95(dof) == t_quantile(0.975, dof)


def test_an_interval_covers_the_mean_as_often_as_it_says():
    """4,000 samples of 5: 95 % +- 4.4 binomial standard errors (alpha = 1e-5)."""
    r = random.Random(0)
    found = [interval([r.gauss(1, 2) for _ in range(5)]) for _ in range(4000)]
    share = sum(i.low < 1 < i.high for i in found) / 4000
    assert abs(share - 0.95) < 4.4 * math.sqrt(0.95 * 0.05 / 4000)


def answered(search, margin):
    """The result of a search whose questions `margin(x, repetition)` answers."""
    ask = next(search)
    while True:
        try:
            ask = search.send([margin(ask.x, k) for k in range(ask.first, ask.last)])
        except StopIteration as end:
            return end.value


def noisy(curve, std, seed=0):
    def margin(x, k):
        return curve(x) + std * random.Random(f"{seed}/{x}/{k}").gauss(0, 1)

    return margin


def test_a_clear_margin_needs_few_repetitions_and_an_unclear_one_all():
    assert answered(decide(0.0, Effort()), noisy(lambda x: 5.0, 1.0)).n == 3
    unclear = answered(decide(0.0, Effort()), noisy(lambda x: 0.0, 1.0))
    assert unclear.n == 12 and unclear.sign == 0


def test_decisions_are_wrong_at_most_as_often_as_stated():
    """Looking three times must not raise the error of a margin of exactly 0 above 5 % (Bonferroni)."""
    found = [answered(decide(0.0, Effort()), noisy(lambda x: 0.0, 1.0, seed)).sign for seed in range(3000)]
    assert sum(map(abs, found)) / 3000 < 0.05 + 4.4 * math.sqrt(0.05 * 0.95 / 3000)


def test_repetitions_without_spread_are_decided_by_their_sign():
    assert Effort().sign([0.3] * 4) == 1 and Effort().sign([0.0] * 4) == 0 and Effort().sign([-0.1] * 4) == -1


def test_a_known_crossing_is_recovered():
    """R003-46: a straight curve without noise, to 1e-6."""
    assert crossing([(x, 0.37 - 0.1 * x, 1) for x in range(8)]) == pytest.approx(3.7, abs=1e-6)


def test_points_in_the_wrong_order_are_pooled_before_interpolation():
    """1, 2 rise by noise: their mean 2 counts at both."""
    assert crossing([(0, 4, 1), (1, 1, 1), (2, 3, 1), (3, -2, 1)]) == pytest.approx(2.5)
    assert crossing([(0, 4, 1), (1, 1, 1)]) is None


def test_bisection_brackets_a_noisy_crossing():
    """200 searches: the interval misses the truth at most as often as its decisions are wrong, and is narrow."""
    found = [answered(threshold(Effort(), 10.0), noisy(lambda x: 1.0 - 0.25 * x, 0.1, s)) for s in range(200)]
    missed = sum(not t.low <= 4.0 <= t.high for t in found)
    assert missed / 200 < 0.15
    assert sorted(t.high - t.low for t in found)[100] < 0.8
    assert sum(t.x for t in found) / 200 == pytest.approx(4.0, abs=0.05)


def test_without_noise_the_interval_is_as_narrow_as_asked():
    t = answered(threshold(Effort(), 10.0, tolerance=0.1), noisy(lambda x: 1.0 - 0.3 * x, 0.0))
    assert t.low <= 1 / 0.3 <= t.high and t.high - t.low <= 0.1
    assert t.x == pytest.approx(1 / 0.3, abs=1e-6)  # the curve is straight


def test_a_threshold_that_is_never_reached_says_so():
    t = answered(threshold(Effort(), 5.0), noisy(lambda x: 1.0, 0.1))
    assert (t.low, t.high, t.x) == (5.0, None, None)


def test_whole_numbers_are_found_as_such():
    """Bits taken away: 4 hold, 5 do not."""
    t = answered(threshold(Effort(), 6.0, tolerance=1.0), noisy(lambda x: 4.5 - x, 0.01))
    assert (t.low, t.high) == (4.0, 5.0) and t.x == pytest.approx(4.5, abs=0.05)
    assert all(p.x == int(p.x) for p in t.points)


def test_what_is_harmful_at_once_has_the_present_state_as_its_lower_end():
    t = answered(threshold(Effort(), 6.0, start=1.0), noisy(lambda x: -1.0, 0.01))
    assert 0 < t.x < t.high  # between the start and the first point
    assert isinstance(t, Threshold) and t.low == 0.0 and t.high <= 0.3


def test_asks_go_on_where_the_last_one_ended():
    search = decide(2.0, Effort(looks=(2, 5)))
    assert next(search) == Ask(2.0, 0, 2)
    assert search.send([1.0, -1.0]) == Ask(2.0, 2, 5)
