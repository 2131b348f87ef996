"""The contract of surrogates: a finite, differentiable stand-in for the tile."""

from typing import Any, ClassVar

import torch

from mho.effects import Surrogate
from mho_kit.bench import VECTORS, Bench, on_device
from mho_kit.checks.base import Call
from mho_kit.checks.parts import PartChecks


class SurrogateContract(PartChecks):
    """Everything a surrogate promises to mode `surrogate`, as named checks for pytest.

    class TestSaturating(SurrogateContract):
        spec = Saturating()
    """

    BASE = Surrogate
    METHODS: ClassVar[tuple[str, ...]] = ("outputs",)

    def about(self) -> dict[str, Any]:
        return {"backward": {"mode": "surrogate", "surrogate": self.spec}}

    def calls(self, bench: Bench, device: str = "cpu") -> dict[str, Call]:
        geometry = on_device(bench.geometry, device)
        return {"outputs": (lambda x, w: self.spec.outputs(x, w, geometry), bench.arguments("mvm"))}

    def test_keeps_the_shape(self) -> None:
        """[vector, tile, out]"""
        self.keeps_the_shape(outputs=(VECTORS, *self.bench.w.shape[:2]))

    def test_both_arguments_get_a_gradient(self) -> None:
        x, w = (a.requires_grad_() for a in self.bench.arguments("mvm"))
        self.spec.outputs(x, w, self.bench.geometry).square().sum().backward()
        for name, v in (("x", x), ("w", w)):
            assert v.grad is not None and torch.isfinite(v.grad).all() and v.grad.any(), f"no finite gradient reaches {name}"
