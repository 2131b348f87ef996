"""Checks of the strength: 0 removes the effect and nothing else, more strength is more effect."""

import itertools
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from mho.effects import Nonideality, product
from mho.tile import resolve
from mho_kit.bench import Witness, skip
from mho_kit.checks.base import EffectChecks, same


class StrengthChecks(EffectChecks):
    @property
    def _name(self) -> str:
        return type(self.spec).strength or skip("the effect has no strength")

    def _with(self, share: float) -> Any:
        """The spec at this share of its strength."""
        full = getattr(self.spec, self._name)
        value = full * share
        if isinstance(full, int) and value == int(value):
            value = int(value)
        try:
            return type(self.spec).model_validate({**self.values(), self._name: value})
        except ValidationError:
            if share:
                skip(f"{self._name} = {value:g} is not allowed")
            raise AssertionError(
                f"{self._name} = 0 is refused; a strength of 0 removes the effect, so allow it (ge=0), or set strength = None"
            ) from None

    def _outputs(self, *effects: Nonideality) -> Tensor:
        return self.bench.tile(*effects).program(seed=0).age(self.ages[-1])(self.bench.x)

    def _deviation(self, stage: str, share: float) -> float:
        """RMS of what the stage changes."""
        spec, arguments = self._with(share), self.bench.arguments(stage)
        value = product(*arguments) if stage == "mvm" else arguments[0]
        return float(torch.linalg.vector_norm(self.bench.call(spec, stage, t=self.ages[-1]).detach() - value))

    def test_strength_zero_removes_it(self) -> None:
        """Bit for bit, and the draws of other effects stay."""
        zero, witness = self._with(0.0), Witness.model_validate({})
        a, b = (self._outputs(*effects) for effects in ((witness, zero, witness), (witness, witness)))
        assert same(a, b), "at strength 0 it still acts; do not override `active`"

    def test_neighbours_keep_their_draws(self) -> None:
        """The numbers of other effects do not depend on whether this one is there."""
        witness = Witness.model_validate({})
        with_it, without = (resolve(e, "layer").effects[-1] for e in ((self.spec, witness), (witness,)))
        assert with_it.path == without.path, "another effect's random numbers change beside it"

    def test_strength_goes_to_nothing_smoothly(self) -> None:
        """The physics near 0 is the identity that the core assumes at 0."""
        for stage in self.spec.stages():
            full, tiny = (self._deviation(stage, share) for share in (1.0, 1e-6))
            assert tiny <= 1e-2 * full + 1e-12, (
                f"at a millionth of its strength {stage} still deviates by {tiny:.3g} (full strength: {full:.3g}); the core "
                "removes it at 0, so 0 must mean no effect: use the strength in the formula, or set strength = None"
            )

    def test_more_strength_is_more_effect(self) -> None:
        for stage in self.spec.stages():
            sizes = [self._deviation(stage, share) for share in (0.25, 0.5, 1.0)]
            text = ", ".join(f"{s:.3g}" for s in sizes)
            assert all(a <= b * (1 + 1e-6) + 1e-12 for a, b in itertools.pairwise(sizes)), (
                f"{stage} deviates by {text} at 1/4, 1/2 and 1 of its strength; it should grow with {self._name}"
            )

    def test_strength_changes_something(self) -> None:
        a, b = (self._outputs(self._with(share)) for share in (0.5, 1.0))
        assert not same(a, b), f"half the strength gives the same outputs; use self.{self._name}, or set strength = None"
