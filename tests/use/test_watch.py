"""What converters and devices cut is counted in evaluation, told by the report, and warned about once."""

import warnings

import pytest
import torch
from torch import nn

import mho
from mho.tile import tile_arrays, unwatched

CONVERTERS = "rows: 64\ncolumns: 64\ndac: {bits: 8, range: learned}\nadc: {bits: 8, bound: 10}"
QUIET = "training: {inject: none}"
X = torch.randn(256, 16, generator=torch.Generator().manual_seed(0))


def network(hw, dtype=torch.float32):
    torch.manual_seed(0)
    return mho.to_analog(nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 4)), hw).to(dtype).eval()


def warned(call):
    """The texts of the warnings of a call."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in found]


@pytest.mark.parametrize("precision", ["auto", "reference"])
@pytest.mark.parametrize("chip", [True, False])
def test_inputs_that_uncalibrated_ranges_cut_are_warned_about_once_with_their_share(hardware, precision, chip):
    hw = hardware(CONVERTERS, QUIET + f"\nprecision: {precision}")
    net = network(hw)
    if chip:
        mho.program(net, seed=0)
    (text,) = warned(lambda: net(5 * X))
    assert "are cut at 0 (8" in text and "mho.calibrate(net, batches)" in text  # P(|5 x| > 1) = 84 %
    assert not warned(lambda: [net(5 * X) for _ in range(5)])
    share = (X[:: len(X) // 64][:64].abs() > 0.2).double().mean()
    assert f"inputs clipped: {share:.2%}" in mho.conversion_report(net)[0].said
    assert "inputs clipped" in str(mho.report(net)) and "clipped" not in mho.conversion_report(net).to_json()
    mho.calibrate(net, [5 * X])
    assert not warned(lambda: mho.evaluate(net, lambda n: float(n(5 * X).mean()), ["1 s"], chips=2))
    assert not any("clipped" in s for e in mho.conversion_report(net) for s in e.said)


def test_an_evaluation_and_a_chip_of_uncalibrated_networks_warn(hardware):
    net = network(hardware(CONVERTERS, QUIET))
    assert len(warned(lambda: mho.evaluate(net, lambda n: float(n(5 * X).mean()), ["1 s", "1 h"], chips=3))) == 1


def test_inputs_far_below_an_uncalibrated_range_are_warned_about(hardware):
    net = network(hardware(CONVERTERS, QUIET))
    (text,) = warned(lambda: net(0.005 * X))
    assert "fill little of the input range" in text and "at 0 (2." in text
    mho.calibrate(net, [X])
    assert not warned(lambda: net(0.005 * X))  # a quiet batch of a calibrated network


def test_outputs_that_saturate_the_adc_are_warned_about(hardware):
    net = network(hardware(CONVERTERS.replace("bound: 10", "bound: 0.5"), QUIET))
    mho.calibrate(net, [X])
    (text,) = warned(lambda: net(X))
    assert "outputs saturate the ADC at 0 (" in text and "adc.bound" in text


def test_weights_beyond_a_fixed_mapping_are_warned_about(hardware):
    net = network(hardware("rows: 64\nmapping: {kind: mho.direct, full: 0.1}", QUIET))
    (text,) = warned(lambda: net(X))
    assert "weights beyond the range of their devices are cut at 0 (" in text
    net = network(hardware("rows: 64\nmapping: {kind: mho.direct, full: 0.1}", QUIET))
    (text,) = warned(lambda: (mho.program(net, seed=0), net(X)))
    assert "weights beyond the range of their devices are cut at 0 (" in text


def test_weights_that_somebody_cuts_on_purpose_are_reported_only(hardware):
    """A search has made gamma smaller than the mapping would; what the mapping itself cuts is warned about above."""
    net = network(hardware("rows: 64", QUIET))
    net(X)
    array = tile_arrays(net)[0]
    array.gamma.mul_(0.2)
    assert not warned(lambda: (net(X), mho.program(net, seed=0), net(X)))
    assert "weights clipped" in str(mho.conversion_report(net))


def test_searches_are_not_watched_and_the_result_is(hardware):
    net = network(hardware(CONVERTERS.replace("bound: 10", "bound: 0.5"), QUIET))
    mho.calibrate(net, [X])

    def search():
        with unwatched():
            net(X)

    assert not warned(search)
    (text,) = warned(lambda: net(X))
    assert "outputs saturate the ADC at 0 (" in text


def test_looking_changes_no_number(hardware):
    """Neither the outputs nor anybody's random numbers."""
    hw = hardware(CONVERTERS + "\nnonidealities: [pcm.programming_noise, circuit.output_noise]", QUIET)
    outputs = []
    for look in (True, False):
        net = network(hw)
        for layer in net:
            layer.tiles.watch.due = (lambda array: True) if look else (lambda array: False)
        torch.manual_seed(1)
        first = net(X)
        mho.program(net, seed=0).age("1 h")
        outputs.append((first, net(X), net(X), torch.rand(1)))
    assert all(torch.equal(a, b) for a, b in zip(*outputs))


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Conv2d(3, 4, 3, padding=1, groups=1), torch.randn(2, 3, 8, 8)),
        (nn.LSTM(5, 6), torch.randn(7, 2, 5)),
        (nn.MultiheadAttention(8, 2), torch.randn(5, 2, 8)),
        (nn.Linear(5, 3), torch.randn(0, 5)),
        (nn.Linear(5, 3), torch.randn(5)),
    ],
)
def test_every_layer_type_is_looked_at(hardware, layer, x):
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x, x, x) if isinstance(layer, nn.MultiheadAttention) else self.layer(x)

    net = mho.to_analog(Around(), hardware(CONVERTERS, QUIET)).eval()
    found = warned(lambda: net(100 * x))
    assert len(found) == (1 if x.numel() else 0)


