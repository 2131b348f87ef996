"""The contract of quantisers: levels that stay, a gradient, and state that is saved with the network."""

from typing import ClassVar, get_args

import torch
from torch import nn

from mho import Quantiser, QuantiserModule
from mho.effects import What
from mho.use import matrices, program
from mho_kit.bench import Bench, seeded
from mho_kit.checks.base import Call, ModuleChecks, finite, same
from mho_kit.checks.description import DescriptionChecks
from mho_kit.checks.devices import DeviceChecks
from mho_kit.far import Specimen

PLACES: tuple[What, ...] = get_args(What)


class QuantiserContract(DeviceChecks, ModuleChecks, DescriptionChecks):
    """Everything a quantiser promises to the tiles, as named checks for pytest.

        class TestPowers(QuantiserContract):
            spec = Powers(lowest=-4)

    The author declares `spec`, and `expected_failed_checks`. Checked are what it says about itself, and its modules for both
    places, weights and activations, started from typical values: shape, type and device are those of the values, what is
    rounded stays when it is rounded again, some gradient passes, `on = False` lets all values pass, state is saved, and a
    network with them on its tiles runs, trains and is programmed.
    """

    BASE = Quantiser
    METHODS = ("rounded", "module")
    spec: ClassVar[Quantiser]
    HINT = "buffers and parameters follow the layer, all else must follow v: torch.zeros_like(v), v.new_tensor(...)"

    def _module(self, what: What, bench: Bench, device: str = "cpu") -> QuantiserModule:
        """In eval, started from the bench's values."""
        made = self.spec.module(what)
        made.start(bench.random(64, 8, number=11).float())
        return made.to(device).eval()

    def calls(self, bench: Bench, device: str = "cpu") -> dict[str, Call]:
        return {what: (self._module(what, bench, device), (bench.random(64, 8, number=11),)) for what in PLACES}

    def on_a_chip(self, **tile: object) -> torch.Tensor:
        return self._network()(self.bench.images())

    def _network(self) -> nn.Module:
        """A network with it at every place, in eval, on chip 0."""
        net = self._quantised(self.bench)
        program(net, seed=0)
        return net

    def _quantised(self, bench: Bench) -> nn.Module:
        with seeded():
            net = bench.network()
        for array, weight in matrices(net):
            for what, name in zip(PLACES, ("weight_quantiser", "input_quantiser")):
                quantiser = self.spec.module(what)
                quantiser.start(weight)
                setattr(array, name, quantiser)
        return net.eval()

    def specimen(self) -> Specimen:
        bench = Bench(self.tile, torch.float32)
        return self._quantised(bench), (bench.images(),)

    # -- checks -----------------------------------------------------------------------------------------------
    def test_makes_modules(self) -> None:
        for what in PLACES:
            made = self.spec.module(what)
            assert isinstance(made, QuantiserModule), f"module({what!r}) gives {made!r}; it must be a mho.QuantiserModule"

    def test_is_finite_where_everything_is_zero(self) -> None:
        """Pruned layers, and the inputs of the first batches."""
        for what in PLACES:
            made, zeros = self.spec.module(what), torch.zeros(4, 3)
            made.start(zeros)
            finite(made(zeros), f"where everything is 0, {what} become")

    def test_rounds(self) -> None:
        for what, (call, (v,)) in self.calls(self.bench).items():
            assert call(v).unique().numel() < v.numel(), f"{what}: as many values come out as go in; nothing is rounded"

    def test_levels_stay(self) -> None:
        """What is rounded is a level already."""
        for what, (call, (v,)) in self.calls(self.bench).items():
            once = call(v)
            assert torch.allclose(call(once), once, atol=1e-6), f"{what}: rounding twice gives other values than once"

    def test_leaves_its_inputs_alone(self) -> None:
        self.leaves_arguments_alone()

    def test_gradient_reaches_the_values(self) -> None:
        for what, (call, (v,)) in self.calls(self.bench).items():
            v = v.requires_grad_()  # noqa: PLW2901
            new = call(v)
            assert new.requires_grad, f"{what}: no gradient passes; use mho.effects.straight(v, rounded)"
            (g,) = torch.autograd.grad(new.sum(), v)
            assert torch.isfinite(g).all() and g.abs().mean() > 0.1, (
                f"{what}: hardly any gradient passes; use mho.effects.straight(v, rounded)"
            )

    def test_lets_values_pass_when_it_is_off(self) -> None:
        """Schedules switch quantisers on later."""
        for what in PLACES:
            made, v = self._module(what, self.bench), self.bench.random(4, 3, number=11)
            made.on = False
            assert same(made(v), v), f"{what}: with on = False values still change; override quantised(v), not forward"

    def test_state_is_saved(self) -> None:
        v = 0.3 * self.bench.random(16, 3, number=12)
        for what in PLACES:
            first, fresh = self._module(what, self.bench), self.spec.module(what).eval()
            fresh.load_state_dict(first.state_dict())
            assert same(first(v), fresh(v)), f"{what}: a saved quantiser rounds differently; keep state in buffers"

    def test_works_on_tiles(self) -> None:
        net = self._network()
        finite(net(self.bench.images()), "with it on tiles outputs are")
        self.trains(net, self.bench.images())
