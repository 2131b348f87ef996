"""Mean and standard error over repetitions."""

import math

import pytest

from mho.ground import spread


def test_mean_and_standard_error_over_repetitions():
    """1, 2, 3: mean 2, standard deviation 1, standard error 1/sqrt(3)."""
    found = spread([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    assert found["mean"] == [2.0, 5.0] and found["sem"] == pytest.approx([1 / math.sqrt(3), 0.0])
