"""Adapters: everything else is frozen, two tasks share one chip, PEFT reads and merges them."""

import json

import pytest
import torch
from torch import nn

import mho


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 4))


def trained(net, target, steps=30):
    x = torch.randn(64, 20, generator=torch.Generator().manual_seed(2))
    parameters = mho.adapt(net, rank=4)
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    losses = []
    for _ in range(steps):
        loss = (net(x) - target(x)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_only_adapters_are_trained_and_the_chip_stays():
    net = mho.to_analog(network(), "pcm.standard").eval()
    mho.program(net, seed=0)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    cells = net[0].tiles.chip.programmed.clone()
    losses = trained(net, lambda x: x[:, :4])
    assert losses[-1] < losses[0] / 2
    assert torch.equal(cells, net[0].tiles.chip.programmed)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items() if k in before)
    assert sum(p.requires_grad for p in net.parameters()) == 4
    assert mho.conversion_report(net)[0].operations == 4 * (20 + 16)


def test_adapters_of_two_tasks_are_swapped_on_one_chip(tmp_path):
    net = mho.to_analog(network(), "ideal.exact").eval()
    mho.program(net, seed=0)
    x, found = torch.randn(8, 20), []
    for name, target in (("a", lambda x: x[:, :4]), ("b", lambda x: -x[:, :4])):
        trained(net, target)
        mho.save_adapters(net, tmp_path / name)
        found.append(net(x).detach())
    for name, y in zip("ab", found):
        mho.load_adapters(net, tmp_path / name)
        assert torch.allclose(net(x), y, atol=1e-6)
    assert not torch.allclose(*found, atol=0.1)


class Sequence(nn.Module):
    """Layers with several weight matrices."""

    def __init__(self):
        super().__init__()
        self.lstm, self.attention = nn.LSTM(6, 8, batch_first=True), nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        y = self.lstm(x)[0]
        return self.attention(y, y, y, need_weights=False)[0]


def test_adapters_of_layers_with_several_matrices_come_back(tmp_path):
    torch.manual_seed(0)
    model, x = Sequence(), torch.randn(3, 5, 6)
    net, other = (mho.to_analog(model, "ideal.exact").eval() for _ in range(2))
    with torch.no_grad():
        for p in mho.adapt(net, rank=2):
            p.add_(0.1 * torch.randn_like(p))
    mho.save_adapters(net, tmp_path)
    assert not torch.allclose(other(x), net(x), atol=1e-3)
    mho.load_adapters(other, tmp_path)
    assert torch.equal(other(x), net(x))


def test_peft_puts_them_on_the_torch_model_and_merges_them(tmp_path):
    peft = pytest.importorskip("peft")
    model = network()
    net = mho.to_analog(model, "ideal.exact").eval()
    trained(net, lambda x: x[:, :4])
    mho.save_adapters(net, tmp_path)
    merged = peft.PeftModel.from_pretrained(model, str(tmp_path)).merge_and_unload()
    x = torch.randn(8, 20)
    assert torch.allclose(merged(x), net(x), atol=1e-5)


def test_what_does_not_fit_is_said(tmp_path):
    net = mho.to_analog(network(), "ideal.exact")
    with pytest.raises(mho.MhoError, match="no layer on tiles is called head"):
        mho.adapt(net, layers="head")
    with pytest.raises(mho.MhoError, match="no adapters"):
        mho.save_adapters(net, tmp_path)
    with pytest.raises(mho.MhoError, match="holds no adapters"):
        mho.load_adapters(net, tmp_path)
    mho.adapt(net, rank=2, layers="0")
    mho.save_adapters(net, tmp_path)
    other = mho.to_analog(nn.Sequential(nn.Linear(8, 8)), "ideal.exact")
    with pytest.raises(mho.MhoError, match="adapter of '0' does not fit"):
        mho.load_adapters(other, tmp_path)


def filled(*adapters):
    """A network with adapters (rank, layers, alpha) of random numbers."""
    net = mho.to_analog(network(), "ideal.exact").eval()
    for rank, layers, alpha in adapters:
        with torch.no_grad():
            for p in mho.adapt(net, rank, layers, alpha=alpha):
                p.normal_(std=0.3, generator=torch.Generator().manual_seed(p.numel()))
    return net


def test_adapters_of_different_rank_and_alpha_come_back(tmp_path):
    net, x = filled((2, "0", 2.0), (3, "2", 20.0)), torch.randn(8, 20)
    mho.save_adapters(net, tmp_path)
    other = mho.to_analog(network(), "ideal.exact").eval()
    mho.load_adapters(other, tmp_path)
    assert torch.equal(other(x), net(x))


def test_adapters_replace_all_that_were_there(tmp_path):
    task_b, x = filled((4, "0", None)), torch.randn(8, 20)
    mho.save_adapters(task_b, tmp_path)
    net = filled((2, "*", None))
    mho.load_adapters(net, tmp_path)
    assert torch.equal(net(x), task_b(x))


def test_a_refused_file_changes_nothing(tmp_path):
    mho.save_adapters(filled((4, "0", None)), tmp_path)
    net, x = filled((2, "2", None)), torch.randn(8, 20)
    y, about = net(x), json.loads((tmp_path / "adapter_config.json").read_text())
    for change, said in (
        ({"use_dora": True}, "without use_dora"),
        ({"peft_type": "LOHA"}, "of the type LORA"),
        ({"alpha_pattern": {"nobody": 3}}, "nothing but LoRA of named layers, got nobody"),
    ):
        (tmp_path / "adapter_config.json").write_text(json.dumps({**about, **change}))
        with pytest.raises(mho.MhoError, match=said):
            mho.load_adapters(net, tmp_path)
        assert torch.equal(net(x), y)


def test_rank_stabilised_adapters_count_by_the_root_of_the_rank(tmp_path):
    """Kalajdzievski 2023: alpha/sqrt(r) in place of alpha/r."""
    net, x = filled((4, "0", 8.0)), torch.randn(8, 20)
    mho.save_adapters(net, tmp_path)
    about = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**about, "use_rslora": True}))
    mho.load_adapters(net, tmp_path)
    a, b = (p.detach() for p in (net[0].tiles.corrections[0].a, net[0].tiles.corrections[0].b))
    hidden = (net[0].bias + x @ (net[0].weight + 8 / 4**0.5 * b @ a).T).relu()
    assert torch.allclose(net(x), net[2].bias + hidden @ net[2].weight.T, atol=1e-4)


def test_tied_layers_have_one_adapter(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x).relu())

    model, x = Tied(), torch.randn(5, 8)
    net, other = (mho.to_analog(model, "ideal.exact").eval() for _ in range(2))
    parameters = mho.adapt(net, 2)
    assert len(parameters) == 2 and {id(p) for p in parameters} <= {id(p) for p in net.parameters()}
    with torch.no_grad():
        parameters[1].normal_()
    mho.save_adapters(net, tmp_path)
    mho.load_adapters(other, tmp_path)
    assert torch.equal(other(x), net(x))
