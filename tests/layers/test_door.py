"""Layers come through one hook, whoever brings them: they are asked before anything is digital by design."""

import pytest
import torch
from torch import nn

import mho
from mho.config import registry
from mho.config.plugincode import run_file

PLUGIN = '''
import torch
from torch import nn
from mho import AnalogLayer, hookimpl


class AnalogEmbeddingBag(AnalogLayer, nn.EmbeddingBag):
    """A bag is a vector of counts times the table."""

    torch_type = nn.EmbeddingBag

    def views(self):
        return {"": self.weight.t()}

    def forward(self, input):
        return self.tiles(nn.functional.one_hot(input, self.num_embeddings).sum(1).to(self.weight.dtype), self.matrix)


@hookimpl
def mho_layers():
    return [AnalogEmbeddingBag]
'''
BAG = torch.tensor([[0, 3, 3], [1, 2, 4]])


@pytest.fixture(autouse=True)
def fresh():
    with registry.using(registry.Registry()):
        yield


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.EmbeddingBag(5, 7, mode="sum"), nn.Linear(7, 3))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "bags.py"
    path.write_text(PLUGIN)
    return path


def test_a_layer_of_an_installed_plugin_is_found_when_nothing_else_takes_the_matrix(tmp_path, monkeypatch, model):
    """Nothing names the family: the hardware has no kind of it, and nobody has imported its module."""
    info = tmp_path / "fake_bags-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-bags\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mho]\nbags = fake_bags\n")
    (tmp_path / "fake_bags.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    with registry.using(registry.Registry()):
        net = mho.to_analog(model, "ideal.exact")
    assert [e.where for e in mho.conversion_report(net)] == ["analog", "analog"]
    assert not net[0].biased("") and net[1].biased("")  # nn.EmbeddingBag has no bias to ask for


def test_a_type_that_is_digital_by_design_stays_so_without_a_layer_for_it(model):
    entry = mho.conversion_report(mho.to_analog(model, "ideal.exact"))[0]
    assert (entry.where, entry.why) == ("digital", "by design")


def test_a_layer_of_a_plugin_is_used_for_a_type_that_is_digital_by_design(model, file):
    registry.load_file(file)
    net = mho.to_analog(model, "ideal.exact")
    assert type(net[0]).__name__ == "AnalogEmbeddingBag" and mho.conversion_report(net)[0].where == "analog"
    assert torch.allclose(net(BAG), model(BAG), atol=1e-5)
    assert torch.equal(mho.to_digital(net)[0].weight, model[0].weight)


def test_a_notebook_registers_a_layer_as_it_registers_an_effect(model, file):
    mho.register(run_file(file).AnalogEmbeddingBag)
    net = mho.to_analog(model, "ideal.exact")
    assert torch.allclose(net(BAG), model(BAG), atol=1e-5)


def test_a_cell_that_is_run_again_replaces_its_layer(model, file):
    mho.register(run_file(file).AnalogEmbeddingBag)
    again = mho.register(run_file(file).AnalogEmbeddingBag)
    assert type(mho.to_analog(model, "ideal.exact")[0]) is again
    assert sum(c.__name__ == "AnalogEmbeddingBag" for c in registry.default().provided("layer")) == 1
