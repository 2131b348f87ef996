"""What is in the wheels, and that core and every plugin work where nothing else is installed."""

import json
import re
import tomllib
import zipfile
from pathlib import Path

import pytest
from mho_kit.new import FILES

from tests.packaging.conftest import FOLDERS, ROOT

pytestmark = pytest.mark.slow
PLUGINS = [n for n in FOLDERS if n != "mho"]


def extras(name):
    """What the extra `test` of a plugin names besides the kit."""
    about = tomllib.loads((FOLDERS[name] / "pyproject.toml").read_text())
    named = [r.split(">")[0] for r in about["project"]["optional-dependencies"]["test"]]
    return [n for n in named if n.startswith("mho-") and n != "mho-kit"]


# Each check of a contract is tried on the good examples elsewhere: here it is enough that the bad ones are caught.
SELECTED = {"mho-kit": ("-k", "not TestTelegraphNoise")}


def files(wheel):
    return {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}


def sources(folder):
    """Everything under a package that should be in its wheel."""
    return {
        str(p.relative_to(folder.parent))
        for p in folder.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts and not p.name.startswith(".")
    }


def test_the_wheel_of_core_holds_the_package_and_nothing_else(build):
    found = files(build(FOLDERS["mho"]))
    assert found == sources(ROOT / "core" / "mho")
    assert {"mho/py.typed", "mho/effects/nonideality.py"} <= found


def test_the_wheel_of_the_kit_holds_the_templates_of_mho_new(build):
    assert {f"mho_kit/template/{t}" for t in FILES} <= files(build(FOLDERS["mho-kit"]))


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


TRAINED = """\
mho: 1
default: t
tiles:
  t:
    rows: 8
    columns: 8
    device: {g_max: 25 uS}
    mapping: mho.per_column
    dac: {bits: 6, range: learned}
    adc: {bits: 6, bound: 8}
    compensation: mho.global_drift
training: {backward: through, clip: 2 sigma, remap: 2 steps}
times: [0 s, 1 h]
"""
TRAINING = """
import sys, mho, torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(64, 12)
y = (x[:, :6].sum(1) > 0).long()
net = mho.to_analog(nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 2)), mho.load(sys.argv[1]))
optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
mho.attach(optimizer, net)
losses = []
for _ in range(30):
    loss = nn.functional.cross_entropy(net.train()(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
assert losses[-1] < 0.5 * losses[0], losses
found = mho.evaluate(net, lambda n: float((n(x).argmax(1) == y).float().mean()), chips=2)
assert min(found.mean) > 0.85, found.mean
try:
    mho.quantise
except AttributeError as error:
    assert "it comes with mho-qat: pip install mho-qat" in str(error), error
else:
    raise AssertionError("mho.quantise without mho-qat")
"""


def test_core_alone_converts_and_trains_on_parts_of_its_own(environment, tmp_path):
    core = environment("mho")
    (tmp_path / "own.yaml").write_text(TRAINED)
    trained = core.run(TRAINING, tmp_path / "own.yaml")
    assert trained.returncode == 0, trained.stderr


@pytest.mark.parametrize(("verb", "distribution"), [("run", "mho-lab"), ("fit", "mho-lab"), ("test", "mho-kit")])
def test_a_verb_of_a_plugin_that_is_missing_says_what_to_install(environment, verb, distribution):
    result = environment("mho").mho(verb, "anything")
    assert result.returncode == 1
    assert result.stderr.strip() == f"mho {verb} comes with {distribution}: pip install {distribution}"


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", PLUGINS)
def test_the_tests_of_a_plugin_pass_where_only_it_the_core_and_the_kit_are_installed(environment, name):
    """Tests that need another family skip visibly; most do not."""
    alone = environment(name, *extras(name), "mho-kit")
    done = alone.pytest("-q", "-p", "no:cacheprovider", "-m", "not slow", *SELECTED.get(name, ()), "tests", cwd=FOLDERS[name])
    assert done.returncode == 0, done.stdout[-4000:]
    assert len(re.findall(r"\d+ passed", done.stdout)) == 1, done.stdout[-4000:]


NEEDED = {"mho-transformers": ("mho-pcm", "mho-qat")}  # its preset is a recipe for the PCM of another


@pytest.mark.parametrize("name", PLUGINS)
def test_every_preset_loads_where_only_its_plugin_is_installed(environment, name):
    alone = environment(name, *NEEDED.get(name, ()))
    presets = [p.stem for p in (FOLDERS[name] / "src" / name.replace("-", "_") / "presets").glob("*.yaml")]
    family = {"mho-transformers": "hf"}.get(name, name.removeprefix("mho-"))
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
