"""Which layers should stay digital, for networks with hundreds of them: sensitivities from a few backward passes."""

from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mho import AnalogLayer, Hardware
from mho.effects import draws
from mho.ground import MhoError, Table, Tabular, percent, whole
from mho.tile import TileArray, tile_arrays
from mho.use import keeping_chip, keeping_modes, matrices, run_batch, session_of

Logits = Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True)
class Sensitivity:
    """One weight matrix: the divergence in nats that it alone causes on a chip, and its multiply-adds for every vector."""

    name: str
    kl: float
    macs: int


@dataclass(frozen=True)
class LayerChoice(Tabular):
    """Sensitivities, the worst for their cost first, and which of the layers stay digital."""

    layers: tuple[Sensitivity, ...]
    digital: tuple[str, ...]
    hardware: Hardware | None = field(default=None, repr=False)

    @property
    def kl(self) -> float:
        """The divergence of all that is left on tiles, as the sum of its parts."""
        return sum(s.kl for s in self.layers if s.name not in self.digital)

    @property
    def share(self) -> float:
        """Of the multiply-adds, those that are digital."""
        return sum(s.macs for s in self.layers if s.name in self.digital) / max(1, sum(s.macs for s in self.layers))

    def as_table(self) -> Table:
        rows = [(s.name, f"{s.kl:.2g}", f"{s.macs:,}", "digital" if s.name in self.digital else "") for s in self.layers]
        note = f"left on tiles: KL {self.kl:.2g} nats; {percent(self.share, 2)} % of the multiply-adds digital"
        return Table(["matrix", "KL, nats", "multiply-adds", "stays"], rows, note=note)


def sensitivities(
    net: nn.Module, batches: Iterable[Any], logits: Logits | None = None, *, seed: int = 0, labels: int = 4
) -> tuple[Sensitivity, ...]:
    """KL(exact || one matrix on a chip) of the output distribution of `net`, per vector of logits, for every weight matrix.

    Second order in the errors e of the outputs of a matrix: KL = e^T F e/2 with the Fisher matrix F, which is the mean of
    g g^T over labels drawn from the exact distribution, g the gradient of their log-probability (Amari 1998). So one
    forward with exact products and `labels` backward passes per batch serve all matrices; the errors are those of chip 0 of
    `seed` at the last time of the hardware, on the exact inputs. `logits(net, batch)` [..., class] defaults to the `logits` of
    what the network returns, or to that itself. Raises `MhoError` without batches or analog layers.
    """
    labels, found = whole("labels", labels, least=1), dict[str, float]()
    hardware, vectors = session_of(net).hardware, 0
    time, weights = (hardware.times[-1] if hardware is not None else 0.0), dict(matrices(net))
    if not weights:
        raise MhoError("this model has no analog layers; convert it first: net = mho.to_analog(model, hw)")
    generator = torch.Generator().manual_seed(seed)
    with keeping_modes(net), keeping_chip(net), torch.enable_grad():
        net.eval()
        for batch in batches:
            with _watching(net) as calls:
                made = run_batch(net, batch) if logits is None else logits(net, batch)
                p = torch.as_tensor(getattr(made, "logits", made)).log_softmax(-1).flatten(0, -2)
            ys, grads = [y for _, _, y in calls], []
            for k in range(labels):
                drawn = torch.multinomial(p.detach().exp(), 1, generator=generator)
                grads.append(torch.autograd.grad(p.gather(1, drawn).sum(), ys, retain_graph=k + 1 < labels, allow_unused=True))
            vectors += len(p)
            slopes: dict[str, list[list[float]]] = {}  # [call][label] of every matrix, whose calls act together
            with torch.no_grad():
                for (array, x, y), *gs in zip(calls, *grads):
                    array.program(weights[array].detach(), draws.key("chip", seed, 0), time)
                    error = (array(x, weights[array]) - y).double()
                    array.chip = None
                    slopes.setdefault(array.name, []).append([0.0 if g is None else float((g * error).sum()) for g in gs])
            for name, of_calls in slopes.items():
                found[name] = found.get(name, 0.0) + float(torch.tensor(of_calls).sum(0).square().mean()) / 2
    if not vectors:
        raise MhoError("sensitivities saw no data: `batches` was empty")
    return tuple(Sensitivity(a.name, found.get(a.name, 0.0) / vectors, macs(a)) for a in weights)


def stay_digital(
    net: nn.Module, batches: Iterable[Any], target: float, logits: Logits | None = None, *, seed: int = 0, labels: int = 4
) -> LayerChoice:
    """Which layers stay digital so that the divergence of the rest, the sum of the `sensitivities` of their matrices, is at most
    `target` nats: greedily, those with the largest divergence for their multiply-adds first. `.hardware` is that of the network
    with a rule for each of them; measure it before you trust it, since a sum of second-order parts is a prediction."""
    if not target > 0:
        raise MhoError(f"target is a divergence in nats, above 0; got {target!r}")
    owner = {a.name: n for n, m in net.named_modules() if isinstance(m, AnalogLayer) for a in m.arrays().values()}
    parts: dict[str, list[Sensitivity]] = {}
    for s in sensitivities(net, batches, logits, seed=seed, labels=labels):
        parts.setdefault(owner[s.name], []).append(s)
    layers = (Sensitivity(n, sum(s.kl for s in of), sum(s.macs for s in of)) for n, of in parts.items())
    worst = sorted(layers, key=lambda s: -s.kl / s.macs)
    left, digital = sum(s.kl for s in worst), []
    for s in worst:
        if left <= target:
            break
        digital.append(s.name)
        left -= s.kl
    hardware = session_of(net).hardware
    if hardware is not None:
        data = hardware.to_data()
        data["layers"] = [*({"match": name, "tile": "digital"} for name in digital), *data.get("layers", ())]
        hardware = Hardware.from_data(data)
    return LayerChoice(tuple(worst), tuple(digital), hardware)


@contextmanager
def _watching(net: nn.Module) -> Any:
    """A list of (array, inputs, outputs) of every call inside the block, while all products are exact."""
    calls: list[tuple[TileArray, Tensor, Tensor]] = []
    arrays = tile_arrays(net)
    handles = [a.register_forward_hook(lambda a, args, y: calls.append((a, args[0], y))) for a in arrays]
    for array in arrays:
        array.exact = True
    try:
        yield calls
    finally:
        for array, handle in zip(arrays, handles):
            array.exact = False
            handle.remove()


def macs(array: TileArray) -> int:
    """Multiply-adds for every vector."""
    return array.matrix.outputs * (array.matrix.inputs // array.matrix.groups)
