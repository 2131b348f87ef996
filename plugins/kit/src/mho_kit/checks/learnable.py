"""Checks of effects that learn: what `build(site)` makes is part of the layer, gets gradients, and is saved."""

import copy
import tempfile
from pathlib import Path

import torch
from torch import nn

from mho.use import Tile, load_model, save_model, to_analog
from mho_kit.bench import seeded, skip
from mho_kit.checks.base import EffectChecks, generators_moved, same, under_two_seeds

WHERE = "a gradient flows through input, read, mvm, accumulate and output, not through program, age and fold"


class LearnableChecks(EffectChecks):
    def _learning(self) -> Tile:
        if not self.spec.writes("build"):
            skip("the effect learns nothing")
        return self.made()

    def test_builds_a_module(self) -> None:
        tile = self._learning()
        assert isinstance(next(iter(tile.tiles.built.values())), nn.Module), "build(site) must return a torch.nn.Module"

    def test_builds_the_same_again(self) -> None:
        """First values are draws of the site, so that the same hardware is the same network."""
        a, b = (tile.tiles.built.state_dict() for tile in under_two_seeds(self._learning))
        assert all(same(v, b[n]) for n, v in a.items()), (
            "build(site) gives other values each time; draw them with site.randn_like, or start from constants"
        )

    def test_leaves_the_generator_alone_when_it_builds(self) -> None:
        self._learning()
        assert not generators_moved(lambda: self.bench.built(self.spec)), (
            "build(site) draws from torch's generator, which shifts everybody else's numbers; use the site"
        )

    def test_parameters_have_axes(self) -> None:
        """Sharded training refuses scalars."""
        scalars = ", ".join(n for n, p in self._learning().tiles.built.named_parameters() if p.dim() == 0)
        assert not scalars, f"{scalars} must be at least 1-D: torch.zeros(1)"

    def test_every_parameter_learns(self) -> None:
        tile = self._learning().train()
        with seeded():
            (tile(self.bench.x) - 1).square().sum().backward()
        for name, p in tile.tiles.built.named_parameters():
            if p.requires_grad:
                assert p.grad is not None and p.grad.abs().sum() > 0, f"no gradient reaches {name}; {WHERE}"
                assert torch.isfinite(p.grad).all(), f"the gradient of {name} is NaN or infinite"

    def test_what_is_learned_changes_the_outputs(self) -> None:
        tile = self._learning().program(seed=0)
        before = tile.age(60.0)(self.bench.x)
        self.bench.teach(tile.tiles.built)
        assert not same(before, tile.age(60.0)(self.bench.x)), "outputs do not depend on its parameters; use site.module"

    def test_what_is_learned_is_saved_and_copied(self) -> None:
        tile, fresh = self._learning(), self.made()
        self.bench.teach(tile.tiles.built)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "net.safetensors"
            save_model(tile, file)
            load_model(fresh, file)
        wanted = tile.program(seed=0)(self.bench.x)
        for other in (fresh, copy.deepcopy(tile)):
            assert same(wanted, other.program(seed=0)(self.bench.x)), (
                "a saved or copied network computes something else; keep what is learned in parameters and buffers"
            )

    def test_a_torch_checkpoint_still_loads(self) -> None:
        """It knows nothing of what the effect learns, which then stays as it was built."""
        self._learning()
        digital = nn.Sequential(nn.Linear(17, 10)).to(self.bench.dtype)
        net = to_analog(digital, self.hardware())
        net.load_state_dict(digital.state_dict())
