"""The contract of training methods: what they do around the steps of a training, the same every time."""

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mho import TrainingHooks, TrainingMethod
from mho.use import Attached, attach, matrices, to_analog
from mho_kit.bench import seeded
from mho_kit.checks.base import generators_moved, kept_by, same, under_two_seeds
from mho_kit.checks.description import DescriptionChecks
from mho_kit.checks.devices import DeviceChecks
from mho_kit.far import Specimen

STEPS, EPOCH = 30, 10  # optimizer steps


class TrainingContract(DeviceChecks, DescriptionChecks):
    """Everything a training method promises to `mho.attach`, as named checks for pytest.

        class TestShrink(TrainingContract):
            spec = Shrink(rate=0.1)

    The author declares `spec`, with values with which the method does something within 30 steps of 10 an epoch, and
    `expected_failed_checks`. Checked are what it says about itself (kind, docstring, source, units, schema) and what it does to
    a small network: weights stay finite, the same training gives the same weights whatever the global generators say,
    also where it is interrupted and goes on from its state, scales of
    the tiles are left to the core, `detach` leaves nothing behind.
    """

    BASE = TrainingMethod
    METHODS = ("convert", "start", "before_forward", "after_step", "detach", "loss", "decides")
    spec: ClassVar[TrainingMethod]

    def _network(self, factor: float = 1.0, *methods: TrainingMethod) -> nn.Module:
        """A grouped convolution, whose weight is a matrix [group, out, in], and a linear layer; weights times `factor`."""
        with seeded():
            model = nn.Sequential(nn.Conv2d(4, 6, 2, groups=2), nn.Flatten(), nn.Linear(24, 10)).double()
            net = to_analog(model, self.bench.hardware(inject=None, clip=None, methods=methods))
        with torch.no_grad():
            for _, weight in matrices(net):
                weight.mul_(factor)
        return net

    def _trained(self, factor: float = 1.0, *methods: TrainingMethod) -> nn.Module:
        """The network after `STEPS` optimizer steps that change nothing but what the methods (the one under test) do."""
        net, optimizer, attached = self._begun(*(methods or (self.spec,)), factor=factor, lr=0.0)
        for _ in range(STEPS):
            optimizer.step()
        attached.detach()
        return net

    def _begun(
        self, *methods: TrainingMethod, factor: float = 1.0, lr: float = 0.5
    ) -> tuple[nn.Module, torch.optim.SGD, Attached]:
        net = self._network(factor, *methods)
        optimizer = torch.optim.SGD(net.parameters(), lr=lr)
        return net, optimizer, attach(optimizer, net, steps_per_epoch=EPOCH)

    def _signs(self, *methods: TrainingMethod, interrupted: bool = False) -> list[Any]:
        """Everything in which a training with these methods may differ from one without, or from one that is `interrupted`."""
        parts = net, optimizer, attached = self._begun(*methods)
        x, labels, found = self.bench.random(8, 4, 3, 3, number=9), torch.arange(8), []
        for step in range(STEPS):
            if interrupted and step == STEPS // 2 + 2:
                states = copy.deepcopy([part.state_dict() for part in parts])
                attached.detach()
                parts = net, optimizer, attached = self._begun(*methods)
                for part, state in zip(parts, states, strict=True):
                    part.load_state_dict(state)
            with seeded():
                logits = net(x)
            loss = nn.functional.cross_entropy(logits, labels)
            for method in methods:
                loss = method.loss(loss, lambda logits=logits: logits, lambda logits=logits: logits.detach().flip(-1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append((float(loss.detach()), optimizer.param_groups[0]["lr"]))
        ramps = [array.ramp for array, _ in matrices(net)]
        attached.detach()
        return [found, ramps, _weights(net).tolist()]

    def specimen(self) -> Specimen:
        return self._network(1.0, self.spec).float(), (self.bench.random(8, 4, 3, 3, number=9).float(),)

    # -- checks -----------------------------------------------------------------------------------------------
    def test_starts_with_hooks(self) -> None:
        *_, attached = self._begun(self.spec)
        wrong = [h for h in attached.methods if not isinstance(h, TrainingHooks)]
        attached.detach()
        assert not wrong, f"start(training) gives {wrong[0]!r}; return self, or an object that inherits from mho.TrainingHooks"

    def test_does_something(self) -> None:
        assert self._signs(self.spec) != self._signs(), (
            f"{STEPS} steps with it are those without it; change weights in place: weight.mul_(...)"
        )

    def test_keeps_weights_finite(self) -> None:
        for factor in (1.0, 0.0):
            assert torch.isfinite(_weights(self._trained(factor))).all(), (
                f"weights become NaN or infinite{' where all are 0' * (factor == 0)}; clamp before dividing"
            )

    def test_the_loss_is_a_finite_number(self) -> None:
        value, logits = torch.tensor(1.5, requires_grad=True), self.bench.random(8, 10, number=9).requires_grad_()
        loss = self.spec.loss(value, lambda: logits, lambda: logits.detach().flip(-1))
        assert loss.numel() == 1 and torch.isfinite(loss).all(), "loss(value, logits, teacher) must give one finite number"
        assert loss.requires_grad, "the loss has no gradient; compute it from value and logits() without detach"

    def test_the_same_steps_give_the_same_weights(self) -> None:
        a, b = under_two_seeds(lambda: _weights(self._trained()))
        assert same(a, b), (
            "the same steps give other weights; draw from keys (mho.effects.draws) of layer and step, not from a global generator"
        )

    def test_goes_on_from_its_state(self) -> None:
        """A training that is killed on the way and goes on from state dicts ends with the same weights."""
        assert self._signs(self.spec) == self._signs(self.spec, interrupted=True), (
            "a training that is interrupted ends with other weights; what is remembered from step to step belongs to "
            "state_dict() and load_state_dict(state) of the hooks that start(training) returns"
        )

    def test_leaves_global_generators_alone(self) -> None:
        moved = generators_moved(self._trained)
        assert not moved, f"it draws from {moved}, so a training with it goes on differently"

    def test_leaves_the_tiles_alone(self) -> None:
        """Scales and input ranges are set by remap, calibration and the optimizer; quantised weights are mapped anew."""
        scales = {
            name: {n: v for n, v in net.state_dict().items() if ".tiles." in n and not n.endswith(".step")}
            for name, net in (("before", self._network()), ("after", self._trained()))
        }
        quantised = any(array.weight_quantiser is not None for array, _ in matrices(self._network(1.0, self.spec)))
        changed = ", ".join(
            n for n, v in scales["before"].items()
            if not same(v, scales["after"][n]) and not (quantised and n.endswith("gamma"))
        )  # fmt: skip
        assert not changed, f"it changes {changed}; change the weight alone"

    def test_detach_leaves_nothing_behind(self) -> None:
        """A network that is trained twice must not have a method on it twice."""
        trained, fresh = self._trained(), self._network(1.0, self.spec)
        fresh.load_state_dict(trained.state_dict())
        outputs = []
        for net in (trained, fresh):
            with seeded():
                outputs.append(net.train()(self.bench.random(8, 4, 3, 3, number=9)))
        assert same(*outputs), "something of it stays on the network; remove in detach() what start(training) put on"

    def test_keeps_no_state(self) -> None:
        if kept := kept_by(self.spec, self._trained):
            raise AssertionError(f"it changes {kept}; what one training remembers belongs to what start(training) returns")


def _weights(net: nn.Module) -> Tensor:
    return torch.cat([weight.detach().flatten() for _, weight in matrices(net)])
