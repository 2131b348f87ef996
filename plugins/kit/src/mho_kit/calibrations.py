"""The contract of calibration methods: ranges for every tile, chosen from data alone, and a tile that is left as it was."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from mho.tile import TileArray
from mho.use import Tile
from mho_kit.bench import Witness, seeded
from mho_kit.checks.base import Checks, finite, generators_moved, same, under_two_seeds

VECTORS = 48
Method = Callable[[TileArray, Tensor, Tensor, Tensor], Tensor]


class CalibrationContract(Checks):
    """Everything a method of calibration promises to `mho.calibrate`, as named checks for pytest.

        class TestLoudest(CalibrationContract):
            method = loudest
            argument = "dac"

    The author declares `method`, the function of the hook `mho_calibrations`, `argument`, "dac" for input ranges or "columns"
    for conductance ranges, and `expected_failed_checks`; `tile` where it needs another tile. Checked are the shape of what it
    chooses, that it is positive and finite, where everything is 0 too, that the same data give the same ranges, and that
    the weights, its other arguments and the chip that was on are as before.
    Methods have no schema, so `mho test` leaves them out: this contract is for pytest only.
    """

    method: ClassVar[Method]
    argument: ClassVar[Literal["dac", "columns"]] = "dac"

    def _made(self) -> Tile:
        """A matrix on noisy tiles with converters, a chip on it."""
        tile = {"dac": {"bits": 8, "range": "learned"}, "adc": {"bits": 8, "bound": 10.0}}
        return self.bench.tile(Witness.model_validate({}), tile=tile).program(seed=0)

    def _arguments(self, made: Tile, factor: float = 1.0) -> tuple[TileArray, Tensor, Tensor, Tensor]:
        """As the core calls it; inputs times `factor`, input ranges those of the largest ones."""
        array = made.tiles
        x = array.layout.cut(factor * self.bench.random(VECTORS, made.weight.shape[1], number=15)).float()
        with torch.no_grad():
            top = x.abs().amax((0, 2))[:, None]
            array.input_range.copy_(torch.where(top > 0, top, 1))
        return array, made.weight.detach(), x, (array.input_range if self.argument == "dac" else array.gamma).detach().clone()

    def _chosen(self, factor: float = 1.0) -> tuple[Tensor, Tensor]:
        """What it chooses, and the ranges before."""
        arguments = self._arguments(self._made(), factor)
        before = arguments[-1].clone()
        return self._choose(*arguments), before

    @torch.no_grad()
    def _choose(self, *arguments: Any) -> Tensor:
        return type(self).method(*arguments)

    # -- checks -----------------------------------------------------------------------------------------------
    def test_gives_a_range_for_each_place(self) -> None:
        chosen, before = self._chosen()
        what = "[tile, 1]" if self.argument == "dac" else "[tile, out]"
        assert chosen.shape == before.shape, f"it gives {[*chosen.shape]}, the core needs {what} = {[*before.shape]}"

    def test_ranges_are_positive_and_finite(self) -> None:
        for name, factor in (("usual inputs", 1.0), ("inputs that are 0", 0.0), ("inputs of 1000", 1000.0)):
            chosen, _ = self._chosen(factor)
            finite(chosen, f"for {name} ranges are")
            assert (chosen > 0).all(), f"for {name} the smallest range is {float(chosen.min()):.3g}; clamp, or keep `before`"

    def test_the_same_data_give_the_same_ranges(self) -> None:
        a, b = under_two_seeds(lambda: self._chosen()[0])
        assert same(a, b), "the same data give other ranges; draw nothing but chips, program(weight, draws.key(NAME, k))"

    def test_leaves_global_generators_alone(self) -> None:
        arguments = self._arguments(self._made())
        moved = generators_moved(lambda: self._choose(*arguments))
        assert not moved, f"it draws from {moved}, so whatever runs next goes on differently"

    def test_leaves_its_arguments_alone(self) -> None:
        array, *tensors = self._arguments(self._made())
        before = [t.clone() for t in tensors]
        self._choose(array, *tensors)
        changed = [n for n, t, b in zip(("weight", "x", "before"), tensors, before) if not same(t, b)]
        assert not changed, f"it changes {', '.join(changed)} in place; return new ranges"

    def test_leaves_the_chip_alone(self) -> None:
        """It may program chips of its own; the one that was on computes what it did, once it is on again."""
        made = self._made()
        arguments = self._arguments(made)
        array, chip = arguments[0], arguments[0].chip
        ranges = {n: getattr(array, n).detach().clone() for n in ("input_range", "gamma")}
        first = array.trace(self.bench.x, made.weight)
        self._choose(*arguments)
        with torch.no_grad():
            array.chip = chip
            for name, value in ranges.items():
                getattr(array, name).copy_(value)
        again = array.trace(self.bench.x, made.weight)
        changed = [name for name, value in first.items() if not same(value, again[name])]
        assert not changed, f"the chip that was on has other {', '.join(changed)}; array.program(...) makes a chip of its own"

    def test_leaves_the_state_alone(self) -> None:
        """Apart from ranges."""
        made = self._made()
        state = {n: v.clone() for n, v in made.state_dict().items()}
        self._choose(*self._arguments(made))
        ranges = ("input_range", "gamma")
        changed = [n for n, v in made.state_dict().items() if not (same(v, state[n]) or n.endswith(ranges))]
        assert not changed, f"it changes {', '.join(changed)}; ranges alone are its to choose"

    def test_works_on_one_large_tile(self) -> None:
        tile = self.bench.tile(tile={"rows": 64, "columns": 64, "dac": {"bits": 8, "range": "learned"}})
        with seeded():
            chosen = self._choose(*self._arguments(tile))
        finite(chosen, "on a single tile without a chip ranges are")
