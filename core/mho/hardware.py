"""The hardware file: its schema, how files inherit from each other, and where every error is."""

from __future__ import annotations

import fnmatch
import hashlib
import importlib.metadata
import json
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError, field_validator, model_validator
from pydantic_core import core_schema

from mho import registry
from mho.errors import ConfigError, Mark, MhoError, PluginError, Problem, Source
from mho.schema import KEY_ERROR, Field, Kinded, Strict, kind_form, problem, shown, suggest
from mho.units import MicroSiemens, Seconds, Sigmas, Span
from mho.yamltext import Node, dotted, parse, parse_value, read, write

DIGITAL = "digital"
_TILE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:>=\s*([0-9]+(?:\.[0-9]+)*))?")


# --- places for what plugins provide ---


@dataclass(frozen=True)
class Slot:
    """A field that holds whatever class a plugin provides for a category, chosen by `kind`."""

    category: str
    kind: str | None = None  # used where the file names none
    example: str = ""

    def pick(self, value: Any) -> Kinded:
        """The model that a bare kind or a mapping stands for."""
        if isinstance(value, Kinded):
            self._check(self.category == value.CATEGORY, f"expected {self}, got {value.KIND!r}")
            return value
        bare = isinstance(value, str)
        self._check(bare or isinstance(value, Mapping), f"expected {self}, got {shown(value)}")
        fields = {} if bare else dict(value)
        kind = value if bare else fields.pop("kind", self.kind)
        loc = () if bare or "kind" not in value else ("kind",)
        self._check(kind is not None, f"missing key 'kind': expected {self}")
        self._check(kind_form(kind), f"expected {self}, got {shown(kind)}", loc)
        try:
            cls = registry.resolve(kind, self.category)
        except PluginError as error:
            raise self._error(str(error), loc) from None
        try:
            return cls.model_validate(fields)
        except ValidationError:
            raise
        except Exception as error:  # a plugin's own validator is broken; the file's other errors still count
            raise self._error(f"the check of {kind!r} itself failed ({type(error).__name__}: {error})", ()) from error

    def __str__(self) -> str:
        return f"{registry.article(self.category)} such as '{self.kind or self.example}'"

    def _check(self, fine: bool, message: str, loc: tuple[str, ...] = ()) -> None:
        if not fine:
            raise self._error(message, loc)

    def _error(self, message: str, loc: tuple[str, ...]) -> ValidationError:
        return ValidationError.from_exception_data(
            self.category, [{"type": problem(message), "loc": loc, "input": None}]
        )

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        dump = core_schema.plain_serializer_function_ser_schema(
            lambda model, info: model.model_dump(mode=info.mode), info_arg=True
        )
        return core_schema.no_info_plain_validator_function(self.pick, serialization=dump)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Any of the kinds loaded so far, as a mapping or as a bare word."""
        kinds = registry.kinds(self.category)
        choices: list[dict[str, Any]] = [{"type": "string", "enum": list(kinds)}]
        for kind, cls in kinds.items():
            fields = handler(cls.__pydantic_core_schema__)
            named = [] if kind == self.kind else ["kind"]
            choices.append({**fields, "required": [*named, *fields.get("required", ())]})
        return {"anyOf": choices}


# What a tile has at most one of: field -> its slot.
SLOTS = {
    "mapping": Slot("mapping", "mho.per_column"),
    "dac": Slot("dac", "mho.dac"),
    "adc": Slot("adc", "mho.adc"),
    "compensation": Slot("compensation", "mho.global_drift"),
}
_EFFECT = Slot("nonideality", example="pcm.drift")


# --- the schema ---


class DeviceSpec(Strict):
    """The conductance range of one device, and how many devices hold a weight."""

    g_min: MicroSiemens = Field(
        0.0,
        ge=0,
        unit="uS",
        source="docs/physics.md E14",
        description="conductance of weight 0; above 0 needs pair: both",
    )
    g_max: MicroSiemens = Field(
        25.0, gt=0, unit="uS", source="R003 Table A.1", description="conductance of the largest weight"
    )
    pair: Literal["active", "both"] = Field(
        "active",
        source="docs/physics.md E14",
        description="active: model only the device of a weight's sign; both: model the idle device too",
    )

    @model_validator(mode="after")
    def _range_is_open(self) -> Self:
        if self.g_max <= self.g_min:
            raise ValueError(f"g_max ({self.g_max:g} uS) must be larger than g_min ({self.g_min:g} uS)")
        if self.g_min > 0 and self.pair == "active":
            raise ValueError("g_min above 0 needs 'pair: both', since the idle device conducts g_min")
        return self


class TileSpec(Strict):
    """One type of crossbar tile with everything around it."""

    rows: int = Field(512, ge=1, unit="1", source="R003 Table A.1", description="inputs of a tile")
    columns: int = Field(512, ge=1, unit="1", source="R003 Table A.1", description="outputs of a tile")
    split: Literal["channel", "row"] = Field(
        "channel",
        source="R003 Table 1",
        description="cut weight matrices by whole input channels (linear layers: by rows), or always by rows",
    )
    device: DeviceSpec = Field(DeviceSpec(), description="the conductance range of a device")
    mapping: Annotated[Kinded, SLOTS["mapping"]] = Field(
        "mho.per_column", validate_default=True, source="R003 Eq. 21", description="from weights to target conductances"
    )
    dac: Annotated[Kinded, SLOTS["dac"]] | None = Field(
        None, source="R003 Eq. 3", description="digital-to-analog converters of the inputs; none: ideal"
    )
    adc: Annotated[Kinded, SLOTS["adc"]] | None = Field(
        None, source="R003 Eq. 5", description="analog-to-digital converters of the outputs; none: ideal"
    )
    nonidealities: tuple[Annotated[Kinded, _EFFECT], ...] = Field(
        (), description="effects in the order in which they act inside a stage"
    )
    compensation: Annotated[Kinded, SLOTS["compensation"]] | None = Field(
        None, source="R003-22", description="digital drift compensation; none: off"
    )


class LayerRule(Strict):
    """Which layers go on which tile. The first rule that matches a layer counts."""

    match: str = Field(
        min_length=1,
        source="mho",
        description="shell pattern over dotted module names, e.g. 'layer1.*', or 're:' and a regular expression",
    )
    tile: str = Field(source="mho", description="a tile of this file, a preset (its default tile), or digital")
    type: str | None = Field(None, source="mho", description="only layers of this class, e.g. Linear; shell pattern")
    min_params: int | None = Field(
        None, ge=0, unit="1", source="mho", description="only layers with at least this many"
    )
    max_params: int | None = Field(None, ge=0, unit="1", source="mho", description="only layers with at most this many")

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


class Backward(Strict):
    """How gradients pass through a tile; a bare word is the mode."""

    SHORTHAND: ClassVar[str | None] = "mode"

    mode: Literal["through", "ste", "autograd"] = Field(
        "through",
        source="R003-64, R001-02, R000-05",
        description="through: noisy weights, rounding straight-through; ste: clean weights; autograd: every derivative",
    )
    rounding: Literal["zero", "ste"] = Field(
        "zero", source="R001-07", description="autograd only: derivative of rounding, 0 or straight-through"
    )

    @model_validator(mode="after")
    def _rounding_needs_autograd(self) -> Self:
        if self.rounding != "zero" and self.mode != "autograd":
            raise ValueError(f"'rounding: {self.rounding}' has a meaning only with 'mode: autograd'")
        return self


class InjectSpec(Strict):
    """Programming noise on the weights while training, one draw per mini-batch."""

    scale: float = Field(
        1.0, ge=0, unit="1", source="R003-64", description="factor on the noise that programming would make"
    )
    ramp: Span | None = Field(None, source="R003-66", description="grow linearly from 0 over this time, e.g. '1 epoch'")


class TrainingSpec(Strict):
    """Hardware-aware training (R003-60 to R003-79)."""

    backward: Backward = Field(Backward(), source="R003-65", description="how gradients pass through a tile")
    inject: InjectSpec | None = Field(InjectSpec(), source="R003-64", description="weight noise while training")
    clip: float | Sigmas | None = Field(
        1.0,
        gt=0,
        unit="1",
        source="R003-68",
        description="after every step, clip the mapped weights at this value or at this many sigma",
    )
    remap: Span | None = Field(
        None, source="R003-69", description="map the weights anew this often, so that columns use the full range"
    )
    out_scale: Literal["fixed", "column", "tile", "both"] = Field(
        "fixed", source="R003-71", description="which digital output factors are trained"
    )
    drop_connect: float = Field(
        0.0, ge=0, lt=1, unit="1", source="R003-67", description="share of the weights set to 0 in each mini-batch"
    )
    range_decay: float = Field(
        0.001,
        ge=0,
        unit="1",
        source="R003-70",
        description="pull on a learned input range while few inputs are clipped",
    )
    epochs: int | None = Field(
        None, ge=0, unit="1", source="mho", description="passes over the data; none: the task says"
    )
    batch_size: int | None = Field(
        None, ge=1, unit="1", source="mho", description="samples in a mini-batch; none: the task says"
    )
    lr: float | None = Field(None, gt=0, unit="1", source="mho", description="learning rate; none: the task says")
    optimizer: Literal["adam", "adamw", "sgd"] | None = Field(
        None, source="mho", description="torch optimizer; none: the task says"
    )


class Hardware(Strict):
    """A complete description of an analog accelerator: tiles, which layers go where, and how to train for it."""

    mho: Literal[1] = Field(source="mho", description="version of this schema; write 'mho: 1'")
    description: str = Field("", source="mho", description="what this hardware is, for people")
    requires: tuple[str, ...] = Field(
        (), source="mho", description="plugins that must be installed, e.g. 'mho-pcm>=0.1'"
    )
    default: str = Field(source="mho", description="tile of all layers that no rule is about, or digital")
    precision: Literal["auto", "int8", "fp32-main", "fp32", "reference"] = Field(
        "auto", source="PERFORMANCE.md 7.3", description="arithmetic of the simulation"
    )
    tiles: dict[str, TileSpec] = Field({}, source="mho", description="tile types by name")
    layers: tuple[LayerRule, ...] = Field((), source="mho", description="rules: which layers go on which tile")
    training: TrainingSpec = Field(TrainingSpec(), source="R003", description="hardware-aware training")
    times: tuple[Seconds, ...] = Field(
        (1.0, 3600.0, 86_400.0, 31_536_000.0),
        ge=0,
        min_length=1,
        source="R003 Fig. 3",
        description="when to evaluate, after programming",
    )

    _rule_marks: tuple[str, ...] = ()

    @classmethod
    def cross_check(cls, value: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Names must exist, rules must differ, required plugins must be there."""
        if not isinstance(value, Mapping):
            return
        tiles = value.get("tiles", {})
        rules = value.get("layers", ())
        names = [str(n) for n in tiles] if isinstance(tiles, Mapping) else []
        yield from _check_names(names)
        if isinstance(value.get("default"), str):
            yield from _check_tile(value["default"], names, ("default",))
        if isinstance(rules, (tuple, list)):
            yield from _check_rules(rules, names)
        requires = value.get("requires", ())
        for i, text in enumerate(requires if isinstance(requires, (tuple, list)) else ()):
            if isinstance(text, str) and (complaint := _unmet(text)):
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
        return cls._built(_Files().resolved(parse(text, name), ()), set)

    @classmethod
    def _built(cls, resolved: tuple[Node, _Files], changes: Iterable[str]) -> Self:
        """Apply `--set`, fetch the presets that rules name, validate, and locate every error."""
        tree, files = resolved
        tree = files.with_presets(tree)
        for change in changes:
            tree = files.with_presets(_changed(tree, change))
        try:
            hardware = cls.model_validate(tree.data)
        except ValidationError as error:
            raise ConfigError([*files.problems, *_located(error, tree, files.problems)]) from None
        if files.problems:
            raise ConfigError(files.problems)
        hardware._rule_marks = tuple(str(tree.mark_of(("layers", i))) for i in range(len(hardware.layers)))
        return hardware

    def tile(self, name: str) -> TileSpec:
        """The tile type of that name."""
        if name not in self.tiles:
            raise MhoError(f"no tile {name!r}; {suggest(name, self.tiles, 'tiles')}")
        return self.tiles[name]

    def rule_for(self, name: str, type_name: str, n_params: int) -> tuple[str, int | None]:
        """Where a layer goes: the name of its tile or "digital", and the rule that says so (None: the default)."""
        for i, rule in enumerate(self.layers):
            if rule.matches(name, type_name, n_params):
                return rule.tile, i
        return self.default, None

    def where_rule(self, i: int) -> str:
        """Where rule i is written, as file:line:column."""
        return self._rule_marks[i] if i < len(self._rule_marks) else "hardware"

    @property
    def rule_sources(self) -> tuple[str, ...]:
        """Where each rule is written, as file:line:column."""
        return tuple(self.where_rule(i) for i in range(len(self.layers)))

    def to_data(self) -> dict[str, Any]:
        """Plain data with everything resolved and every default filled in."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """Canonical YAML: everything resolved, numbers in the units of the schema. Reads back as an equal Hardware."""
        return write(self.to_data())

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical data; equal hardware has equal digests."""
        text = json.dumps(self.to_data(), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return self.digest == other.digest if isinstance(other, Hardware) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)


