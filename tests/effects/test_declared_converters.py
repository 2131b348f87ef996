"""Converters of plugins that stay on the fast path: pointwise, with constants of the chip, and unequal sides of 0."""

from typing import ClassVar

import pytest
import torch

import mho
from mho import Adc, Dac, Field


class HalfSided(Dac, kind="halfsided.dac"):
    """Codes reach down to -low of the range only."""

    source: ClassVar[str] = "a test"
    low: float = Field(0.5, ge=0, le=1, unit="1", description="how far the codes reach below 0")

    @property
    def lowest(self):
        return -self.low


class Bent(Dac, kind="bent.dac"):
    """v - bend v^3."""

    source: ClassVar[str] = "a test"
    bend: float = Field(0.1, unit="1", description="cubic share")

    def transfer(self, v, site):
        return v - self.bend * v**3


class Skewed(Adc, kind="skewed.adc"):
    """Every output column has a gain and an offset of its own on each chip."""

    source: ClassVar[str] = "a test"
    spread: float = Field(0.05, ge=0, unit="1", description="standard deviation of gains, and of offsets in analog units")

    def prepare(self, site):
        like = torch.empty(len(site.rows.n), site.columns, device=site.rows.n.device)
        site.gain = 1 + self.spread * site.randn_like(like, per="chip", name="gain")
        site.offset = self.spread * site.randn_like(like, per="chip", name="offset")

    def transfer(self, y, site):
        return site.gain * y + site.offset


@pytest.fixture(autouse=True)
def registered():
    from mho.config import registry

    with registry.using(registry.Registry()):
        for cls in (HalfSided, Bent, Skewed):
            mho.register(cls)
        yield


def tile(body, precision="auto", w=None, training=""):
    torch.manual_seed(0)
    w = torch.randn(6, 20) if w is None else w
    text = f"mho: 1\ndefault: t\nprecision: {precision}\ntiles:\n  t:\n    rows: 9\n{body}{training}\n"
    return mho.Tile(w, mho.Hardware.from_yaml(text))


PLAIN = "    dac: {bits: 8, range: 1.0}\n"
X = torch.linspace(-1.3, 1.3, 7 * 20).view(7, 20)


def test_a_dac_with_unequal_sides_clips_each_where_it_ends():
    """Codes round(127 clip(z, -0.5, 1)): with exact weights the outputs are those of the clipped, rounded inputs."""
    t = tile("    dac: {kind: halfsided.dac, bits: 8, range: 1.0}\n", "reference")
    coded = (127 * X.clamp(-0.5, 1)).round() / 127
    assert torch.allclose(t(X), coded @ t.weight.T, atol=1e-5)


@pytest.mark.parametrize("low", [0.0, 0.5, 1.0])
def test_it_stays_in_integers(low):
    body = f"    dac: {{kind: halfsided.dac, bits: 8, range: 1.0, low: {low}}}\n    adc: {{bits: 8, bound: 10}}\n"
    fused, reference = tile(body), tile(body, "reference")
    assert fused.tiles.backend.route.tier in ("int8", "fp32")
    step = float((fused.tiles.gamma.sum(0) * 10 / 127).max())
    assert (fused(X) - reference(X)).abs().max() <= 1.01 * step
    gradients = []
    for t in (fused.train(), reference.train()):
        x = X.clone().requires_grad_()
        (t(x) * torch.arange(6.0)).sum().backward()
        gradients.append(x.grad)
    outside = (X > 1) | (-low > X)
    assert torch.equal(gradients[0] == 0, outside) and torch.allclose(*gradients, rtol=1e-3, atol=1e-3)


def test_at_lowest_minus_1_it_is_the_dac_of_the_core():
    ours = tile("    dac: {kind: halfsided.dac, bits: 8, range: 1.0, low: 1.0}\n")
    assert torch.equal(ours(X), tile(PLAIN)(X))


