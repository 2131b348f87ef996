"""Noise on pre-activations (R002-01, R002-04): its moments, who is noisy, and what it is a function of."""

import math

import pytest
import torch
from torch import nn

import mho
from mho import PreactivationNoise

N = 200_000


def pairs():
    """A layer of zeros with bias 1 and many samples: the output is 1 plus the noise."""
    layer = nn.Linear(1, 4)
    nn.init.zeros_(layer.weight), nn.init.constant_(layer.bias, 2.0)
    return layer, torch.zeros(N // 4, 1)


def noisy(net, x, noise):
    with noise.on(net), torch.no_grad():
        return net(x)


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize(("mode", "sigma", "std"), [
    ("additive", 0.3, 0.3), ("multiplicative", 0.3, 0.6), ("mixed", (0.3, 0.4), math.hypot(0.3, 0.8)),
])  # fmt: skip
def test_the_standard_deviation_is_the_one_asked_for(mode, sigma, std, seed):
    """R002-01: n = 200,000, 4.4 standard errors of mean (std/sqrt(n)) and std (std/sqrt(2n)): alpha = 1e-5."""
    torch.manual_seed(0)
    layer, x = pairs()
    y = noisy(layer, x, PreactivationNoise(sigma, mode, seed=seed))
    assert float(y.mean()) == pytest.approx(2.0, abs=4.4 * std / math.sqrt(N))
    assert float(y.std()) == pytest.approx(std, abs=4.4 * std / math.sqrt(2 * N) * (1.1 if mode == "mixed" else 1))


def test_every_sample_draws_its_own_standard_deviation():
    """R002-04: std ~ max(N(alpha sigma, theta^2), 0); E y^2 of the noise = E max(...)^2 (censored normal)."""
    layer, x = pairs()
    y = noisy(layer, x, PreactivationNoise(0.2, alpha=0.5, theta=0.15, seed=1)) - 2
    m, s = 0.1, 0.15
    a = m / s
    phi, cdf = math.exp(-a * a / 2) / math.sqrt(2 * math.pi), 0.5 * (1 + math.erf(a / math.sqrt(2)))
    square = (m * m + s * s) * cdf + m * s * phi
    spread = float((y**2).std()) / math.sqrt(N / 4)  # the four outputs of a sample share its std
    assert float((y**2).mean()) == pytest.approx(square, abs=4.4 * spread)
    assert float((y == 0).float().mean()) == pytest.approx(1 - cdf, abs=0.01)  # cut at 0


def test_one_noisy_layer_leaves_the_others_exact():
    """R002-01, walking noise."""
    net = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3))
    x, seen = torch.randn(9, 5), []
    for layer in (net[0], net[2], net[4]):
        layer.register_forward_hook(lambda m, a, y: seen.append((m, a[0].clone(), y.clone())))
    noise = PreactivationNoise(0.5, layers="2", seed=0)
    noisy(net, x, noise)
    assert noise.names == ("2",)
    first, second, third = seen
    assert torch.equal(first[2], net[0].forward(x))
    assert not torch.equal(third[1], second[2].relu())  # the noise came behind this hook
    assert torch.equal(third[2], nn.functional.linear(third[1], net[4].weight, net[4].bias))


def test_noise_of_strength_0_and_detached_noise_change_no_bit():
    net, x = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), torch.randn(4, 1, 6, 6)
    exact = net(x)
    assert torch.equal(noisy(net, x, PreactivationNoise(0.0)), exact)
    noisy(net, x, PreactivationNoise(1.0))
    assert torch.equal(net(x), exact)


def test_with_a_seed_the_noise_does_not_depend_on_the_batches():
    net, x = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(48, 5)), torch.randn(12, 1, 6, 6)
    with PreactivationNoise(0.3, "mixed", seed=4, theta=0.1).on(net):
        whole = net(x)
    with PreactivationNoise(0.3, "mixed", seed=4, theta=0.1).on(net):
        parts = torch.cat([net(p) for p in x.split([5, 1, 6])])
    torch.testing.assert_close(whole, parts, rtol=1e-5, atol=1e-5)
    assert (whole - noisy(net, x, PreactivationNoise(0.3, "mixed", seed=5, theta=0.1))).abs().min() > 0


def test_without_a_seed_torch_governs_and_every_call_is_fresh():
    net, x = nn.Linear(3, 3), torch.randn(2, 3)
    with PreactivationNoise(0.1).on(net):
        torch.manual_seed(1)
        first, second = net(x), net(x)
        torch.manual_seed(1)
        again = net(x)
    assert torch.equal(first, again) and not torch.equal(first, second)
    assert len(set((first - nn.functional.linear(x, net.weight, net.bias)).flatten().tolist())) == 6


def test_gradients_are_those_of_the_formula():
    net, x = nn.Linear(3, 2), torch.randn(4, 3)
    y = noisy(net, x, PreactivationNoise(0.4, "multiplicative", seed=0))
    factor = (y / net(x)).detach()
    with PreactivationNoise(0.4, "multiplicative", seed=0).on(net):
        net(x).sum().backward()
    torch.testing.assert_close(net.weight.grad, factor.T @ x, rtol=1e-4, atol=1e-5)


def test_analog_layers_are_noisy_too_and_products_of_recurrent_ones_each(hardware):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.lstm(x)[0][:, -1])

    with pytest.raises(mho.MhoError, match="put the network on tiles first"):
        PreactivationNoise(0.1).attach(Net())
    net = mho.to_analog(Net(), hardware()).eval()
    noise = PreactivationNoise(0.1)
    with noise.on(net):
        pass
    assert noise.names == ("lstm.weight_ih_l0", "lstm.weight_hh_l0", "head")
    x = torch.randn(6, 5, 3)
    whole = noisy(net, x, PreactivationNoise(0.1, layers="lstm.*", seed=0))
    with PreactivationNoise(0.1, layers="lstm.*", seed=0).on(net):
        parts = torch.cat([net(p) for p in x.split(2)])
    torch.testing.assert_close(whole, parts)
    assert not torch.allclose(whole, net(x), atol=1e-3)


@pytest.mark.parametrize(("make", "says"), [
    (lambda: PreactivationNoise(0.1, "additiv"), "did you mean 'additive'"),
    (lambda: PreactivationNoise(-0.1), "at least 0"),
    (lambda: PreactivationNoise((0.1, 0.2)), "belongs to mode 'mixed'"),
    (lambda: PreactivationNoise(0.1, layers="fc3").attach(nn.Sequential(nn.Linear(2, 2))), "no layer is called 'fc3'"),
    (lambda: PreactivationNoise(0.1).attach(nn.Sequential(nn.ReLU())), "no layer with a weight matrix"),
])  # fmt: skip
def test_mistakes_are_named(make, says):
    with pytest.raises(mho.MhoError, match=says):
        make()
