"""The hardware file: its schema, how files inherit from each other, and where every error is."""

import fnmatch
import hashlib
import json
import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ValidationError, field_validator

from mho.config import registry
from mho.config.changes import changed_by
from mho.config.distributions import unmet
from mho.config.inherit import Files
from mho.config.recipe import FENG, Backward, TrainingSpec
from mho.config.schema import KEY_ERROR, RASCH, RULE_ERROR, Field, Strict, kind_form, suggest
from mho.config.tilespec import CONVERTERS, TileSpec
from mho.config.units import Seconds
from mho.config.yamltext import Node, dotted, parse, parse_value, read, write
from mho.ground import ConfigError, Mark, MhoError, PluginError, Problem, Source, Table, Tabular

DIGITAL = "digital"
Model = TypeVar("Model", bound=BaseModel)
Names = str | Iterable[str]  # one or several
_TILE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


class LayerRule(Strict):
    """Which layers go on which tile. The first rule that matches a layer counts."""

    match: str = Field(min_length=1, source="mho", description="shell pattern over names, 'layer1.*', or 're:' and an expression")
    tile: str = Field(source="mho", description="a tile of this file, a preset (its default tile), or digital")
    type: str | None = Field(None, source="mho", description="only layers of this class, e.g. Linear; shell pattern")
    backward: Backward | None = Field(None, source=FENG, description="how gradients pass these layers; none: as in `training:`")
    min_params: int | None = Field(None, ge=0, unit="1", source="mho", description="only layers with at least this many")
    max_params: int | None = Field(None, ge=0, unit="1", source="mho", description="only layers with at most this many")
    position: Literal["first", "last"] | None = Field(None, source=f"{RASCH}, A.2.7")
    """only the first or the last of the layers that the rest of the rule is about, in the order of the model"""

    @field_validator("match")
    @classmethod
    def _is_pattern(cls, value: str) -> str:
        try:
            _pattern(value)
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return value

    def matches(self, name: str, type_name: str, n_params: int) -> bool:
        """Whether the rule is about this layer."""
        return (
            _pattern(self.match).fullmatch(name) is not None
            and (self.type is None or fnmatch.fnmatchcase(type_name, self.type))
            and (self.min_params is None or n_params >= self.min_params)
            and (self.max_params is None or n_params <= self.max_params)
        )


def _pattern(match: str) -> re.Pattern[str]:
    """A rule's `match` as a regular expression for the whole name."""
    text = match.removeprefix("re:") if match.startswith("re:") else fnmatch.translate(match)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # Python's thoughts about future set syntax
        return re.compile(text)


