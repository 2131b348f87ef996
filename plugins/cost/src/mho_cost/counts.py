"""What a network does on tiles and beside them for one sample: exact integers, before any joule."""

import copy
import json
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import torch
from mho_lab import tile_uses
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from mho.config import Hardware
from mho.effects import Stream, draws
from mho.ground import MhoError, Table, Tabular
from mho.layers import AnalogLayer
from mho.tile import TileArray, tile_arrays
from mho.use import NothingAnalogError, to_analog

COUNTED = ("mvm", "cell_read", "drive", "input_bit", "conversion", "scale", "multiply_add", "byte", "write")
OTHERS: dict[str, Any] = {  # multiply-adds of what torch's own table lacks
    "mv": lambda a, v: a.numel(), "addmv": lambda y, a, v, **_: a.numel(), "dot": lambda a, b: a.numel(),
    "_trilinear": lambda x, w, *_: x.shape[0] * w.numel(),
}  # fmt: skip
NORMS = ("native_batch_norm", "_native_batch_norm_legit_no_training", "native_layer_norm", "native_group_norm")


@dataclass(frozen=True)
class LayerCounts:
    """One weight matrix on tiles (all its groups), or a digital module, for one sample.

    rows, columns  of the matrix of one group; `row_tiles` of one group lie above, `blocks` beside each other
    devices        that hold a weight, both signs of it counted; `slices` columns are converted for each output
    uses           vectors; `passes` reads of each, after which `converted` conversions follow
    weights        of all groups; `tiles` physical tiles, on which there are places for `cells` weights

    mvm            products of a vector with one tile
    cell_read      devices that conduct in a pass
    drive          rows that a DAC drives in a pass; every column block has drivers of its own
    input_bit      `drive` times the bits of a pass
    conversion     of an ADC
    scale          digital multiply-adds that scale converted outputs and sum them over row tiles, passes and slices
    byte           between tiles and the digital side: inputs to every tile, and converted outputs; whole ones
    write          devices that are programmed, once in the life of the chip
    multiply_add   digital: corrections, biases and, of a digital module, matrix products and normalisations
    """

    name: str
    type: str
    tile: str = ""
    rows: int = 0
    columns: int = 0
    groups: int = 1
    row_tiles: int = 0
    blocks: int = 0
    tile_rows: int = 0
    tile_columns: int = 0
    devices: int = 0
    slices: int = 1
    uses: int = 1
    passes: int = 1
    converted: int = 1
    input_bits: int | None = None
    pass_bits: int = 0
    output_bits: int | None = None
    weights: int = 0
    tiles: int = 0
    cells: int = 0
    mvm: int = 0
    cell_read: int = 0
    drive: int = 0
    input_bit: int = 0
    conversion: int = 0
    scale: int = 0
    byte: int = 0
    write: int = 0
    multiply_add: int = 0


class Counts(Tabular, tuple[LayerCounts, ...]):
    """Counts of every matrix on tiles and of every digital module. Print it for a table."""

    def totals(self) -> dict[str, int]:
        """Sums over layers."""
        return {name: sum(getattr(e, name) for e in self) for name in ("tiles", "cells", *COUNTED)}

    @property
    def conversions(self) -> dict[int | None, int]:
        """Conversions by the bits of the ADC; None where it is ideal."""
        found: Counter[int | None] = Counter()
        for e in self:
            if e.tile:
                found[e.output_bits] += e.conversion
        return dict(found)

    def as_table(self) -> Table:
        head = ["layer", "type", "tiles", "MVMs", "cell reads", "DAC drives", "ADC", "bits"]
        head += ["scales", "other digital", "bytes", "writes"]
        rows = []
        for e in self:
            analog = [f"{v:,}" for v in (e.mvm, e.cell_read, e.drive, e.conversion)]
            bits = "ideal" if e.output_bits is None else e.output_bits
            last = [f"{v:,}" if v else "" for v in (e.scale, e.multiply_add, e.byte, e.write)]
            rows.append((e.name or "(root)", e.type, e.tiles or "", *([*analog, bits] if e.tile else [""] * 5), *last))
        return Table(head, rows, right=range(2, 12), note="Scales and other digital: multiply-adds. Writes: devices, once.")

    def to_data(self) -> dict[str, Any]:
        conversions = {str(b): n for b, n in self.conversions.items()}
        return {**self.totals(), "conversions": conversions, "layers": [asdict(e) for e in self]}

    def to_json(self) -> str:
        return json.dumps(self.to_data(), indent=1)


