"""Compiled kernels: what a call may change without being compiled anew, and what not."""

import pytest
import torch
from mho.fused.kernels import Kernels
from mho.site import Site


def twice(a, b):
    return a + 2 * b


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@torch.no_grad()
def test_a_kernel_that_was_first_given_one_tensor_twice_is_right_for_two():
    kernels, one = Kernels(True, "layer"), torch.ones(3)
    for a, b in ((one, one), (one, 0 * one), (one, 5 * one)):
        assert torch.equal(kernels.run("sum", lambda: twice, (a, b), lambda: None), a + 2 * b)


def test_a_site_without_kernels_calls_the_function():
    site = Site(None, None, (0, 0), "output")
    assert not site.compiles and site.kernel(twice, 1, 2) == 5
