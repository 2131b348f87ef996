"""The code of docs/plugins.md runs, and the guide knows every hook, stage and class variable."""

import contextlib
import re
import sys
import tomllib
from pathlib import Path

import pytest
from mho_kit import run

from mho.config import hooks, registry
from mho.effects import STAGES, TERMS
from tests.docs.blocks import Page

GUIDE = Path(__file__).parents[2] / "docs" / "plugins.md"
TEXT = GUIDE.read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.M | re.S)


@pytest.fixture(scope="module")
def guide(tmp_path_factory):
    """The names that the Python blocks define, run one after another."""
    page = Page(GUIDE)
    with contextlib.chdir(tmp_path_factory.mktemp("guide")), registry.using(registry.Registry()):
        page.run(slow=False)
    sys.modules[page.module.__name__] = page.module  # torch.compile looks a function's module up
    yield vars(page.module)
    del sys.modules[page.module.__name__]


def test_the_effects_of_the_guide_keep_the_contract(guide):
    outcomes = run(guide["TestTelegraphNoise"])
    assert [o for o in outcomes if o.state == "failed"] == []
    assert len(outcomes) >= 75  # "about 80 checks"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["TestHalfRange", "TestOffsetAdc", "TestPowerDrift"])
def test_the_other_parts_of_the_guide_keep_theirs(guide, name):
    assert [o for o in run(guide[name]) if o.state == "failed"] == []


def test_the_toml_block_is_a_plugin():
    (block,) = blocks("toml")
    assert tomllib.loads(block)["project"]["entry-points"]["mho"] == {"telegraph": "mho_telegraph"}


@pytest.mark.parametrize("name", [n for n in vars(hooks) if n.startswith("mho_")])
def test_every_hook_is_documented(name):
    assert f"`{name}`" in TEXT


@pytest.mark.parametrize(
    "name",
    [
        *STAGES,
        *TERMS,
        "prepare",
        "build",
        "source",
        "bibtex",
        "strength",
        "own_scale",
        "cellwise",
        "final",
        "sides",
        "backward",
        "example",
    ],
)
def test_every_stage_term_and_class_variable_is_documented(name):
    assert re.search(rf"`{name}[(`]", TEXT)


def test_the_examples_it_names_exist():
    root = GUIDE.parents[1]
    for folder in re.findall(r"`examples/plugins/(\w+)`", TEXT):
        assert (root / "examples" / "plugins" / folder / "pyproject.toml").is_file()


def test_the_verbs_it_names_exist():
    from mho.cli import verb

    for name in re.findall(r"`?mho (new|test|mvm|plugins|doctor|cite)\b", TEXT):
        assert verb(name) is not None
