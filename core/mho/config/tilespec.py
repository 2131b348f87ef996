"""One type of crossbar tile in a hardware file: its size, devices, converters and effects; and the same tile with less."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import field_validator, model_validator

from mho.config import registry
from mho.config.schema import RASCH, Field, Kinded, Strict, kind_form, suggest
from mho.config.slots import CORRECTION, EFFECT, SLOTS
from mho.config.units import MicroSiemens

CONVERTERS = ("dac", "adc")
Factor = Annotated[float, Field(ge=0)]


class DeviceSpec(Strict):
    """The conductance range of one device, and how many devices hold a weight, or a slice of one."""

    g_min: MicroSiemens = Field(0.0, ge=0, unit="uS", source=f"{RASCH}, Eq. 12")
    """conductance of weight 0; above 0 needs pair: both, or single"""
    g_max: MicroSiemens = Field(25.0, gt=0, unit="uS", source=f"{RASCH}, Table A.1", description="conductance of a full weight")
    pair: Literal["active", "both", "single"] = Field("active", source=f"{RASCH}, Methods, Weight programming")
    """active: model only the device of a weight's sign; both: model the idle device too; single: one device,
    for mappings without negative slices"""

    @model_validator(mode="after")
    def _range_is_open(self) -> Self:
        if self.g_max <= self.g_min:
            raise ValueError(f"g_max ({self.g_max:g} uS) must be larger than g_min ({self.g_min:g} uS)")
        if self.g_min > 0 and self.pair == "active":
            raise ValueError("g_min above 0 needs 'pair: both', since the idle device conducts g_min, or 'single'")
        return self


class TileSpec(Strict):
    """One type of crossbar tile with everything around it."""

    rows: int = Field(512, ge=1, unit="1", source=f"{RASCH}, Table A.1", description="inputs of a tile")
    columns: int = Field(512, ge=1, unit="1", source=f"{RASCH}, Table A.1", description="outputs of a tile")
    split: Literal["channel", "row"] = Field("channel", source=f"{RASCH}, Table 1")
    """cut weight matrices by whole input channels (linear layers: by rows), or always by rows"""
    device: DeviceSpec = Field(DeviceSpec(), description="the conductance range of a device")
    mapping: Annotated[Kinded, SLOTS["mapping"]] = Field("mho.per_column", validate_default=True, source=f"{RASCH}, Eq. 21")
    """from weights to target conductances"""
    dac: Annotated[Kinded, SLOTS["dac"]] | None = Field(None, source=f"{RASCH}, Eq. 3")
    """digital-to-analog converters of the inputs; none: ideal"""
    adc: Annotated[Kinded, SLOTS["adc"]] | None = Field(None, source=f"{RASCH}, Eq. 5")
    """analog-to-digital converters of the outputs; none: ideal"""
    nonidealities: tuple[Annotated[Kinded, EFFECT], ...] = Field((), description="effects, in their order in a stage, noise last")
    scale: dict[str, Factor] = Field({}, source=f"{RASCH}, Figs. 4, 5")
    """factors on the strength of effects, by kind or by family, e.g. {pcm: 3} for all PCM effects"""
    corrections: tuple[Annotated[Kinded, CORRECTION], ...] = Field((), source="mho")
    """what the digital side repairs around the tiles; fitted by calibration"""
    compensation: Annotated[Kinded, SLOTS["compensation"]] | None = Field(None, source=f"{RASCH}, Methods, Drift compensation")
    """digital drift compensation; none: off"""

    @field_validator("scale", mode="before")
    @classmethod
    def _present_kinds(cls, value: Any) -> Any:
        known = value.items() if isinstance(value, Mapping) else ()
        return {registry.present_kind(k) if kind_form(k) else k: v for k, v in known} if known else value

    def disagreements(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Every factor must have an effect with a strength to act on; devices must suit the mapping."""
        unsigned = bool(getattr(self.mapping, "unsigned", False))
        if unsigned != (self.device.pair == "single"):
            needs = "single devices: write 'pair: single'" if unsigned else "the sign of a weight: 'pair: active' or 'both'"
            yield ("device", "pair"), f"{self.mapping.kind} needs {needs}"
        if (columns := getattr(self.mapping, "columns", 1) + getattr(self.mapping, "reference", False)) > self.columns:
            yield ("columns",), f"{self.mapping.kind} needs {columns} columns for one output, the tile has {self.columns}"
        known = [e.kind for e in self.nonidealities if e.strength]
        families = [kind.partition(".")[0] for kind in known]
        for name in self.scale:
            if name not in known and name not in families:
                names = list(dict.fromkeys([*families, *known]))
                yield (("scale", name), f"no effect {name!r} with a strength on this tile; {suggest(name, names, 'there are')}")

    def factor(self, kind: str) -> float:
        """The factor on the strength of effects of this kind: its own times that of its family."""
        return self.scale.get(kind, 1.0) * self.scale.get(kind.partition(".")[0], 1.0)

    @property
    def effect_names(self) -> tuple[str, ...]:
        """What `Hardware.varied` calls each effect: its kind, numbered ("circuit.output_noise #2") where there are several."""
        kinds = [e.kind for e in self.nonidealities]
        return tuple(k if kinds.count(k) == 1 else f"{k} #{kinds[:i].count(k) + 1}" for i, k in enumerate(kinds))

    def names(self, *, turnable: bool = False) -> list[set[str]]:
        """All names of each effect: its own, its kind, its family; none for one without a strength where those are asked for."""
        pairs = zip(self.effect_names, self.nonidealities)
        return [set() if turnable and not e.strength else {name, e.kind, e.kind.partition(".")[0]} for name, e in pairs]

    def varied(self, factors: Mapping[str, float], only: Collection[str] | None, without: Collection[str]) -> Self:
        """The same tile with some of its parts and strengths, see `Hardware.varied`."""

        def stays(names: set[str]) -> bool:
            return (only is None or not names.isdisjoint(only)) and names.isdisjoint(without)

        effects = tuple(e for e, names in zip(self.nonidealities, self.names()) if stays(names))
        left: dict[str, Any] = {"nonidealities": effects, "scale": {}}
        for slot in CONVERTERS:
            part = getattr(self, slot)
            if part is not None and not stays({slot}):
                # The input range is the unit of everything analog, so a DAC is removed by not rounding; so does the bound
                # of an ADC stay where effects are drawn relative to it.
                left[slot] = _ideal(part, slot) if (slot == "dac" or any(e.drawn_in_bound() for e in effects)) else None
        tile = self.model_copy(update=left)
        turnable = set().union(*tile.names(turnable=True)) - {n for n in tile.effect_names if "#" in n}
        scale = {name: f for name, f in self.scale.items() if name in turnable}
        scale |= {name: scale.get(name, 1.0) * f for name, f in factors.items() if name in turnable}
        return type(self).model_validate({**dict(tile), "scale": scale})


def _ideal(converter: Kinded, slot: str) -> Kinded:
    """The core's converter without rounding, with the range or bound of this one."""
    cls = registry.resolve(str(SLOTS[slot].kind), slot)
    shared = (n for n in cls.model_fields if n in type(converter).model_fields)
    return cls.model_validate({**{n: getattr(converter, n) for n in shared}, "kind": cls.KIND, "bits": None})
