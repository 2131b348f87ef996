"""Telegraph noise with a memory: occupancy, correlation in time, and the contract."""

import math

import pytest
import torch
from mho_kit import Bench, NonidealityContract
from mho_markov import MarkovTelegraph

SPEC = MarkovTelegraph(depth=0.2, occupancy=0.3, tau=2.0)


class TestMarkovTelegraph(NonidealityContract):
    spec = SPEC
    ages = (0.0, 0.7, 5.0, 60.0)
    draws_taken = 200
    expected_failed_checks = {"never_waits_for_an_accelerator": "it looks back until every trap has had an event"}
    expected = {"age": lambda g, t, site: (g * (1 - 0.2 * 0.3), 0.2 * g * math.sqrt(0.3 * 0.7))}


def states(times):
    """[time, cell] of 120,000 traps."""
    g = torch.full((1, 1, 300, 400), 10.0)
    site = Bench().site(SPEC, "age", target=g)
    return torch.stack([SPEC.filled(g, t, site).double().flatten() for t in times])


@pytest.mark.parametrize("dt", [0.2, 1.0, 3.0, 8.0])
def test_the_correlation_decays_exponentially(dt):
    """exp(-dt/tau), across the borders of the windows; n = 120,000, five sigma."""
    a, b = states([3.1, 3.1 + dt]) - 0.3
    assert float((a * b).mean()) / 0.21 == pytest.approx(math.exp(-dt / 2.0), abs=5 / math.sqrt(120_000))


def test_the_occupancy_is_stationary():
    assert torch.allclose(states([0.0, 1.0, 50.0]).mean(1), torch.tensor(0.3).double(), atol=5 * math.sqrt(0.21 / 120_000))
