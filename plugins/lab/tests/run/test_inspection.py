"""What happens inside a programmed network, against cases where the answer is known."""

import pytest
import torch
from mho_lab.run.inspection import inspect_layers
from torch import nn

import mho

EXACT = "mho: 1\ndefault: t\ntiles:\n  t: {rows: 64, columns: 64, device: {g_max: 20 uS}, dac: none, adc: none}\n"


def hardware(**tile):
    data = mho.Hardware.from_yaml(EXACT).to_data()
    data["tiles"]["t"].update(tile)
    return mho.Hardware.from_data(data)


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 16), nn.ReLU(), nn.Linear(16, 4))


def test_exact_tiles_have_no_error_and_clip_nothing():
    net = mho.to_analog(model(), hardware())
    found = inspect_layers(net, [torch.rand(32, 40)], ["1 s", "1 h"])
    assert [x.layer for x in found.layers] == ["0", "2"] and found.times == (1.0, 3600.0)
    for x in found.layers:
        assert max(x.error) < 1e-6 and (x.dac, *x.adc, x.weights, x.spread) == (0, 0, 0, 0, 0)


def test_the_error_is_that_of_the_products_with_the_inputs_that_arrive():
    """R003-40, Eq. 20, on the first layer, computed from the layer's own outputs."""
    net = mho.to_analog(model(), "pcm.standard")
    x = torch.rand(64, 40)
    found = inspect_layers(net, [x[:40], x[40:]], ["1 day"], seed=3)
    mho.program(net, 3).age("1 day")
    layer = net.eval()[0]
    seen = []
    layer.register_forward_hook(lambda _, args, y: seen.append(y))
    with torch.no_grad():
        net(x[:40])
        net(x[40:])
        exact = torch.nn.functional.linear(x, layer.weight, layer.bias)
    analog = torch.cat(seen)
    assert found.layers[0].error[0] == pytest.approx(mho.mvm_error(exact - layer.bias, analog - layer.bias), rel=1e-4)


def test_inputs_beyond_the_range_are_counted():
    """Half of U(0, 1) is beyond a range of 0.5; n = 64 x 40, alpha = 1e-5: 4.42 standard deviations."""
    net = mho.to_analog(nn.Sequential(nn.Linear(40, 4)), hardware(dac={"kind": "mho.dac", "bits": 8, "range": 0.5}))
    x = torch.rand(64, 40, generator=torch.Generator().manual_seed(0))
    (layer,) = inspect_layers(net, [x], ["1 s"]).layers
    assert layer.dac == pytest.approx(float((x > 0.5).double().mean()))
    assert abs(layer.dac - 0.5) < 4.42 * 0.5 / (64 * 40) ** 0.5


def test_outputs_at_the_bound_are_counted():
    """One output of full weights on 40 rows of input 1 is 40 times a fully-on row: beyond a bound of 10; the other is 0."""
    lin = nn.Linear(40, 2, bias=False)
    with torch.no_grad():
        lin.weight[0], lin.weight[1] = 1.0, torch.tensor([1.0, -1.0]).repeat(20)
    net = mho.to_analog(nn.Sequential(lin), hardware(adc={"kind": "mho.adc", "bits": 8, "bound": 10.0}))
    (layer,) = inspect_layers(net, [torch.ones(3, 40)], ["1 s"]).layers
    assert layer.adc == (0.5,)


@pytest.mark.filterwarnings("ignore:weights beyond the range")
def test_weights_beyond_the_device_range_are_counted():
    lin = nn.Linear(100, 1, bias=False)
    with torch.no_grad():
        lin.weight.copy_(torch.linspace(-1, 1, 100))
    clipped = hardware(rows=128, mapping={"kind": "mho.per_column", "clip": "1 sigma"})
    (layer,) = inspect_layers(mho.to_analog(nn.Sequential(lin), clipped), [torch.rand(2, 100)], ["1 s"]).layers
    sigma = lin.weight.std(correction=0)
    assert layer.weights == pytest.approx(float((lin.weight.abs() > sigma * (1 + 1e-6)).double().mean()))


def test_conductances_are_counted_once_each_and_programming_spreads_them():
    net = mho.to_analog(model(), "pcm.standard")
    found = inspect_layers(net, [torch.rand(8, 40)], ["1 year"])
    cells = 40 * 16 + 16 * 4
    assert {n: sum(c) for n, c in found.conductances.items()} == {"target": cells, "programmed": cells, "aged": cells}
    assert all(x.spread > 0 for x in found.layers) and len(found.edges) == len(found.conductances["aged"]) + 1

    def mean(counts):
        return sum(c * (a + b) / 2 for c, a, b in zip(counts, found.edges, found.edges[1:])) / cells

    assert mean(found.conductances["aged"]) < 0.9 * mean(found.conductances["programmed"])  # drift: nu = 0.03 to 0.1


def test_the_network_its_chip_and_its_mode_stay():
    net = mho.to_analog(model(), "pcm.standard")
    x = torch.rand(8, 40)
    mho.program(net, 1).age("1 h")
    net.train()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    inspect_layers(net, [x], ["1 s"])
    assert net.training and mho.chip_on(net).seed == 1 and torch.equal(torch.get_rng_state(), state)


def test_grouped_convolutions_and_batches_of_tuples(tmp_path):
    net = mho.to_analog(nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.Flatten(), nn.Linear(32, 3)), "pcm.standard")
    batches = [(torch.rand(5, 4, 4, 4), None)]
    found = inspect_layers(net, batches, ["1 s"], forward=lambda n, b: n(b[0]))
    assert [x.layer for x in found.layers] == ["0", "2"] and all(0 < x.error[0] < 1 for x in found.layers)
    assert "MVM error %, 1 s" in str(found)
