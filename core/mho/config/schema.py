"""The base of everything a YAML file can contain: strict, immutable models whose fields know unit and source."""

import difflib
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import pydantic
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ModelWrapValidatorHandler, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError, PydanticUndefined, core_schema

from mho.config.units import UNITS, Quantity, expected, problem
from mho.ground import Renamed
from mho.ground.renames import present

# The error types of mho: all carry a finished sentence; "mho_key" is about a key rather than about its value, "mho_rule"
# about values that are each fine but not together, or not here: what a JSON schema cannot say.
VALUE_ERROR, KEY_ERROR, RULE_ERROR = "mho", "mho_key", "mho_rule"
MANY = 100  # mistakes of one part that are described
RASCH = "Rasch et al. 2023"  # the model that the core carries out
_KIND = re.compile(r"[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*")


def suggest(name: str, known: Iterable[str], what: str) -> str:
    """`did you mean 'x'?`, or the list of what is known."""
    names = list(known)
    near = difflib.get_close_matches(name, names, 1)
    return f"did you mean {near[0]!r}?" if near else f"{what}: {', '.join(names) or 'none'}"


@dataclass(frozen=True)
class Limits:
    """Bounds of a number; they reach the numbers inside unions and sequences (`float | Literal["learned"]`)."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __str__(self) -> str:
        signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
        return " and ".join(f"{signs[k]} {v:g}" for k, v in self.given.items())

    @property
    def given(self) -> dict[str, float]:
        """The bounds that are set."""
        return {k: v for k, v in vars(self).items() if v is not None}

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        bounded = self._bound(handler(source))
        if bounded is None:
            raise TypeError(f"a field with bounds ({self}) must hold a number, not {source}")
        return bounded

    def _bound(self, schema: Any) -> Any:
        """The schema with bounds on every number in it; None if there is none."""
        if schema["type"] in ("int", "float"):
            return {**schema, **self.given}
        inner = {"nullable": "schema", "function-before": "schema", "tuple": "items_schema", "union": "choices"}
        key = inner.get(schema["type"])
        if key is None:
            return None
        parts = schema[key] if isinstance(schema[key], list) else [schema[key]]
        bounded = [self._bound(part) for part in parts]
        enough = any(bounded) if key == "choices" else all(bounded)  # of a union, one branch that is a number will do
        new = [with_bounds or part for with_bounds, part in zip(bounded, parts)]
        return {**schema, key: new if isinstance(schema[key], list) else new[0]} if enough else None


def Field(  # noqa: N802 (reads like pydantic's, which it extends)
    default: Any = PydanticUndefined,
    *,
    unit: str | None = None,
    source: str | None = None,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    **pydantic_options: Any,
) -> Any:
    """A field that knows its unit and where its default comes from.

    unit         "uS", "s", "ohm", …: text with a unit is accepted and converted ("25 uS"); "1", "bit": numbers only
    source       paper or requirement behind the default
    ge gt le lt  bounds, on every number that the field may hold

    Everything else is passed to `pydantic.Field`: `description`, instead of which text may stand below the field.
    """
    extra: dict[str, Any] = {k: v for k, v in (("unit", unit), ("source", source)) if v is not None}
    info: FieldInfo = pydantic.Field(default, json_schema_extra=extra or None, **pydantic_options)
    limits = Limits(ge, gt, le, lt)
    if limits.given:
        info.metadata.append(limits)
    if unit in UNITS:
        info.metadata.append(Quantity(unit))
    return info


@dataclass(frozen=True)
class FieldNote:
    """What a user wants to know about one field."""

    name: str
    default: Any  # PydanticUndefined where the field must be given
    unit: str
    accepts: str
    description: str
    source: str

    @property
    def required(self) -> bool:
        """Whether the field must be given."""
        return self.default is PydanticUndefined


class Strict(BaseModel):
    """An immutable model that refuses unknown keys, wrong types, NaN and infinity, and says so in plain words."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True, ser_json_inf_nan="strings"
    )

    # The field that a bare word fills: `pcm.drift` for `{kind: pcm.drift}`.
    SHORTHAND: ClassVar[str | None] = None
    # Former names of fields and of the kind, which work for one more minor version.
    renamed: ClassVar[tuple[Renamed, ...]] = ()

    @pydantic.model_validator(mode="wrap")
    @classmethod
    def _in_plain_words(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Fill shorthands and `none`, then report all errors as finished sentences."""
        value = cls._spelled_out(value)
        said = [*cls.cross_check(value)]
        errors: list[InitErrorDetails] = []
        try:
            model = handler(value)
        except ValidationError as raised:
            errors = _rewritten(cls, raised)
        else:
            said += model.disagreements()
        errors += [{"type": problem(message, RULE_ERROR), "loc": loc, "input": None} for loc, message in said]
        if errors:
            raise ValidationError.from_exception_data(cls.__name__, errors)
        return model

    @classmethod
    def _spelled_out(cls, value: Any) -> Any:
        if isinstance(value, str) and cls.SHORTHAND is not None:
            return {cls.SHORTHAND: value}
        if not isinstance(value, Mapping):
            return value
        value = cls.by_present_names(value)
        nullable = {name for name, info in cls.model_fields.items() if allows_none(info.annotation)}
        return {k: None if v == "none" and k in nullable else v for k, v in value.items()}

    @classmethod
    def by_present_names(cls, value: Mapping[str, Any]) -> dict[str, Any]:
        """The same fields by today's names. Where both names are given the old one stays, and so is refused."""
        known = [r for r in cls.renamed if r.new not in value]
        return {present(k, known) if isinstance(k, str) else k: v for k, v in value.items()}

    @classmethod
    def known_keys(cls) -> tuple[str, ...]:
        """What may be written here. (Not `keys`: dict(model) would take that for a mapping.)"""
        return tuple(cls.model_fields)

    @classmethod
    def cross_check(cls, value: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Override to check fields against each other on the raw value: yields (path, message)."""
        yield from ()

    def disagreements(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Override to check parts that are each fine against each other: yields (path, message)."""
        yield from ()

    @classmethod
    def notes(cls) -> list[FieldNote]:
        """Every field, explained."""
        return [_note(name, info) for name, info in cls.model_fields.items()]

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: pydantic.GetJsonSchemaHandler) -> dict[str, Any]:
        result = handler(schema)
        properties = handler.resolve_ref_schema(result).get("properties", {})
        for name, info in cls.model_fields.items():
            if name in properties and allows_none(info.annotation):
                properties[name] = _or_word_none(properties[name])
        if cls.SHORTHAND in properties and "const" not in properties[cls.SHORTHAND]:
            return {"anyOf": [result, properties[cls.SHORTHAND]]}
        return result


class Kinded(Strict):
    """A model that YAML names by its kind, `family.effect`: what plugins provide.

    class Drift(Nonideality, kind="pcm.drift"): ...
    """

    KIND: ClassVar[str | None] = None
    CATEGORY: ClassVar[str] = ""
    SHORTHAND: ClassVar[str | None] = "kind"
    source: ClassVar[str] = ""  # where it comes from, one line
    bibtex: ClassVar[str] = ""  # the same as BibTeX entries, for `mho cite`
    example: ClassVar[dict[str, Any]] = {}  # values with which it can be seen at work, where its defaults do nothing
    example_tile: ClassVar[str] = ""  # YAML of a tile of its own devices, on which the conformance kit tries it
    strength: ClassVar[str | None] = None
    expected_failed_checks: ClassVar[dict[str, str]] = {}  # check of the conformance kit -> why this part may fail it

    kind: str = pydantic.Field(description="family.effect")

    # pydantic calls both with the class keyword: the first swallows it, the second sees a finished class.
    def __init_subclass__(cls, kind: str | None = None, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)

    @classmethod
    def __pydantic_init_subclass__(cls, kind: str | None = None, **keywords: Any) -> None:
        super().__pydantic_init_subclass__(**keywords)
        names = list(cls.__pydantic_fields__)
        if kind is not None:
            if not kind_form(kind):
                form = "family.effect (lower case, digits, _)"
                raise TypeError(f"{cls.__qualname__}: kind {kind!r} is not of the form {form}")
            cls.KIND = kind
            literal: Any = Literal[kind]
            cls.__pydantic_fields__["kind"] = FieldInfo(annotation=literal, default=kind, description="family.effect")
        cls._adjust_fields(cls.__pydantic_fields__)
        if kind is not None or names != list(cls.__pydantic_fields__):
            cls.model_rebuild(force=True)

    def objections(self, tile: Any, times: tuple[float, ...]) -> Iterator[str]:
        """Override to refuse a tile that this part does not fit into (its device range, another effect beside it), or
        evaluation times in seconds that it knows nothing of: one finished sentence each."""
        yield from ()

    @classmethod
    def drawn_in_bound(cls) -> bool:
        """Whether this part is described relative to the output bound of the ADC, as transfer curves are."""
        return False

    @classmethod
    def _adjust_fields(cls, fields: dict[str, FieldInfo]) -> None:
        """Override to remove inherited fields that make no sense in this class; `fields` is changed in place."""


def kind_form(text: Any) -> bool:
    """Whether this is text of the form family.effect."""
    return isinstance(text, str) and _KIND.fullmatch(text) is not None


def allows_none(annotation: Any) -> bool:
    """Whether None is a value of this type: there, the word `none` means None."""
    return annotation is type(None) or any(allows_none(a) for a in _members(annotation))


def _members(annotation: Any) -> tuple[Any, ...]:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _members(typing.get_args(annotation)[0])
    return typing.get_args(annotation) if origin in (typing.Union, types.UnionType) else ()


def _or_word_none(schema: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of a field where `none` may be written for null."""
    kept = {k: v for k, v in schema.items() if k not in ("anyOf", "type", "$ref", "enum", "const", "minimum", "items")}
    core = {k: v for k, v in schema.items() if k not in kept}
    return {**kept, "anyOf": [*(core["anyOf"] if set(core) == {"anyOf"} else [core]), {"const": "none"}]}


# --- pydantic's errors in plain words ---

_EXPECTED = {
    "float_type": "a number",
    "finite_number": "a finite number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "string_type": "text",
    "none_required": "none",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "keys with values",
    "model_type": "keys with values",
    "string_too_short": "text that is not empty",
}


def _rewritten(cls: type[Strict], raised: ValidationError) -> list[InitErrorDetails]:
    """The errors of one model; those of the branches of one union become one."""
    groups: dict[tuple[Any, ...], list[ErrorDetails]] = {}
    errors = raised.errors(include_url=False)
    for e in errors[:MANY]:
        groups.setdefault(e["loc"][:1], []).append(e)
    result: list[InitErrorDetails] = []
    for name, group in groups.items():
        info = cls.model_fields.get(str(name[0])) if name else None
        # Of a union pydantic tries branch by branch, and names the branch in the error's path.
        branches = [m for m in _members(info.annotation) if m is not type(None)] if info is not None else []
        if info is not None and len(branches) > 1 and all(len(e["loc"]) > 1 for e in group):
            words = dict.fromkeys([*(_wanted(e, info) for e in group), *_or_none(info)])
            value = group[0]["input"]
            result.append({"type": problem(f"expected {' or '.join(words)}, got {shown(value)}"), "loc": name, "input": value})
        else:
            result += [{"type": _plain(cls, e, info), "loc": e["loc"], "input": e["input"]} for e in group]
    if len(errors) > MANY:
        more = problem(f"and {len(errors) - MANY} more mistakes from here on")
        result.append({"type": more, "loc": errors[MANY]["loc"], "input": None})
    return result


def _or_none(info: FieldInfo | None) -> list[str]:
    return ["none"] if info is not None and allows_none(info.annotation) else []


def _plain(cls: type[Strict], error: ErrorDetails, info: FieldInfo | None) -> PydanticCustomError:
    """One error as a finished sentence."""
    type_, message, key = error["type"], error["msg"], str(error["loc"][-1]) if error["loc"] else ""
    none = " or ".join(["", *_or_none(info)]) if len(error["loc"]) == 1 else ""
    if type_ in (VALUE_ERROR, KEY_ERROR, RULE_ERROR):
        what, got, rest = message.partition(", got ")
        if got and what.startswith("expected ") and not what.endswith(" or none"):
            what += none
        return problem(what + got + rest, type_)
    if type_ == "extra_forbidden":
        former = {r.old: r.new for r in cls.renamed}
        hint = suggest(key, cls.known_keys(), "known keys")
        if key in former:
            hint = f"it is the former name of {former[key]!r}, which is given too"
        return problem(f"unknown key {key!r}; {hint}", KEY_ERROR)
    if type_ == "missing":
        meaning = f": {info.description}" if info is not None and info.description else ""
        return problem(f"missing key {key!r}{meaning}", KEY_ERROR)
    if type_ in ("value_error", "assertion_error"):
        return problem(message.partition(", ")[2] or message, RULE_ERROR)
    near = []
    if type_ == "literal_error" and isinstance(error["input"], str):
        near = difflib.get_close_matches(error["input"], re.findall(r"'([^']*)'", error["ctx"]["expected"]), 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return problem(f"expected {_wanted(error, info)}{none}, got {shown(error['input'])}{hint}")


def _wanted(error: ErrorDetails, info: FieldInfo | None) -> str:
    """What was expected, as words that follow "expected"."""
    type_, context = error["type"], error.get("ctx", {})
    if type_ == "too_short":
        return f"a list of at least {context['min_length']}"
    if type_ in (VALUE_ERROR, KEY_ERROR) and error["msg"].startswith("expected "):
        return error["msg"].removeprefix("expected ").partition(", got ")[0]
    if type_ == "literal_error":
        return str(context["expected"])
    words = _EXPECTED.get(type_, "a number" if set(context) & {"ge", "gt", "le", "lt"} else None)
    if words is None:
        return f"something else ({error['msg'][:1].lower()}{error['msg'][1:]})"
    if info is None or "number" not in words:
        return words
    limits, unit = limits_of(info), unit_of(info)
    if limits and int in (info.annotation, *_members(info.annotation)):
        words = "a whole number"
    if words == "a number" and unit in UNITS:
        return f"{expected(unit)}, {limits} {unit}" if limits else expected(unit)
    return f"{words} {limits}".rstrip()


def shown(value: Any) -> str:
    """A value as the user wrote it, cut to a readable length."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "keys with values"
    if isinstance(value, (tuple, list)):
        return "a list" if value else "an empty list"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


# --- what fields say about themselves ---


def unit_of(info: FieldInfo) -> str:
    """The unit of a field, "" if it has none."""
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    units = [m.unit for m in (*info.metadata, *_marks(info.annotation)) if isinstance(m, Quantity)]
    return str(extra.get("unit") or (units[0] if units else ""))


def _marks(annotation: Any) -> Iterator[Any]:
    """What annotates the parts of a type: the seconds of `tuple[Seconds, ...]`."""
    yield from getattr(annotation, "__metadata__", ())
    for part in typing.get_args(annotation):
        yield from _marks(part)


def limits_of(info: FieldInfo) -> str:
    """The bounds of a field in words, "" if it has none."""
    return " and ".join(str(m) for m in info.metadata if isinstance(m, Limits))


def _note(name: str, info: FieldInfo) -> FieldNote:
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    words = dict.fromkeys(w for m in _members(info.annotation) or (info.annotation,) for w in _names(m))
    return FieldNote(
        name,
        default=info.get_default(call_default_factory=True),
        unit=unit_of(info),
        accepts=", ".join(w for w in (*words, limits_of(info)) if w),
        description=" ".join((info.description or "").split()),
        source=str(extra.get("source", "")),
    )


_TYPES: dict[Any, str] = {float: "number", int: "whole number", bool: "true, false", str: "text", type(None): "none"}


def _names(annotation: Any) -> list[str]:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return [str(v) for v in args]
    if origin is typing.Annotated:
        return _names(args[0])
    if origin in (tuple, list):
        return ["list"]
    if annotation in _TYPES:
        return [_TYPES[annotation]]
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        return ["a kind" if issubclass(annotation, Kinded) else "keys"]
    return [str(getattr(annotation, "EXAMPLE", "") or getattr(annotation, "__name__", annotation))]
