"""GradientDraws under hardware on one linear layer with squared loss: the closed forms R000-10 ... R000-16, and what is derived.

With C = X^T X / B and D = Y^T X / B the clean gradient is g = W C - D. Effects act on the weights at `read`, where nothing
is cut at 0. The mapping is `direct` with the largest weight below 1, so that normalised weights are the weights.
"""

import math

import pytest
import torch
from mho_lab.studies.gradients import EXPECTED, MODES, chip_weights, directions, sample_gradients
from torch import nn

import mho
from mho.config.hardware import Hardware

DRAWS = 160
Z = 4.4  # two-sided alpha = 1e-5


class Additive(mho.Nonideality, kind="closed.additive"):
    """w + s xi"""

    source = "R000-10"
    strength = "s"
    s: float = mho.Field(0.2, ge=0, unit="1", description="standard deviation")

    def read(self, w, site):
        return w + self.s * site.randn_like(w, per="chip")


class Multiplicative(mho.Nonideality, kind="closed.multiplicative"):
    """w (1 + s xi)"""

    source = "R000-11"
    strength = "s"
    s: float = mho.Field(0.4, ge=0, unit="1", description="relative standard deviation")

    def read(self, w, site):
        return w * (1 + self.s * site.randn_like(w, per="chip"))


class Gain(mho.Nonideality, kind="closed.gain"):
    """r w"""

    source = "R000-13"
    strength = None
    r: float = mho.Field(0.7, ge=0, unit="1", description="gain")

    def read(self, w, site):
        return self.r * w


class StuckAtZero(mho.Nonideality, kind="closed.stuck"):
    """0 with probability p"""

    source = "R000-14"
    strength = "p"
    p: float = mho.Field(0.3, ge=0, le=1, unit="1", description="share of stuck cells")

    def read(self, w, site):
        return torch.where(site.rand_like(w, per="chip") < self.p, torch.zeros_like(w), w)


@pytest.fixture(autouse=True)
def effects():
    from mho.config import registry

    known = registry.Registry()
    for cls in (Additive, Multiplicative, Gain, StuckAtZero):
        known.register(cls)
    with registry.using(known):
        yield


class Setting:
    """One linear layer, its data, and the matrices of the closed forms."""

    def __init__(self, tile):
        g = torch.Generator().manual_seed(0)
        self.x, self.y = torch.randn(40, 5, generator=g), torch.randn(40, 4, generator=g)
        layer = nn.Linear(5, 4, bias=False)
        layer.weight.data = 1.6 * torch.rand(4, 5, generator=g) - 0.8
        hw = Hardware.from_yaml(f"mho: 1\ndefault: t\ntiles: {{t: {{mapping: {{kind: mho.direct}}, {tile}}}}}")
        self.net = mho.to_analog(layer, hw)
        assert torch.equal(self.net.tiles.gamma, torch.ones(1, 4))
        self.C, self.D = self.x.T @ self.x / 40, self.y.T @ self.x / 40
        self.W = layer.weight.data
        self.clean = self.W @ self.C - self.D

    def loss(self, net):
        return ((net(self.x) - self.y) ** 2).sum() / (2 * 40)

    def draws(self, modes, chips=DRAWS):
        return sample_gradients(self.net, self.loss, modes=modes, chips=chips)


def assert_mean(draws, expected):
    """Every entry within 4.4 standard errors (and rounding)."""
    sem = draws.std(0) / math.sqrt(len(draws))
    off = (draws.mean(0) - expected.flatten()).abs()
    assert (off <= Z * 1.1 * sem + 1e-5).all(), (off / sem).max()


def test_the_clean_gradient_is_that_of_the_digital_layer():
    s = Setting("nonidealities: [closed.additive]")
    torch.testing.assert_close(s.draws(["ste"], 2).clean["(root)"], s.clean.flatten())


@pytest.mark.parametrize("mode", MODES)
def test_additive_noise_leaves_the_expected_gradient_clean(mode):
    """R000-10: E g~ = g, and E|g~ - g|^2 = s^2 d_out |C|_F^2 (n = 160 draws of 20 numbers)."""
    s = Setting("nonidealities: [closed.additive]")
    draws = s.draws([mode]).draws[mode]["(root)"]
    assert_mean(draws, s.clean)
    variance = float(((draws - s.clean.flatten()) ** 2).sum(1).mean())
    square = (draws - s.clean.flatten()).pow(2).sum(1)
    assert variance == pytest.approx(0.2**2 * 4 * float((s.C**2).sum()), abs=Z * float(square.std()) / math.sqrt(DRAWS))


def test_multiplicative_noise_adds_a_decay_to_the_true_gradient_and_none_to_the_decoupled_one():
    """R000-11: vanilla E g~ = g + s^2 W diag(C); R000-12: decoupled E g~ = g."""
    s = Setting("nonidealities: [closed.multiplicative]")
    found = s.draws(["autograd", "ste"]).draws
    assert_mean(found["autograd"]["(root)"], s.clean + 0.4**2 * s.W * s.C.diagonal())
    assert_mean(found["ste"]["(root)"], s.clean)
    assert not torch.allclose(found["autograd"]["(root)"].mean(0), s.clean.flatten(), atol=0.02)  # they do differ


