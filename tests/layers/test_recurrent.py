"""What recurrent layers and attention owe to chips and training: one draw per root forward, numbers by sample."""

import pytest
import torch
from torch import nn

import mho

NOISE = """
mapping: mho.per_column
dac: {bits: 8, range: 2.0}
adc: {bits: 8, bound: 10}
nonidealities:
  - pcm.programming_noise
  - circuit.output_noise
"""


@pytest.fixture
def programming(hardware):
    """Only weight noise, drawn in training."""
    return hardware("nonidealities: [pcm.programming_noise]", "training: {inject: 1.0, clip: none}".replace("1.0", "{}"))


@pytest.mark.filterwarnings("ignore:training an analog network without")
def test_all_time_steps_of_a_forward_see_the_same_weights_and_the_next_forward_others(programming):
    """R003-64: a constant input leads to the fixed point of one recurrent matrix; fresh noise would keep it moving."""
    torch.manual_seed(0)
    net = mho.to_analog(nn.RNN(4, 8), programming).train()
    x = torch.ones(400, 1, 4)
    y, _ = net(x)
    assert torch.allclose(y[-1], y[-2], atol=1e-6)
    assert not torch.allclose(net(x)[0][-1], y[-1], atol=1e-3)


@pytest.mark.filterwarnings("ignore:training an analog network without")
def test_cells_in_a_loop_see_the_same_weights_within_a_root_forward(programming):
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.GRUCell(4, 8)

        def forward(self, x):
            h, seen = None, []
            for _ in range(200):
                h = self.cell(x, h)
                seen.append(h)
            return seen

    torch.manual_seed(0)
    net = mho.to_analog(Loop(), programming).train()
    seen = net(torch.ones(1, 4))
    assert torch.allclose(seen[-1], seen[-2], atol=1e-5)


@pytest.mark.filterwarnings("ignore:training an analog network without")
def test_the_gradient_runs_through_the_noisy_weights_of_every_step(programming):
    """R003-65: torch's LSTM with the noisy recurrent matrix has the same outputs and gradients (inputs are 0)."""
    torch.manual_seed(0)
    net = mho.to_analog(nn.LSTM(4, 3), programming).train()
    drawn = []

    def note(array, args):
        drawn.append(args[2].w * array.gamma.unsqueeze(-1))

    net.tiles["weight_hh_l0"].register_forward_pre_hook(note)
    y, _ = net(torch.zeros(5, 2, 4))
    y.square().sum().backward()
    plain = nn.LSTM(4, 3)
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if "tiles" not in k})
    with torch.no_grad():
        plain.weight_hh_l0.copy_(drawn[0][0])
    assert len(drawn) == 5 and not torch.equal(plain.weight_hh_l0, net.weight_hh_l0)
    expected, _ = plain(torch.zeros(5, 2, 4))
    expected.square().sum().backward()
    assert torch.allclose(y, expected, atol=1e-6)
    assert torch.allclose(net.weight_hh_l0.grad, plain.weight_hh_l0.grad, atol=1e-6)


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 6)
        self.lstm = nn.LSTM(6, 5, 2, batch_first=True, bidirectional=True)
        self.attention = nn.MultiheadAttention(10, 2, batch_first=True)
        self.conv = nn.Conv1d(10, 10, 3, padding=1, groups=5)
        self.head = nn.Linear(10, 3)

    def forward(self, tokens):
        y, _ = self.lstm(self.embedding(tokens))
        y, _ = self.attention(y, y, y)
        return self.head(self.conv(y.mT).mT)


def test_a_chip_evaluates_a_sequence_network_alike_in_any_batches(hardware):
    """Draws are numbered by sample, layer use and position, also in loops over time, attention and grouped convolutions."""
    torch.manual_seed(0)
    net = mho.to_analog(Tagger().eval(), hardware(NOISE))
    tokens = torch.randint(0, 20, (6, 7))
    chip = mho.program(net, seed=3)
    with torch.no_grad():
        whole = net(tokens)
        chip.age(0)
        parts = torch.cat([net(part) for part in tokens.split([1, 3, 2])])
    assert torch.allclose(whole, parts, atol=1e-5) and whole.std() > 0
    assert not torch.allclose(net(tokens), whole, atol=1e-3)  # later samples draw other numbers


def test_grouped_convolutions_draw_for_every_group_apart(hardware):
    hw = hardware("nonidealities: [pcm.programming_noise]")
    net = mho.to_analog(nn.Conv2d(64, 64, 3, groups=64, bias=False).eval(), hw)
    with torch.no_grad():
        net.weight.fill_(0.5)
    mho.program(net, seed=0)
    w = net.tiles.chip.weights.flatten(1)
    assert w.shape == (64, 9) and len(w.unique()) > 500
    assert net.tiles.layout.tile_count == 64


