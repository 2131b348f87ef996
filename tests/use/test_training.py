"""Hardware-aware training: noise injection, gradients, and the hooks behind the optimizer."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import mho

pytestmark = pytest.mark.filterwarnings("ignore:training an analog network without mho.attach")

EXACT = "rows: 8\nnonidealities: [pcm.programming_noise]"
FULL = (
    "rows: 8\ndac: {bits: 8, range: learned}\nadc: {bits: 8, bound: 10}\n"
    "nonidealities: [pcm.programming_noise, circuit.ir_drop, pcm.read_noise, circuit.output_noise]"
)


def training(**keys):
    return "training: {" + ", ".join(f"{k}: {v}" for k, v in keys.items()) + "}"


def layer(hw, out=6, rows=20, seed=0):
    torch.manual_seed(seed)
    return mho.to_analog(nn.Linear(rows, out), hw).train()


def weights_in_use(net):
    """The weight matrix [out, in] that the last forward used, read out with unit vectors through the exact periphery."""
    return net(torch.eye(net.in_features)).T - net.bias[:, None]


def test_every_use_of_a_layer_in_one_root_forward_sees_the_same_noisy_weights(hardware):
    """R003-64: one draw per mini-batch; the next root forward draws anew."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(5, 5, bias=False)

        def forward(self, x):
            return self.fc(x), self.fc(x)

    net = mho.to_analog(Twice(), hardware(EXACT)).train()
    x = torch.eye(5)
    a, b = net(x)
    c, _ = net(x)
    assert torch.equal(a, b) and not torch.equal(a, c) and not torch.equal(a, x @ net.fc.weight.T)


def test_the_gradient_of_the_input_goes_through_the_noisy_weights(hardware):
    """R003-64, R003-65: dL/dx = g W_noisy, dL/dW = g^T x."""
    net = layer(hardware(EXACT))
    x = torch.eye(20).requires_grad_()
    y = net(x)
    noisy = (y - net.bias).T.detach()
    g = torch.randn(20, 6)
    (y * g).sum().backward()
    assert torch.allclose(x.grad, g @ noisy, atol=1e-5)
    assert torch.allclose(net.weight.grad, g.T @ x.detach(), atol=1e-5)


def test_injected_noise_has_the_law_of_programming_times_the_scale(hardware):
    """R003-64: std of w_noisy at full weights is scale * sigma(1)/25; n = 20,000, alpha = 1e-5 is 2.2 %."""
    net = mho.to_analog(
        nn.Linear(200, 100, bias=False),
        hardware("rows: 200\nnonidealities: [pcm.programming_noise]", training(inject="{scale: 2}")),
    )
    with torch.no_grad():
        net.weight.fill_(1.0)
    net.tiles.remap(net.weight)
    torch.manual_seed(0)
    noisy = net.train()(torch.eye(200)).detach()
    sigma = 2 * (0.26348 + 1.9650 - 1.1731) / 25
    assert abs(noisy.std() / sigma - 1) < 0.022 and abs(noisy.mean() - 1) < 4.42 * sigma / 20_000**0.5


def test_a_weight_of_zero_gets_no_noise_and_signs_never_flip(hardware):
    """R003-21: the sign is that of the target; the active device of a zero weight does not exist."""
    net = layer(hardware(EXACT, training(inject="{scale: 30}")))
    with torch.no_grad():
        net.weight[0, :5] = 0
        net.bias.zero_()
    noisy = net(torch.eye(20)).T.detach()
    assert (noisy[0, :5] == 0).all() and (noisy * net.weight >= 0).all()


def test_with_lr_0_the_weights_stay_bit_identical(hardware):
    """R003-64: the clean weights are updated, not the noisy ones."""
    net = layer(hardware(FULL))
    before = copy.deepcopy(net.state_dict())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    mho.attach(optimizer, net)
    for _ in range(3):
        net(torch.randn(4, 20)).sum().backward()
        optimizer.step()
    after = net.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before if "step" not in k)