def test_a_transfer_of_the_dac_bends_its_values_on_both_paths():
    """Exact weights: y = W (v - 0.1 v^3) of the rounded v."""
    body = "    dac: {kind: bent.dac, bits: 8, range: 1.0, bend: 0.1}\n"
    fused, reference = tile(body), tile(body, "reference")
    v = (127 * X.clamp(-1, 1)).round() / 127
    exact = (v - 0.1 * v**3) @ fused.weight.T
    assert fused.tiles.backend.route.fused
    assert torch.allclose(fused(X), exact, atol=1e-4) and torch.allclose(reference(X), exact, atol=1e-5)


def test_a_transfer_is_the_identity_in_backward_and_trains_on_the_fast_path():
    body = "    dac: {kind: bent.dac, bits: 8, range: 1.0}\n    adc: {kind: skewed.adc, bits: 8, bound: 20}\n"
    fused, reference = (tile(body, p).train() for p in ("auto", "reference"))
    assert not fused.tiles.backend.route.by_reference
    found = []
    for t in (fused, reference):
        x = (0.9 * X).clamp(-1, 1).requires_grad_()
        torch.manual_seed(3)
        t(x).sum().backward()
        found.append((x.grad, t.weight.grad))
    inside = (0.9 * X).abs() < 1
    straight = torch.ones(7, 6) @ fused.weight.detach()
    assert torch.allclose(found[0][0][inside], straight[inside], atol=1e-4)
    for a, b in zip(*found):
        assert torch.allclose(a, b, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("image", [False, True])
@pytest.mark.parametrize("kind", ["bent.dac", "halfsided.dac"])
def test_input_ranges_learn_the_same_on_both_paths(kind, image):
    """From the ends of the range, 1 and `lowest`, whatever a transfer makes of them."""
    torch.manual_seed(0)
    plain, x = (torch.nn.Conv2d(2, 6, 3), torch.randn(4, 2, 6, 6)) if image else (torch.nn.Linear(20, 6), torch.randn(30, 20))
    found = []
    for precision in ("auto", "reference"):
        text = f"mho: 1\ndefault: t\nprecision: {precision}\ntiles:\n  t:\n    rows: 18\n    dac: {{kind: {kind}, bits: 8}}\n"
        net = mho.to_analog(plain, mho.Hardware.from_yaml(text)).train()
        assert net.tiles.backend.route.fused == (precision == "auto")
        y = net(x)
        (y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum().backward()
        found.append(net.tiles.input_range.grad)
    assert found[1].abs().min() > 0 and torch.allclose(*found, rtol=2e-3)


def test_errors_of_single_converters_belong_to_the_chip_and_are_independent():
    """gain y + offset of every (tile, output), the same at every call; another chip has others. n = 3 tiles x 600 outputs."""
    w = torch.ones(600, 20)
    body = PLAIN + "    adc: {kind: skewed.adc, bits: none, bound: 100, spread: 0.05}\n"
    fused, reference = tile(body, w=w), tile(body, "reference", w=w)
    one = torch.ones(1, 20)
    for t in (fused, reference):
        t.program(seed=4)
    first = fused(one)
    assert fused.tiles.backend.route.fused and torch.equal(first, fused(one))
    assert torch.allclose(first, reference(one), atol=1e-3)
    offsets = fused(torch.zeros(1, 20))  # the sum of three offsets
    assert float(offsets.std()) == pytest.approx(0.05 * 3**0.5, rel=5 * 0.707 / 600**0.5)
    gains = (first - offsets) - 20
    share = 0.05 * (7**2 + 7**2 + 6**2) ** 0.5  # rows of the tiles
    assert float(gains.std()) == pytest.approx(share, rel=5 * 0.707 / 600**0.5)
    correlation = torch.corrcoef(torch.cat([gains, offsets]))[0, 1]
    assert abs(float(correlation)) < 4.5 / 600**0.5
    assert not torch.allclose(first, fused.program(seed=5)(one), atol=1e-3)
