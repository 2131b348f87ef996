"""Hardware with something changed, as data: knobs that turn a strength or take bits away, and layers moved.

Every function takes a valid `Hardware` and returns another one that can be written to a file; effects alone or removed are
`Hardware.varied`.
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple, cast

from mho.config import DIGITAL, Hardware, Limits, suggest
from mho.effects import Nonideality
from mho.ground import MhoError

CONVERTERS = ("dac", "adc")


def effects_of(hw: Hardware) -> tuple[Nonideality, ...]:
    """Every effect of every tile, in the order of the file."""
    return tuple(e for tile in hw.tiles.values() for e in cast(tuple[Nonideality, ...], tile.nonidealities))


def device_noise(hw: Hardware, families: Iterable[str] = ()) -> dict[str, list[str]]:
    """What is called the noise of a device family, "PCM noise" in R003-50 and R003-51: the kinds with a strength that act when
    weights are programmed or age, by family (all families by default). Cells that are stuck are defects, and read noise
    from cycle to cycle belongs to the MVM: neither is among them. Of a family without such kinds, all kinds with a strength;
    instead of a family, one kind may be named. Raises MhoError, with a suggestion, for a name that `hw` has not.
    """
    families = tuple(families)
    hw.varied(dict.fromkeys(families, 1.0))  # refuses unknown names
    turnable = [e for e in effects_of(hw) if e.strength]
    own = [e for e in turnable if not e.final and {"program", "age"} & set(e.stages())]

    def kinds(effects: Iterable[Nonideality], family: str) -> list[str]:
        return list(dict.fromkeys(e.kind for e in effects if family in (e.kind, _family(e.kind))))

    found = families or dict.fromkeys(_family(e.kind) for e in own)
    return {f: kinds(own, f) or kinds(turnable, f) for f in found}


def chosen(asked: Iterable[str], known: Collection[str], what: str) -> list[str]:
    """Those of `known` that are asked for, all where none is. Raises MhoError, with a suggestion, for any other."""
    asked = tuple(asked)
    for name in asked:
        if name not in known:
            raise MhoError(f"this hardware has no {what} {name!r}; {suggest(name, known, 'it has')}")
    return [k for k in known if not asked or k in asked]


def causes(hw: Hardware) -> list[str]:
    """What an error budget takes apart: every kind of effect, the rounding of the DAC, and the ADC."""
    kinds = list(dict.fromkeys(e.kind for e in effects_of(hw)))
    rounds = any(getattr(t.dac, "bits", None) is not None for t in hw.tiles.values())
    return kinds + ["dac"] * rounds + ["adc"] * any(t.adc is not None for t in hw.tiles.values())


def _family(kind: str) -> str:
    return kind.partition(".")[0]


# --- knobs: what can be made harsher, step by step ---


class Knob(NamedTuple):
    """Something of a hardware file that a sensitivity study turns: the strength of a kind of effect or of all `kinds` of a
    device's noise (by a factor), or the bits of a converter.

    `position` counts from 0 (as the file has it) to `highest`: the factor is 2^position, or that many bits are taken away.
    """

    name: str
    highest: float
    bits: int | None = None  # what the file has, for converters
    kinds: tuple[str, ...] = ()  # the effects that are turned together

    def value(self, position: float) -> float:
        """The factor, or the number of bits, at a position."""
        return 2.0**position if self.bits is None else self.bits - position

    def position(self, value: float) -> float:
        """Where a factor or number of bits is."""
        return math.log2(value) if self.bits is None else self.bits - value

    def turned(self, hw: Hardware, position: float) -> Hardware:
        """`hw` with the knob at a position; a converter that has fewer bits keeps them."""
        if self.bits is None:
            return hw.varied(dict.fromkeys(self.kinds, self.value(position)))
        data, bits = hw.to_data(), round(self.value(position))
        converters = [tile[_family(self.name)] for tile in data["tiles"].values()]
        for converter in converters:
            if converter is not None and (converter["bits"] or 0) > bits:
                converter["bits"] = bits
        return Hardware.from_data(data)


def knobs(hw: Hardware, highest: float = 1024.0) -> list[Knob]:
    """All knobs of a hardware file: every effect with a strength, whoever provides it; the `device_noise` of a family
    together where it has several kinds (R003-45, total PCM noise); the bits of DAC and ADC. No strength leaves the values
    that its field allows."""
    turnable = [e for e in effects_of(hw) if e.strength and e.active]
    active = dict.fromkeys(e.kind for e in turnable)
    noise = {f: tuple(k for k in kinds if k in active) for f, kinds in device_noise(hw).items()}
    turned = {f: kinds for f, kinds in noise.items() if len(kinds) > 1} | {k: (k,) for k in active}
    found = []
    for name, kinds in turned.items():
        found.append(Knob(name, math.log2(min([highest, *(_headroom(e) for e in turnable if e.kind in kinds)])), kinds=kinds))
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


def one_noisy_layer(hw: Hardware, layer: str, tile: str, kinds: Iterable[str], factor: float) -> Hardware:
    """R003-50: effects of these kinds `factor` times as strong as the effects themselves say in one layer, absent in all
    others; everything else stays. `tile` is the tile the layer is on."""
    data, kinds = hw.to_data(), tuple(kinds)
    data["tiles"] = {name: _at_strength(hw, name, kinds, 0.0) for name in hw.tiles}
    data["tiles"]["noisy-layer"] = _at_strength(hw, tile, kinds, factor)
    data["layers"] = [{"match": exactly(layer), "tile": "noisy-layer"}, *data["layers"]]
    return Hardware.from_data(data)


def exempt(hw: Hardware, layers: Mapping[str, str], kinds: Iterable[str]) -> Hardware:
    """R003-51: `layers` (name -> tile) without effects of these kinds; they keep converters, output and read noise, and stay on
    tiles like their own."""
    data, kinds = hw.to_data(), tuple(kinds)
    rules = []
    for layer, tile in layers.items():
        data["tiles"][f"{tile}-exempt"] = _at_strength(hw, tile, kinds, 0.0)
        rules.append({"match": exactly(layer), "tile": f"{tile}-exempt"})
    data["layers"] = [*rules, *data["layers"]]
    return Hardware.from_data(data)


def _at_strength(hw: Hardware, tile: str, kinds: Collection[str], factor: float) -> dict[str, Any]:
    """The data of a tile with this factor on effects of these kinds, instead of those that the tile has for them."""
    spec = hw.tiles[tile]
    now = {e.kind: spec.factor(e.kind) for e in cast(tuple[Nonideality, ...], spec.nonidealities) if e.strength}
    scale = {k: factor if k in kinds else f for k, f in now.items()}
    return {**hw.to_data()["tiles"][tile], "scale": {k: f for k, f in scale.items() if f != 1}}
