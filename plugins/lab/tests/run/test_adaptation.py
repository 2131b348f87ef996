"""Direct deployment: what adapts without training a weight (R003-80)."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mho

FULL = (
    "rows: 8\ndac: {bits: 8, range: learned}\nadc: {bits: 8, bound: 10}\n"
    "nonidealities: [pcm.programming_noise, circuit.ir_drop, pcm.read_noise, circuit.output_noise]"
)


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(8, 12), nn.BatchNorm1d(12), nn.Linear(12, 3)

    def forward(self, x):
        return self.b(torch.relu(self.norm(self.a(x))))


def test_batch_norms_are_estimated_anew_and_nothing_else_changes(hardware):
    """R003-80 and Bhattacharjee et al. 2023: plain averages over the batches, on the chip that is on."""
    torch.manual_seed(0)
    net = mho.to_analog(Normed(), hardware("rows: 8\nnonidealities: [pcm.programming_noise]")).eval()
    mho.program(net, seed=1)
    batches = [torch.randn(16, 8) + 2 for _ in range(5)]
    before = {k: v.clone() for k, v in net.state_dict().items()}
    assert mho.adapt_batch_norm(net, batches) == 1
    z = [net.a(b).detach() for b in batches]
    assert torch.allclose(net.norm.running_mean, torch.stack([v.mean(0) for v in z]).mean(0), atol=1e-5)
    assert torch.allclose(net.norm.running_var, torch.stack([v.var(0) for v in z]).mean(0), atol=1e-5)
    assert not net.norm.training and net.norm.momentum == 0.1
    assert all(
        torch.equal(before[k], v) for k, v in net.state_dict().items() if not k.startswith("norm.running") and "num_b" not in k
    )


def test_the_direct_baseline_leaves_weights_on_tiles_and_learns_the_rest(hardware):
    """R003-80: first half of the batches sets the ranges, second half trains what is digital, at weight lr 0 without noise."""
    torch.manual_seed(0)
    net = mho.to_analog(Normed(), hardware(FULL))
    x = torch.randn(256, 8)
    y = (x[:, 0] > 0).long()
    batches = [(x[i : i + 16], y[i : i + 16]) for i in range(0, 256, 16)]
    before = {k: v.clone() for k, v in net.state_dict().items()}
    specs = [net.a.tiles.training_spec, net.b.tiles.training_spec]
    mho.tune_digital(net, batches, lambda out, batch: F.cross_entropy(out, batch[1]), lr=0.1)
    changed = {k for k, v in net.state_dict().items() if not torch.equal(before[k], v)}
    assert not changed & {"a.weight", "b.weight", "a.tiles.gamma", "b.tiles.gamma"}
    assert changed >= {"b.bias", "norm.weight", "norm.running_mean", "a.tiles.input_range"}
    assert net.a.weight.requires_grad and [net.a.tiles.training_spec, net.b.tiles.training_spec] == specs
    with pytest.raises(mho.MhoError, match="no data"):
        mho.tune_digital(net, [], lambda out, batch: out.sum())
    mho.tune_digital(net, batches[:1], lambda out, batch: out.square().mean())  # one batch serves for both halves
