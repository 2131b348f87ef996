"""Quantisation-aware training (R002-02): values, gradients, and where quantisers sit."""

import copy

import pytest
import torch
from mho_qat.quantiser import MOMENTUM, Uniform, UniformModule
from torch import nn
from torch.nn import functional as F

import mho
from mho.effects import quantisers, unquantised


def quantiser(what="weights", bits=3, range="learned", unsigned=False):
    q = UniformModule(Uniform(bits=bits, range=range), what)
    q.unsigned.fill_(unsigned)
    return q


@pytest.mark.parametrize("bits", range(2, 9))
def test_signed_codes_are_an_odd_number_of_levels_with_zero_in_the_middle(bits):
    q = quantiser(bits=bits, range=1.0)
    values = q(torch.linspace(-2, 2, 20_001)).unique()
    assert len(values) == 2**bits - 1 and (values == 0).any()
    assert torch.allclose(values, torch.linspace(-1, 1, 2**bits - 1), atol=1e-6)


def test_activations_that_are_never_negative_use_all_codes():
    q = quantiser("activations", bits=3)
    q.start(torch.rand(50))
    with torch.no_grad():
        q.step.fill_(1 / 7)
    assert torch.allclose(q(torch.linspace(-1, 2, 3001)).unique(), torch.linspace(0, 1, 8), atol=1e-6)
    q.start(torch.randn(50))
    assert float(q(torch.tensor([-3.0])).detach()) < 0


def test_the_gradient_of_a_learned_step_is_that_of_lsq():
    """Esser et al. 2020, Eqs. 3 and 5, written out: (q - v/s) inside, +-Q outside, times 1/sqrt(n Q); v: 1 inside, 0 outside."""
    q = quantiser(bits=4).double()
    v = torch.randn(200, dtype=torch.float64).mul(2).requires_grad_()
    with torch.no_grad():
        q.step.fill_(0.3)
    g = torch.randn(200, dtype=torch.float64)
    q(v).backward(g)
    z = v.detach() / 0.3
    inside = z.abs() < 7
    per_value = torch.where(inside, z.round() - z, 7 * z.sign())
    assert float(q.step.grad) == pytest.approx(float((g * per_value).sum() / (200 * 7) ** 0.5))
    assert torch.allclose(v.grad, g * inside)


def test_a_learned_step_starts_at_twice_the_mean_over_the_root_of_the_top_code():
    v = torch.randn(100)
    q = quantiser(bits=4)
    q.start(v)
    assert torch.allclose(q.step, 2 * v.abs().mean() / 7**0.5)


def test_a_learned_step_finds_the_range_of_its_values():
    """Gradient descent on the squared error ends within 5 % of the best step of a grid search."""
    torch.manual_seed(0)
    v = torch.randn(4000)
    q = quantiser(bits=3)
    optimizer = torch.optim.SGD(q.parameters(), lr=10.0)
    for _ in range(300):
        optimizer.zero_grad()
        (q(v) - v).pow(2).mean().backward()
        optimizer.step()
    grid = torch.linspace(0.1, 2, 400)
    errors = torch.stack([((v / s).round().clamp(-3, 3) * s - v).pow(2).mean() for s in grid])
    assert float(q.step.detach()) == pytest.approx(float(grid[errors.argmin()]), rel=0.05)


def test_a_constant_range_has_no_gradient_and_never_changes():
    """R002-02."""
    net = mho.quantise(nn.Linear(6, 4), weights={"bits": 3, "range": 0.5}, activations={"bits": 3, "range": 2.0})
    before = [q.step.clone() for q in quantisers(net)]
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    for _ in range(3):
        net(torch.randn(5, 6)).pow(2).sum().backward()
        optimizer.step()
    assert all(torch.equal(b, q.step) and not q.step.requires_grad for b, q in zip(before, quantisers(net)))
    assert [float(b) for b in before] == pytest.approx([0.5 / 3, 2 / 3])


