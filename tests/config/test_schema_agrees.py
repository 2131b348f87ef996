"""The JSON schema that editors use says of generated hardware files what mho itself says of them.

Files are drawn from the schema, and damaged: 1,500 of each. What a JSON schema cannot say are rules (`Problem.rule`):
about several values at once, names that must exist, and what is installed; docs/hardware.md says so. Whole numbers
written with a fraction (`512.0`) are left out: JSON takes them for integers.
"""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from mho.config.hardware import Hardware, json_schema
from mho.ground.errors import ConfigError, Problem


class Drawn:
    """Random values of a JSON schema."""

    def __init__(self, schema: dict[str, Any], seed: int) -> None:
        self.root, self.rng = schema, random.Random(seed)

    def resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in schema:
            schema = {**self.root["$defs"][schema["$ref"].rpartition("/")[2]], **{k: v for k, v in schema.items() if k != "$ref"}}
        return schema

    def value(self, schema: dict[str, Any], name: str = "") -> Any:
        s = self.resolved(schema)
        if "const" in s:
            return s["const"]
        if "enum" in s:
            return self.rng.choice(s["enum"])
        if "examples" in s and s.get("type") == "string":
            return self.rng.choice(s["examples"])
        if "anyOf" in s and "properties" not in s:
            return self.value(self.rng.choice(s["anyOf"]), name)
        return getattr(self, "_" + s.get("type", "null"))(s, name)

    def _null(self, s: dict[str, Any], name: str) -> None:
        return None

    def _boolean(self, s: dict[str, Any], name: str) -> bool:
        return self.rng.random() < 0.5

    def _integer(self, s: dict[str, Any], name: str) -> int:
        low = s.get("minimum", s.get("exclusiveMinimum", -1) + 1)
        return self.rng.randint(low, min(s.get("maximum", low + 50), low + 50))

    def _number(self, s: dict[str, Any], name: str) -> float:
        low = s.get("minimum", s.get("exclusiveMinimum", 0.0))
        high = min(s.get("maximum", low + 3), s.get("exclusiveMaximum", low + 3))
        return low + (high - low) * self.rng.uniform(0.01, 0.99)

    def _string(self, s: dict[str, Any], name: str) -> str:
        return self.rng.choice(["a", "layer1.*", "x y", "none", "1 h"])

    def _array(self, s: dict[str, Any], name: str) -> list[Any]:
        if s["items"].get("anyOf") == [{"type": "string", "enum": []}]:  # no plugin has such kinds
            return []
        return [self.value(s["items"], name) for _ in range(self.rng.randint(s.get("minItems", 0), s.get("minItems", 0) + 2))]

    def _object(self, s: dict[str, Any], name: str) -> dict[str, Any]:
        made = {}
        for key, inner in s.get("properties", {}).items():
            if key in s.get("required", ()) or self.rng.random() < 0.3:
                made[key] = self.value(inner, key)
        if isinstance(s.get("additionalProperties"), dict) and "properties" not in s:
            for key in self.rng.sample(["one", "two", "three"], self.rng.randint(0, 2)):
                made[key] = self.value(s["additionalProperties"], key)
        return made

    def file(self) -> dict[str, Any]:
        """A hardware file: fields drawn, then what depends on others put right."""
        data = self._object(self.root, "")
        data |= {"mho": 1, "requires": []}
        data.pop("like", None)
        tiles = data["tiles"] = {
            n: self.value({"$ref": "#/$defs/TileSpec"}) for n in self.rng.sample(["one", "two", "p.q"], self.rng.randint(0, 3))
        }
        names = [*tiles, "digital"]
        data["default"] = self.rng.choice(names)
        for k, rule in enumerate(data.get("layers", [])):
            rule |= {"tile": self.rng.choice(names), "match": f"layer{k}.*"}
        for tile in tiles.values():
            self._consistent(tile)
        if isinstance(data.get("training"), dict) and isinstance(data["training"].get("backward"), dict):
            data["training"]["backward"].pop("rounding", None)
        return data

    def _consistent(self, tile: dict[str, Any]) -> None:
        for key in ("like", "override", "scale"):
            tile.pop(key, None)
        if isinstance(tile.get("device"), dict):
            tile["device"].pop("g_min", None)
        if isinstance(tile.get("adc"), dict) and tile["adc"].get("bound", 1) in (None, "none"):
            tile["adc"]["bits"] = None

    # -- damage -----------------------------------------------------------------------------------------------
    WRONG = (
        "much",
        "",
        "-3 s",
        "25 uS",
        "none",
        -1,
        0,
        3,
        0.5,
        1e9 + 0.5,
        -0.25,
        True,
        None,
        [],
        {},
        ["x"],
        {"kind": "pcm.drift"},
        "pcm.drift",
    )

    def damaged(self, data: dict[str, Any]) -> dict[str, Any]:
        """One or two places changed, at random; often that does no harm."""
        data = json.loads(json.dumps(data))
        for _ in range(self.rng.randint(1, 2)):
            places = list(self._places(data))
            where, key = self.rng.choice(places)
            act = self.rng.random()
            if act < 0.6:
                where[key] = copy.deepcopy(self.rng.choice(self.WRONG))
            elif act < 0.75 and isinstance(where, dict):
                where[str(key) + "s"] = where.pop(key)
            elif act < 0.85:
                del where[key]
            elif isinstance(where, dict):
                where[self.rng.choice(["extra", "kind", "scale", "bits"])] = copy.deepcopy(self.rng.choice(self.WRONG))
        return data

    def _places(self, value: Any) -> Any:
        keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        for key in list(keys):
            yield value, key
            yield from self._places(value[key])


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return json_schema()


def complaints(data: dict[str, Any]) -> list[Problem]:
    """What mho has against a file; [] if nothing."""
    try:
        Hardware.from_yaml(json.dumps(data))
    except ConfigError as error:
        assert error.problems, error
        return error.problems
    return []


def verdicts(schema: dict[str, Any], drawn: Drawn, n: int, damage: bool) -> tuple[Counter[str], list[str]]:
    """How often both agree, and every disagreement."""
    counts: Counter[str] = Counter()
    wrong = []
    validator = Draft202012Validator(schema)
    for _ in range(n):
        data = drawn.damaged(drawn.file()) if damage else drawn.file()
        fine, said = validator.is_valid(data), complaints(data)
        beyond = [p.message for p in said if not p.rule]
        if fine and said and not beyond:
            counts["beyond a schema"] += 1
        elif fine == (not said):
            counts["both fine" if fine else "both refuse"] += 1
        else:
            why = beyond[:2] if fine else [f"{list(e.absolute_path)}: {e.message[:200]}" for e in validator.iter_errors(data)][:1]
            wrong.append(f"{'mho' if fine else 'schema'} alone refuses {json.dumps(data)[:600]}\n    {why}")
    return counts, wrong


def test_the_schema_is_one(schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("damage", [False, True])
def test_schema_and_mho_agree(schema: dict[str, Any], damage: bool) -> None:
    n = 1500
    counts, wrong = verdicts(schema, Drawn(schema, seed=int(damage)), n, damage)
    assert not wrong, f"{len(wrong)} of {n}:\n" + "\n".join(wrong[:8])
    assert counts["both fine"] > (0.7 * n if not damage else 0.05 * n), counts
    assert not damage or counts["both refuse"] > 0.3 * n, counts
    assert sum(counts.values()) - counts["beyond a schema"] > 1000, counts
