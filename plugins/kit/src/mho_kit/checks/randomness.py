"""Checks of random numbers and of memory: everything is a pure function of chip, place and time."""

import torch

from mho import MhoError
from mho_kit.bench import PER_VECTOR, VECTORS, skip, weights
from mho_kit.checks.base import CallChecks, EffectChecks, finite, same

CELLS = ("program", "age", "read", "fold")


class RandomnessChecks(EffectChecks, CallChecks):
    def test_the_same_seed_is_the_same_chip(self) -> None:
        a, b = (self.made().program(seed=5).age(3600.0)(self.bench.x) for _ in range(2))
        assert same(a, b), f"the same chip computes other outputs; {self.ASK}"

    def test_another_seed_is_another_chip(self) -> None:
        for stage in self.draws("chip"):
            a, b = (self.bench.call(self.spec, stage, chip) for chip in (0, 1))
            assert not same(a, b), f"{stage} draws numbers, but two chips are the same; use what you draw"

    def test_another_layer_has_other_draws(self) -> None:
        for stage, asked in self.bench.asks(self.spec).items():
            a, b = (self.bench.call(self.spec, stage, layer=layer) for layer in ("one", "two"))
            assert not asked or not same(a, b), f"{stage} draws numbers, but two layers get the same; {self.ASK}"

    def test_draws_differ_between_cells(self) -> None:
        for stage in set(self.draws("chip")) & set(CELLS):
            new = self.bench.call(self.spec, stage, arguments=(torch.full_like(self.bench.arguments(stage)[0], 0.5),))
            assert new.unique().numel() > 1, f"{stage} gives all cells the same draw; ask for randn_like(g), not for one number"

    def test_ignores_torchs_generator(self) -> None:
        self.ignores_global_generators()

    def test_ageing_has_no_memory_of_the_route(self) -> None:
        tile, end = self.made().program(seed=0), self.ages[-1]
        direct = weights(tile.age(end)).clone()
        for t in self.ages[:-1]:
            tile.age(t)
        assert same(direct, weights(tile.age(end))), (
            "the weights depend on the ages asked for before; compute age(g, t) from t and the programmed g alone"
        )

    def test_the_same_age_again_is_the_same(self) -> None:
        tile = self.made().program(seed=0)
        for t in self.ages:
            first = weights(tile.age(t)).clone()
            assert same(first, weights(tile.age(t))), f"age({t:g} s) twice gives two results; keep no state"

    def test_ageing_is_defined_from_the_start(self) -> None:
        """`program` ends with age 0 s. Later, an effect may refuse times that nobody measured, with MhoError."""
        for t in (0.0, 1e-6, *self.ages):
            try:
                aged = weights(self.made().program(seed=0).age(t))
            except MhoError:
                if t == 1e-6:
                    continue
                raise
            except (ZeroDivisionError, ValueError) as error:
                raise AssertionError(f"age({t:g} s) raises {error!r}; times start at 0 s, right after programming") from None
            finite(aged, f"times start at 0 s, but age({t:g} s) gives")

    def test_draws_do_not_depend_on_how_a_batch_is_cut(self) -> None:
        if self.draws("call"):
            skip("it draws once for every forward call, so every batch has draws of its own")
        assert does_not_mix_vectors(self), (
            "outputs depend on how the vectors are cut into batches; do not mix vectors (mean over axis 0), draw per vector"
        )

    def test_every_vector_has_its_own_draw(self) -> None:
        for stage in set(self.draws("vector")) & set(PER_VECTOR):
            arguments = tuple(
                a[:1].expand(VECTORS, *a.shape[1:]) if len(a) == VECTORS else a for a in self.bench.arguments(stage)
            )
            new = self.bench.call(self.spec, stage, arguments=arguments)
            assert not same(new[0], new[1]), f"{stage} gives two vectors the same noise; use what you draw"

    def test_call_order_does_not_matter(self) -> None:
        stages = self.spec.stages()
        first = {s: self.bench.call(self.spec, s) for s in stages}
        for stage in reversed(stages):
            self.bench.call(self.spec, stage, chip=9, layer="elsewhere", t=7.0)
        again = {s: self.bench.call(self.spec, s) for s in reversed(stages)}
        moved = ", ".join(s for s in stages if not same(first[s], again[s]))
        assert not moved, f"{moved} depends on what was called before; keep nothing between calls, ask again"


def does_not_mix_vectors(checks: CallChecks) -> bool:
    """Whether a batch that is cut into parts gives the same outputs."""
    tile, x = checks.made().program(seed=0), checks.bench.x
    whole = tile.age(60.0)(x)
    tile.age(60.0)
    return torch.allclose(whole, torch.cat([tile(part) for part in x.split([1, 3, 2])]), rtol=1e-9, atol=1e-9)
