"""Hardware with something changed, as data: a strength turned, effects alone or removed, layers moved.

Every function takes a valid `Hardware` and returns another one that can be written to a file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, cast

from mho.config import DIGITAL, Hardware, Limits, TileSpec, suggest
from mho.effects import Nonideality
from mho.ground import MhoError

CONVERTERS = ("dac", "adc")
Data = dict[str, Any]


def effects_of(hw: Hardware) -> tuple[Nonideality, ...]:
    """Every effect of every tile, in the order of the file."""
    return tuple(e for tile in hw.tiles.values() for e in cast(tuple[Nonideality, ...], tile.nonidealities))


# --- knobs: what can be made harsher, step by step ---


class Knob(NamedTuple):
    """Something of a hardware file that a sensitivity study turns: the strength of a kind or of a family of effects (by a
    factor), or the bits of a converter.

    `position` counts from 0 (as the file has it) to `highest`: the factor is 2^position, or that many bits are taken away.
    """

    name: str
    highest: float
    bits: int | None = None  # what the file has, for converters

    @property
    def step(self) -> float:
        return 2.0

    def value(self, position: float) -> float:
        """The factor, or the number of bits, at a position."""
        return 2.0**position if self.bits is None else self.bits - position

    def turned(self, hw: Hardware, position: float) -> Hardware:
        """`hw` with the knob at a position."""
        if self.bits is not None:
            return _with_bits(hw, self.name.partition(".")[0], round(self.value(position)))
        return scaled(hw, self.name, self.value(position))


def knobs(hw: Hardware, highest: float = 1024.0) -> list[Knob]:
    """All knobs of a hardware file: every effect with a strength, whoever provides it; several effects of one device family
    together (R003-45, total PCM noise); the bits of DAC and ADC."""
    turnable = [e for e in effects_of(hw) if e.strength and e.active]
    kinds = list(dict.fromkeys(e.kind for e in turnable))
    several = [f for f in device_families(hw) if sum(k.startswith(f + ".") for k in kinds) > 1]
    found = [Knob(name, math.log2(min(highest, _headroom(turnable, name)))) for name in [*several, *kinds]]
    return [k for k in found if k.highest > 0] + [k for c in CONVERTERS if (k := _bits_knob(hw, c))]


def scaled(hw: Hardware, name: str, factor: float) -> Hardware:
    """`hw` with the strength of a kind or family of effects multiplied, on every tile that has it."""
    data = hw.to_data()
    touched = [t for t, spec in hw.tiles.items() if any(_is(e, name) and e.strength for e in spec.nonidealities)]
    if not touched:
        names = list(dict.fromkeys(e.kind for e in effects_of(hw) if e.strength))
        raise MhoError(f"no effect {name!r} with a strength in this hardware; {suggest(name, names, 'there are')}")
    for t in touched:
        scale = data["tiles"][t]["scale"]
        scale[name] = scale.get(name, 1.0) * factor
    return Hardware.from_data(data)


def _is(effect: Any, name: str) -> bool:
    return effect.kind == name or effect.kind.partition(".")[0] == name


def _headroom(effects: list[Nonideality], name: str) -> float:
    """The largest factor at which every strength is still a value that its field allows."""
    room = math.inf
    for e in effects:
        if not _is(e, name):
            continue
        assert e.strength is not None
        room = min(room, _top(type(e), e.strength) / getattr(e, e.strength))
    return room


def _top(cls: type[Nonideality], field: str) -> float:
    """The largest value that a field allows."""
    tops = [math.inf]
    for m in cls.model_fields[field].metadata:
        if isinstance(m, Limits):
            tops += [m.le] if m.le is not None else []
            tops += [m.lt * (1 - 1e-6)] if m.lt is not None else []
    return min(tops)


def _bits_knob(hw: Hardware, converter: str) -> Knob | None:
    bits = [getattr(getattr(t, converter), "bits", None) for t in hw.tiles.values()]
    most = max((b for b in bits if b is not None), default=2)
    return Knob(f"{converter}.bits", most - 2, most) if most > 2 else None


def _with_bits(hw: Hardware, converter: str, bits: int) -> Hardware:
    """At most `bits` bits in every converter of this sort that rounds."""
    data = hw.to_data()
    for tile in data["tiles"].values():
        if tile[converter] is not None and (tile[converter]["bits"] or 0) > bits:
            tile[converter]["bits"] = bits
    return Hardware.from_data(data)


# --- causes: what loses accuracy ---


def causes(hw: Hardware) -> list[str]:
    """What an error budget takes apart: every kind of effect, the rounding of the DAC, and the ADC."""
    kinds = list(dict.fromkeys(e.kind for e in effects_of(hw)))
    rounds = any(getattr(t.dac, "bits", None) is not None for t in hw.tiles.values())
    return kinds + ["dac"] * rounds + ["adc"] * any(t.adc is not None for t in hw.tiles.values())


def only(hw: Hardware, cause: str | None) -> Hardware:
    """`hw` with this cause alone, or with none at all: exact products of inputs that are cut at their range."""
    return _each_tile(hw, lambda spec, tile: _reduced(spec, tile, lambda c: c == cause))


def without(hw: Hardware, cause: str) -> Hardware:
    """`hw` without this cause."""
    return _each_tile(hw, lambda spec, tile: _reduced(spec, tile, lambda c: c != cause))


def _each_tile(hw: Hardware, change: Callable[[TileSpec, Data], Data]) -> Hardware:
    data = hw.to_data()
    data["tiles"] = {name: change(hw.tiles[name], tile) for name, tile in data["tiles"].items()}
    return Hardware.from_data(data)


def _reduced(spec: TileSpec, tile: Data, keep: Callable[[str], bool]) -> Data:
    """A tile with some of its causes.

    The input range stays, since it is the unit of everything analog: a DAC is removed by not rounding. So does the bound
    of the ADC where an effect is drawn relative to it (transfer curves).
    """
    effects = cast(tuple[Nonideality, ...], spec.nonidealities)
    kept = [i for i, e in enumerate(effects) if keep(e.kind)]
    new = _dropped(tile, [tile["nonidealities"][i] for i in kept])
    if tile["dac"] is not None and not keep("dac"):
        new["dac"] = {**tile["dac"], "bits": None}
    if tile["adc"] is not None and not keep("adc"):
        new["adc"] = {**tile["adc"], "bits": None} if any(effects[i].writes("transfer") for i in kept) else None
    return new


def _dropped(tile: Data, kept: list[Data]) -> Data:
    """The tile with these effects only; factors on effects that are gone go too."""
    kinds = {str(d["kind"]) for d in kept}
    names = kinds | {k.partition(".")[0] for k in kinds}
    return {**tile, "nonidealities": kept, "scale": {n: f for n, f in tile["scale"].items() if n in names}}


# --- layers: what goes where ---


def exactly(layer: str) -> str:
    """A rule's `match` for this one layer."""
    return layer if layer and not set(layer) & set("*?[]") and not layer.startswith("re:") else "re:" + re.escape(layer)


