"""The conformance kit itself: an effect of 20 lines passes, and failures can be declared."""

from pathlib import Path

import pytest
import torch
from mho_kit import NonidealityContract, contract_of, run

from mho import Field, Nonideality


class TelegraphNoise(Nonideality, kind="telegraph.rtn"):
    """Traps that fill and empty at random lower a conductance while they are filled."""

    source = "Ielmini, Nardi, Cagli 2010"
    strength = "depth"
    depth: float = Field(0.1, ge=0, lt=1, unit="1", description="relative conductance drop of a filled trap")
    occupancy: float = Field(0.05, ge=0, le=1, unit="1", description="chance that a trap is filled at a read")

    def read(self, w, site):
        filled = site.rand_like(w) < self.occupancy
        return torch.where(filled, w * (1 - self.depth), w)


def two_states(w, site):
    """Mean and standard deviation of a cell whose trap is filled with probability 5 %."""
    return w * (1 - 0.1 * 0.05), 0.1 * w.abs() * (0.05 * 0.95) ** 0.5


class TestTelegraphNoise(NonidealityContract):
    """The example of the design, unchanged."""

    spec = TelegraphNoise()
    expected = {"read": two_states}


def test_the_kit_runs_without_pytest():
    outcomes = run(contract_of(TelegraphNoise(), expected={"read": two_states}))
    assert [o for o in outcomes if o.state == "failed"] == []
    assert sum(o.state == "passed" for o in outcomes) >= 40


class Undocumented(Nonideality, kind="telegraph.silent"):
    source = "an example"

    def read(self, w, site):
        return w * 0.9


def test_a_failure_may_be_declared_with_a_reason():
    declared = contract_of(Undocumented(), expected_failed_checks={"documents_itself": "a private experiment"})
    (outcome,) = [o for o in run(declared) if o.check == "documents_itself"]
    assert outcome.state == "expected" and "a private experiment" in outcome.message


def test_the_class_of_a_part_may_declare_it_too():
    class Declared(Undocumented, kind="telegraph.declared"):
        expected_failed_checks = {"documents_itself": "a private experiment"}

    (outcome,) = [o for o in run(contract_of(Declared())) if o.check == "documents_itself"]
    assert outcome.state == "expected" and "a private experiment" in outcome.message


def test_a_declared_failure_that_passes_is_an_error():
    declared = contract_of(TelegraphNoise(), expected_failed_checks={"documents_itself": "an old reason"})
    (outcome,) = [o for o in run(declared) if o.check == "documents_itself"]
    assert outcome.state == "failed" and "it passes now" in outcome.message


@pytest.mark.parametrize("declared", [{"no_such_check": "why"}, {"documents_itself": " "}])
def test_declared_failures_name_a_check_and_a_reason(declared):
    with pytest.raises(TypeError, match="is no check, or has no reason"):
        contract_of(TelegraphNoise(), expected_failed_checks=declared)


def test_an_effect_that_raises_is_a_failure_and_not_a_crash():
    class Raises(Undocumented, kind="telegraph.raises"):
        """It raises whatever it is asked."""

        def read(self, w, site):
            raise ZeroDivisionError("division by zero")

    failed = {o.check: o.message for o in run(contract_of(Raises())) if o.state == "failed"}
    message, _, place = failed["keeps_the_shape"].partition(" (")
    assert message == "ZeroDivisionError: division by zero"
    line = int(place.rstrip(")").rpartition(":")[2])
    assert "raise ZeroDivisionError" in Path(place.rpartition(":")[0]).read_text().splitlines()[line - 1]  # the author's own


def test_a_part_says_at_which_conductances_it_is_tried():
    """Cells of the kit span the range of its own devices; a test may say otherwise"""

    class Wide(TelegraphNoise, kind="telegraph.wide"):
        """The same for devices of 50 to 225 uS."""

        example_tile = "device: {g_min: 50 uS, g_max: 225 uS, pair: both}"

    g = contract_of(Wide())().bench.g
    assert float(g.min()) == 50 and 200 < float(g.max()) <= 225
    assert contract_of(Wide(), tile="device: {g_max: 5 uS}")().bench.geometry.g_max == 5
    assert contract_of(TelegraphNoise())().bench.geometry.g_max == 25
