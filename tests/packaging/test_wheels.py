"""What is in the wheels, and that core and every plugin work where nothing else is installed."""

import json
import zipfile
from pathlib import Path

import pytest
from mho_kit.new import FILES

from tests.packaging.conftest import FOLDERS, ROOT

pytestmark = pytest.mark.slow
PLUGINS = [n for n in FOLDERS if n != "mho"]


def files(wheel):
    return {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}


def sources(folder):
    """Everything under a package that should be in its wheel."""
    return {
        str(p.relative_to(folder.parent))
        for p in folder.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts and not p.name.startswith(".")
    }


def test_the_wheel_of_core_holds_the_package_with_its_templates_and_nothing_else(build):
    found = files(build(FOLDERS["mho"]))
    assert found == sources(ROOT / "core" / "mho")
    assert {f"mho/templates/plugin/{t}" for t in FILES} <= found
    assert {"mho/py.typed", "mho/testing/contract.py"} <= found


@pytest.mark.parametrize("name", PLUGINS)
def test_the_wheel_of_a_plugin_holds_its_package_with_presets_and_nothing_else(build, name):
    package = FOLDERS[name] / "src" / name.replace("-", "_")
    found = files(build(FOLDERS[name]))
    assert found == sources(package)
    presets = {f"{package.name}/presets/{p.name}" for p in (package / "presets").glob("*.yaml")}
    assert presets <= found


def test_core_alone_works_and_says_what_to_install(environment, tmp_path):
    core = environment("mho")
    listed = json.loads(core.mho("plugins", "--json").stdout)
    assert [(p["family"], p["distribution"]) for p in listed] == [("mho", "mho")]
    exact = tmp_path / "exact.yaml"
    exact.write_text("mho: 1\ndefault: t\ntiles:\n  t: {dac: {bits: 8}, adc: {bits: 8}}\n")
    assert core.mho("check", exact).returncode == 0
    drifting = tmp_path / "drifting.yaml"
    drifting.write_text("mho: 1\ndefault: t\ntiles:\n  t:\n    nonidealities: [pcm.drift]\n")
    result = core.mho("check", drifting)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "drifting.yaml:5:21" in result.stderr
    assert "no installed plugin provides 'pcm'; try: pip install mho-pcm" in result.stderr


@pytest.mark.parametrize("name", PLUGINS)
def test_every_preset_loads_where_only_its_plugin_is_installed(environment, name):
    alone = environment(name)
    presets = [p.stem for p in (FOLDERS[name] / "src" / name.replace("-", "_") / "presets").glob("*.yaml")]
    family = name.removeprefix("mho-")
    for preset in presets:
        result = alone.mho("check", f"{family}.{preset}")
        assert result.returncode == 0, result.stderr
    assert alone.mho("doctor").returncode == 0


EXAMPLES = sorted(p.parent for p in (ROOT / "examples" / "plugins").glob("*/pyproject.toml"))


def test_the_worked_examples_build_install_and_are_in_order_together(environment, build):
    """Each is a distribution of its own, with its tests left out of the wheel."""
    wheels = [build(folder) for folder in EXAMPLES]
    assert len(wheels) >= 11
    for folder, wheel in zip(EXAMPLES, wheels):
        found = files(wheel)
        assert found and not [n for n in found if "test" in n], (folder, found)
        assert any(n.endswith(".py") for n in found)
    env = environment("mho-pcm", plain=wheels)
    result = env.mho("doctor")
    assert result.returncode == 0, result.stdout + result.stderr
    listed = {p["family"]: p for p in json.loads(env.mho("plugins", "--load", "--json").stdout)}
    assert {"markov", "measured", "sar", "maxfill", "robust", "flash4", "trim", "edge"} <= listed.keys()
    assert {p["state"] for p in listed.values()} == {"ok"}
    assert listed["edge"]["presets"] == ["edge.robust", "edge.small"]


def test_all_together_are_in_order(environment):
    together = environment(*FOLDERS)
    result = together.mho("doctor")
    assert result.returncode == 0, result.stdout + result.stderr
    assert Path(together.site, "mho_pcm").is_dir()