def test_a_common_gain_turns_the_gradient_without_any_variance():
    """R000-13: E g~ = r (r W C - D)."""
    s = Setting("nonidealities: [closed.gain]")
    found = s.draws(["autograd"], 3).draws["autograd"]["(root)"]
    torch.testing.assert_close(found[0], (0.7 * (0.7 * s.W @ s.C - s.D)).flatten())
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_cells_stuck_at_zero():
    """R000-14: E g~ = (1 - p) [(1 - p) W C + p W diag(C) - D]."""
    s, p = Setting("nonidealities: [closed.stuck]"), 0.3
    assert_mean(
        s.draws(["autograd"]).draws["autograd"]["(root)"], (1 - p) * ((1 - p) * s.W @ s.C + p * s.W * s.C.diagonal() - s.D)
    )


def test_rounding_kills_the_true_gradient_and_barely_touches_the_decoupled_one():
    """R000-15: vanilla c1 = 0, b1 = 1, everything dead; R000-16: decoupled b1 is of the order of the rounding step."""
    s = Setting("adc: {bits: 6, bound: 8}")
    d = mho.gradient_directions(s.net, s.loss, chips=3)
    vanilla, decoupled = d.of("autograd"), d.of("ste")
    assert (vanilla.cosine, vanilla.bias, vanilla.dead) == (0, 1, 1)
    step = 8 / 31
    error = step / math.sqrt(12) * float(s.x.norm()) * math.sqrt(4) / 40  # of a sum of independent roundings
    assert 0 < decoupled.bias < 3 * error / float(s.clean.norm())
    assert decoupled.cosine > 0.99 and decoupled.dead == 0


def test_programming_and_ageing_are_differentiated_in_mode_autograd():
    """A loss of nothing but the weights: its true derivative is the finite difference of the chip's weights."""
    hw = mho.load("pcm.standard", set=["tiles.pcm.mapping.kind=mho.direct"])
    layer = nn.Linear(3, 2, bias=False)
    layer.weight.data = torch.tensor([[0.3, -0.5, 0.8], [0.6, 0.2, -0.9]])
    net = mho.to_analog(layer, hw)
    chip = mho.program(net, 5)
    chip.age("1 h")
    array, step = net.tiles, 1e-3
    w = layer.weight.detach().clone().requires_grad_()
    torch.testing.assert_close(chip_weights(array, w), array.chip.weights)
    (slope,) = torch.autograd.grad(chip_weights(array, w).sum(), w)
    for i, j in ((0, 0), (0, 1), (1, 2)):
        e = torch.zeros(2, 3)
        e[i, j] = step
        with torch.no_grad():
            around = [float(chip_weights(array, w + v).double()[0, i, j]) for v in (e, -e)]
        assert float(slope[i, j]) == pytest.approx((around[0] - around[1]) / (2 * step), rel=0.01)
        assert abs(float(slope[i, j]) - 1) > 0.01  # not straight-through


def test_cosines_are_free_of_monte_carlo_bias():
    """Strong noise, few draws: the plain cosine of the mean would be far below 1, the corrected one is not on average."""
    s = Setting("nonidealities: [{kind: closed.additive, s: 1.0}]")
    plain, corrected = [], []
    for seed in range(40):
        g = sample_gradients(s.net, s.loss, modes=["ste", EXPECTED], chips=6, seed=seed)
        mean = g.draws["ste"]["(root)"].mean(0)
        plain.append(float(mean @ s.clean.flatten() / (mean.norm() * s.clean.norm())))
        corrected.append(directions(g, ["ste"]).of("ste").cosine)
    known = [c for c in corrected if not math.isnan(c)]
    assert sum(plain) / 40 < 0.9 and abs(sorted(known)[len(known) // 2] - 1) < 0.1


def test_the_network_is_as_before(hardware):
    net = mho.to_analog(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), hardware("adc: {bits: 8, bound: 10}"))
    net.train()
    chip = mho.program(net, 3)
    x, before = torch.randn(5, 4), [a.training_spec for a in (net[0].tiles, net[2].tiles)]
    found = mho.gradient_directions(net, lambda n: n(x).square().mean(), chips=2)
    assert mho.chip_on(net) is chip if hasattr(mho, "chip_on") else True
    assert [a.training_spec for a in (net[0].tiles, net[2].tiles)] == before and net.training
    assert not net[0].tiles._forward_pre_hooks and not net[0].tiles.exact
    assert all(p.grad is None for p in net.parameters())
    assert {d.layer for d in found} == {"all", "0", "2"} and "cos(clean)" in str(found)


def test_mistakes_are_named():
    with pytest.raises(mho.MhoError, match="no analog layers"):
        mho.gradient_directions(nn.Linear(2, 2), lambda n: torch.zeros(()))
    s = Setting("adc: {bits: 6, bound: 8}")
    with pytest.raises(mho.MhoError, match="at least 2 chips"):
        mho.gradient_directions(s.net, s.loss, chips=1)
