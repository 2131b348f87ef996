"""What was renamed works by its old name for one minor version, with a warning; then its entry must go."""

import tomllib
import warnings
from pathlib import Path

import pytest

import mho
from mho.config import registry
from mho.config.hardware import Hardware
from mho.config.schema import Strict
from mho.ground.renames import Renamed, present
from tests.config.conftest import CORE

ROOT = Path(__file__).parents[2]
LAB = """
from typing import ClassVar
from mho.config.hooks import hookimpl
from mho.ground.renames import Renamed
from mho.config.schema import Field, Kinded

class Drift(Kinded, kind="lab.drift"):
    CATEGORY: ClassVar[str] = "nonideality"
    strength = "nu_std"
    renamed = (Renamed("lab.ageing", "lab.drift", since="1.1"), Renamed("nu_sd", "nu_std", since="1.1"))
    nu_std: float = Field(0.02, ge=0, unit="1", description="spread")
    nu_mean: float = Field(0.06, ge=0, unit="1", description="mean")

@hookimpl
def mho_nonidealities():
    return [Drift]
"""
OLD_PRESET = "mho: 1\ndefault: t\ntiles:\n  t:\n    nonidealities:\n      - {kind: lab.ageing, nu_sd: 0.1}\n"
NEW_PRESET = OLD_PRESET.replace("ageing", "drift").replace("nu_sd", "nu_std")


@pytest.fixture
def lab(plugin, tmp_path):
    plugin("mho", CORE, distribution="mho", module="fake_core")
    plugin("lab", LAB, old=OLD_PRESET, new=NEW_PRESET)
    with registry.using(registry.Registry([str(tmp_path / "site")])):
        yield


def effect(text, *changes):
    """The one effect of a hardware, and what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (found,) = Hardware.from_yaml(text, set=changes).tiles["t"].nonidealities
    return found, {str(w.message) for w in caught}


FIELD = "'nu_sd' is called 'nu_std' since version 1.1; the old name goes away in 1.2"
KIND = "'lab.ageing' is called 'lab.drift' since version 1.1; the old name goes away in 1.2"


def test_an_old_kind_and_an_old_field_work_and_warn_of_the_new_name_and_the_version_of_removal(lab):
    found, said = effect(OLD_PRESET)
    assert (found.kind, found.nu_std) == ("lab.drift", 0.1)
    assert said == {FIELD, KIND}


def test_new_names_say_nothing(lab):
    assert effect(NEW_PRESET)[1] == set()


def over(preset, kind, field):
    return f"mho: 1\nlike: lab.{preset}\ntiles:\n  t:\n    override:\n      {kind}: {{{field}: 0.3}}\n"


@pytest.mark.parametrize("preset", ["old", "new"])
@pytest.mark.parametrize("kind", ["lab.ageing", "lab.drift"])
@pytest.mark.parametrize("field", ["nu_sd", "nu_std"])
def test_old_and_new_names_meet_in_inheritance_and_on_the_command_line(lab, preset, kind, field):
    assert effect(over(preset, kind, field))[0].nu_std == 0.3
    text = OLD_PRESET if preset == "old" else NEW_PRESET
    assert effect(text, f"tiles.t.nonidealities[{kind}].{field}=0.4")[0].nu_std == 0.4


def test_a_factor_on_an_effect_may_have_the_old_name(lab):
    text = NEW_PRESET + "    scale: {lab.ageing: 3}\n"
    with pytest.warns(FutureWarning, match="lab.ageing"):
        assert Hardware.from_yaml(text).tiles["t"].factor("lab.drift") == 3


def test_both_names_of_one_field_are_refused(lab):
    with pytest.raises(mho.ConfigError, match="'nu_sd'; it is the former name of 'nu_std', which is given too"):
        Hardware.from_yaml(NEW_PRESET.replace("nu_std: 0.1", "nu_std: 0.1, nu_sd: 0.2"))


def test_python_takes_old_fields_too(lab):
    with pytest.warns(FutureWarning, match="nu_std"):
        assert registry.resolve("lab.drift")(nu_sd=0.5).nu_std == 0.5


def test_an_old_public_name_gives_the_new_one(monkeypatch):
    monkeypatch.setattr(mho, "RENAMED", (Renamed("convert_model", "to_analog", since="0.1"),))
    with pytest.warns(FutureWarning, match="'convert_model' is called 'to_analog' since version 0.1; .* in 0.2"):
        assert mho.convert_model is mho.to_analog


def test_a_rename_is_overdue_from_the_next_minor_version_on():
    change = Renamed("a", "b", since="0.9")
    assert [change.overdue(v) for v in ("0.9.0", "0.9.7", "0.10.0", "1.0")] == [False, False, True, True]
    assert present("c", [change]) == "c"


def distributions():
    """Every distribution of this repository: its version, and what it says was renamed."""
    registry.default().load_all()
    core = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    yield "mho", core, [*mho.RENAMED, *(r for model in models() for r in model.renamed)]
    for file in sorted(ROOT.glob("plugins/*/pyproject.toml")):
        family = file.parent.name
        kinds = [cls for kind, cls in registry.kinds().items() if kind.startswith(f"{family}.")]
        version = tomllib.loads(file.read_text())["project"]["version"]
        yield f"mho-{family}", version, [r for cls in kinds for r in cls.renamed]


def models():
    """Core's own models: the parts of a hardware file, and core's kinds."""

    def below(cls):
        for sub in cls.__subclasses__():
            yield sub
            yield from below(sub)

    return [m for m in below(Strict) if m.__module__.startswith("mho.")]


def test_no_old_name_outlives_its_minor_version():
    gone = [f"{name} {version}: {r}" for name, version, renamed in distributions() for r in renamed if r.overdue(version)]
    assert not gone, "delete these entries, and say so in CHANGELOG.md"