class Hardware(Tabular, Strict):
    """A complete description of an analog accelerator: tiles, which layers go where, and how to train for it."""

    mho: Literal[1] = Field(source="mho", description="version of this schema; write 'mho: 1'")
    description: str = Field("", source="mho", description="what this hardware is, for people")
    requires: tuple[str, ...] = Field((), source="mho", description="plugins that must be installed, e.g. 'mho-pcm>=0.1'")
    default: str = Field(source="mho", description="tile of all layers that no rule is about, or digital")
    precision: Literal["auto", "int8", "fp32-main", "fp32", "reference"] = Field("auto", source="mho")
    """arithmetic of the simulation; auto: integers where inputs have at most 8 bits and the processor is fast at them
    (docs/speed.md); reference: stage after stage in fp32 or fp64"""
    compile: bool = Field(False, source="mho", description="compile pointwise work of the fast path; needs a C++ compiler")
    tiles: dict[str, TileSpec] = Field({}, source="mho", description="tile types by name")
    layers: tuple[LayerRule, ...] = Field((), source="mho", description="rules: which layers go on which tile")
    training: TrainingSpec = Field(TrainingSpec(), source=f"{RASCH}, HWA training", description="hardware-aware training")
    times: tuple[Seconds, ...] = Field((1.0, 3600.0, 86400.0, 31536000.0), ge=0, min_length=1, source=f"{RASCH}, Fig. 3")
    """when to evaluate, after programming"""

    _rule_marks: tuple[Mark, ...] = ()

    @classmethod
    def cross_check(cls, value: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Names must exist, rules must differ, required plugins must be there."""
        if not isinstance(value, Mapping):
            return
        if value.get("mho") is True:  # for Python that is 1
            yield ("mho",), "expected 1, got true"
        names = list(value["tiles"]) if isinstance(value.get("tiles"), Mapping) else []
        for name in names:
            if name == DIGITAL:
                yield ("tiles", name), "'digital' is not a tile but the absence of one; choose another name"
            elif not _TILE_NAME.fullmatch(str(name)):
                yield ("tiles", name), f"expected a tile name of letters, digits, '_', '.' and '-', got {name!r}"
        rules = [dict(rule) if isinstance(rule, (Mapping, LayerRule)) else {} for rule in _items(value, "layers")]
        places: dict[tuple[str | int, ...], Any] = {("layers", i, "tile"): rule.get("tile") for i, rule in enumerate(rules)}
        for path, tile in {("default",): value.get("default"), **places}.items():
            if isinstance(tile, str) and tile not in names and tile != DIGITAL:
                yield path, f"no tile {tile!r}; {suggest(tile, [*names, DIGITAL], 'tiles')}"
        yield from _check_rules(rules)
        for i, text in enumerate(_items(value, "requires")):
            if isinstance(text, str) and (complaint := unmet(text)):
                yield ("requires", i), complaint

    def disagreements(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """What the effects of a tile say against the tile, against each other and against the evaluation times."""
        for name, tile in self.tiles.items():
            for i, effect in enumerate(tile.nonidealities):
                for message in effect.objections(tile, self.times):
                    yield ("tiles", name, "nonidealities", i), message

    @classmethod
    def from_yaml(cls, text: str, name: str = "<text>", *, set: Iterable[str] = ()) -> Self:
        """The hardware that a YAML text describes; `name` is what errors call the text."""
        return cls.from_tree(*Files().resolved(parse(text, name), ()), set)

    @classmethod
    def from_tree(cls, tree: Node, files: Files, changes: Iterable[str]) -> Self:
        """The hardware of a tree in which everything inherited is filled in by `files`: apply `--set`, fetch the presets that
        rules name, validate, and raise ConfigError with every error at its place."""
        tree = files.with_presets(tree)
        for change in changes:
            tree = files.with_presets(changed_by(tree, change))
        hardware = validated(cls, tree, files.problems)
        if files.problems:
            raise ConfigError(files.problems)
        return hardware.written_at(lambda i: tree.mark_of(("layers", i)))

    def written_at(self, mark_of: Callable[[int], Mark]) -> Self:
        """This hardware, which now knows where each of its rules is written."""
        self._rule_marks = tuple(mark_of(i) for i in range(len(self.layers)))
        return self

    def tile(self, name: str) -> TileSpec:
        """The tile type of that name; an unknown one raises `MhoError` with a suggestion."""
        if name not in self.tiles:
            raise MhoError(f"no tile {name!r}; {suggest(name, self.tiles, 'tiles')}")
        return self.tiles[name]

    def varied(
        self,
        factors: Mapping[str, float] | None = None,
        *,
        only: Names | None = None,
        without: Names = (),
        tiles: Names | None = None,
    ) -> Self:
        """The same hardware with other strengths or fewer parts: what "how strong may it be" and "what does it cost" ask.

            hw.varied({"pcm": 3})                       every PCM effect three times as strong (R003-45)
            hw.varied({"pcm.drift": 0}, tiles="head")   no drift on one tile
            hw.varied(only="circuit.ir_drop")           this effect alone, ideal converters
            hw.varied(only=())                          exact products of inputs that are cut at their range
            hw.varied(without=["pcm.drift", "adc"])     all the rest

        A name is a kind, a family (all its effects), one of several effects of a kind ("circuit.output_noise #2", see
        `TileSpec.effect_names`), and in `only` and `without` also "dac" or "adc". First parts are chosen, then factors
        multiply the strengths of those that are left; they are kept in `tiles.NAME.scale`, and those on effects that are
        gone go too.

        factors  name -> factor on the strength (at least 0; 0 removes the effect bit for bit), on every tile that has it
        only     the parts that stay; None: all. An ideal DAC keeps its input range, which is the unit of everything
                 analog, and does not round; an ideal ADC is `none`, or keeps its bound without rounding where a transfer
                 curve is drawn relative to it
        without  the parts that go
        tiles    the tiles that change; None: all

        Raises MhoError, with a suggestion, for a name that no chosen tile has (for factors: has with a strength) and for a
        negative or infinite factor; ConfigError where the parts that are left do not fit together.
        """
        chosen = {name: self.tile(name) for name in (self.tiles if tiles is None else _listed(tiles))}
        factors = {registry.present_kind(name): f for name, f in (factors or {}).items()}
        kept = None if only is None else {registry.present_kind(n) for n in _listed(only)}
        gone = {registry.present_kind(n) for n in _listed(without)}
        _require({*(kept or ()), *gone}, "", [CONVERTERS, *(n for t in chosen.values() for n in t.names())])
        new = {name: t.varied({}, kept, gone) for name, t in chosen.items()}
        turnable = [n for t in new.values() for n in t.names(turnable=True)]
        _require(factors, " with a strength", [{n for n in names if "#" not in n} for names in turnable])
        for name, factor in factors.items():
            if not 0 <= factor < math.inf:
                raise MhoError(f"expected a factor of at least 0 on {name!r}, got {factor!r}")
        try:
            changed = {name: t.varied(factors, None, ()) for name, t in new.items()}
            hardware = type(self).model_validate({**dict(self), "tiles": {**self.tiles, **changed}})
        except ValidationError as error:
            raise ConfigError(located(error, _as_tree(self), [])) from None
        return hardware.written_at(self.mark_of_rule)

    def training_of(self, rule: int | None) -> TrainingSpec:
        """How the layers of a rule (None: of no rule) are trained (R001-03)."""
        backward = None if rule is None else self.layers[rule].backward
        return self.training if backward is None else self.training.model_copy(update={"backward": backward})

    def mark_of_rule(self, i: int) -> Mark:
        """Where rule i is written."""
        return self._rule_marks[i] if i < len(self._rule_marks) else Mark(Source("hardware"), 0, 0)

    @property
    def rule_sources(self) -> tuple[str, ...]:
        """Where each rule is written, as file:line:column."""
        return tuple(str(self.mark_of_rule(i)) for i in range(len(self.layers)))

    def to_data(self) -> dict[str, Any]:
        """Plain data with everything resolved and every default filled in."""
        return self.model_dump(mode="json")

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """The hardware that plain data describe, as `to_data` gives them; errors are located in their YAML."""
        return cls.from_yaml(write(data), "<data>")

    def to_yaml(self) -> str:
        """Canonical YAML: everything resolved, numbers in the units of the schema. Reads back as an equal Hardware."""
        return write(self.to_data())

    def __repr__(self) -> str:
        tiles = ", ".join(f"{n} {t.rows} x {t.columns}" for n, t in self.tiles.items()) or "none"
        return f"Hardware({self.description!r}, tiles: {tiles}, default: {self.default})"

    def as_table(self) -> Table:
        """What `print` and a notebook show."""
        head = ("tile", "size", "device", "mapping", "DAC bits", "ADC bits", "nonidealities", "compensation")
        rows = []
        for name, t in self.tiles.items():
            size, device = f"{t.rows} x {t.columns}", f"{t.device.g_max:g} µS, {t.device.pair}"
            dac, adc = (getattr(converter, "bits", None) or "none" for converter in (t.dac, t.adc))
            effects = ", ".join(e.kind for e in t.nonidealities) or "none"
            compensation = t.compensation.kind if t.compensation is not None else "none"
            rows.append((name, size, device, t.mapping.kind, dac, adc, effects, compensation))
        rules = "; ".join(f"{r.match}: {r.tile}" for r in self.layers)
        note = f"default: {self.default}" + (f"; layers: {rules}" if rules else "")
        return Table(head, rows, title=self.description or "Hardware", note=note)

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical data; equal hardware has equal digests."""
        text = json.dumps(self.to_data(), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return self.digest == other.digest if isinstance(other, Hardware) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)


def load(source: Hardware | str | Path, *, set: Names = (), plugins: Iterable[str | Path] = ()) -> Hardware:
    """The hardware of a file, a preset (`pcm.standard`) or a Hardware, with changes `PATH=VALUE` (one or several) applied.

    `plugins` are Python files with effects of your own, loaded first.
    """
    set = _listed(set)
    for file in plugins:
        registry.load_file(file)
    if isinstance(source, Hardware):
        if not set:
            return source
        changed = Hardware.from_tree(_as_tree(source), Files(), set)
        return changed.written_at(source.mark_of_rule)  # rules still stand where they were written
    path, name = find(source)
    hardware = Hardware.from_tree(*Files().resolved(read(path), (name or str(path.resolve()),)), set)
    if not (set and hardware.description):
        return hardware
    title = f"{hardware.description}; changed: {', '.join(set)}"  # it must not go under the preset's title alone
    return hardware.model_copy(update={"description": title}).written_at(hardware.mark_of_rule)


def find(source: str | Path) -> tuple[Path, str | None]:
    """The file behind a path or a preset's name, and that name."""
    if isinstance(source, str) and kind_form(source) and source in registry.presets():
        return registry.preset_path(source), source
    path = Path(source)
    if os.path.isfile(path):  # unlike Path.is_file, quiet about impossible names
        return path, None
    if os.path.exists(path):
        raise MhoError(f"{str(source)!r} is not a file; expected a hardware file or a preset")
    if isinstance(source, str) and kind_form(source) and path.suffix not in (".yaml", ".yml"):
        return registry.preset_path(source), source  # says what there is
    raise MhoError(f"no file {str(source)!r}; {suggest(str(source), registry.presets(), 'presets')}")


def json_schema(families: Iterable[str] | None = None) -> dict[str, Any]:
    """A JSON schema of hardware files with the kinds of these families (default: of every plugin that loads)."""
    chosen = registry.default().claims if families is None else (registry.CORE, *families)
    for family in chosen:
        try:
            registry.default().load(family)
        except PluginError:
            if families is not None:
                raise
    schema = Hardware.model_json_schema()
    preset = {
        "type": "string",
        "description": "start from this preset, or this file beside",
        "examples": list(registry.presets()),
    }
    effects = schema["$defs"]["TileSpec"]["properties"]["nonidealities"]
    changes = {"anyOf": [{"const": "none"}, {"type": "null"}, {"type": "object"}]}
    schema["$defs"]["TileSpec"]["properties"] |= {
        "like": {"type": "string", "description": "start from this tile, or from the default tile of this preset or file"},
        "override": {"type": "object", "description": "changes by kind", "additionalProperties": changes},
        "append": {"type": "array", "description": "effects added at the end", "items": effects["items"]},
    }
    schema["properties"]["like"] = preset
    schema["anyOf"] = [{"required": ["like"]}, {"required": schema.pop("required")}]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


# --- checks across fields ---


def _listed(names: Names) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _require(asked: Iterable[str], what: str, known: Iterable[Iterable[str]]) -> None:
    """Every name must be one of an effect."""
    names = dict.fromkeys(name for several in known for name in sorted(several, reverse=True))
    for name in asked:
        if name not in names:
            raise MhoError(f"no effect {name!r}{what} in this hardware; {suggest(name, names, 'there are')}")


def _items(value: Mapping[str, Any], key: str) -> Iterable[Any]:
    """The list under a key; nothing where something else is there, which is then reported as such."""
    return value[key] if isinstance(value.get(key), (tuple, list)) else ()


def _check_rules(rules: list[dict[str, Any]]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    seen: dict[tuple[Any, ...], int] = {}
    for i, rule in enumerate(rules):
        if rule.get("tile") == DIGITAL and rule.get("backward") not in (None, "none"):
            yield ("layers", i, "backward"), "digital layers have torch's own backward; remove it, or name a tile"
        condition = tuple(str(rule.get(k)) for k in ("match", "type", "min_params", "max_params", "position"))
        if rule.get("match") is not None and seen.setdefault(condition, i) != i:
            yield ("layers", i), f"never used: rule {seen[condition]} has the same conditions; remove one"


def validated(cls: type[Model], tree: Node, known: Sequence[Problem] = ()) -> Model:
    """A model of what stands in a file. Raises `ConfigError` with the place of every mistake, those that are `known` first."""
    try:
        return cls.model_validate(tree.data)
    except ValidationError as error:
        raise ConfigError([*known, *located(error, tree, known)]) from None


def located(error: ValidationError, tree: Node, known: Sequence[Problem]) -> Iterator[Problem]:
    """Validation errors with their places, except those that follow from a problem that is known already."""
    taken = {p.path for p in known}
    for e in error.errors(include_url=False):
        path = tuple(e["loc"])
        follows = dotted(path) in taken or (known and e["msg"].startswith(("missing key", "no tile")))
        if not follows:
            mark = tree.mark_of(path, of_key=e["type"] == KEY_ERROR)
            yield Problem(mark, dotted(path), e["msg"], rule=e["type"] == RULE_ERROR)


def _as_tree(hardware: Hardware) -> Node:
    """A Hardware as a tree, for changes."""
    return parse_value(hardware.to_yaml(), "hardware")
