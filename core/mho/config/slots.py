"""Places of a hardware file that plugins fill: a kind is looked up, and its class checks the rest."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import PydanticKnownError, core_schema

from mho.config import registry
from mho.config.plugincode import article
from mho.config.schema import Kinded, kind_form, shown
from mho.config.units import problem
from mho.ground import PluginError


@dataclass(frozen=True)
class Slot:
    """A field that holds whatever class a plugin provides for a category, chosen by `kind`."""

    category: str
    kind: str | None = None  # used where the file names none
    example: str = ""

    def pick(self, value: Any) -> Kinded:
        """The model that a bare kind or a mapping stands for; an error of validation where it is none of this slot."""
        if isinstance(value, Kinded):
            if self.category != value.CATEGORY:
                raise problem(f"expected {self}, got {value.KIND!r}")
            return value
        if not isinstance(value, (str, Mapping)):
            raise problem(f"expected {self}, got {shown(value)}")
        fields = {"kind": value} if isinstance(value, str) else dict(value)
        kind = fields.pop("kind", self.kind)
        if kind is None:
            raise problem(f"missing key 'kind': expected {self}")
        try:
            if not kind_form(kind):
                raise PluginError(f"expected {self}, got {shown(kind)}")
            cls = registry.resolve(kind, self.category)
        except PluginError as error:
            raise _at_kind(str(error)) if isinstance(value, Mapping) and "kind" in value else problem(str(error)) from None
        try:
            return cls.model_validate(fields)
        except ValidationError:
            raise
        except Exception as error:  # a plugin's own validator is broken; the file's other errors still count
            raise problem(f"the check of {kind!r} itself failed ({type(error).__name__}: {error})") from error

    def __str__(self) -> str:
        return f"{article(self.category)} such as '{self.kind or self.example}'"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        dump = core_schema.plain_serializer_function_ser_schema(lambda m, info: m.model_dump(mode=info.mode), info_arg=True)
        return core_schema.no_info_plain_validator_function(self.pick, serialization=dump)

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Any of the kinds loaded so far, as a mapping or as a bare word."""
        kinds = registry.kinds(self.category)
        choices: list[dict[str, Any]] = [{"type": "string", "enum": list(kinds)}]
        for kind, cls in kinds.items():
            fields = _fields(cls, handler)
            choices.append({**fields, "required": [*([] if kind == self.kind else ["kind"]), *fields.get("required", ())]})
        return {"anyOf": choices}


def _at_kind(message: str) -> ValidationError:
    """A problem of the key `kind`."""
    return ValidationError.from_exception_data("kind", [{"type": problem(message), "loc": ("kind",), "input": None}])


class Section(NamedTuple):
    """What is written under a key of `training:`, and the kinds that claim it."""

    kinds: list[str]
    fields: Any


class Sections(Slot):
    """Keys of `training:` that stand for a method: a plugin claims one in the entry-point group `mho.training`
    (`noise = "qat.noise"`), and what is written under it are the fields of that kind."""

    def pick(self, value: Any) -> Kinded:
        """The method that a `Section` stands for; anything else is under a key that nobody claims."""
        if isinstance(value, Kinded):
            return value
        if not isinstance(value, Section):
            raise PydanticKnownError("extra_forbidden")
        if isinstance(value.fields, Kinded):
            return super().pick(value.fields)
        kind, fields = value.kinds[0], value.fields
        if len(value.kinds) > 1:
            raise problem(f"{' and '.join(value.kinds)} both claim this key; list the one that you mean in 'methods'")
        if not isinstance(fields, Mapping):
            raise problem(f"expected keys with values or none, got {shown(fields)}")
        if (given := fields.get("kind", kind)) != kind:
            raise _at_kind(f"expected {kind!r}, got {shown(given)}; others are listed in 'methods'")
        return Slot(self.category, kind).pick(fields)

    def properties(self, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Key -> JSON schema of what is written under it, of the kinds loaded so far."""
        kinds = registry.kinds(self.category)
        known = {k: kinds[claims[0]] for k, claims in registry.default().sections.items() if claims[0] in kinds}
        return {key: {"anyOf": [_fields(cls, handler), {"type": "null"}, {"const": "none"}]} for key, cls in known.items()}


def _fields(cls: type[Kinded], handler: GetJsonSchemaHandler) -> dict[str, Any]:
    """The JSON schema of a kind's fields."""
    return cls.__get_pydantic_json_schema__(cls.__pydantic_core_schema__, handler)


# What a tile has at most one of: field -> its slot.
SLOTS = {
    "mapping": Slot("mapping", "mho.per_column"),
    "dac": Slot("dac", "mho.dac"),
    "adc": Slot("adc", "mho.adc"),
    "compensation": Slot("compensation", "mho.global_drift"),
}
EFFECT = Slot("nonideality", example="pcm.drift")
CORRECTION = Slot("correction", example="family.channel_scaling")
SURROGATE = Slot("surrogate", example="mho.saturating")
TRAINING = Slot("training", example="qat.noise")
SECTIONS = Sections("training", example="qat.noise")
