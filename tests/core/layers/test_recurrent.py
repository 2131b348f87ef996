"""What recurrent layers and attention owe to chips and training: one draw per root forward, numbers by sample."""

import mho
import pytest
import torch
from torch import nn

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
    return hardware(
        "nonidealities: [pcm.programming_noise]", "training: {inject: 1.0, clip: none}".replace("1.0", "{}")
    )


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
    w = net.tiles.aged.flatten(1)
    assert w.shape == (64, 9) and len(w.unique()) > 500
    assert net.tiles.tile_count == 64


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
