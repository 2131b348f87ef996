"""A network with its converters as a plain torch model: the tiles' own function, through torch.export and ONNX."""

import copy

import pytest
import torch
from torch import nn

import mho
from mho import exchange
from mho.tile import TileArray

BITS = [(8, 8), (5, 6), (None, None)]


def agree(a, b, step=0.02):
    """Equal, but for sums that lie on the edge between two codes of a converter: kernels of processors round differently."""
    off = (a - b).detach().abs()
    assert float((off > 1e-5).float().mean()) < 0.1 and float(off.max()) < step


@pytest.mark.parametrize("dac, adc", BITS)
def test_it_computes_what_the_tiles_compute(network, x, dac, adc):
    """Row tiles, both converters, learned scales, with target weights and with those of an aged chip"""
    words = ["none" if b is None else b for b in (dac, adc)]
    noisy = "tiles.t.nonidealities=[{kind: pcm.programming_noise}, {kind: pcm.drift}]"
    net = network(f"tiles.t.dac.bits={words[0]}", f"tiles.t.adc.bits={words[1]}", noisy, "tiles.t.compensation=mho.global_drift")
    with torch.no_grad():
        net[0].tiles.out_scale.mul_(1.5)
    agree(exchange.quantised(net)(x), net(x), 1e-4 if adc is None else 0.1)
    mho.program(net, seed=0).age("1 year")
    on_chip = exchange.quantised(net)(x)
    agree(on_chip, net(x), 1e-4 if adc is None else 0.1)
    mho.unprogram(net)
    assert (on_chip - net(x)).abs().max() > 1e-3  # the chip is another one


def test_it_can_be_exported(network, x):
    model = exchange.quantised(network())
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    assert torch.equal(exported(x[:7]), model(x[:7]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # torch's exporter about itself
def test_onnx_has_the_converters_and_the_same_function(network, x, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    net = network()
    for model, pairs in ((mho.to_digital(net), 0), (exchange.quantised(net), 14)):
        file = exchange.export_onnx(model, x, tmp_path / "net.onnx")
        assert sum(n.op_type == "QuantizeLinear" for n in onnx.load(file).graph.node) == pairs
        plain = onnxruntime.SessionOptions()  # its optimised kernels round some sums to the next code
        plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(file, plain)
        y = session.run(None, {session.get_inputs()[0].name: x[:5].numpy()})[0]
        agree(torch.from_numpy(y), model(x[:5]).detach(), 0.1)


class Last(nn.Module):
    """A recurrent layer or cell, and a head on what it ends with."""

    def __init__(self, made):
        super().__init__()
        self.made, self.head = made, nn.Linear(made.hidden_size * (2 if getattr(made, "bidirectional", False) else 1), 2)

    def forward(self, x):
        if isinstance(self.made, nn.RNNBase):
            return self.head(self.made(x)[0][:, -1])
        h = None
        for step in x.unbind(1):
            h = self.made(step, h)
        return self.head(h[0] if isinstance(h, tuple) else h)


@pytest.mark.parametrize(
    "made",
    [nn.LSTM(4, 4, 2, batch_first=True, bidirectional=True), nn.GRU(4, 4, batch_first=True), nn.RNNCell(4, 4), nn.LSTMCell(4, 4)],
    ids=lambda m: type(m).__name__,
)
def test_recurrent_layers_compute_what_the_tiles_compute(made):
    """Every step has converters: those of the input and of the state; on a chip and through torch.export"""
    torch.manual_seed(0)
    x = torch.randn(256, 5, 4)  # no tile of one row: its only weight is 1, and every other sum would lie on an edge
    net = mho.to_analog(Last(made), mho.load("ideal.quantised", set=["tiles.quantised.rows=2"])).eval()
    mho.calibrate(net, [x])
    with torch.no_grad():
        mho.program(net, seed=0)
        model = exchange.quantised(net)
        agree(model(x), net(x), 0.2)
        assert (model(x) - mho.to_digital(net)(x)).abs().max() > 1e-4  # the converters are there
    model = copy.deepcopy(model).to("cpu")
    assert not any(isinstance(m, TileArray) for m in model.modules())
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    assert torch.equal(exported(x[:4]), model(x[:4]))


@pytest.mark.parametrize(
    "layer, changes, message",
    [
        (nn.MultiheadAttention(4, 2), (), "MultiheadAttention is no linear, convolutional or recurrent layer"),
        (nn.Conv1d(4, 4, 1, groups=2), (), "no convolution of one group"),
        (nn.Linear(3, 4), ("tiles.quantised.dac.range=dynamic",), "from vector to vector"),
        (nn.Linear(3, 4), ("training.quantise={weights: {bits: 4}}",), "corrections or quantisers"),
    ],
)
def test_what_cannot_be_exported_is_named(layer, changes, message):
    net = mho.to_analog(nn.ModuleDict({"a": layer}), mho.load("ideal.quantised", set=changes))
    with pytest.raises(mho.MhoError, match=f"layer 'a' cannot be exported with its converters: .*{message}"):
        exchange.quantised(net)


@pytest.mark.parametrize(
    "mapping",
    [
        "{kind: circuit.digits, bits: 3, digit: 2}",
        "{kind: circuit.equal_shares, devices: 2}",
        "{kind: circuit.digits, sign: offset}",
    ],
)
def test_sliced_weights_are_refused_by_every_door(mapping, tmp_path):
    pytest.importorskip("mho_circuit")
    pair = ["tiles.pcm.device.pair=single"] if "offset" in mapping else []
    hw = mho.load("pcm.standard", set=["tiles.pcm.nonidealities=[]", *pair, f"tiles.pcm.mapping={mapping}"])
    net = mho.to_analog(nn.Sequential(nn.Linear(6, 4)), hw).eval()
    mho.calibrate(net, [torch.randn(32, 6)])
    mho.program(net, seed=0)
    with pytest.raises(mho.MhoError, match="sliced, or have an offset"):
        exchange.quantised(net)
    with pytest.raises(mho.MhoError, match="weights are sliced"):
        exchange.write_chip(net, tmp_path / "chip.csv")
    if net[0].tiles.lines is not net[0].tiles.layout:
        with pytest.raises(mho.MhoError, match="several columns for an output"):
            exchange.netlist(net[0].tiles, torch.rand(6))