def load(source: Hardware | str | Path, *, set: Iterable[str] = (), plugins: Iterable[str | Path] = ()) -> Hardware:
    """The hardware of a file, a preset (`pcm.standard`) or a Hardware, with changes `PATH=VALUE` applied.

    `plugins` are Python files with effects of your own, loaded first.
    """
    for file in plugins:
        registry.load_file(file)
    if isinstance(source, Hardware):
        if not set:
            return source
        changed = Hardware._built((_as_tree(source), _Files()), set)
        changed._rule_marks = source._rule_marks  # rules still stand where they were written
        return changed
    path, name = find(source)
    return Hardware._built(_Files().resolved(read(path), (name,) if name else ()), set)


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
    preset = {"type": "string", "description": "start from this preset", "examples": list(registry.presets())}
    effects = schema["$defs"]["TileSpec"]["properties"]["nonidealities"]
    changes = {"anyOf": [{"const": "none"}, {"type": "null"}, {"type": "object"}]}
    schema["$defs"]["TileSpec"]["properties"] |= {
        "like": {"type": "string", "description": "start from this tile, or from this preset's default tile"},
        "override": {"type": "object", "description": "changes by kind", "additionalProperties": changes},
        "append": {"type": "array", "description": "effects added at the end", "items": effects["items"]},
    }
    schema["properties"]["like"] = preset
    schema["anyOf"] = [{"required": ["like"]}, {"required": schema.pop("required")}]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


