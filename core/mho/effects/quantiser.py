"""Quantisers: what rounds weights before they are mapped to conductances, and inputs in front of the DAC.

A tile array has a place for each, empty unless somebody fills it: `array.weight_quantiser` and `array.input_quantiser`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Literal

from torch import Tensor, nn

from mho.config import Kinded
from mho.ground import keeping

What = Literal["weights", "activations"]


class Quantiser(Kinded):
    """A rule that rounds values, as YAML describes it. `mho_quantisers` offers it.

    Override `rounded` where the rule is a function of the values alone; override `module` where it has state, learns, or
    starts from data.
    """

    CATEGORY: ClassVar[str] = "quantiser"

    def rounded(self, v: Tensor) -> Tensor:
        """The rounded values, same shape and type as v, with the gradient that training shall see."""
        raise NotImplementedError(f"{type(self).__name__} must override rounded(v), or module(what)")

    def module(self, what: What) -> QuantiserModule:
        """A quantiser for one place: the weights of a layer, or its inputs (`activations`)."""
        return QuantiserModule(self, what)


class QuantiserModule(nn.Module):
    """A quantiser at its place. Its state is saved with the network; `on = False` lets every value pass unchanged."""

    def __init__(self, spec: Quantiser, what: What) -> None:
        super().__init__()
        self.spec, self.what, self.on = spec, what, True

    def forward(self, v: Tensor) -> Tensor:
        return self.quantised(v) if self.on else v

    def quantised(self, v: Tensor) -> Tensor:
        """v rounded, of the same shape and type."""
        return self.spec.rounded(v)

    def start(self, v: Tensor) -> None:
        """Set the range from typical values."""
        self.start_from(*summary(v.detach()))

    def start_from(self, mean: Tensor, top: Tensor, lowest: Tensor) -> None:
        """Override to set the range from the mean |v|, the largest |v| and the lowest v: of the weights, or of the inputs
        that `mho.calibrate` sees."""


def summary(v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean |v|, largest |v| and lowest v: what a quantiser starts from."""
    return v.abs().mean(), v.abs().amax(), v.amin()


def quantisers(model: nn.Module) -> Iterator[QuantiserModule]:
    """Every quantiser of a model, of digital layers too."""
    return (m for m in model.modules() if isinstance(m, QuantiserModule))


@contextmanager
def unquantised(model: nn.Module) -> Iterator[None]:
    """All quantisers are off inside the block."""
    with keeping(quantisers(model), "on"):
        for q in quantisers(model):
            q.on = False
        yield
