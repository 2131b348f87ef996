"""Properties of every layer type over random shapes, hardware and uses: a case is a number, and `python -m pytest -k slow` tries
10,000 of them. What fails says which; `check(NUMBER)` repeats it."""

import copy
import functools
import io
import os
import pickle
import random
import warnings

import layer_cases as cases
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

import mho
from mho.tile import tile_arrays

COUNT = int(os.environ.get("MHO_CASES", "10000"))
SIZES = (1, 1, 2, 3, 5, 8, 17)
CELLS = ("[]", "[pcm.programming_noise, pcm.drift]", "[pcm.hermes_programming_noise, pcm.read_noise_1f]", "[rram.variability]")
MAPPINGS = ("mho.per_column", "mho.tile_max", "{kind: mho.direct, full: 3}", "{kind: mho.per_column, clip: 9 sigma}")


class Around(nn.Module):
    """A network of one layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, *inputs):
        return self.layer(*inputs)


def linear(r, batch):
    inputs = r.choice(SIZES)
    lead = r.choice(((batch,), (), (batch, 2), (2, 1, batch)))
    return nn.Linear(inputs, r.choice(SIZES), bias=r.random() < 0.7), (torch.randn(*lead, inputs),)


def conv(r, batch):
    dims, groups = r.choice((1, 1, 2, 2, 3)), r.choice((1, 1, 2, 3))
    kernel = tuple(r.choice((1, 1, 2, 3)) for _ in range(dims))
    about = {"stride": r.choice((1, 2)), "dilation": r.choice((1, 2)), "groups": groups, "bias": r.random() < 0.7}
    inputs, outputs = groups * r.choice((1, 2, 3)), groups * r.choice((1, 2, 3))
    size = [about["dilation"] * (k - 1) + r.choice((1, 2, 4)) for k in kernel]
    transposed = r.random() < 0.3
    name = f"ConvTranspose{dims}d" if transposed else f"Conv{dims}d"
    if not transposed:
        about["padding"] = r.choice((0, 1))
        if about["padding"]:
            about["padding_mode"] = r.choice(("zeros", "replicate"))
    return getattr(nn, name)(inputs, outputs, kernel, **about), (torch.randn(max(1, batch), inputs, *size),)


def recurrent(r, batch):
    kind, batch = r.choice((nn.LSTM, nn.GRU, nn.RNN)), max(1, batch)
    inputs, about = (
        r.choice(SIZES),
        {"num_layers": r.choice((1, 1, 2)), "bidirectional": r.random() < 0.3, "bias": r.random() < 0.7},
    )
    return kind(inputs, r.choice(SIZES), batch_first=r.random() < 0.5, **about), (
        torch.randn(r.choice((1, 2, 4)), batch, inputs),
    )


def cell(r, batch):
    inputs = r.choice(SIZES)
    return r.choice((nn.LSTMCell, nn.GRUCell, nn.RNNCell))(inputs, r.choice(SIZES)), (torch.randn(max(1, batch), inputs),)


def attention(r, batch):
    heads = r.choice((1, 2))
    dim, batch = heads * r.choice((1, 2, 5)), max(1, batch)
    x = torch.randn(r.choice((1, 3)), batch, dim)
    return nn.MultiheadAttention(dim, heads, bias=r.random() < 0.7), (x, x, x)


def conv1d_of_hugging_face(r, batch):
    inputs, outputs = r.choice(SIZES), r.choice(SIZES)
    return cases.Conv1D(outputs, inputs), (torch.randn(max(1, batch), inputs),)


KINDS = (linear, linear, conv, conv, recurrent, cell, attention, conv1d_of_hugging_face)


def strided(x, r):
    """The same values, elsewhere in memory."""
    how = r.choice(("as it is", "transposed", "every second"))
    if how == "transposed" and x.dim() > 1:
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if how == "every second" and x.numel():
        return torch.stack([x, x], -1).flatten(-2)[..., ::2] if x.dim() else x
    return x


@functools.lru_cache(4096)
def hardware(tile, extra=""):
    return mho.Hardware.from_yaml(f"mho: 1\ndefault: t\ntiles:\n  t: {{{tile}}}\ntraining: {{inject: none}}\n{extra}")


def outputs(net, inputs):
    with torch.no_grad():
        return cases.tensors(net(*inputs))


def assert_close(a, b, error, what):
    for v, w in zip(a, b, strict=True):
        assert v.shape == w.shape and v.dtype == w.dtype, f"{what}: {v.dtype} {tuple(v.shape)}, not {w.dtype} {tuple(w.shape)}"
        if v.numel():
            worst, scale = float((v - w).abs().max()), float(w.abs().max()) + 0.1  # terms may cancel
            assert worst <= error * scale, f"{what}: off by {worst / scale:.2g} of the largest output"


# -- ways to keep a network: each gives one that computes the same -----------------------------------------------------------
def saved(net, again):
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other = again()
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    other.load_state_dict(torch.load(file))
    return other


def averaged(net, _):
    average = torch.optim.swa_utils.AveragedModel(net)
    average.update_parameters(net)
    return average.eval()


def pruned(net, _):
    for layer in net.modules():
        if isinstance(getattr(layer, "weight", None), nn.Parameter) and tile_arrays(layer):
            prune.identity(layer, "weight")
    return net


def parametrized(net, _):
    for layer in list(net.modules()):
        if isinstance(getattr(layer, "weight", None), nn.Parameter) and tile_arrays(layer):
            parametrize.register_parametrization(layer, "weight", nn.Identity())
    return net


def emptied(net, again):
    state = {k: v.clone() for k, v in net.state_dict().items()}
    other = again().to_empty(device="cpu")
    other.load_state_dict(state)
    return other


class Called(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, *inputs):
        return torch.func.functional_call(self.net, dict(self.net.named_parameters()), inputs)


KEEP = (
    lambda net, _: copy.deepcopy(net),
    lambda net, _: pickle.loads(pickle.dumps(net)),
    saved,
    averaged,
    pruned,
    parametrized,
    emptied,
    lambda net, _: Called(net),
    lambda net, _: net.to("cpu"),
)


def change(net, r):
    """Other weights, in one of the ways in which people change them."""
    how = r.choice(("in place", "data", "exchanged", "one row", "zeros"))
    with torch.no_grad():
        for _, matrix in mho.use.matrices(net):
            if how == "in place":
                matrix.mul_(r.choice((0.01, 3.0, -20.0)))
            elif how == "one row":
                matrix.select(-2, 0).mul_(30)
            elif how == "zeros":
                matrix.zero_()
        if how in ("data", "exchanged"):
            for layer in net.modules():
                for name, p in list(layer._parameters.items()) if isinstance(layer, mho.AnalogLayer) else ():
                    if p is not None and p.dim() > 1:
                        new = p.detach() * 5
                        if how == "data":
                            p.data = new
                        else:
                            setattr(layer, name, nn.Parameter(new))


def alike(digital, inputs, hw, r, number):
    """The fast path computes what the reference path does, and a chip gives the same whatever happens in between."""
    several = isinstance(digital.layer, (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention))
    results = []
    for precision in ("auto", "reference"):
        net = mho.to_analog(digital, hw(precision)).eval()
        if ranges(net) and inputs[0].numel():
            mho.calibrate(net, [inputs], forward=lambda n, x: n(*x))
        mho.program(net, seed=number).age("1 h")
        results.append(outputs(net, inputs))
    coded = tile_arrays(net)[0].view.dac is not None
    assert_close(*results, 0.1 if several and coded else 1e-3, "fused against reference")  # codes of the next product may flip
    other = mho.program(copy.deepcopy(net), seed=1).net
    torch.manual_seed(r.random())
    outputs(other, inputs)
    mho.chip_on(net).age("1 h")
    assert_close(outputs(net, inputs), results[1], 0.0, "the same chip again")


def ranges(net):
    """Whether there is something to calibrate."""
    return any(a.learns_range for a in tile_arrays(net))


def kept(digital, inputs, hw, r, number):
    """Copies, files, averages, pruning and the like compute the same, bit by bit."""
    precision = r.choice(("auto", "reference"))

    def again():
        return mho.to_analog(digital, hw(precision)).eval()

    net, keep = again(), r.choice(KEEP)
    if ranges(net) and inputs[0].numel():
        mho.calibrate(net, [inputs], forward=lambda n, x: n(*x))
    clean = outputs(net, inputs)
    assert_close(outputs(keep(net, again), inputs), clean, 0.0, f"kept in way {KEEP.index(keep)}")


def changed(digital, inputs, hw, r, number):
    """Programming after any change of the weights is that of a fresh conversion."""
    hw = hw(r.choice(("auto", "reference")))
    net = mho.to_analog(digital, hw).eval()
    change(net, r)
    fresh = mho.to_analog(mho.to_digital(net), hw).eval()
    for n in (net, fresh):
        mho.program(n, seed=number).age("1 h")
    for a, b in zip(tile_arrays(net), tile_arrays(fresh), strict=True):
        assert torch.equal(a.gamma, b.gamma) and torch.equal(a.chip.weights, b.chip.weights), "program after a change of weights"
    assert_close(outputs(net, inputs), outputs(fresh, inputs), 0.0, "outputs after a change of weights")


def check(number):
    """One random case."""
    r = random.Random(number)
    torch.manual_seed(number)
    layer, inputs = r.choice(KINDS)(r, r.choice((0, 1, 2, 5)))
    kind = torch.float64 if r.random() < 0.3 else torch.float32
    digital = Around(layer).eval().to(kind)
    inputs = tuple(strided(x.to(kind), r) for x in inputs)
    tile = f"rows: {r.choice((1, 2, 3, 7, 64))}, columns: {r.choice((1, 3, 64))}, mapping: {r.choice(MAPPINGS)}"
    tile += f", device: {{pair: {r.choice(('active', 'both'))}}}"
    ideal = mho.to_analog(digital, hardware(tile)).eval()
    if r.random() < 0.5:
        mho.program(ideal, seed=number)
    assert_close(outputs(ideal, inputs), outputs(digital, inputs), 1e-9 if kind == torch.float64 else 2e-5, "ideal hardware")
    tile += f", dac: {r.choice(('none', '{bits: 8}', '{bits: 6, range: dynamic}'))}, nonidealities: {r.choice(CELLS)}"
    r.choice((alike, kept, changed))(digital, inputs, lambda p: hardware(tile, f"precision: {p}\n"), r, number)


def run(numbers):
    failed = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in numbers:
            try:
                check(number)
            except Exception as error:
                failed.append(f"check({number}): {type(error).__name__}: {str(error).splitlines()[0]}")
    assert not failed, "\n".join([f"{len(failed)} of {len(numbers)} cases", *failed[:40]])


def test_properties_of_some_random_cases():
    run(range(60))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_properties_of_many_random_cases():
    run(range(60, 60 + COUNT))
