"""How numbers with error bars are written."""

import doctest
import math

import pytest
from mho_lab import errorbars
from mho_lab.errorbars import number, percent, with_error


def test_examples_hold():
    assert doctest.testmod(errorbars).failed == 0


@pytest.mark.parametrize(
    ("sem", "written"),
    [(0.02, "50.0 ± 2.0"), (0.002, "50.0 ± 0.2"), (0.0002, "50.00 ± 0.02"), (0.00002, "50.000 ± 0.002"), (0.0, "50.0 ± 0.0")],
)
def test_as_many_places_as_show_the_error(sem, written):
    assert with_error(0.5, sem, in_percent=True) == written


def test_places_can_be_chosen_and_an_error_may_be_missing():
    assert with_error(0.5, 0.002, 2, in_percent=True) == "50.00 ± 0.20"
    assert with_error(0.5, None, 2) == "0.50" and with_error(None, None) == "–" == percent(None) == number(math.nan)
    assert with_error(-0.01, 0.001, in_percent=True, sign=True) == "−1.0 ± 0.1"
