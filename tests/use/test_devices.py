"""The same chip on every device, and a network that trains there; on machines without an accelerator only the processor is tried.

What would make an accelerator wait is tried on all machines: tests/plugins/test_accelerator.py.
"""

import pytest
import torch
from torch import nn

import mho
from mho.config import registry

PRESETS = sorted(name for name in registry.default().presets() if mho.load(name).tiles)


def network(preset, device):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
    changes = ["layers=[]", "precision=reference"]
    return mho.to_analog(model, mho.load(mho.load(preset), set=changes)).to(device).eval()


def inputs(device):
    return torch.rand(5, 4, 8, generator=torch.Generator().manual_seed(1)).to(device)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_seed_is_the_same_chip_everywhere(preset, device, tmp_path):
    """Same draws, conductances equal to rounding; a chip that was saved here is put on there."""
    here, there = network(preset, "cpu"), network(preset, device)
    for net in (here, there):
        mho.program(net, seed=3).age("1 h")
    for a, b in zip(mho.tile.tile_arrays(here), mho.tile.tile_arrays(there)):
        assert b.chip.weights.device.type == device.type
        assert torch.allclose(a.chip.programmed, b.chip.programmed.cpu(), rtol=1e-4, atol=1e-3)  # µS
        assert torch.allclose(a.chip.weights, b.chip.weights.cpu(), rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        assert torch.allclose(here(inputs("cpu")), there(inputs(device)).cpu(), atol=0.05)  # an ADC code may move
    mho.chip_on(here).save(tmp_path / "chip")
    mho.load_chip(there, tmp_path / "chip")
    for a, b in zip(mho.tile.tile_arrays(here), mho.tile.tile_arrays(there)):
        assert torch.equal(a.chip.programmed, b.chip.programmed.cpu())


def test_a_network_trains_there(device):
    net = network("pcm.standard", device).train()
    mho.calibrate(net, [inputs(device)])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    mho.attach(optimizer, net, steps_per_epoch=5)
    before = net[0].weight.detach().clone()
    net(inputs(device)).square().mean().backward()
    optimizer.step()
    assert net[0].weight.device.type == device.type and not torch.equal(net[0].weight, before)
    assert all(p.isfinite().all() for p in net.parameters())
