"""Plugins by other people: the example of the design and what `mho new` writes, built, installed and used."""

import json
import textwrap

import pytest
from mho_kit.new import write_project

from tests.packaging.conftest import Environment

pytestmark = pytest.mark.slow

TELEGRAPH = '''\
import torch
from mho import Field, Nonideality, hookimpl

class TelegraphNoise(Nonideality, kind="telegraph.rtn"):
    """Traps that fill and empty at random lower a conductance while they are filled."""

    source = "Ielmini, Nardi, Cagli 2010"
    strength = "depth"
    depth: float = Field(0.1, ge=0, lt=1, unit="1", description="relative conductance drop of a filled trap")
    occupancy: float = Field(0.05, ge=0, le=1, unit="1", description="chance that a trap is filled at a read")

    def read(self, w, site):
        filled = site.rand_like(w) < self.occupancy
        return torch.where(filled, w * (1 - self.depth), w)

@hookimpl
def mho_nonidealities():
    return [TelegraphNoise]
'''
PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "mho-telegraph"
version = "1.2"
dependencies = ["mho"]

[project.entry-points.mho]
telegraph = "mho_telegraph"

[tool.hatch.build.targets.wheel]
only-include = ["mho_telegraph.py"]
"""
NOISY = """\
mho: 1
default: t
tiles:
  t:
    nonidealities:
      - {kind: telegraph.rtn, depth: 0.3}
"""
TASK = """\
import mho
import torch
from torch import nn

x = torch.rand(64, 6, generator=torch.Generator().manual_seed(0))
y = (x.sum(1) > 3).long()

class Tiny(mho.Task):
    epochs, hwa_epochs, chance = 2, 2, 0.5

    def model(self):
        return nn.Linear(6, 2)

    def train_batches(self, seed):
        return [(x, y)]

    def score(self, model):
        return float((model(x).argmax(1) == y).float().mean())
"""


@pytest.fixture
def telegraph(tmp_path):
    """The plugin of 20 lines, as a project of its own."""
    folder = tmp_path / "telegraph"
    folder.mkdir()
    (folder / "mho_telegraph.py").write_text(textwrap.dedent(TELEGRAPH))
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "noisy.yaml").write_text(NOISY)
    return folder


def test_a_plugin_of_twenty_lines_installs_and_runs(environment, build, telegraph):
    env = environment("mho-kit", "mho-lab", plain=[build(telegraph)])
    (listed,) = [p for p in json.loads(env.mho("plugins", "--json").stdout) if p["family"] == "telegraph"]
    assert (listed["distribution"], listed["version"], listed["state"]) == ("mho-telegraph", "1.2", "not loaded")
    assert "effects: telegraph.rtn" in env.mho("check", telegraph / "noisy.yaml").stdout
    assert "relative conductance drop" in env.mho("show", "telegraph.rtn").stdout
    run = env.mho("mvm", telegraph / "noisy.yaml", "--size", "16", "--matrices", "2", "--json")
    assert run.returncode == 0, run.stderr
    total = json.loads(run.stdout)[0]
    assert 0 < total["mean"] < 1
    tested = env.mho("test", "telegraph")
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_what_mho_new_writes_installs_passes_its_tests_and_runs(environment, build, tmp_path):
    folder = tmp_path / "mho-fefet"
    write_project("fefet", folder)
    env = environment("mho-kit", "mho-lab", plain=[build(folder)])
    tests = env.pytest("-q", "-p", "no:cacheprovider", "tests", cwd=folder)
    assert tests.returncode == 0, tests.stdout
    assert env.mho("check", "fefet.standard").returncode == 0
    run = env.mho("mvm", "fefet.standard", "--size", "16", "--matrices", "2")
    assert run.returncode == 0 and "fefet.drift" in run.stdout, run.stderr
    (tmp_path / "tiny.py").write_text(TASK)
    job = env.mho("run", tmp_path / "tiny.py", "fefet.standard", "--chips", "2", "--no-report", "--out", tmp_path / "job")
    assert job.returncode == 0 and "1 year" in job.stdout, job.stderr
    assert env.mho("test", "fefet").returncode == 0


def test_editable_and_wheel_behave_alike(environment, build, third_party, tmp_path):
    folder = tmp_path / "mho-fefet"
    write_project("fefet", folder)
    wheel, editable = environment("mho", plain=[build(folder)]), environment("mho")
    editable.editable(folder)
    assert isinstance(wheel, Environment)
    for command in (["plugins", "--json"], ["check", "fefet.standard"], ["show", "fefet.standard"], ["show", "fefet.drift"]):
        a, b = wheel.mho(*command), editable.mho(*command)
        assert a.returncode == b.returncode == 0, a.stderr + b.stderr
        assert a.stdout == b.stdout
