"""Every effect and training method of our plugins, and every part of the core, keeps its contract."""

import pytest
from mho_kit import NonidealityContract, contract_of, run

from mho.config import registry

SPECS = {"ideal.device": {"levels": 4}, "hf.channel_clip": {"sigmas": 1.5}}  # the defaults do nothing
# kind -> what else its contract is told, e.g. {"tile": "...", "expected_failed_checks": {check: reason}}
ABOUT: dict[str, dict] = {}


def effects():
    """Of the plugins that are installed, core's own tests left out."""
    for provider in registry.default().load_all():
        assert provider.state in ("ok", "not loaded"), provider
    return registry.kinds("nonideality")


@pytest.mark.parametrize(
    "check",
    [pytest.param(n, marks=[pytest.mark.slow] if n == "test_compiles_in_training" else []) for n in NonidealityContract.names()],
)
@pytest.mark.parametrize("kind", effects())
def test_an_effect_keeps_the_contract(kind, check):
    cls = registry.resolve(kind)
    spec = cls.model_validate(SPECS.get(kind, cls.example))
    getattr(contract_of(spec, **ABOUT.get(kind, {}))(), check)()


def parts():
    """Name -> what provides it: parts of the core, and what plugins provide besides effects."""
    loaded = {family: registry.default().load(family) for family in (registry.CORE, *registry.default().families())}
    kinds = {k: cls for found in loaded.values() for k, cls in found.kinds.items() if cls.CATEGORY != "nonideality"}
    layers = {cls.__name__: cls for found in loaded.values() for cls in found.other.get("layer", ())}
    return kinds | layers


@pytest.mark.parametrize("name", parts())
def test_a_part_keeps_its_contract(name):
    """Mappings, converters, compensations, surrogates, layers, training methods, quantisers: by the kits that plugins use."""
    cls = parts()[name]
    has_kind = hasattr(cls, "KIND")
    outcomes = run(contract_of(cls.model_validate(SPECS.get(name, cls.example)) if has_kind else cls))
    assert {o.check: o.message for o in outcomes if o.state == "failed"} == {}
    assert sum(o.state == "passed" for o in outcomes) >= (20 if has_kind else 10) or cls.__module__.startswith("mho_transformers")


def test_there_are_at_least_forty_checks():
    assert len(NonidealityContract.names()) >= 40
