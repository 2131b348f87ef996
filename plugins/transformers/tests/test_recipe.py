"""The recipe of analog foundation models: channels clipped to k sigma, a preset that trains."""

import pytest
import torch
from mho_kit import TrainingContract
from mho_transformers.recipe import ChannelClip
from torch import nn

import mho


class TestClip(TrainingContract):
    spec = ChannelClip(sigmas=1.5)


def test_every_channel_is_clipped_to_its_own_sigma():
    torch.manual_seed(0)
    net = mho.to_analog(nn.Linear(400, 3, bias=False), "hf.afm2025")
    with torch.no_grad():
        net.weight.mul_(torch.tensor([[1.0], [10.0], [100.0]]))
        net.weight[:, 0] *= 30
    before = net.weight.detach().clone()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    attached = mho.attach(optimizer, net)
    optimizer.step()
    bound = 2.5 * before.std(1, keepdim=True)
    assert torch.allclose(net.weight, before.clamp(-bound, bound))
    clipped = net.weight.detach().abs().amax(1)
    optimizer.step()
    attached.detach()
    assert torch.allclose(net.tiles.gamma[0], clipped)  # mapped anew


@pytest.mark.parametrize(("step", "limit"), [(0, 10.0), (50, 6.25), (100, 2.5), (500, 2.5)])
def test_the_limit_falls_linearly(step, limit):
    assert ChannelClip().limit(step, 100.0) == pytest.approx(limit)
    assert ChannelClip().limit(step, 0.0) == 2.5


def test_the_preset_distils_alone():
    """T = 1 and the share 1 of the teacher: the loss is the forward divergence"""
    spec = mho.load("hf.afm2025").training
    p, q = torch.randn(5, 7), torch.randn(5, 7)
    value = spec.method("qat.distill").loss(torch.tensor(99.0), lambda: q, lambda: p)
    kl = (p.log_softmax(-1).exp() * (p.log_softmax(-1) - q.log_softmax(-1))).sum(-1).mean()
    assert float(value) == pytest.approx(float(kl), rel=1e-5)
    assert spec.optimizer == "adamw" and spec.clip is None