def moved(hw: Hardware, places: dict[str, str]) -> Hardware:
    """`hw` with these layers on other tiles ("digital": on none); the rules for them come first."""
    data = hw.to_data()
    new = [{"match": exactly(layer), "tile": tile} for layer, tile in places.items()]
    data["layers"] = [*new, *data["layers"]]
    return Hardware.from_data(data)


def digital(hw: Hardware, layers: Iterable[str]) -> Hardware:
    """`hw` with these layers off the tiles."""
    return moved(hw, dict.fromkeys(layers, DIGITAL))


def device_families(hw: Hardware) -> list[str]:
    """The families whose effects come with the devices themselves: those that act when weights are programmed or age."""
    own = [e.kind.partition(".")[0] for e in effects_of(hw) if e.strength and {"program", "age"} & set(e.stages())]
    return list(dict.fromkeys(own))


def one_noisy_layer(hw: Hardware, layer: str, tile: str, families: Iterable[str], factor: float) -> Hardware:
    """R003-50: the effects of these families `factor` times as strong as the effects themselves say in one layer, absent in
    all others; everything else stays. `tile` is the tile the layer is on."""
    noisy = "noisy-layer"
    data = hw.to_data()
    data["tiles"][noisy] = {**data["tiles"][tile], "scale": dict(data["tiles"][tile]["scale"])}
    for family in families:
        for name, spec in data["tiles"].items():
            source = hw.tiles[tile if name == noisy else name]
            if any(_is(e, family) and e.strength for e in source.nonidealities):
                spec["scale"][family] = factor if name == noisy else 0.0
    data["layers"] = [{"match": exactly(layer), "tile": noisy}, *data["layers"]]
    return Hardware.from_data(data)
