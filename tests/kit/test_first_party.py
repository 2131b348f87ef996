"""Every effect of every installed plugin passes the conformance kit."""

import pytest
from mho import registry
from mho.testing import NonidealityContract, contract_of

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


def test_there_are_at_least_forty_checks():
    assert len(NonidealityContract.names()) >= 40