def test_the_injected_std_follows_the_ramp(hardware):
    """R003-66: proportional to the step until the ramp ends."""
    net = layer(
        hardware("rows: 20\nnonidealities: [pcm.programming_noise]", training(inject="{scale: 1, ramp: 4 steps}", clip="none"))
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    mho.attach(optimizer, net)
    sizes = []
    for _ in range(7):
        torch.manual_seed(0)
        change = weights_in_use(net) - net.weight
        sizes.append(float(change.detach().norm()))
        optimizer.step()
    assert sizes[0] == pytest.approx(0, abs=1e-5)
    assert [s / sizes[-1] for s in sizes[1:4]] == pytest.approx([0.25, 0.5, 0.75], rel=0.05)
    assert sizes[4:] == pytest.approx([sizes[-1]] * 3)


def test_the_ramp_continues_from_a_checkpoint(hardware):
    hw = hardware(EXACT, training(inject="{scale: 1, ramp: 10 steps}"))
    net = layer(hw)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    mho.attach(optimizer, net)
    for _ in range(3):
        optimizer.step()
    again = layer(hw)
    again.load_state_dict(net.state_dict())
    mho.attach(torch.optim.SGD(again.parameters(), lr=0.0), again)
    assert float(again.tiles.ramp_share()) == pytest.approx(0.3)


def test_weights_are_clipped_to_the_device_range_after_every_step(hardware):
    """R003-68: max |w_norm| <= 1 always."""
    net = layer(hardware(FULL))
    optimizer = torch.optim.SGD(net.parameters(), lr=50.0)
    mho.attach(optimizer, net)
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.randn(4, 20)).pow(2).sum().backward()
        optimizer.step()
        raw = net.tiles.layout.cut_weight(net.weight.detach()) / net.tiles.gamma[..., None]
        assert raw.abs().max() <= 1 + 1e-6
    assert raw.abs().max() > 0.999


def test_a_sigma_clip_uses_the_spread_of_the_layer(hardware):
    net = layer(hardware(EXACT, training(clip="1.5 sigma")))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    mho.attach(optimizer, net)
    with torch.no_grad():
        net.weight[0, 0] = 10.0
        sigma = net.weight.square().mean().sqrt()
    optimizer.step()
    assert float(net.weight.detach().max()) == pytest.approx(float(1.5 * sigma))


def test_remapping_leaves_the_function_and_fills_the_columns(hardware):
    """R003-69: unchanged to 1e-6, every column max = 1."""
    hw = hardware("rows: 8", training(remap="2 steps", clip="none"))
    net = layer(hw)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    mho.attach(optimizer, net)
    x = torch.randn(5, 20)
    with torch.no_grad():
        net.weight.mul_(0.5)
        before = net(x)
        gamma = net.tiles.gamma.clone()
        optimizer.step()
        assert torch.equal(gamma, net.tiles.gamma)
        optimizer.step()
        assert not torch.equal(gamma, net.tiles.gamma)
        assert torch.allclose(net(x), before, atol=1e-6)
        assert torch.allclose(net.tiles.normalised(net.weight).abs().amax(-1), torch.ones(3, 6))


def test_the_input_range_grows_where_clipped_inputs_ask_for_it_and_shrinks_slowly_where_none_is_clipped(hardware):
    """R003-70: with no clipped input and decay 0 it stays put; with 20 % clipped it grows."""
    for decay, scale, moves in ((0.0, 0.5, 0), (0.01, 0.5, -1), (0.01, 1.25, 1)):
        net = layer(hardware("rows: 20\ndac: {bits: 8, range: learned}", training(inject="none", range_decay=decay)))
        x = torch.linspace(-1, 1, 200)[:, None].expand(200, 20) * scale
        target = 3 * F.linear(x, net.weight, net.bias).detach()  # asks for larger outputs
        (net(x) - target).pow(2).sum().backward()
        step = -float(net.tiles.input_range.grad)
        assert (step > 0) - (step < 0) == moves


def test_the_gradient_of_the_input_range_is_the_sum_over_clipped_inputs(hardware):
    """R003-70, by hand: sum over clipped of min(sign(x) dL/dx_code, 0); the factor alpha is in it."""
    net = layer(hardware("rows: 2\ndac: {bits: 8, range: learned}", training(inject="none", range_decay=0)), out=1, rows=2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[2.0, -3.0]]))
    net.tiles.remap(net.weight)
    x = torch.tensor([[1.5, 0.2], [-1.5, 1.7], [0.1, -1.1]])
    g = torch.tensor([[-1.0], [1.0], [-2.0]])
    net(x).backward(g)
    # alpha = 1: dL/dcode = g * w; clipped: (0,0): -2 -> -2; (1,0): 2, sign - -> -2; (1,1): -3 -> -3; (2,1): 6, sign - -> -6
    assert float(net.tiles.input_range.grad) == pytest.approx(-13.0)


