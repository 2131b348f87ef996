"""Checks of what a part says about itself: kind, documentation, units, source, schema."""

import copy
import difflib
import inspect
import json
import typing
from typing import Any, ClassVar

from pydantic import ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic_core import PydanticUndefined

from mho.config import Kinded, kind_form, parse_value, write
from mho.effects import STAGES, TERMS, Nonideality
from mho.tile import resolve
from mho_kit.checks.base import Checks, EffectChecks, documented, takes_the_arguments_of

METHODS = (*STAGES, *TERMS, "prepare", "build")


class DescriptionChecks(Checks):
    """Of every part that YAML names by its kind.

    BASE      the class of such parts
    METHODS   what the core calls; whoever overrides one takes the same arguments
    """

    BASE: ClassVar[type[Kinded]]
    METHODS: ClassVar[tuple[str, ...]] = ()

    def test_inherits_from_its_base(self) -> None:
        cls = type(self.spec)
        assert isinstance(self.spec, self.BASE), f"{cls.__name__} must inherit from mho.{self.BASE.__name__}"
        assert cls.CATEGORY == self.BASE.CATEGORY, f"leave CATEGORY of {cls.__name__} as it is"

    def test_methods_take_the_right_arguments(self) -> None:
        for name in self.METHODS:
            takes_the_arguments_of(self.BASE, type(self.spec), name)

    def test_has_a_kind(self) -> None:
        cls = type(self.spec)
        base = cls.__mro__[1].__name__
        assert kind_form(cls.KIND), f'write: class {cls.__name__}({base}, kind="family.name"), not {cls.KIND!r}'

    def test_documents_itself(self) -> None:
        documented(type(self.spec), "formula, symbols and units in a sentence")

    def test_names_its_source(self) -> None:
        text = type(self.spec).source
        assert text.strip(), 'say where the physics comes from: source = "Author et al., year, Eq. n" (or "definition")'

    def test_bibtex_is_well_formed(self) -> None:
        text = type(self.spec).bibtex.strip()
        if not text:
            return
        assert text.startswith("@") and text.count("{") == text.count("}"), (
            "bibtex must be entries such as @article{key, ...} with balanced braces"
        )

    def test_documents_every_field(self) -> None:
        silent = [n.name for n in type(self.spec).notes() if not n.description]
        assert not silent, f"give these fields a description, Field(..., description=...): {', '.join(silent)}"

    def test_every_number_has_a_unit(self) -> None:
        fields = type(self.spec).model_fields
        bare = [n.name for n in type(self.spec).notes() if _holds_number(fields[n.name].annotation) and not n.unit]
        assert not bare, f'these numbers have no unit, write Field(..., unit="uS") or unit="1": {", ".join(bare)}'

    def test_defaults_are_valid(self) -> None:
        """Defaults are not validated when a class is made."""
        cls, wrong = type(self.spec), []
        for name, info in cls.model_fields.items():
            default = info.get_default(call_default_factory=True)
            if default is not PydanticUndefined and not _accepts(cls, {**self.values(), name: default}, name):
                wrong.append(f"{name}={default!r}")
        assert not wrong, f"these defaults break the field's own type or bounds: {', '.join(wrong)}"

    def test_round_trips_through_yaml(self) -> None:
        again = type(self.spec).model_validate(parse_value(write(self.spec.model_dump(mode="json")), "spec").data)
        assert again == self.spec, f"written as YAML and read again it is another one: {again!r}, was {self.spec!r}"

    def test_has_a_json_schema(self) -> None:
        try:
            text = json.dumps(type(self.spec).model_json_schema(), allow_nan=False)
        except (ValueError, TypeError, PydanticInvalidForJsonSchema) as error:
            cause = str(error).splitlines()[0]
            raise AssertionError(f"no JSON schema: {cause}; use numbers, text, Literal and tuples in fields") from None
        missing = [name for name in type(self.spec).model_fields if f'"{name}"' not in text]
        assert not missing, f"the JSON schema lacks {', '.join(missing)}"

    def test_is_frozen(self) -> None:
        name = next(iter(type(self.spec).model_fields))
        before = getattr(self.spec, name)
        try:
            setattr(self.spec, name, before)
        except (ValidationError, TypeError, AttributeError):
            return
        raise AssertionError("fields can be assigned; remove frozen=False from model_config: a spec never changes")

    def test_refuses_unknown_keys(self) -> None:
        accepted = _accepts(type(self.spec), {**self.values(), "no_such_key": 1}, "no_such_key")
        assert not accepted, 'it accepts unknown keys; remove extra="allow" from model_config'

    def test_is_hashable_and_equal_to_its_copy(self) -> None:
        other = copy.deepcopy(self.spec)
        try:
            same = hash(other) == hash(self.spec)
        except TypeError as error:
            raise AssertionError(f"no hash ({error}); use tuples instead of lists and dicts in fields") from None
        assert same and other == self.spec, "a copy must have the same hash; do not override __eq__ or __hash__"


class EffectDescriptionChecks(DescriptionChecks, EffectChecks):
    """Of effects besides."""

    BASE = Nonideality

    def test_overrides_a_stage(self) -> None:
        wanted = ", ".join((*STAGES, *TERMS))
        assert type(self.spec).stages(), f"it overrides no stage, so it does nothing; write one of: {wanted}"

    def test_has_no_method_that_is_nearly_a_stage(self) -> None:
        own = [n for n, v in vars(type(self.spec)).items() if inspect.isfunction(v) and not n.startswith("_")]
        for name in own:
            near = difflib.get_close_matches(name, METHODS, 1, cutoff=0.85)
            assert name in METHODS or not near, f"method {name!r} is never called; did you mean {near[0]!r}?"

    def test_stage_methods_take_the_right_arguments(self) -> None:
        for name in METHODS:
            if self.spec.writes(name):
                sides = self.spec.sides if name in ("shift", "variance") else ()
                takes_the_arguments_of(Nonideality, type(self.spec), name, **dict.fromkeys(sides))

    def test_its_strength_is_a_number_field(self) -> None:
        strength = type(self.spec).strength
        if strength is None:
            return
        assert strength in type(self.spec).model_fields, (
            f"strength = {strength!r} names no field; name the field that sweeps turn, or None"
        )
        value = getattr(self.spec, strength)
        assert isinstance(value, (int, float)) and not isinstance(value, bool), f"{strength!r} must be a number"

    def test_explains_itself_in_the_plan(self) -> None:
        rows = resolve((self.spec,), "layer").explain()
        assert rows, "it is not in the plan; give the spec under test a strength above 0"
        assert all(kind == self.spec.kind for _, kind, _ in rows), "the plan names another kind"


def _holds_number(annotation: Any) -> bool:
    inner = () if typing.get_origin(annotation) is typing.Literal else typing.get_args(annotation)
    return annotation in (int, float) or any(map(_holds_number, inner))


def _accepts(cls: type[Kinded], values: dict[str, Any], name: str) -> bool:
    """Whether the value of field `name` is accepted, whatever is said about the others."""
    try:
        cls.model_validate(values)
    except ValidationError as error:
        return not any(e["loc"][:1] == (name,) for e in error.errors(include_url=False))
    return True