def counts(
    model: nn.Module, sample: Any, hw: Hardware | str | None = None, *, forward: Callable[[nn.Module, Any], Any] | None = None
) -> Counts:
    """What `model` does on the tiles of `hw` for `sample`, counted while it runs (with exact products, nothing is drawn).

    A network that is on its hardware already goes without `hw`; only of such a one the corrections count as they were fitted.
    `sample` goes to `forward(model, sample)`, by default to the model (a tuple: arguments, a dict: keywords); its whole batch
    counts. Digital products, convolutions and attention are multiply-adds of their module, normalisations one for every
    element; activations and other element-wise operations are not counted. Raises `MhoError` for a network without tiles and
    without `hw`.
    """
    if hw is None and not tile_arrays(model):
        raise MhoError("this network is not on tiles; say which hardware, e.g. counts(model, sample, 'pcm.standard')")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            net = copy.deepcopy(model) if hw is None else to_analog(model, hw)
        except NothingAnalogError:  # all layers are digital there
            net = copy.deepcopy(model)
        # Recurrent layers and attention run as the products that they are made of.
        with _Digital(net.eval()) as digital, ExitStack() as opaque:
            opaque.enter_context(torch.backends.mkldnn.flags(enabled=False, allow_tf32=None))
            opaque.enter_context(sdpa_kernel(SDPBackend.MATH))
            opaque.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
            torch.backends.mha.set_fastpath_enabled(False)
            uses = tile_uses(net, sample, forward)
    entries: dict[TileArray, LayerCounts] = {}
    for layer in net.modules():
        for key, array in layer.arrays().items() if isinstance(layer, AnalogLayer) else ():
            if array not in entries:
                entries[array] = _on_tiles(array, layer, key, uses[array])
    left = [LayerCounts(n, digital.types[n], multiply_add=-(-f // 2)) for n, f in digital.flops.items() if f]
    return Counts([*entries.values(), *left])


def _on_tiles(a: TileArray, layer: AnalogLayer, key: str, uses: int) -> LayerCounts:
    layout, spec, pair = a.layout, a.spec, a.spec.device.pair
    rows, columns, groups, blocks = layout.in_features // layout.groups, layout.columns, layout.groups, layout.block_count
    passes, converted = _passes(a)
    one = torch.zeros(layout.row_tiles, 1, 1)
    modelled = a.view.slices * len(a.view.mapping.conductances(one, pair, a.view.geometry))  # devices that are written
    name = next((n for n, t in a.session.hardware.tiles.items() if t is spec), "?")
    bits, output_bits, slices = getattr(spec.dac, "bits", None), getattr(spec.adc, "bits", None), a.view.mapping.columns
    pass_bits, devices = getattr(spec.dac, "digit", bits) or 0, modelled * (2 if pair == "active" else 1)
    weights, tiles, inputs = rows * columns * groups, groups * len(layout.sizes) * blocks, rows * groups * blocks * uses
    references, reads = a.lines.references * groups, uses * passes  # columns that are read beside those of the outputs
    conversion = (columns * groups * slices + references) * len(layout.sizes) * uses * converted
    digital = sum(c.operations for c in a.corrections) + layer.biased(key) * columns * groups
    return LayerCounts(
        a.name, type(layer).__name__.removeprefix("Analog"), tile=name, rows=rows, columns=columns, groups=groups,
        row_tiles=len(layout.sizes), blocks=blocks, tile_rows=spec.rows, tile_columns=spec.columns, devices=devices,
        slices=slices, uses=uses, passes=passes, converted=converted, input_bits=bits, pass_bits=pass_bits,
        output_bits=output_bits, weights=weights, tiles=tiles, cells=tiles * spec.rows * spec.columns, mvm=tiles * uses,
        cell_read=(weights * devices + references * rows) * reads, drive=inputs * passes, input_bit=inputs * passes * pass_bits,
        conversion=conversion, scale=conversion, byte=-(-(inputs * (bits or 0) + conversion * (output_bits or 0)) // 8),
        write=weights * modelled + references * rows, multiply_add=uses * digital,
    )  # fmt: skip


def _passes(a: TileArray) -> tuple[int, int]:
    """Reads of one vector, by the DAC and by an effect, and conversions behind them: one where passes meet before the ADC."""
    reads = 1 if a.view.dac is None else len(a.view.dac.passes)
    converted = reads if a.view.dac is not None and a.view.dac.apart else 1
    for placed in a.view.plan.passes:
        x, key = torch.zeros(1, a.layout.row_tiles, a.layout.height), draws.key("cost")
        n = len(placed.effect.passes(x, a.view.site(placed, "passes", Stream(key, key))))
        reads, converted = reads * n, converted * (n if placed.effect.apart else 1)
    return reads, converted


class _Digital(TorchDispatchMode):
    """Floating-point operations outside of tiles, by module; torch's own table says how many an operator takes."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.flops: Counter[str] = Counter()
        self.types = {name: type(module).__name__ for name, module in net.named_modules()}
        self._stack: list[str | None] = [""]  # None: on tiles
        for name, module in net.named_modules():
            at = None if isinstance(module, TileArray) else name
            module.register_forward_pre_hook(lambda m, args, at=at: self._stack.append(at))
            module.register_forward_hook(self._left, always_call=True)
            if isinstance(module, nn.RMSNorm):  # several operators
                module.register_forward_hook(lambda m, args, out, at=name: self.flops.update({at: 2 * out.numel()}))

    def _left(self, module: nn.Module, args: Any, out: Any) -> None:
        self._stack.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, packet, flops = kwargs or {}, func.overloadpacket, 0
        out = func(*args, **kwargs)
        if packet in flop_registry:
            flops = flop_registry[packet](*args, **kwargs, out_val=out)
        elif packet.__name__ in NORMS:
            flops = 2 * args[0].numel()
        elif packet.__name__ in OTHERS:
            flops = 2 * OTHERS[packet.__name__](*args, **kwargs)
        if flops and None not in self._stack:
            self.flops[self._stack[-1] or ""] += flops
        return out
