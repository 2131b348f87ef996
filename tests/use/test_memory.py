"""Networks whose memory comes without values, and averages of networks: what is no state is never copied or left behind."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import mho


def error(net, plain, x):
    with torch.no_grad():
        return float((net(x) - plain(x)).norm() / plain(x).norm())


@pytest.mark.parametrize("on_meta", [False, True])
def test_a_network_is_right_after_to_empty_and_loading(on_meta):
    """Geometry, scales and the step start anew where memory comes without values."""
    torch.manual_seed(0)
    plain, x = nn.Sequential(nn.Linear(700, 4)), torch.randn(5, 700)
    with torch.device("meta" if on_meta else "cpu"):
        made = nn.Sequential(nn.Linear(700, 4))
    net = mho.to_analog(made, "ideal.quantised").to_empty(device="cpu").eval()
    for tensor in net[0].tiles.state_dict().values():
        assert torch.isfinite(tensor).all()
    net.load_state_dict(plain.state_dict())
    mho.calibrate(net, [x])
    assert error(net, plain, x) < 0.04


def test_a_chip_does_not_survive_memory_without_values():
    net = mho.to_analog(nn.Sequential(nn.Linear(8, 4)), "ideal.exact")
    mho.program(net, seed=0)
    assert net.to(torch.float64)[0].tiles.chip is not None
    assert net.to_empty(device="cpu")[0].tiles.chip is None


def test_an_average_can_be_made_before_the_first_forward():
    """Its buffers are those of the network, whatever has been drawn in between."""
    net = mho.to_analog(nn.Sequential(nn.Linear(8, 4)), "ideal.quantised").train()
    mho.attach(torch.optim.SGD(net.parameters(), 0.1), net)
    average, x = AveragedModel(net, use_buffers=True), torch.randn(5, 8)
    for _ in range(2):
        net(x)
        average.update_parameters(net)
    assert torch.equal(average.module[0].weight, net[0].weight)
