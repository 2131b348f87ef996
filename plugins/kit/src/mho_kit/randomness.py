"""Checks of random numbers and of memory: everything is a pure function of chip, place and time."""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np
import torch

from mho_kit.base import EffectChecks, same
from mho_kit.bench import PER_VECTOR, VECTORS, skip

ASK = "draw with site.randn_like(v) or site.rand_like(v) only, never torch.rand or random"


class RandomnessChecks(EffectChecks):
    def test_the_same_seed_is_the_same_chip(self) -> None:
        a, b = (self.bench.tile(self.spec).program(seed=5).age(3600.0)(self.bench.x) for _ in range(2))
        assert same(a, b), f"the same chip computes other outputs; {ASK}"

    def test_another_seed_is_another_chip(self) -> None:
        for stage in self.draws("chip"):
            a, b = (self.bench.call(self.spec, stage, chip) for chip in (0, 1))
            assert not same(a, b), f"{stage} draws numbers, but two chips are the same; use what you draw"

    def test_another_layer_has_other_draws(self) -> None:
        for stage, asked in self.bench.asks(self.spec).items():
            a, b = (self.bench.call(self.spec, stage, layer=layer) for layer in ("one", "two"))
            assert not asked or not same(a, b), f"{stage} draws numbers, but two layers get the same; {ASK}"

    def test_draws_differ_between_cells(self) -> None:
        for stage in self.draws("chip"):
            if stage not in ("program", "age", "read", "fold"):
                continue
            flat = torch.full_like(self.bench.arguments(stage)[0], 0.5)
            new = self.bench.call(self.spec, stage, arguments=(flat,))
            assert new.unique().numel() > 1, (
                f"{stage} gives all cells the same draw; ask for randn_like(g), not for one number"
            )

    def test_ignores_torchs_generator(self) -> None:
        for stage in self.spec.stages():
            results = []
            for seed in (1, 2):
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(seed)
                    random.seed(seed)
                    np.random.seed(seed)
                    results.append(self.bench.call(self.spec, stage))
            assert same(*results), f"{stage} ignores the chip's seed and uses a global generator; {ASK}"

    def test_leaves_global_generators_alone(self) -> None:
        bench = self.bench  # making it initialises a layer
        for stage in self.spec.stages():
            arguments = bench.arguments(stage)
            before = generators()
            bench.call(self.spec, stage, arguments=arguments)
            moved = [n for (n, a), (_, b) in zip(before, generators()) if a != b]
            assert not moved, f"{stage} draws from {', '.join(moved)}; {ASK}"

    def test_ageing_has_no_memory_of_the_route(self) -> None:
        tile = self.bench.tile(self.spec).program(seed=0)
        end = self.ages[-1]
        direct = tile.age(end).tiles.chip.weights.clone()
        for t in self.ages[:-1]:
            tile.age(t)
        assert same(direct, tile.age(end).tiles.chip.weights), (
            "the weights depend on the ages asked for before; compute age(g, t) from t and the programmed g alone"
        )

    def test_the_same_age_again_is_the_same(self) -> None:
        tile = self.bench.tile(self.spec).program(seed=0)
        for t in self.ages:
            first = tile.age(t).tiles.chip.weights.clone()
            assert same(first, tile.age(t).tiles.chip.weights), f"age({t:g} s) twice gives two results; keep no state"

    def test_ageing_is_defined_from_the_start(self) -> None:
        """`program` ends with age 0 s."""
        for t in (0.0, 1e-6, *self.ages):
            try:
                aged = self.bench.tile(self.spec).program(seed=0).age(t).tiles.chip.weights
            except (ZeroDivisionError, ValueError) as error:
                raise AssertionError(
                    f"age({t:g} s) raises {error!r}; times start at 0 s, right after programming"
                ) from None
            assert torch.isfinite(aged).all(), f"age({t:g} s) gives NaN or infinity; times start at 0 s"

    def test_draws_do_not_depend_on_how_a_batch_is_cut(self) -> None:
        if self.draws("call"):
            skip("it draws once for every forward call, so every batch has draws of its own")
        tile = self.bench.tile(self.spec).program(seed=0)
        whole = tile.age(60.0)(self.bench.x)
        tile.age(60.0)
        parts = torch.cat([tile(x) for x in self.bench.x.split([1, 3, 2])])
        assert torch.allclose(whole, parts, rtol=1e-9, atol=1e-9), (
            "outputs depend on how the vectors are cut into batches; do not mix vectors (mean over axis 0), draw per vector"
        )

    def test_every_vector_has_its_own_draw(self) -> None:
        for stage in set(self.draws("vector")) & set(PER_VECTOR):
            arguments = tuple(
                a[:1].expand(VECTORS, *a.shape[1:]) if a.shape[0] == VECTORS else a for a in self.bench.arguments(stage)
            )
            new = self.bench.call(self.spec, stage, arguments=arguments)
            assert not same(new[0], new[1]), f"{stage} gives two vectors the same noise; use what you draw"

    def test_call_order_does_not_matter(self) -> None:
        stages = self.spec.stages()
        first = {s: self.bench.call(self.spec, s) for s in stages}
        for stage in reversed(stages):
            self.bench.call(self.spec, stage, chip=9, layer="elsewhere", t=7.0)
        again = {s: self.bench.call(self.spec, s) for s in reversed(stages)}
        moved = [s for s in stages if not same(first[s], again[s])]
        assert not moved, f"{', '.join(moved)} depends on what was called before; keep nothing between calls, ask again"

    def test_keeps_no_state(self) -> None:
        """What belongs to a chip is set in `prepare(site)`; all else is asked for again."""
        before = state_of(self.spec)
        for stage in self.spec.stages():
            self.bench.call(self.spec, stage)
        self.bench.tile(self.spec).program(seed=0).age(60.0)(self.bench.x)
        after = state_of(self.spec)
        changed = sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))
        assert not changed, f"it changes {', '.join(changed)}; constants of a chip go to site.NAME in prepare(site)"


def generators() -> list[tuple[str, Any]]:
    """The state of every global generator."""
    state = np.random.get_state()
    return [
        ("torch's generator", torch.get_rng_state().tolist()),
        ("random", random.getstate()),
        ("numpy.random", (state[1].tolist(), *state[2:])),  # type: ignore[index]
    ]


def state_of(spec: Any) -> dict[str, Any]:
    """Everything an effect could hide something in: its attributes, its class's, and its module's globals."""
    cls = type(spec)
    places = {
        "self": spec.__dict__,
        cls.__name__: vars(cls),
        cls.__module__: vars(sys.modules.get(cls.__module__, object)),
    }
    found = {f"{place}.{n}": _print(v) for place, values in places.items() for n, v in dict(values).items()}
    return {n: v for n, v in found.items() if not n.rpartition(".")[2].startswith(("__", "_abc"))}


def _print(value: Any) -> Any:
    """Something that changes when the value does."""
    if isinstance(value, torch.Tensor):
        return id(value), value._version
    if isinstance(value, np.ndarray):
        return id(value), value.tobytes()
    if isinstance(value, (dict, list, set, tuple, int, float, str, type(None))):
        return type(value), repr(value)[:10_000]
    attributes = vars(value) if hasattr(value, "__dict__") and not isinstance(value, type) else {}
    plain = {k: repr(v) for k, v in attributes.items() if isinstance(v, (int, float, str, list, dict, tuple))}
    return id(value), str(plain)[:10_000] if not callable(value) else ""