def test_a_learned_range_learns_from_the_vectors_that_reach_it_under_noise_management(hardware):
    """R003-54 with R003-70, by hand as above: vectors that have a range of their own ask for nothing and pull at nothing;
    the decay is that of R003-70 as soon as one vector reaches the range."""
    for decay, few, expected in ((0, False, -13.0), (0.1, False, -13.0), (0.1, True, -2.0 + 0.1)):
        body = "rows: 2\ndac: {bits: 8, range: learned, noise_management: true}"
        net = layer(hardware(body, training(inject="none", range_decay=decay)), out=1, rows=2)
        with torch.no_grad():
            net.weight.copy_(torch.tensor([[2.0, -3.0]]))
        net.tiles.remap(net.weight)
        x = torch.tensor([[1.5, 0.2], [-1.5, 1.7], [0.1, -1.1], [0.3, 0.2]])
        g = torch.tensor([[-1.0], [1.0], [-2.0], [-5.0]])
        if few:  # one clipped input in 42
            x, g = torch.cat([x[:1], x[3:].expand(20, 2)]), torch.cat([g[:1], g[3:].expand(20, 1)])
        x.requires_grad_()
        net(x).backward(g)
        assert float(net.tiles.input_range.grad) == pytest.approx(expected)
        assert torch.allclose(x.grad[-1], torch.tensor([-10.0, 15.0])) and x.grad[0, 0] == 0
    net.zero_grad()
    net(0.1 * x.detach()).sum().backward()
    assert float(net.tiles.input_range.grad) == 0  # nobody reaches it


def test_saturated_converters_pass_no_gradient(hardware):
    """R003-65: masked where the DAC clips and where the ADC saturates."""
    net = layer(hardware("rows: 20\ndac: {bits: 8, range: 1.0}\nadc: {bits: 8, bound: 1}", training(inject="none")), out=2)
    with torch.no_grad():
        net.weight.copy_(torch.stack([torch.full((20,), 0.1), torch.cat([torch.ones(10), -torch.ones(10)]) * 0.1]))
    net.tiles.remap(net.weight)
    x = torch.full((1, 20), 0.5)
    x[0, 3] = 2.0
    x.requires_grad_()
    net(x).sum().backward()
    assert x.grad[0, 3] == 0  # clipped by the DAC
    assert net.weight.grad[0].abs().sum() == 0 and net.weight.grad[1].abs().sum() > 0  # the first output saturates


def test_a_mode_changes_the_gradient_and_not_the_forward(hardware):
    """R001-03: the same forward numbers from the same seed in all modes (`autograd` always runs on the reference path)."""
    outputs, grads = [], []
    for mode in ("through", "ste", "masked", "autograd", "{mode: autograd, rounding: ste}"):
        net = layer(hardware(FULL, f"precision: reference\n{training(backward=mode)}"))
        torch.manual_seed(1)
        x = torch.randn(7, 20, generator=torch.Generator().manual_seed(5)).requires_grad_()
        y = net(x)
        y.backward(torch.ones_like(y))
        outputs.append(y.detach())
        grads.append(x.grad)
    assert all(torch.equal(outputs[0], o) for o in outputs[1:])
    assert not torch.allclose(grads[0], grads[1])
    assert grads[3].abs().sum() == 0  # R000-15: rounding has derivative 0
    assert grads[4].abs().sum() > 0


def test_ste_has_the_gradient_of_the_clean_layer(hardware):
    """R001-02: W and x are the unperturbed tensors."""
    net = layer(hardware(FULL, training(backward="ste")))
    x, g = torch.randn(7, 20), torch.randn(7, 6)
    grads = []
    for f in (net, lambda v: F.linear(v, net.weight, net.bias)):
        v = x.clone().requires_grad_()
        net.zero_grad()
        f(v).backward(g)
        grads.append((v.grad, net.weight.grad.clone(), net.bias.grad.clone()))
    for ours, clean in zip(*grads):
        torch.testing.assert_close(ours, clean)


