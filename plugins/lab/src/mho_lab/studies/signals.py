"""What the signals of a network look like: their strength, and how analog products differ from exact ones."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from mho_qat import noisy_modules
from torch import Tensor, nn

from mho.ground import MhoError
from mho.tile import tile_arrays
from mho_lab.run.inspection import replaced, watched


class Signal(NamedTuple):
    """Root mean squares in one layer (R002-08): of its weights (biases not counted), and of its pre-activations."""

    layer: str
    weights: float
    preactivations: float

    def snr(self, sigma: float) -> float:
        """The ratio of the pre-activations to additive noise of this standard deviation."""
        return self.preactivations / sigma if sigma else float("inf")


@torch.no_grad()
def signals(net: nn.Module, forward: Callable[[nn.Module], Any]) -> list[Signal]:
    """The signals of every layer while `forward(net)` runs, in eval mode."""
    layers = noisy_modules(net)
    squares: dict[str, list[Tensor]] = {name: [] for name in layers}

    def note(name: str) -> Any:
        return lambda module, args, y: squares[name].append(y.detach().double().square().mean())

    with watched((m, note(name)) for name, m in layers.items()):
        forward(net.eval())
    weights = {name: _weights(net, name, m) for name, m in layers.items()}
    return [Signal(n, weights[n], float(torch.stack(s).mean().sqrt())) for n, s in squares.items() if s]


def _weights(net: nn.Module, name: str, module: nn.Module) -> float:
    """rms of the weights of a module; those of a product of several are with the layer above."""
    parent, _, key = name.rpartition(".")
    weight = getattr(module, "weight", None)
    weight = weight if isinstance(weight, Tensor) else getattr(net.get_submodule(parent), key)
    return float(weight.detach().double().square().mean().sqrt())


class ErrorSplit(NamedTuple):
    """y_hw = gain y_exact + error, the error with its mean over MVMs (systematic) and its spread (stochastic) for every
    output (R002-11). Ratios are root mean squares over outputs, relative to that of the exact outputs."""

    gain: float
    error: float  # all of it, rms / signal rms
    systematic: float
    stochastic: float


def split_error(exact: Tensor, measured: Tensor) -> ErrorSplit:
    """The split of N outputs [N, out]; G = median(y_hw / y_exact) over those that are not close to 0."""
    exact, measured = exact.detach().double().flatten(0, -2), measured.detach().double().flatten(0, -2)
    signal = float(exact.square().mean().sqrt())
    if not signal:
        raise MhoError("all exact outputs are 0, so there is no gain")
    large = exact.abs() > 1e-3 * signal
    gain = float((measured[large] / exact[large]).median())
    delta = measured - gain * exact

    def ratio(v: Tensor) -> float:
        return float(v.square().mean().sqrt()) / signal

    return ErrorSplit(gain, ratio(delta), ratio(delta.mean(0)), ratio(delta.std(0, correction=0)))


@torch.no_grad()
def error_by_layer(net: nn.Module, forward: Callable[[nn.Module], Any]) -> dict[str, ErrorSplit]:
    """How the products of every matrix on tiles differ from exact ones on the same inputs, while `forward(net)` runs."""
    pairs: dict[str, tuple[list[Tensor], list[Tensor]]] = {}

    def note(array: Any, args: tuple[Any, ...], y: Tensor) -> None:
        with replaced([array], "exact", lambda _: True):
            exact = array.forward(*args[:2])
        for kept, value in zip(pairs.setdefault(array.name, ([], [])), (exact, y)):
            kept.append(value.reshape(-1, value.shape[-1]))

    with watched((array, note) for array in tile_arrays(net)):
        forward(net.eval())
    return {name: split_error(torch.cat(exact), torch.cat(seen)) for name, (exact, seen) in pairs.items()}