def test_statistics_follow_the_weights_and_a_running_mean_of_activations():
    net = mho.quantise(
        nn.Linear(6, 4), weights={"bits": 3, "range": "statistics"}, activations={"bits": 3, "range": "statistics"}
    )
    w = net.parametrizations.weight.original
    assert float(net.weight.detach().abs().max()) == pytest.approx(float(w.detach().abs().max()))
    step = float(net.input_quantiser.step)
    for size in (1.0, 4.0):
        x = torch.randn(5, 6) * size
        net(x)
        step = (1 - MOMENTUM) * step + MOMENTUM * float(x.abs().max()) / 3
    assert float(net.input_quantiser.step) == pytest.approx(step)
    net.eval()(torch.randn(5, 6) * 100)
    assert float(net.input_quantiser.step) == pytest.approx(step)


def test_a_quantised_digital_layer_is_the_product_of_quantised_tensors():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 16, 4))
    net = mho.quantise(plain, weights=4, activations=5)
    mho.calibrate(net, [torch.randn(2, 2, 6, 6)])
    x = torch.randn(2, 2, 6, 6)
    w, a = net[0].parametrizations.weight, net[0].input_quantiser
    z = F.relu(F.conv2d(a(x), w[0](plain[0].weight), plain[0].bias))
    w, a = net[3].parametrizations.weight, net[3].input_quantiser
    assert torch.allclose(net(x), F.linear(a(z.flatten(1)), w[0](plain[3].weight), plain[3].bias), atol=1e-6)
    assert float(net[0].input_quantiser.unsigned) == 0 and float(net[3].input_quantiser.unsigned) == 1
    with unquantised(net):
        assert torch.allclose(net(x), plain(x), atol=1e-6)
    assert not any(isinstance(m, UniformModule) for m in plain.modules())


