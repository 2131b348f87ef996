"""What happens inside a programmed network: the error of every layer's products, what is clipped, where conductances go."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mho.config import format_seconds, seconds
from mho.ground import MhoError, Table, Tabular
from mho.layers import AnalogLayer
from mho.tile import TileArray, vectors
from mho.use import Time, keeping_chip, keeping_modes, matrices, program

BINS = 24
VECTORS = 4096  # looked at per layer and call


def parameters_on_tiles(net: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters whose matrices are on tiles, by the names of their layers."""
    found: dict[str, nn.Parameter] = {}
    for prefix, layer in net.named_modules():
        if not isinstance(layer, AnalogLayer):
            continue
        held = {v.untyped_storage().data_ptr() for v in layer.views().values()}
        for name, p in layer.named_parameters(recurse=False):
            if p.untyped_storage().data_ptr() in held and not any(p is q for q in found.values()):
                found[(prefix or "(root)") if name == "weight" else f"{prefix}.{name}".strip(".")] = p
    if not found:
        raise MhoError("this model has no analog layers; convert it first: net = mho.to_analog(model, hw)")
    return found


@dataclass(frozen=True)
class LayerInspection:
    """One weight matrix on a chip, with the inputs that really arrive there.

    error    MVM error (R003 Eq. 20) at each time, against the exact product of the same inputs
    adc      share of outputs of single tiles at the output bound at each time; without the bound management of the DAC
    dac      share of inputs beyond the input range, at the last time
    weights  share of weights beyond what the full conductance range stands for
    spread   rms of programmed minus target conductance (of the difference, for pairs), µS
    """

    layer: str
    error: tuple[float, ...]
    adc: tuple[float, ...]
    dac: float
    weights: float
    spread: float