def test_a_forward_in_numpy_trains_with_ste(hardware):
    """R001-01: the forward may be any code."""

    class Table(mho.Nonideality, kind="numpytable.adc"):
        """An output stage that is a table."""

        strength = None

        def output(self, y, site):
            import numpy as np

            grid = np.linspace(-5, 5, 21)
            return torch.from_numpy(np.interp(y.numpy(), grid, np.tanh(grid) * 3).astype("float32"))

    mho.register(Table)
    net = layer(hardware("rows: 8\nnonidealities: [numpytable.adc]", training(backward="ste")))
    x, target = torch.randn(64, 20), torch.randn(64, 6)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    mho.attach(optimizer, net)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = F.mse_loss(net(x), target)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("lone", [True, False])
def test_activation_checkpointing_replays_the_same_draw(hardware, lone):
    """R001-10: identical loss and gradients with and without checkpointing."""

    class Net(nn.Module):
        def __init__(self, ckpt):
            super().__init__()
            self.a, self.b, self.ckpt = nn.Linear(20, 20), nn.Linear(20, 4), ckpt

        def forward(self, x):
            if self.ckpt:
                return checkpoint(lambda v: self.b(torch.relu(self.a(v))), x, use_reentrant=False)
            return self.b(torch.relu(self.a(x)))

    results = []
    for ckpt in (False, True):
        torch.manual_seed(0)
        net = mho.to_analog(Net(ckpt), hardware(FULL)).train()
        torch.manual_seed(1)
        x = torch.randn(5, 20, generator=torch.Generator().manual_seed(0)).requires_grad_()
        y = net.a(x) if lone and not ckpt else checkpoint(net.a, x, use_reentrant=False) if lone else net(x)
        y.pow(2).sum().backward()
        results.append((y.detach(), x.grad, net.a.weight.grad))
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_manual_seed_governs_training(hardware):
    net, x = layer(hardware(FULL)), torch.randn(3, 20)
    out = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        out.append(net(x))
    assert torch.equal(out[0], out[1]) and not torch.equal(out[0], out[2])


def test_drop_connect_silences_a_share_of_the_weights(hardware):
    """R003-67; n = 40,000 weights, binomial bound for alpha = 1e-5."""
    net = mho.to_analog(nn.Linear(200, 200, bias=False), hardware("rows: 200", training(drop_connect=0.1, inject="none"))).train()
    used = net(torch.eye(200)).T.detach()
    share = (used == 0).double().mean()
    assert abs(share - 0.1) < 4.42 * (0.1 * 0.9 / 40_000) ** 0.5
    kept = used != 0
    assert torch.allclose(used[kept], net.weight.detach()[kept])
    net.eval()
    assert (net(torch.eye(200)) != 0).all()


def test_epochs_in_the_hardware_need_the_steps_of_an_epoch(hardware):
    net = layer(hardware(EXACT, training(inject="{scale: 1, ramp: 2 epochs}")))
    optimizer = torch.optim.Adam(net.parameters())
    with pytest.raises(mho.MhoError, match=r"counts in epochs.*steps_per_epoch=len\(loader\)"):
        mho.attach(optimizer, net)
    mho.attach(optimizer, net, steps_per_epoch=5)
    assert net.tiles.ramp == (0, 10)


def test_training_without_attach_warns_once(hardware):
    net = layer(hardware(EXACT))
    with pytest.warns(UserWarning, match="weights are not clipped"):
        net(torch.randn(2, 20))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net(torch.randn(2, 20))


def test_every_torch_optimizer_can_be_attached_and_learns(hardware):
    for cls in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop):
        net = layer(hardware(FULL))
        optimizer = cls(net.parameters(), lr=1e-2)
        attached = mho.attach(optimizer, net)
        x = torch.randn(32, 20, generator=torch.Generator().manual_seed(0))
        losses = []
        for _ in range(20):
            optimizer.zero_grad()
            loss = (net(x) - 0.3).pow(2).mean()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < losses[0]
        assert int(net.tiles.step) == 20
        attached.detach()
        optimizer.step()
        assert int(net.tiles.step) == 20