def test_dynamic_input_ranges_follow_every_vector(hardware):
    """R003-06, R003-54: with `range: dynamic` the largest input of a vector takes the whole DAC, in loops over time too."""
    hw = hardware("dac: {bits: 4, range: dynamic}", "training: {inject: none}")
    torch.manual_seed(0)
    layer = nn.LSTM(6, 4, bias=False).eval()
    net = mho.to_analog(layer, hw)
    seen = []
    net.tiles["weight_hh_l0"].register_forward_pre_hook(lambda a, args: seen.append(args[0]))
    x = torch.randn(5, 2, 6)
    exact = layer(x)[0]
    assert not torch.equal(net(x)[0], exact) and torch.allclose(net(x)[0], exact, atol=0.05)
    a = net.tiles["weight_ih_l0"]
    small = a(x * 1e-3, net.weight_ih_l0)
    assert torch.allclose(small * 1e3, a(x, net.weight_ih_l0), atol=1e-5)  # nothing drowns in the steps of the DAC
    assert len(seen) == 10


class Encoder(nn.Module):
    """Time first throughout: recurrent layers, Linear on [time, batch] and on flat vectors, attention, frames through a
    convolution."""

    def __init__(self):
        super().__init__()
        self.frames = nn.Conv1d(2, 3, 3, padding=1)
        self.inner = nn.Linear(12, 6)
        self.lstm = nn.LSTM(6, 4, bidirectional=True)
        self.block = nn.TransformerEncoderLayer(8, 2, 12, 0.0)
        self.head = nn.Linear(8, 3)

    def forward(self, x):  # [time, batch, 8]
        time, batch, _ = x.shape
        y = self.frames(x.reshape(time * batch, 2, 4)).reshape(time, batch, 12)
        y = self.block(self.lstm(self.inner(y))[0])
        return self.head(y.flatten(0, 1)).view(time, batch, -1)


@pytest.mark.parametrize("time, batch", [(5, 6), (6, 6)])
def test_time_first_networks_evaluate_alike_in_any_batches(hardware, time, batch):
    """DESIGN 4: with `batch_axis=1` samples are numbered along the second axis; bit-equal, since ADCs round."""
    torch.manual_seed(0)
    net = mho.to_analog(Encoder().eval(), hardware(NOISE + "compensation: none"))
    x = torch.randn(time, batch, 8)
    outputs = []

    def score_in(parts):
        def score(model):
            outputs.append(torch.cat([model(p) for p in x.split(parts, 1)], 1))
            return 0.0

        return score

    for parts in ([batch], [1] * batch, [4, batch - 4]):
        mho.evaluate(net, score_in(parts), ["1 s"], chips=1, batch_axis=1)
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])
    mho.evaluate(net, score_in([2] * (batch // 2)), ["1 s"], chips=1)
    assert not torch.equal(outputs[0], outputs[3]) and net.head.tiles.session.batch_axis == 0
    with pytest.raises(mho.MhoError, match="batch_axis is 0 for"):
        mho.evaluate(net, score_in([batch]), ["1 s"], chips=1, batch_axis=2)


def test_packed_sequences_evaluate_alike_in_any_batches(hardware):
    """Lengths and padding differ from batch to batch, the numbers of samples and steps do not."""
    torch.manual_seed(0)
    net = mho.to_analog(nn.GRU(6, 5, 2, bidirectional=True).eval(), hardware(NOISE + "compensation: none"))
    x, lengths = torch.randn(6, 7, 6), torch.tensor([3, 7, 1, 5, 2, 7])
    chip = mho.program(net, seed=3)

    def last_states(parts):
        chip.age(0)
        states = []
        for part, n in zip(x.split(parts), lengths.split(parts)):
            packed = nn.utils.rnn.pack_padded_sequence(part, n, batch_first=True, enforce_sorted=False)
            states.append(net(packed)[1])
        return torch.cat(states, 1)

    with torch.no_grad():
        whole = last_states([6])
        for parts in ([1, 3, 2], [2] * 3):
            torch.testing.assert_close(whole, last_states(parts))


class _Offset(mho.Nonideality):
    """A trained matrix on top of the weights."""

    def build(self, site):
        module, (tiles, rows) = nn.Module(), site.rows.used.shape
        module.p = nn.Parameter(torch.zeros(tiles * site.columns, rows))
        return module

    def mvm(self, x, w, site):
        return mho.product(x, w + site.module.p.view(w.shape))


class _Sum(mho.Nonideality):
    """Has the same gradient for all weights, one number in memory."""

    def accumulate(self, y, x, w, site):
        return y.detach() + w.sum()


@pytest.mark.filterwarnings("ignore:training an analog network without")
@pytest.mark.parametrize("effect", [_Offset(kind="test.offset"), _Sum(kind="test.sum")], ids=["shared", "expanded"])
def test_a_gradient_that_an_effect_sees_too_is_not_overwritten(hardware, effect):
    """One time step, whose gradient of the drawn weights is no sum: the effect's parameter has the same memory."""
    found = []
    for precision in ("reference", "fp32"):
        hw = hardware("dac: {bits: 8, range: 2.0}\nadc: {bits: 8, bound: 10}", f"precision: {precision}")
        name, spec = next(iter(hw.tiles.items()))
        hw = hw.model_copy(update={"tiles": {name: spec.model_copy(update={"nonidealities": (effect,)})}})
        torch.manual_seed(0)
        net = mho.to_analog(nn.RNN(6, 5), hw).train()
        net(torch.randn(1, 3, 6), torch.rand(1, 3, 5))[0].square().sum().backward()
        found.append({n: p.grad for n, p in net.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, expected in found[0].items():
        torch.testing.assert_close(found[1][name], expected, msg=name)
