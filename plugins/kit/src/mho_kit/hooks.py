"""The contract of training methods: what happens to a network in training, the same every time, and gone when it ends."""

from __future__ import annotations

import inspect
import random
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mho import TrainingMethod
from mho.config import Hardware, Kinded
from mho.use import attach, matrices, to_analog
from mho_kit.base import same
from mho_kit.bench import skip
from mho_kit.description import DescriptionChecks
from mho_kit.randomness import generators

STEPS = 30
HOOKS = ("convert", "start", "before_forward", "after_step", "detach", "loss", "decides")


class TrainingContract(DescriptionChecks):
    """Everything a training method promises to `to_analog` and `mho.attach`, as named checks for pytest.

    class TestShrink(TrainingContract):
        spec = Shrink(rate=0.1)
    """

    BASE: ClassVar[type[Kinded]] = TrainingMethod

    def hardware(self) -> Hardware:
        """Nothing but the method under test acts on weights."""
        return self.bench.hardware(methods=(self.spec,), inject=None, clip=None)

    def network(self) -> nn.Module:
        """A linear layer, and a grouped convolution, whose weight is a matrix [group, out, in]."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Conv2d(4, 6, 2, groups=2), nn.Flatten(), nn.Linear(24, 10))
            return to_analog(model.double(), self.hardware()).train()

    def _trained(self, factor: float = 1.0) -> nn.Module:
        """The network after `STEPS` optimizer steps without gradients; weights times `factor` at first."""
        net = self.network()
        with torch.no_grad():
            for array, weight in matrices(net):
                weight.mul_(factor)
                array.remap(weight)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
        attached = attach(optimizer, net, steps_per_epoch=STEPS // 3)
        for _ in range(STEPS):
            optimizer.step()
        attached.detach()
        return net

    @staticmethod
    def _weights(net: nn.Module) -> Tensor:
        return torch.cat([weight.detach().flatten() for _, weight in matrices(net)])

    def _writes(self, hook: str) -> bool:
        return getattr(type(self.spec), hook) is not getattr(TrainingMethod, hook)

    def test_inherits_from_its_base(self) -> None:
        cls = type(self.spec)
        assert isinstance(self.spec, TrainingMethod), f"{cls.__name__} must inherit from mho.TrainingMethod"
        assert cls.CATEGORY == TrainingMethod.CATEGORY, f"leave CATEGORY of {cls.__name__} as it is"

    def test_overrides_a_hook(self) -> None:
        assert any(map(self._writes, HOOKS)), (
            f"it overrides no hook, so it does nothing; write one of: {', '.join(HOOKS)}"
        )

    def test_hooks_take_the_right_arguments(self) -> None:
        for name in HOOKS:
            wanted = inspect.signature(getattr(TrainingMethod, name))
            given = inspect.signature(getattr(type(self.spec), name))
            try:
                given.bind(*wanted.parameters)
            except TypeError as error:
                text = ", ".join(wanted.parameters)
                raise AssertionError(f"{name}{given} does not fit ({error}); write {name}({text})") from None

    def test_changes_weights_in_place(self) -> None:
        if not self._writes("after_step"):
            skip("after_step is not overridden")
        assert not same(self._weights(self.network()), self._weights(self._trained())), (
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
        before = {n: v for n, v in self.network().state_dict().items() if ".tiles." in n and not n.endswith(".step")}
        after = self._trained().state_dict()
        changed = [n for n, v in before.items() if not same(v, after[n])]
        assert not changed, f"it changes {', '.join(changed)}; change the weight alone"

    def test_takes_off_what_it_put_on(self) -> None:
        kept = [_hooks_of(net) for net in (self.network(), self._trained())]
        assert kept[0] == kept[1], "hooks stay on modules after detach(); remove their handles there"


def _hooks_of(net: nn.Module) -> dict[str, int]:
    """How many forward hooks each module has."""
    found: dict[str, Any] = dict(net.named_modules())
    return {name: len(m._forward_hooks) + len(m._forward_pre_hooks) for name, m in found.items()}
