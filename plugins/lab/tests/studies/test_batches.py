"""The batch that gradients are measured on keeps the form that the task gave it."""

from typing import NamedTuple

import pytest
import torch
from mho_lab.studies.diagnose import _batch

import mho


class Named(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


class Given(mho.Task):
    def __init__(self, batches):
        self.batches = batches

    def calibration_batches(self):
        return iter(self.batches)


@pytest.mark.parametrize("form", [Named, lambda x, y: (x, y), lambda x, y: [x, y]], ids=["named", "tuple", "list"])
def test_batches_are_joined_in_their_own_type(form):
    first, second = (form(torch.full((3, 2), k), torch.full((3,), k)) for k in (0, 1))
    found = _batch(Given([first, second]), 4)
    assert type(found) is type(first)
    assert found[0][:, 0].tolist() == [0, 0, 0, 1] and found[1].tolist() == [0, 0, 0, 1]


def test_batches_of_other_lengths_are_not_joined():
    short, long = Named(torch.zeros(3, 5), torch.zeros(3)), Named(torch.ones(3, 7), torch.ones(3))
    assert _batch(Given([short, long]), 6) is short
