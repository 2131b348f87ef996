"""An effect that learns: part of the network, trained with any optimizer, saved with it, and good for something."""

import copy

import pytest
import torch
from mho_kit import NonidealityContract
from mho_trim import Mismatch, TrimmedColumns

import mho
from mho.config import registry
from mho.use import load_model, save_model

HW = """\
mho: 1
default: t
tiles:
  t:
    rows: 16
    columns: 8
    nonidealities: [trim.mismatch, {kind: trim.columns, span: %s}]
"""


class TestMismatch(NonidealityContract):
    spec = Mismatch()
    draws_taken = 1000
    expected = {"output": lambda y, site: (y, 0.05 * (1 + y.square()).sqrt())}


class TestTrimmedColumns(NonidealityContract):
    spec = TrimmedColumns()


def network(span=0.25):
    for cls in (Mismatch, TrimmedColumns):
        mho.register(cls)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(40, 12), torch.nn.ReLU(), torch.nn.Linear(12, 6))
    return model, mho.to_analog(model, mho.Hardware.from_yaml(HW % span))


def inputs(n=256):
    return torch.rand(n, 40, generator=torch.Generator().manual_seed(1)) * 2 - 1


def trims(net):
    return {n: p for n, p in net.named_parameters() if ".built." in n}


def error(net, model):
    with torch.no_grad():
        return float((net(inputs()) - model(inputs())).norm() / model(inputs()).norm())


def test_what_it_learns_is_part_of_the_network():
    _, net = network()
    assert (
        sorted(n.rpartition(".")[0] for n in trims(net))
        == ["0.tiles.built.trim_columns_0"] * 2 + ["2.tiles.built.trim_columns_0"] * 2
    )
    assert [tuple(p.shape) for p in trims(net).values()] == [(3, 12)] * 2 + [(1, 6)] * 2
    assert {n for n in net.state_dict() if ".built." in n} == trims(net).keys()
    assert all(p.dtype == torch.float64 for p in trims(net.double()).values())


def test_at_span_zero_it_is_absent():
    _, net = network(span=0)
    assert not trims(net)
    assert net.state_dict().keys() == mho.to_analog(network()[0], mho.load("ideal.exact")).state_dict().keys()


@pytest.fixture(scope="module")
def trimmed():
    """One chip, trimmed by 60 steps on its own outputs, weights fixed."""
    with registry.using(registry.Registry()):
        model, net = network()
        mho.program(net.eval(), seed=3)
        before = error(net, model)
        optimizer = torch.optim.Adam(trims(net).values(), lr=0.05)
        for _ in range(60):
            optimizer.zero_grad()
            (net(inputs()) - model(inputs()).detach()).square().mean().backward()
            optimizer.step()
        return model, net, before


def test_trims_cancel_the_mismatch_of_a_chip(trimmed):
    model, net, before = trimmed
    assert error(net, model) < 0.1 * before
    assert all(torch.equal(a, b) for a, b in zip(network()[1][0].parameters(recurse=False), net[0].parameters(recurse=False)))


def test_trims_belong_to_the_network_and_not_to_the_chip(trimmed):
    """Another chip has another mismatch: the trims of the first one do not help it."""
    model, net, before = trimmed
    other = copy.deepcopy(net)
    mho.program(other, seed=4)
    assert error(other, model) > 0.5 * before


def test_trims_survive_safetensors_and_copies(trimmed, tmp_path):
    net = trimmed[1]
    save_model(net, tmp_path / "net.safetensors")
    fresh = load_model(network()[1], tmp_path / "net.safetensors").eval()
    mho.program(fresh, seed=3)
    assert torch.equal(fresh(inputs()), net(inputs()))
    assert torch.equal(copy.deepcopy(net)(inputs()), net(inputs()))


def test_they_train_with_everything_else_in_the_usual_loop():
    net = network()[1]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    mho.attach(optimizer, net)
    net.train()(inputs()).square().mean().backward()
    optimizer.step()
    assert all(p.abs().sum() > 0 for p in trims(net).values())


def test_with_clean_gradients_nothing_could_learn_so_that_is_an_error():
    mho.register(Mismatch), mho.register(TrimmedColumns)
    hw = mho.Hardware.from_yaml(HW % 0.25 + "training: {backward: ste}\n")
    with pytest.raises(mho.MhoError, match=r"trim.columns: 'backward: ste' .* trains none; use through or autograd"):
        mho.to_analog(torch.nn.Sequential(torch.nn.Linear(4, 4)), hw)
