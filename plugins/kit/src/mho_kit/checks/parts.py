"""Checks of mappings, converters, compensations and surrogates, which a tile has one of each."""

from typing import Any

import torch

from mho_kit.checks.base import CallChecks, finite, same
from mho_kit.checks.description import DescriptionChecks
from mho_kit.checks.devices import DeviceChecks
from mho_kit.checks.paths import PathChecks
from mho_kit.checks.tiles import TileChecks


class PartChecks(DeviceChecks, PathChecks, TileChecks, CallChecks, DescriptionChecks):
    """A subclass says which base class the parts have (`BASE`), what the core calls (`METHODS`), and how (`calls`)."""

    def about(self) -> dict[str, Any]:
        return {"tile": {self.spec.CATEGORY: self.spec}}

    # -- checks -----------------------------------------------------------------------------------------------
    def test_keeps_the_dtype(self) -> None:
        for dtype in (torch.float32, torch.float64):
            self.keeps(dtype)

    def test_leaves_its_inputs_alone(self) -> None:
        self.leaves_arguments_alone()

    def test_is_finite(self) -> None:
        """For usual arguments, and where everything is 0: zero weights and inputs occur in every network."""
        for name, (call, arguments) in self.calls(self.bench).items():
            finite(call(*arguments), f"{name} gives")
            zeros = call(*(torch.zeros_like(a) for a in arguments))
            assert torch.isfinite(zeros).all(), f"{name} gives NaN or infinity where everything is 0; clamp first"

    def test_gives_the_same_again(self) -> None:
        for name, (call, arguments) in self.calls(self.bench).items():
            assert same(call(*arguments), call(*arguments)), (
                f"{name} gives one chip two results; keep nothing between calls, draw with site.randn_like only"
            )

    def test_ignores_global_generators(self) -> None:
        self.ignores_global_generators()

    def test_state_dict_is_unaffected(self) -> None:
        extra = ", ".join(sorted(self.made().state_dict().keys() ^ self.bench.tile().state_dict().keys()))
        assert not extra, f"it adds {extra} to state_dict()"