# --- checks across fields ---


def _check_names(names: list[str]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    for name in names:
        if name == DIGITAL:
            yield ("tiles", name), "'digital' is not a tile but the absence of one; choose another name"
        elif not _TILE_NAME.fullmatch(name):
            yield ("tiles", name), f"expected a tile name of letters, digits, '_', '.' and '-', got {name!r}"


def _check_tile(
    tile: str, names: list[str], path: tuple[str | int, ...]
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if tile not in names and tile != DIGITAL:
        yield path, f"no tile {tile!r}; {suggest(tile, [*names, DIGITAL], 'tiles')}"


def _check_rules(rules: Iterable[Any], names: list[str]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    seen: dict[tuple[Any, ...], int] = {}
    for i, rule in enumerate(rules):
        fields = rule if isinstance(rule, Mapping) else dict(rule) if isinstance(rule, LayerRule) else {}
        if isinstance(fields.get("tile"), str):
            yield from _check_tile(fields["tile"], names, ("layers", i, "tile"))
        condition = tuple(str(fields.get(k)) for k in ("match", "type", "min_params", "max_params"))
        if fields.get("match") is not None and seen.setdefault(condition, i) != i:
            yield ("layers", i), f"never used: rule {seen[condition]} has the same conditions; remove one"


def _unmet(requirement: str) -> str:
    """What is wrong with a requirement such as 'mho-pcm>=0.1', "" if it is met."""
    match = _REQUIREMENT.fullmatch(requirement.strip())
    if match is None:
        return f"expected a requirement such as 'mho-pcm>=0.1', got {requirement!r}"
    try:
        installed = importlib.metadata.version(match[1])
    except importlib.metadata.PackageNotFoundError:
        return f"{requirement} is not installed; try: pip install '{requirement}'"
    if match[2] and _release(installed) < _release(match[2]):
        return f"{requirement} is needed, but {installed} is installed; try: pip install -U '{requirement}'"
    return ""


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version, without trailing zeros."""
    numbers = re.match(r"[0-9]+(\.[0-9]+)*", version)
    parts = [int(n[:9]) for n in numbers[0].split(".")] if numbers else [0]
    while len(parts) > 1 and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def _located(error: ValidationError, tree: Node, known: list[Problem]) -> Iterator[Problem]:
    """Validation errors with their places, except those that follow from a problem that is known already."""
    taken = {p.path for p in known}
    for e in error.errors(include_url=False):
        path = tuple(e["loc"])
        follows = dotted(path) in taken or (known and e["msg"].startswith(("missing key", "no tile")))
        if not follows:
            yield Problem(tree.mark_of(path, of_key=e["type"] == KEY_ERROR), dotted(path), e["msg"])


# --- like, override, append: on trees, so that every value keeps its place ---


class _Files:
    """Resolves what files inherit from presets and tiles from each other; collects the problems."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._presets: dict[str, Node | None] = {}

    def resolved(self, tree: Node, chain: tuple[str, ...]) -> tuple[Node, _Files]:
        """The tree of a file with everything inherited filled in; `chain` are the presets being read."""
        if not isinstance(tree.value, dict):
            message = f"expected a hardware file that begins with 'mho: 1', got {shown(tree.data)}"
            raise ConfigError([Problem(tree.mark, "", message)])
        base = None
        if "like" in tree.value:
            base = self._preset(tree.value["like"], "like", chain)
        own = tree.with_value({k: v for k, v in tree.value.items() if k not in ("like", "tiles")})
        result = merged(_spelled_out(base), own)
        tiles = tree.child("tiles")
        inherited = base.child("tiles") if base is not None else None
        if tiles is not None and isinstance(tiles.value, dict):
            tiles = _Tiles(self, tiles, inherited, chain).resolved()
        if tiles is not None:
            result = result.with_value({**result.value, "tiles": tiles})
        return result, self

    def with_presets(self, tree: Node) -> Node:
        """Add the default tiles of presets that `default` or a rule names, so that the hardware is complete."""
        tiles, rules = tree.child("tiles"), tree.child("layers")
        if tiles is not None and not isinstance(tiles.value, dict):
            return tree
        found = dict(tiles.value) if tiles is not None else {}
        named = [(("default",), tree.child("default"))]
        for i, rule in enumerate(rules.value if rules is not None and isinstance(rules.value, tuple) else ()):
            named.append((("layers", i, "tile"), rule.child("tile")))  # type: ignore[arg-type]
        for path, node in named:
            if node is None or not kind_form(node.value) or node.value in found:
                continue
            tile = self.preset_tile(node, dotted(path), ())
            if tile is not None:
                found[node.value] = tile
        if not found:
            return tree
        return tree.with_value({**tree.value, "tiles": (tiles or Node({}, tree.mark)).with_value(found)})

    def preset_tile(self, name: Node, path: str, chain: tuple[str, ...]) -> Node | None:
        """The default tile of a preset."""
        tree = self._preset(name, path, chain)
        if tree is None:
            return None
        tree = self.with_presets(tree)
        default, tiles = tree.child("default"), tree.child("tiles")
        tile = tiles.child(default.value) if default is not None and tiles is not None else None
        if tile is None:
            self.complain(name.mark, path, f"preset {name.value!r} has no default tile")
        return tile

    def _preset(self, name: Node, path: str, chain: tuple[str, ...]) -> Node | None:
        """The resolved tree of a preset; None if there is none, which is then a problem."""
        preset = name.value
        if not isinstance(preset, str):
            self.complain(name.mark, path, f"expected a preset such as 'pcm.standard', got {shown(name.data)}")
            return None
        if preset in chain:
            self.complain(name.mark, path, f"presets inherit in a circle: {' -> '.join((*chain, preset))}")
            return None
        if preset not in self._presets:
            self._presets[preset] = None
            try:
                if not kind_form(preset):
                    raise PluginError(f"no preset {preset!r}; {suggest(preset, registry.presets(), 'presets')}")
                self._presets[preset] = self.resolved(read(registry.preset_path(preset)), (*chain, preset))[0]
            except ConfigError as error:
                self.problems += error.problems
            except MhoError as error:
                self.complain(name.mark, path, str(error))
        return self._presets[preset]

    def complain(self, mark: Mark, path: str, message: str) -> None:
        """Take down a problem."""
        self.problems.append(Problem(mark, path, message))


class _Tiles:
    """Resolves the tiles of one file."""

    def __init__(self, files: _Files, tiles: Node, inherited: Node | None, chain: tuple[str, ...]) -> None:
        self.files = files
        self.tiles = tiles
        self.own: dict[str, Node] = tiles.value
        self.inherited: dict[str, Node] = (
            inherited.value if inherited is not None and isinstance(inherited.value, dict) else {}
        )
        self.chain = chain
        self.done: dict[str, Node] = {}
        self.open: list[str] = []

    def resolved(self) -> Node:
        """All tiles, those of the inherited file first."""
        tiles = dict(self.inherited)
        for name in self.own:
            tiles[name] = self._tile(name)
        return self.tiles.with_value(tiles)

    def _tile(self, name: str) -> Node:
        if name not in self.done:
            self.open.append(name)
            self.done[name] = self._resolve(name, self.own[name])
            self.open.pop()
        return self.done[name]

    def _resolve(self, name: str, node: Node) -> Node:
        if not isinstance(node.value, dict):
            return node
        like = node.child("like")
        base = self._base(name, like) if like is not None else self.inherited.get(name)
        own = node.with_value({k: v for k, v in node.value.items() if k not in ("like", "override", "append")})
        tile = merged(_spelled_out(base), own)
        path = f"tiles.{name}"
        if like is not None and base is None:  # whatever is to be overridden is not there
            return tile
        if (override := node.child("override")) is not None:
            tile = self._overridden(tile, override, f"{path}.override")
        if (append := node.child("append")) is not None:
            tile = self._appended(tile, append, f"{path}.append")
        return tile

    def _base(self, name: str, like: Node) -> Node | None:
        """The tile that `like` names: of this file, of the file it inherits, or a preset's."""
        path, wanted = f"tiles.{name}.like", like.value
        if not isinstance(wanted, str):
            self.files.complain(like.mark, path, f"expected the name of a tile or a preset, got {shown(like.data)}")
            return None
        if wanted in self.own and wanted != name and wanted not in self.open:
            return self._tile(wanted)
        if wanted in self.inherited:
            return self.inherited[wanted]
        if wanted in self.open:
            circle = " -> ".join((*self.open[self.open.index(wanted) :], wanted))
            self.files.complain(like.mark, path, f"tiles are like each other in a circle: {circle}")
            return None
        if kind_form(wanted):
            return self.files.preset_tile(like, path, self.chain)
        known = [n for n in (*self.own, *self.inherited, *registry.presets()) if n != name]
        self.files.complain(like.mark, path, f"no tile {wanted!r}; {suggest(wanted, known, 'tiles and presets')}")
        return None

    def _overridden(self, tile: Node, override: Node, path: str) -> Node:
        """Change effects by kind."""
        if not isinstance(override.value, dict):
            self.files.complain(override.mark, path, "expected kinds with changes, e.g. {pcm.drift: none}")
            return tile
        for kind, change in override.value.items():
            effects = tile.child("nonidealities") or Node((), override.mark, override.key)
            here, mark = dotted((path, kind)), change.key or change.mark
            places, complaint = _places(effects, kind)
            if len(places) != 1:
                self.files.complain(mark, here, complaint)
            elif change.value in (None, "none"):
                tile = _with(tile, "nonidealities", _without(effects, places[0]))
            elif isinstance(change.value, dict):
                changed = merged(_as_kinded(effects.value[places[0]]), change)
                tile = _with(tile, "nonidealities", _replaced(effects, places[0], changed))
            else:
                self.files.complain(change.mark, here, f"expected none or fields to change, got {shown(change.data)}")
        return tile

    def _appended(self, tile: Node, append: Node, path: str) -> Node:
        """Add effects at the end."""
        if not isinstance(append.value, tuple):
            self.files.complain(append.mark, path, f"expected a list of effects, got {shown(append.data)}")
            return tile
        effects = tile.child("nonidealities") or append.with_value(())
        if not isinstance(effects.value, tuple):
            return tile
        return _with(tile, "nonidealities", effects.with_value(effects.value + append.value))


def merged(base: Node | None, over: Node) -> Node:
    """`over` on top of `base`: mappings merge, everything else is replaced; so are the fields of another kind."""
    if base is None or not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    kind = over.child("kind")
    old = base.child("kind")
    if kind is not None and old is not None and kind.value != old.value:
        return over
    below = {k: merged(base.value.get(k), v) for k, v in over.value.items()}
    return over.with_value({**base.value, **below})


def _spelled_out(node: Node | None) -> Node | None:
    """A tile, or a file, with its shorthands written as mappings, so that single fields can be put on top."""
    if node is None or not isinstance(node.value, dict):
        return node
    value = dict(node.value)
    for field, slot in SLOTS.items():
        if field in value:
            value[field] = _as_kinded(value[field], slot.kind)
    training = node.child("training")
    if training is not None and isinstance(training.value, dict) and "backward" in training.value:
        value["training"] = _with(training, "backward", _as_mapping(training.value["backward"], "mode"))
    return node.with_value(value)


def _as_kinded(node: Node, default: str | None = None) -> Node:
    """A bare kind as a mapping, and a mapping without a kind with the usual one."""
    node = _as_mapping(node, "kind")
    if isinstance(node.value, dict) and "kind" not in node.value and default is not None:
        return _with(node, "kind", Node(default, node.mark))
    return node


def _as_mapping(node: Node, field: str) -> Node:
    """A bare word as {field: word}; `none` stays."""
    if isinstance(node.value, str) and node.value != "none":
        return node.with_value({field: Node(node.value, node.mark)})
    return node


def _with(node: Node, key: str, value: Node) -> Node:
    return node.with_value({**node.value, key: value})


def _replaced(node: Node, at: int, value: Node) -> Node:
    return node.with_value((*node.value[:at], value, *node.value[at + 1 :]))


def _without(node: Node, at: int) -> Node:
    return node.with_value((*node.value[:at], *node.value[at + 1 :]))


def _places(effects: Node, kind: str) -> tuple[list[int], str]:
    """Where a kind stands in a list of effects; and what to say unless that is exactly one place."""
    items = effects.value if isinstance(effects.value, tuple) else ()
    kinds = [e.child("kind").data if isinstance(e.value, dict) and "kind" in e.value else e.value for e in items]
    places = [i for i, k in enumerate(kinds) if k == kind]
    if not places:
        known = dict.fromkeys(k for k in kinds if isinstance(k, str))
        return places, f"no {kind!r} to change; {suggest(kind, known, 'effects of this tile')}"
    return places, f"{kind!r} stands {len(places)} times in the list; write the whole list instead"


# --- changes from the command line ---


def _changed(tree: Node, change: str) -> Node:
    """The tree with one `PATH=VALUE` applied."""
    path, equals, text = change.partition("=")
    name = f"--set {change}"
    mark = Mark(Source(name), 0, 0)
    steps = _steps(path.strip())
    if not equals or not steps:
        raise ConfigError([Problem(mark, "", "expected PATH=VALUE, e.g. tiles.pcm.rows=256")])
    return _Change(mark, parse_value(text, name)).apply(tree, steps, ())


def _steps(path: str) -> list[str]:
    """tiles.pcm.nonidealities[pcm.drift].nu -> tiles, pcm, nonidealities, [pcm.drift], nu; [] if it is not a path."""
    if not re.fullmatch(r"[^.\[\]]+(\.[^.\[\]]+|\[[^\[\]]+\])*", path):
        return []
    return re.findall(r"\[[^\[\]]+\]|[^.\[\]]+", path)


@dataclass(frozen=True)
class _Change:
    """One value that is put into a tree; new parts on the way are made."""

    mark: Mark
    new: Node

    def apply(self, node: Node, steps: list[str], done: tuple[str | int, ...]) -> Node:
        """`node` with the value at `steps`; `done` is the path of `node`."""
        if not steps:
            return Node(self.new.value, self.new.mark, self.mark)
        if isinstance(node.value, tuple):
            return self._in_list(node, steps, done)
        if isinstance(node.value, dict):
            return self._in_mapping(node, steps, done)
        raise self._no_path(f"{dotted(done)} is {shown(node.data)}, which has no parts")

    def _in_mapping(self, node: Node, steps: list[str], done: tuple[str | int, ...]) -> Node:
        key, rest = self._key(node, steps)
        if key.startswith("["):
            raise self._no_path(f"{dotted(done)} is not a list; write .name instead of {key}")
        child = node.value.get(key)
        if child is None and done == ("tiles",):
            raise self._no_path(f"no tile {key!r}; {suggest(key, node.value, 'tiles')}")
        if key == "kind" and not rest and child is not None and child.value != self.new.value:
            return node.with_value({"kind": self.apply(child, rest, (*done, key))})  # the old kind's fields go
        if rest:
            child = self._opened(key, child, done)
        return _with(node, key, self.apply(child or Node(None, self.mark), rest, (*done, key)))

    def _key(self, node: Node, steps: list[str]) -> tuple[str, list[str]]:
        """The longest existing key that the steps start with (names may contain dots), else the first step."""
        for n in range(len(steps), 0, -1):
            if ".".join(steps[:n]) in node.value:
                return ".".join(steps[:n]), steps[n:]
        return steps[0], steps[1:]

    def _opened(self, key: str, child: Node | None, done: tuple[str | int, ...]) -> Node:
        """A value as something that has parts, where the schema allows it."""
        if child is None or child.value in (None, "none"):
            child = Node({}, self.mark, self.mark)
        if len(done) == 2 and done[0] == "tiles" and key in SLOTS:
            return _as_kinded(child, SLOTS[key].kind)
        return _as_mapping(child, "mode") if (*done, key) == ("training", "backward") else child

    def _in_list(self, node: Node, steps: list[str], done: tuple[str | int, ...]) -> Node:
        at = self._index(node, steps[0], done)
        if len(steps) == 1 and self.new.value in (None, "none"):
            return _without(node, at)
        item = _as_kinded(node.value[at]) if done[-1] == "nonidealities" and len(steps) > 1 else node.value[at]
        return _replaced(node, at, self.apply(item, steps[1:], (*done, at)))

    def _index(self, node: Node, step: str, done: tuple[str | int, ...]) -> int:
        if not step.startswith("["):
            raise self._no_path(f"{dotted(done)} is a list; write [0] or [kind] instead of .{step}")
        inner = step[1:-1].strip()
        if not re.fullmatch(r"[0-9]{1,6}", inner):
            places, complaint = _places(node, inner)
            if len(places) != 1:
                raise self._no_path(complaint.replace("write the whole list instead", "write its index, e.g. [0]"))
            return places[0]
        if int(inner) >= len(node.value):
            raise self._no_path(f"{dotted(done)} has {len(node.value)} entries, counted from 0")
        return int(inner)

    def _no_path(self, why: str) -> ConfigError:
        return ConfigError([Problem(self.mark, "", f"no such path: {why}")])


def _as_tree(hardware: Hardware) -> Node:
    """A Hardware as a tree, for changes."""
    return parse_value(hardware.to_yaml(), "hardware")