@dataclass(frozen=True)
class Inspection(Tabular):
    """All layers at some times, and the distribution of their conductances (target, programmed, aged to the last time):
    counts between `edges` in µS; of a pair of devices the magnitude of the difference."""

    times: tuple[float, ...]
    layers: tuple[LayerInspection, ...]
    edges: tuple[float, ...]
    conductances: dict[str, tuple[float, ...]]

    def to_data(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def as_table(self) -> Table:
        """What `print` and a notebook show."""
        names = [f"{what} %, {format_seconds(t)}" for what in ("MVM error", "ADC clips") for t in self.times]
        rows = [
            (x.layer or "(root)", *(f"{100 * v:.1f}" for v in (*x.error, *x.adc, x.dac, x.weights)), f"{x.spread:.2f}")
            for x in self.layers
        ]
        head = ("layer", *names, "DAC clips %", "weights clipped %", "programming rms µS")
        return Table(head, rows, right=range(1, len(head)))


@torch.no_grad()
def inspect_layers(
    net: nn.Module,
    batches: Iterable[Any],
    times: Iterable[Time] = ("1 s", "1 year"),
    seed: int = 0,
    *,
    forward: Callable[[nn.Module, Any], Any] | None = None,
) -> Inspection:
    """Program chip 0 of `seed`, run `batches` through it at each time, and look into every layer.

    `forward(net, batch)` as for `calibrate` (default: net(batch)). The network and the chip that is on it stay as they are.
    """
    data, at = list(batches), tuple(seconds(t) for t in times)
    run: Callable[[nn.Module, Any], Any] = forward or (lambda net, batch: net(batch))
    arrays = list(matrices(net))
    seen: dict[TileArray, list[_Probe]] = {a: [] for a, _ in arrays}
    with keeping_chip(net), keeping_modes(net):
        chip = program(net, seed)
        net.eval()
        for t in at:
            chip.age(t)
            for probes in seen.values():
                probes.append(_Probe())
            with watched((a, probes[-1].look) for a, probes in seen.items()):
                for batch in data:
                    run(net, batch)
        layers = tuple(_layer(a, w, seen[a]) for a, w in arrays)
        edges, counts = _distributions([a for a, _ in arrays])
    return Inspection(at, layers, edges, counts)


@contextmanager
def watched(hooks: Iterable[tuple[nn.Module, Any]]) -> Iterator[None]:
    """Forward hooks, gone afterwards."""
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replaced(things: Iterable[Any], name: str, new: Callable[[Any], Any]) -> Iterator[None]:
    """Inside, this attribute of each thing is `new(what it was)`; afterwards it is what it was."""
    with ExitStack() as stack:
        for thing in things:
            before = getattr(thing, name)
            stack.callback(setattr, thing, name, before)
            setattr(thing, name, new(before))
        yield


@dataclass
class _Probe:
    """Sums over the calls of one tile array."""

    error: float = 0.0
    norm: float = 0.0
    clipped: dict[str, list[float]] = field(default_factory=lambda: {"dac": [0.0, 0.0], "adc": [0.0, 0.0]})

    def look(self, array: nn.Module, args: tuple[Any, ...], y: Tensor) -> None:
        """A forward hook: compare with the exact product, and see what the converters cut off."""
        assert isinstance(array, TileArray)
        x, weight = vectors(args[0]), args[1]
        flat = x.reshape(-1, x.shape[-1])[:VECTORS].to(weight.dtype)
        exact = array.layout.join_groups(array.layout.split_groups(flat) @ array.digital(weight).mT).double()
        self.error += float((y.reshape(-1, y.shape[-1])[:VECTORS].double() - exact).norm(dim=-1).sum())
        self.norm += float(exact.norm(dim=-1).sum())
        self._converters(array, flat, weight)

    def _converters(self, array: TileArray, x: Tensor, weight: Tensor) -> None:
        seen, adc, xs = array.trace(x, weight, "inspect"), array.view.adc, array.layout.cut(x)
        if "range" in seen:
            self._count("dac", (xs.abs() > seen["range"]).sum(), len(xs) * float(array.layout.occupied.sum()))
        if adc is not None and adc.bound is not None:
            y = seen["converted"]
            self._count("adc", (y.abs() >= adc.limit * (1 - 1e-6)).sum(), y.numel())

    def _count(self, what: str, hits: Tensor, of: float) -> None:
        self.clipped[what][0] += float(hits)
        self.clipped[what][1] += of


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _layer(array: TileArray, weight: Tensor, probes: list[_Probe]) -> LayerInspection:
    beyond = array.on_tiles(weight).abs() > array.gamma.unsqueeze(-1) * (1 + 1e-6)
    target, programmed = _magnitudes(array)[:2]
    return LayerInspection(
        layer=array.name,
        error=tuple(_share(p.error, p.norm) for p in probes),
        adc=tuple(_share(*p.clipped["adc"]) for p in probes),
        dac=_share(*probes[-1].clipped["dac"]),
        weights=float(beyond.sum()) / weight.numel(),
        spread=float((programmed - target).double().square().mean().sqrt()),
    )


def _magnitudes(array: TileArray) -> tuple[Tensor, Tensor, Tensor]:
    """Target, programmed and aged conductances of the cells in use, µS."""
    device, view, chip = array.spec.device, array.view, array.chip
    assert chip is not None
    used = (array.layout.used[:, None, :] > 0).expand_as(chip.weights)
    goal = view.weights(view.target(chip.target), chip.target) if view.mapping.sliced else chip.target
    seen = view.summed(goal), view.summed(view.weights(chip.programmed, chip.target)), chip.weights
    span = device.g_max - device.g_min
    target, programmed, aged = (w[used].abs() * span for w in seen)
    return target, programmed, aged


def _distributions(arrays: list[TileArray]) -> tuple[tuple[float, ...], dict[str, tuple[float, ...]]]:
    """Counts of all layers together over common bins."""
    names = ("target", "programmed", "aged")
    values = [torch.cat([_magnitudes(a)[k].float().cpu() for a in arrays]) for k in range(len(names))]
    top = max(float(v.max()) for v in values) or 1.0
    counts = {n: tuple(torch.histc(v, BINS, 0.0, top).tolist()) for n, v in zip(names, values)}
    return tuple(top * i / BINS for i in range(BINS + 1)), counts


def excess_kurtosis(w: Tensor) -> float:
    """Fourth standardised moment minus 3 (R003-48, R003-49): 0 for a Gaussian, large for long tails."""
    centred = w.detach().double().flatten() - w.detach().double().mean()
    return float((centred**4).mean() / (centred**2).mean() ** 2 - 3)


class LayerKurtosis(NamedTuple):
    """Excess kurtosis of one layer's weights, scaled by one global maximum, and of its conductances as mapped."""

    layer: str
    weights: float
    conductances: float


def kurtosis_by_layer(net: nn.Module) -> list[LayerKurtosis]:
    """How compact the mapping makes each layer's weight distribution (R003-49, Fig. 6C)."""
    return [
        LayerKurtosis(array.name, excess_kurtosis(w), excess_kurtosis(w / array.layout.spread(array.gamma)))
        for array, w in matrices(net)
    ]
