"""The contract of training hooks: what happens to a weight after a step, the same every time."""

from __future__ import annotations

import inspect
import random
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from mho.use import matrices, to_analog
from mho_kit.base import Checks, same
from mho_kit.randomness import generators

STEPS = 30


class TrainingContract(Checks):
    """Everything a training hook promises to `mho.attach`, as named checks for pytest.

    class TestShrink(TrainingContract):
        hook = Shrink
    """

    hook: ClassVar[type]

    def _network(self) -> nn.Module:
        """A linear layer, and a grouped convolution, whose weight is a matrix [group, out, in]."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Conv2d(4, 6, 2, groups=2), nn.Flatten(), nn.Linear(24, 10))
            return to_analog(model.double(), self.bench.hardware())

    def _trained(self, factor: float = 1.0) -> nn.Module:
        """The network after `STEPS` steps that change nothing but what the hook does; weights times `factor` at first."""
        net, hook = self._network(), cast(Any, self.hook())
        with torch.no_grad():
            for _, weight in matrices(net):
                weight.mul_(factor)
            for step in range(1, STEPS + 1):
                for array, weight in matrices(net):
                    hook.after_step(array, weight, step)
        return net

    @staticmethod
    def _weights(net: nn.Module) -> Tensor:
        return torch.cat([weight.detach().flatten() for _, weight in matrices(net)])

    def test_is_made_without_arguments(self) -> None:
        try:
            self.hook()
        except TypeError as error:
            raise AssertionError(f"mho.attach makes one object without arguments: {error}") from None

    def test_after_step_takes_the_right_arguments(self) -> None:
        signature = inspect.signature(self.hook.after_step)  # type: ignore[attr-defined]
        try:
            signature.bind("self", "array", "weight", "step")
        except TypeError as error:
            raise AssertionError(
                f"after_step{signature} does not fit ({error}); write after_step(self, array, weight, step)"
            ) from None

    def test_documents_itself(self) -> None:
        assert len((vars(self.hook).get("__doc__") or "").split()) >= 4, (
            "it needs a docstring: what it does to which weights"
        )

    def test_does_something(self) -> None:
        assert not same(self._weights(self._network()), self._weights(self._trained())), (
            f"{STEPS} steps change no weight; change it in place: weight.mul_(...)"
        )

    def test_keeps_weights_finite(self) -> None:
        for factor in (1.0, 0.0):
            assert torch.isfinite(self._weights(self._trained(factor))).all(), (
                f"weights become NaN or infinite{' where all are 0' * (factor == 0)}; clamp before dividing"
            )

    def test_the_same_steps_give_the_same_weights(self) -> None:
        results = []
        for seed in (1, 2):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                random.seed(seed)
                results.append(self._weights(self._trained()))
        assert same(*results), (
            "the same steps give other weights; draw from keys (mho.effects.draws) of layer and step, not from a global generator"
        )

    def test_leaves_global_generators_alone(self) -> None:
        before = generators()
        self._trained()
        moved = [n for (n, a), (_, b) in zip(before, generators()) if a != b]
        assert not moved, f"it draws from {', '.join(moved)}, so a training with it goes on differently"

    def test_leaves_the_tiles_alone(self) -> None:
        """Scales and input ranges are set by remap, calibration and the optimizer."""
        before = {n: v for n, v in self._network().state_dict().items() if ".tiles." in n}
        after = self._trained().state_dict()
        changed = [n for n, v in before.items() if not same(v, after[n])]
        assert not changed, f"it changes {', '.join(changed)}; change the weight alone"
