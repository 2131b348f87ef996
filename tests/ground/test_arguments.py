"""Arguments of Python, numpy and torch are one to us; what means nothing is refused by name."""

import numpy as np
import pytest
import torch

from mho.ground import MhoError, plain, whole
from mho.ground.arguments import number


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), torch.tensor(3), np.array(3)])
def test_whole_numbers_of_any_library_are_welcome(value):
    found = whole("chips", value, least=1)
    assert found == 3 and type(found) is int


@pytest.mark.parametrize("value", ["3", 3.0, None, True, np.bool_(True), np.float64(3), torch.tensor(1.5), [3], 0])
def test_anything_else_is_refused_by_name(value):
    with pytest.raises(MhoError, match="chips must be a whole number of at least 1, got "):
        whole("chips", value, least=1)


def test_numbers_have_bounds():
    assert number("cap", np.float32(2), above=0) == 2.0 and number("quantile", 1, 0, 1) == 1.0
    for value in (0, 1.1, float("nan"), float("inf"), "1", True, None):
        with pytest.raises(MhoError, match="q must be a number above 0 and at most 1, got "):
            number("q", value, 0, 1)


def test_scalars_become_pythons_own():
    assert (plain(np.float32(0.5)), plain(torch.tensor(2)), plain([1])) == (0.5, 2, [1])
