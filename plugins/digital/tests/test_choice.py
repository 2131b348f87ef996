"""Layers that stay digital: sensitivities against measured divergences, one matrix at a time."""

import pytest
import torch
from torch import nn

import mho


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 12)).eval()


DATA = torch.randn(4, 64, 64, generator=torch.Generator().manual_seed(1))


def measured(model, layer, chips=1):
    """KL of the network with this layer alone on tiles, chip 0 of seed 0 at one hour"""
    rules = [f"{{match: '{n}', tile: digital}}" for n in ("0", "2", "4") if n != layer]
    hw = mho.load("pcm.standard", set=[f"layers=[{', '.join(rules)}]"])
    net = mho.to_analog(model, hw).eval()
    mho.calibrate(net, list(DATA), "mse")
    mho.program(net, seed=0, age="1 h")
    with torch.no_grad():
        p, q = (m(DATA.flatten(0, 1)).log_softmax(-1) for m in (model, net))
    return float((p.exp() * (p - q)).sum(-1).mean())


def analog(model):
    net = mho.to_analog(model, mho.load("pcm.standard", set=["times=[1 h]"])).eval()
    mho.calibrate(net, list(DATA), "mse")
    return net


@pytest.mark.slow
def test_sensitivities_are_the_divergences_of_single_layers():
    """256 vectors, 8 draws of labels for each batch of 64: (e.g)^2 of 32 draws, relative standard error sqrt(2/32) = 0.25"""
    model = network()
    found = mho.sensitivities(analog(model), list(DATA), labels=8)
    assert [s.name for s in found] == ["0", "2", "4"] and [s.macs for s in found] == [64 * 48, 48 * 48, 48 * 12]
    for s in found:
        exact = measured(model, s.name)
        assert exact / 3 < s.kl < 3 * exact


def test_the_worst_for_their_cost_stay_digital_until_the_target_is_met():
    net = analog(network())
    every = mho.sensitivities(net, list(DATA))
    total = sum(s.kl for s in every)
    choice = mho.stay_digital(net, list(DATA), 0.5 * total)
    order = sorted(every, key=lambda s: -s.kl / s.macs)
    assert choice.kl <= 0.5 * total and list(choice.digital) == [s.name for s in order[: len(choice.digital)]]
    assert choice.kl + next(s.kl for s in order if s.name == choice.digital[-1]) > 0.5 * total
    report = mho.conversion_report(mho.to_analog(network(), choice.hardware))
    assert {e.name for e in report if e.where == "digital" and e.type == "nn.Linear"} == set(choice.digital)
    assert "digital" in str(choice) and mho.stay_digital(net, list(DATA), 2 * total).digital == ()


def test_the_network_is_as_before_and_arguments_are_checked():
    net = analog(network())
    chip = mho.program(net, seed=5)
    y = net(DATA[0]).detach()
    mho.sensitivities(net, [DATA[0]])
    from mho.use import chip_on

    assert chip_on(net) is chip and not any(a.exact for a in mho.tile.tile_arrays(net))
    chip.put_on(net)
    assert torch.equal(net(DATA[0]), y)
    with pytest.raises(mho.MhoError, match="target is a divergence"):
        mho.stay_digital(net, [DATA[0]], 0)
    with pytest.raises(mho.MhoError, match="saw no data"):
        mho.sensitivities(net, [])


def test_a_layer_with_several_matrices_leaves_as_a_whole():
    """Of both LSTM matrices the divergences and multiply-adds are added up, and the rule is about the layer."""

    class Sequence(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.lstm(x)[0])

    torch.manual_seed(0)
    model, batches = Sequence(), [torch.randn(16, 5, 6)]
    net = mho.to_analog(model, mho.load("pcm.standard", set=["times=[1 h]"])).eval()
    parts = {s.name: s for s in mho.sensitivities(net, batches)}
    choice = mho.stay_digital(net, batches, 1e-9)
    assert set(choice.digital) == {"lstm", "head"}
    lstm = next(s for s in choice.layers if s.name == "lstm")
    assert lstm.macs == 32 * 6 + 32 * 8 and lstm.kl == sum(s.kl for n, s in parts.items() if n.startswith("lstm."))
    assert choice.hardware.layers[0].match in ("lstm", "head")