def test_calibration_starts_quantisers_from_unquantised_inputs():
    """The layer behind sees what the plain network would give it, not what badly started quantisers leave of it."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    net = mho.quantise(plain, activations=4)
    batches = [torch.randn(50, 6) * 20 for _ in range(3)]
    mho.calibrate(net, batches)
    hidden = torch.stack([plain[:2](b).abs().mean() for b in batches]).mean()
    assert torch.allclose(net[2].input_quantiser.step, 2 * hidden / 15**0.5)


def test_quantised_networks_become_plain_again():
    net = mho.quantise(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), weights=3, activations=8)
    plain = mho.unquantise(net)
    assert set(plain.state_dict()) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert torch.equal(plain[0].weight, net[0].weight) and len(plain[0].weight.unique()) <= 7
    assert mho.conversion_report(
        mho.to_analog(plain, mho.Hardware.from_yaml("mho: 1\ndefault: t\ntiles:\n  t: {rows: 8}\n"))
    ).analog


def test_a_plain_checkpoint_loads_into_a_quantised_network():
    torch.manual_seed(0)
    other, net = nn.Sequential(nn.Linear(6, 8)), mho.quantise(nn.Sequential(nn.Linear(6, 8)), weights=4, activations=4)
    net.load_state_dict(other.state_dict())
    assert torch.equal(net[0].parametrizations.weight.original, other[0].weight)
    assert torch.allclose(net[0].parametrizations.weight[0].step, 2 * other[0].weight.abs().mean() / 7**0.5)
    twin = mho.quantise(nn.Sequential(nn.Linear(6, 8)), weights=4, activations=4)
    twin.load_state_dict(net.state_dict())
    assert torch.equal(twin(x := torch.randn(3, 6)), net(x))


# --- in front of tiles ---

QAT = "training: {inject: none, quantise: {weights: {bits: 3}, activations: {bits: 4}}}"


def analog(hardware, model, tile="rows: 8", extra=QAT):
    return mho.to_analog(model, hardware(tile, extra))


def test_layers_on_tiles_are_quantised_from_yaml(hardware):
    torch.manual_seed(0)
    plain = nn.Linear(20, 6)
    net, by_hand = analog(hardware, plain), mho.quantise(analog(hardware, plain, extra=""), weights=3, activations=4)
    x = torch.randn(5, 20)
    mho.calibrate(net, [x])
    mho.calibrate(by_hand, [x])
    w, a = net.tiles.weight_quantiser, net.tiles.input_quantiser
    assert torch.allclose(net(x), F.linear(a(x), w(plain.weight), plain.bias), atol=1e-5)
    assert torch.equal(net(x), by_hand(x))
    assert len((w(plain.weight) / w.step).round().unique()) <= 7


@pytest.mark.parametrize(
    "mode", ["through", "ste", "{mode: autograd, rounding: ste}", "{mode: surrogate, surrogate: mho.saturating}"]
)
def test_quantisers_learn_behind_every_backward(hardware, mode):
    """With exact tiles the gradients are those of the quantised digital layer."""
    torch.manual_seed(0)
    plain = nn.Linear(8, 6)
    net = analog(hardware, plain, extra=QAT[:-1] + f", backward: {mode}}}").train()
    twin = mho.quantise(plain, weights=3, activations=4)
    x, g = torch.randn(5, 8), torch.randn(5, 6)
    mho.calibrate(net, [x])
    mho.calibrate(twin, [x])
    net(x).backward(g)
    twin(x).backward(g)
    t = net.tiles
    assert torch.allclose(net.weight.grad, twin.parametrizations.weight.original.grad, atol=1e-5)
    assert torch.allclose(t.weight_quantiser.step.grad, twin.parametrizations.weight[0].step.grad, atol=1e-4)
    assert torch.allclose(t.input_quantiser.step.grad, twin.input_quantiser.step.grad, atol=1e-4)


def test_a_chip_is_programmed_with_the_quantised_weights(hardware):
    torch.manual_seed(0)
    net = analog(hardware, nn.Linear(20, 6)).eval()
    mho.program(net, seed=0)
    programmed = net.tiles.chip.target * net.tiles.gamma[..., None]
    assert torch.allclose(programmed, net.tiles.layout.cut_weight(net.tiles.weight_quantiser(net.weight)), atol=1e-6)


@pytest.mark.parametrize("make", [lambda: nn.LSTM(4, 5, batch_first=True), lambda: nn.MultiheadAttention(4, 2, batch_first=True)])
def test_every_kind_of_layer_on_tiles_can_be_quantised(hardware, make):
    torch.manual_seed(0)
    net = analog(hardware, make()).train()
    x = torch.randn(2, 3, 4)
    y = net(x, x, x)[0] if isinstance(net, nn.MultiheadAttention) else net(x)[0]
    y.sum().backward()
    found = list(quantisers(net))
    assert len(found) >= 4 and all(q.step.grad is not None for q in found if q.what == "weights")
    plain = mho.to_digital(net)
    assert not any(True for _ in quantisers(plain))


def test_clip_and_remap_act_on_the_weights_behind_the_quantiser(hardware):
    torch.manual_seed(0)
    net = analog(hardware, nn.Linear(20, 6)).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    mho.attach(optimizer, net)
    with torch.no_grad():
        net.weight.mul_(3)
    bound = net.tiles.layout.spread(net.tiles.gamma)
    optimizer.step()
    assert (net.weight.abs() <= bound).all() and (net.weight.abs() == bound).any()
    top = net.tiles.layout.cut_weight(net.tiles.stored(net.weight.detach())).abs().amax(-1)
    assert torch.equal(net.tiles.gamma, torch.where(top > 0, top, torch.ones_like(top)))


def test_a_quantised_analog_network_saves_loads_and_copies(hardware, tmp_path):
    torch.manual_seed(0)
    net, twin = analog(hardware, nn.Linear(20, 6)), analog(hardware, nn.Linear(20, 6))
    with torch.no_grad():
        net.tiles.weight_quantiser.step.mul_(1.1)
    mho.save_model(net, tmp_path / "n.safetensors")
    x = torch.randn(3, 20)
    assert torch.equal(mho.load_model(twin, tmp_path / "n.safetensors").eval()(x), net.eval()(x))
    assert torch.equal(copy.deepcopy(net)(x), net(x))
    plain = nn.Linear(20, 6)
    twin.load_state_dict(plain.state_dict())
    assert torch.allclose(twin.tiles.weight_quantiser.step, 2 * plain.weight.abs().mean() / 3**0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mho.quantise(nn.Linear(2, 2)), "nothing to quantise"),
        (lambda: mho.quantise(nn.Linear(2, 2), weights=1), r"weights.bits: expected a whole number ≥ 2"),
        (lambda: mho.quantise(nn.Linear(2, 2), weights={"bit": 4}), "did you mean 'bits'"),
        (lambda: mho.quantise(nn.ReLU(), weights=4), "no linear layer"),
        (lambda: mho.quantise(mho.quantise(nn.Linear(2, 2), weights=4), weights=4), "quantised already"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(mho.MhoError, match=message):
        call()


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head, self.again = nn.Embedding(9, 6), nn.Linear(6, 9), nn.Linear(6, 9, bias=False)
        self.head.weight = self.again.weight = self.embedding.weight

    def forward(self, tokens):
        e = self.embedding(tokens)
        return self.head(e) + self.again(e)


@pytest.mark.parametrize("back", [mho.to_digital, mho.unquantise])
@pytest.mark.parametrize("scale", ["fixed", "column"])
def test_an_embedding_keeps_its_values_when_the_quantised_weights_of_a_tied_head_become_permanent(hardware, back, scale):
    torch.manual_seed(0)
    net = analog(hardware, Tied(), extra=f"training: {{out_scale: {scale}, quantise: {{weights: {{bits: 3}}}}}}").eval()
    if scale == "column":
        with torch.no_grad():
            net.head.tiles.out_scale.mul_(1.3)
    tokens, before = torch.arange(9), net.embedding.weight.clone()
    y = net(tokens)
    plain = back(net)
    assert torch.equal(plain.embedding.weight, before)
    assert plain.head.weight is plain.again.weight and plain.head.weight is not plain.embedding.weight
    torch.testing.assert_close(plain(tokens), y)
    torch.testing.assert_close(net(tokens), y)


def exactly(training="{}"):
    return mho.Hardware.from_yaml(f"mho: 1\ndefault: t\ntiles:\n  t: {{rows: 8}}\ntraining: {training}\n")


def test_quantisers_of_a_checkpoint_are_not_dropped(tmp_path):
    model = nn.Sequential(nn.Linear(6, 4))
    quantised = mho.to_analog(model, exactly("{quantise: {weights: {bits: 2}}}"))
    mho.save_model(quantised, tmp_path / "net.safetensors")
    with pytest.raises(mho.MhoError, match="layer '0' of the checkpoint has a weight_quantiser, and none here"):
        mho.load_model(mho.to_analog(model, exactly()), tmp_path / "net.safetensors")
    with pytest.raises(RuntimeError, match="weight_quantiser, and none here"):
        mho.to_analog(model, exactly()).load_state_dict(quantised.state_dict())


@pytest.mark.parametrize("what", ["activations", "weights"])
def test_a_checkpoint_of_other_bits_is_refused(what, tmp_path):
    """Its steps and conductance ranges are of no use for these."""
    model, x = nn.Sequential(nn.Linear(6, 4)), torch.randn(64, 6)
    hws = [exactly(f"{{quantise: {{{what}: {{bits: {bits}, range: statistics}}}}}}") for bits in (8, 8, 4)]
    net, same, other = (mho.to_analog(model, hw).eval() for hw in hws)
    mho.calibrate(net, [x])
    mho.save_model(net, tmp_path / "net.safetensors")
    assert torch.equal(mho.load_model(same, tmp_path / "net.safetensors")(x), net(x))
    with pytest.raises(mho.MhoError, match="quantised with 8 bits, the hardware says 4: load it with 8"):
        mho.load_model(other, tmp_path / "net.safetensors")
    before = {k: v for k, v in net.state_dict().items() if not k.endswith(".bits")}  # a file from before
    assert torch.equal(same(x), net(x)) and not same.load_state_dict(before).missing_keys
