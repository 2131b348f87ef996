"""Hardware with something changed, as data: knobs that turn a strength or take bits away, and layers moved.

Every function takes a valid `Hardware` and returns another one that can be written to a file; effects alone or removed are
`Hardware.varied`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import NamedTuple, cast

from mho.config import DIGITAL, Hardware, Limits
from mho.effects import Nonideality

CONVERTERS = ("dac", "adc")


def effects_of(hw: Hardware) -> tuple[Nonideality, ...]:
    """Every effect of every tile, in the order of the file."""
    return tuple(e for tile in hw.tiles.values() for e in cast(tuple[Nonideality, ...], tile.nonidealities))


def device_families(hw: Hardware) -> list[str]:
    """The families whose effects come with the devices themselves: those that act when weights are programmed or age."""
    own = [_family(e.kind) for e in effects_of(hw) if e.strength and {"program", "age"} & set(e.stages())]
    return list(dict.fromkeys(own))


def causes(hw: Hardware) -> list[str]:
    """What an error budget takes apart: every kind of effect, the rounding of the DAC, and the ADC."""
    kinds = list(dict.fromkeys(e.kind for e in effects_of(hw)))
    rounds = any(getattr(t.dac, "bits", None) is not None for t in hw.tiles.values())
    return kinds + ["dac"] * rounds + ["adc"] * any(t.adc is not None for t in hw.tiles.values())


def _family(kind: str) -> str:
    return kind.partition(".")[0]


# --- knobs: what can be made harsher, step by step ---


class Knob(NamedTuple):
    """Something of a hardware file that a sensitivity study turns: the strength of a kind or of a family of effects (by a
    factor), or the bits of a converter.

    `position` counts from 0 (as the file has it) to `highest`: the factor is 2^position, or that many bits are taken away.
    """

    name: str
    highest: float
    bits: int | None = None  # what the file has, for converters

    def value(self, position: float) -> float:
        """The factor, or the number of bits, at a position."""
        return 2.0**position if self.bits is None else self.bits - position

    def position(self, value: float) -> float:
        """Where a factor or number of bits is."""
        return math.log2(value) if self.bits is None else self.bits - value

    def turned(self, hw: Hardware, position: float) -> Hardware:
        """`hw` with the knob at a position; a converter that has fewer bits keeps them."""
        if self.bits is None:
            return hw.varied({self.name: self.value(position)})
        data, bits = hw.to_data(), round(self.value(position))
        converters = [tile[_family(self.name)] for tile in data["tiles"].values()]
        for converter in converters:
            if converter is not None and (converter["bits"] or 0) > bits:
                converter["bits"] = bits
        return Hardware.from_data(data)


def knobs(hw: Hardware, highest: float = 1024.0) -> list[Knob]:
    """All knobs of a hardware file: every effect with a strength, whoever provides it; several effects of one device family
    together (R003-45, total PCM noise); the bits of DAC and ADC. No strength leaves the values that its field allows."""
    turnable = [e for e in effects_of(hw) if e.strength and e.active]
    kinds = list(dict.fromkeys(e.kind for e in turnable))
    several = [f for f in device_families(hw) if sum(_family(k) == f for k in kinds) > 1]
    found = []
    for name in [*several, *kinds]:
        room = [highest, *(_headroom(e) for e in turnable if name in (e.kind, _family(e.kind)))]
        found.append(Knob(name, math.log2(min(room))))
    for converter in CONVERTERS:
        bits = [getattr(getattr(t, converter), "bits", None) for t in hw.tiles.values()]
        most = max((b for b in bits if b is not None), default=2)
        found.append(Knob(f"{converter}.bits", most - 2, most))
    return [k for k in found if k.highest > 0]


def knob_of(hw: Hardware, cause: str) -> Knob | None:
    """The knob of one of `causes`, however far it may be turned; None where it has none."""
    return next((k for k in knobs(hw, highest=math.inf) if k.name in (cause, f"{cause}.bits")), None)


def _headroom(effect: Nonideality) -> float:
    """The largest factor at which the strength of an effect is still a value that its field allows."""
    assert effect.strength is not None
    limits = [m for m in type(effect).model_fields[effect.strength].metadata if isinstance(m, Limits)]
    closed = [m.le for m in limits if m.le is not None]
    open_ = [m.lt * (1 - 1e-6) for m in limits if m.lt is not None]
    return min([math.inf, *closed, *open_]) / getattr(effect, effect.strength)


# --- layers: what goes where ---


def exactly(layer: str) -> str:
    """A rule's `match` for this one layer."""
    return layer if layer and not set(layer) & set("*?[]") and not layer.startswith("re:") else "re:" + re.escape(layer)


def digital(hw: Hardware, layers: Iterable[str]) -> Hardware:
    """`hw` with these layers off the tiles; the rules for them come first."""
    data = hw.to_data()
    data["layers"] = [*({"match": exactly(layer), "tile": DIGITAL} for layer in layers), *data["layers"]]
    return Hardware.from_data(data)


def one_noisy_layer(hw: Hardware, layer: str, tile: str, families: Iterable[str], factor: float) -> Hardware:
    """R003-50: the effects of these families `factor` times as strong as the effects themselves say in one layer, absent in
    all others; everything else stays. `tile` is the tile the layer is on."""
    noisy = "noisy-layer"
    data = hw.to_data()
    data["tiles"][noisy] = {**data["tiles"][tile], "scale": dict(data["tiles"][tile]["scale"])}
    for family in families:
        for name, spec in data["tiles"].items():
            source = hw.tiles[tile if name == noisy else name]
            if any(family in names for names in source.names(turnable=True)):
                spec["scale"][family] = factor if name == noisy else 0.0
    data["layers"] = [{"match": exactly(layer), "tile": noisy}, *data["layers"]]
    return Hardware.from_data(data)