def test_a_kept_network_is_not_looked_at_for_ever(hardware):
    net = network(hardware(CONVERTERS, QUIET))
    calls = []
    for layer in net:
        layer.tiles.trace = lambda *a, trace=layer.tiles.trace: calls.append(1) or trace(*a)
    for _ in range(64):
        net(0.5 * X)
    assert len(calls) == 2 * 7  # calls 1, 2, 4, ..., 64


# -- layers built by hand, parts of networks, plugins that err ------------------------------------------------------------
NOISY = "rows: 16\nnonidealities: [pcm.programming_noise, circuit.output_noise]"


def by_hand(hw):
    torch.manual_seed(0)
    net = nn.Sequential(mho.AnalogLinear(16, 16, hw=hw), nn.Tanh(), mho.AnalogLinear(16, 16, hw=hw)).eval()
    with torch.no_grad():
        net[2].weight.copy_(net[0].weight)
    return net


def test_layers_built_by_hand_make_a_network(hardware, tmp_path):
    hw = hardware(NOISY, QUIET)
    net, other = by_hand(hw), by_hand(hw)
    mho.program(net, seed=0)
    assert not torch.equal(net[0].tiles.chip.programmed, net[2].tiles.chip.programmed)
    y = net(X)
    assert torch.allclose(mho.program(net, seed=0) and torch.cat([net(X[:100]), net(X[100:])]), y, atol=1e-6)
    assert len(mho.evaluate(net, lambda n: float(n(X).mean()), chips=2).times) == len(hw.times)
    mho.save_model(net, tmp_path / "n.safetensors")
    mho.program(mho.load_model(other, tmp_path / "n.safetensors"), seed=0)
    mho.program(net, seed=0)
    assert torch.equal(other(X), net(X))
    mho.program(net, seed=0).save(tmp_path / "c.safetensors")
    mho.load_chip(other, tmp_path / "c.safetensors")
    assert torch.equal(other(X), net(X))
    mho.attach(torch.optim.SGD(net.parameters(), lr=0.1), net)


def test_parts_of_a_network_do_not_depend_on_how_batches_are_cut(hardware):
    torch.manual_seed(0)
    net = mho.to_analog(nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16)), hardware(NOISY, QUIET)).eval()

    def part(x):
        return net[2](torch.tanh(net[0](x)))

    outputs = []
    for sizes in ([256], [100, 156], [1, 255]):
        mho.program(net, seed=0)
        outputs.append(torch.cat([part(x) for x in X.split(sizes)]))
    assert torch.allclose(outputs[0], outputs[1], atol=1e-6) and torch.allclose(outputs[0], outputs[2], atol=1e-6)


def test_a_program_of_a_wrong_shape_is_named(plugin, hardware):
    class Wrong(mho.Nonideality, kind="mine.wrong"):
        """Returns one device of two."""

        def program(self, g, site):
            return g[0]

    mho.register(Wrong)
    net = mho.to_analog(nn.Linear(4, 3), hardware("device: {pair: both}\nnonidealities: [mine.wrong]", QUIET))
    with pytest.raises(mho.MhoError, match=r"^program of mine.wrong returns shape \[1, 3, 4\], the core needs \[2, 1, 3, 4\]"):
        mho.program(net, seed=0)


def test_one_change_may_be_text():
    assert mho.load("ideal.quantised", set="tiles.quantised.rows=64").tiles["quantised"].rows == 64
