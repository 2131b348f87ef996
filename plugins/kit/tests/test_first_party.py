"""Every effect of every installed plugin, and every part of the core, passes the conformance kit."""

import pytest
from mho_kit import NonidealityContract, contract_of, run

from mho.config import registry

SPECS = {"ideal.device": {"levels": 4}}  # the default does nothing
# kind -> what else its contract is told, e.g. {"tile": "...", "expected_failed_checks": {check: reason}}
ABOUT: dict[str, dict] = {}


def effects():
    """Of the plugins that are installed, core's own tests left out."""
    for provider in registry.default().load_all():
        assert provider.state in ("ok", "not loaded"), provider
    return registry.kinds("nonideality")


@pytest.mark.parametrize("check", NonidealityContract.names())
@pytest.mark.parametrize("kind", effects())
def test_an_effect_keeps_the_contract(kind, check):
    cls = registry.resolve(kind)
    spec = cls.model_validate(SPECS.get(kind, cls.example))
    getattr(contract_of(spec, **ABOUT.get(kind, {}))(), check)()


OWN = registry.default().load(registry.CORE)
PARTS = [*OWN.kinds, *OWN.classes]


def part_of_core(name):
    if name in OWN.kinds:
        return OWN.kinds[name].model_validate(OWN.kinds[name].example)
    return {c.__name__: c for classes in OWN.other.values() for c in classes}[name.split()[-1]]


@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_the_core_keeps_its_contract(name):
    """Mappings, converters, compensations and layers: by the kits that plugins use."""
    outcomes = run(contract_of(part_of_core(name)))
    assert {o.check: o.message for o in outcomes if o.state == "failed"} == {}
    assert sum(o.state == "passed" for o in outcomes) >= (40 if name in OWN.kinds else 10) or "Conv1D" in name


def test_there_are_at_least_forty_checks():
    assert len(NonidealityContract.names()) >= 40
