"""Digital corrections: parts around the tiles that change nothing where the tiles are ideal, and repair what they do not."""

import warnings
from typing import ClassVar

import pytest
import torch
from torch import nn

import mho
from mho import Correction, Field
from mho.config import registry
from mho.effects import CorrectionModule


class Scaling(Correction, kind="tried.scaling"):
    """Channels are divided by their largest input, the weights multiplied."""

    source: ClassVar[str] = "a test"

    def module(self, matrix):
        return ScalingModule(self, matrix)


class ScalingModule(CorrectionModule):
    def __init__(self, spec, matrix):
        super().__init__(spec, matrix)
        self.register_buffer("scale", torch.ones(matrix.channels))

    def inputs(self, x):
        return x / self.scale

    def weights(self, w):
        scale = self.scale.repeat_interleave(self.matrix.cells)
        return w * (scale if w.dim() == 2 else scale.view(len(w), 1, -1))

    def fit(self, x, w, y):
        self.scale.copy_(x.abs().amax(0).view(-1, self.matrix.cells).amax(1).clamp(min=1e-6))


class Beside(Correction, kind="tried.beside"):
    """The channel with the largest input stays digital."""

    source: ClassVar[str] = "a test"

    def module(self, matrix):
        return BesideModule(self, matrix)


class BesideModule(CorrectionModule):
    def __init__(self, spec, matrix):
        super().__init__(spec, matrix)
        self.register_buffer("channel", torch.full((1,), -1))

    @property
    def mask(self):
        return torch.arange(self.matrix.channels) == self.channel

    def inputs(self, x):
        return x.masked_fill(self.mask, 0)

    def outputs(self, y, x, w):
        return y + (x() * self.mask.repeat_interleave(self.matrix.cells)) @ w.T

    def fit(self, x, w, y):
        self.channel[0] = x.abs().amax(0).view(-1, self.matrix.cells).amax(1).argmax()

    @property
    def operations(self):
        return self.matrix.outputs * self.matrix.cells


class Affine(Correction, kind="tried.affine"):
    """Gain and offset of every output by least squares against the digital product."""

    source: ClassVar[str] = "a test"
    offset: bool = Field(True, description="fit an offset too")

    def module(self, matrix):
        return AffineModule(self, matrix)


class AffineModule(CorrectionModule):
    def __init__(self, spec, matrix):
        super().__init__(spec, matrix)
        self.register_buffer("gain", torch.ones(matrix.outputs))
        self.register_buffer("shift", torch.zeros(matrix.outputs))

    def outputs(self, y, x, w):
        return y * self.gain + self.shift

    def fit(self, x, w, y):
        is_, exact = y(), x @ w.T
        a, b = is_ - is_.mean(0), exact - exact.mean(0)
        self.gain.copy_((a * b).sum(0) / (a * a).sum(0))
        self.shift.copy_(exact.mean(0) - self.gain * is_.mean(0))

    @property
    def operations(self):
        return self.matrix.outputs


class Missing(Correction, kind="tried.missing"):
    """Adds what the tiles miss of every output on average."""

    source: ClassVar[str] = "a test"

    def module(self, matrix):
        return MissingModule(self, matrix)


class MissingModule(CorrectionModule):
    def __init__(self, spec, matrix):
        super().__init__(spec, matrix)
        self.register_buffer("missing", torch.zeros(matrix.outputs))

    def fit(self, x, w, y):
        self.missing.copy_((x @ w.T - y()).mean(0))

    def outputs(self, y, x, w):
        return y + self.missing


KINDS = (Scaling, Beside, Affine, Missing)


@pytest.fixture(autouse=True)
def registered():
    with registry.using(registry.Registry()):
        for cls in KINDS:
            mho.register(cls)
        yield


def hardware(corrections, body="", precision="auto", rows=9):
    text = f"mho: 1\ndefault: t\nprecision: {precision}\ntiles:\n  t:\n    rows: {rows}\n    corrections: [{corrections}]\n{body}"
    return mho.Hardware.from_yaml(text)


LAYERS = {
    "linear": (lambda: nn.Linear(20, 6), (40, 20)),
    "conv": (lambda: nn.Conv2d(4, 6, 3, padding=1), (5, 4, 6, 6)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 2), (5, 4, 6, 6)),
    "1x1": (lambda: nn.Conv1d(20, 6, 1), (5, 20, 6)),
}


def outliers(shape, channel=1):
    """Inputs whose second channel is 50 times as large."""
    torch.manual_seed(1)
    x = torch.randn(shape)
    x[:, channel] *= 50
    return x


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", [c.KIND for c in KINDS])
def test_with_ideal_tiles_a_fitted_correction_changes_nothing(layer, kind):
    make, shape = LAYERS[layer]
    torch.manual_seed(0)
    plain = make()
    net, x = mho.to_analog(plain, hardware(kind)).eval().requires_grad_(False), outliers(shape)
    mho.calibrate(net, [x])
    exact, state = plain(x).detach(), net.state_dict()
    assert any(".corrections.0." in name for name in state)
    assert torch.allclose(net(x), exact, rtol=1e-3, atol=1e-3 * float(exact.abs().max()))
    again = mho.to_analog(make(), hardware(kind)).eval()
    again.load_state_dict(state)
    assert torch.equal(again(x), net(x))
    digital = mho.to_digital(net)
    assert torch.allclose(digital(x), exact, rtol=1e-4, atol=1e-4)


CONVERTERS = "    dac: {bits: 8}\n    adc: {bits: 8, bound: 10}\n"


def error(net, plain, x):
    y = plain(x).detach()
    return float((net(x).detach() - y).norm() / y.norm())


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("precision", ["auto", "reference"])
def test_scaling_frees_the_other_channels_of_an_outlier(layer, precision):
    """Without the outlier's share of the output, 8 bits of a range 50 times too large leave errors of 4 to tens of percent."""
    make, shape = LAYERS[layer]
    torch.manual_seed(0)
    plain = make()
    with torch.no_grad():
        (plain.weight[:, 1] if layer != "transposed" else plain.weight[1]).mul_(1e-3)  # the outlier hardly matters
    x, errors = outliers(shape), []
    for kind in ("", "tried.scaling", "tried.beside"):
        net = mho.to_analog(plain, hardware(kind, CONVERTERS, precision, rows=40)).eval()
        mho.calibrate(net, [x])
        errors.append(error(net, plain, x))
    bare, scaled, beside = errors
    assert bare > 0.03 and scaled < bare / 4 and beside < bare / 4


def test_gains_and_offsets_are_fitted_on_the_chip_that_is_on():
    """Every column has drifted by a factor of its own and an offset: the least squares fit brings the digital outputs back."""
    torch.manual_seed(0)
    plain = nn.Linear(20, 6, bias=False)
    net, x = mho.to_analog(plain, hardware("tried.affine", "    dac: {bits: 8}\n")).eval(), torch.randn(400, 20)
    mho.calibrate(net, [x])
    mho.program(net, seed=1)
    drifted = net.tiles.chip.gamma * torch.linspace(0.3, 0.8, 6)
    net.tiles.chip.gamma.copy_(drifted)
    assert error(net, plain, x) > 0.3
    mho.calibrate(net, [x], None)
    assert error(net, plain, x) < 0.01
    assert torch.allclose(net.tiles.corrections[0].gain, 1 / torch.linspace(0.3, 0.8, 6), rtol=0.01)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 0.01), (torch.bfloat16, 0.03)])
def test_they_are_fitted_in_networks_of_any_precision(dtype, error):
    torch.manual_seed(0)
    plain, x = nn.Linear(20, 6).to(dtype), torch.randn(400, 20).to(dtype)
    net = mho.to_analog(plain, hardware("tried.scaling, tried.affine")).eval()
    mho.calibrate(net, [x])
    exact = plain(x)
    assert net(x).dtype == dtype and (net(x) - exact).norm() < error * exact.norm()


def test_a_chip_is_programmed_with_the_weights_that_corrections_write():
    plain = nn.Linear(20, 6, bias=False)
    net, x = mho.to_analog(plain, hardware("tried.scaling")).eval(), outliers((40, 20))
    mho.calibrate(net, [x])
    mho.program(net, seed=1)
    assert torch.allclose(net(x), plain(x), rtol=1e-3, atol=1e-2)


def test_the_report_says_what_corrections_cost():
    net = mho.to_analog(nn.Sequential(nn.Conv2d(4, 6, 3)), hardware("tried.beside, tried.affine"))
    (entry,) = mho.conversion_report(net).analog
    assert entry.operations == 6 * 9 + 6 and "60 digital operations a vector" in str(mho.conversion_report(net))


def test_gradients_pass_through_corrections_and_their_parameters_are_trained():
    class Branch(CorrectionModule):
        def __init__(self, spec, matrix):
            super().__init__(spec, matrix)
            self.down, self.up = nn.Linear(matrix.inputs, 2, bias=False), nn.Linear(2, matrix.outputs, bias=False)

        def outputs(self, y, x, w):
            return y + self.up(self.down(x()))

    class LowRank(Correction, kind="tried.low_rank"):
        """A digital branch of rank 2."""

        source: ClassVar[str] = "a test"

        def module(self, matrix):
            return Branch(self, matrix)

    mho.register(LowRank)
    net = mho.to_analog(nn.Linear(20, 6), hardware("tried.scaling, tried.low_rank", CONVERTERS)).train()
    x = torch.randn(30, 20, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net(x).square().mean().backward()
    branch = net.tiles.corrections[1]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in branch.parameters())
    assert x.grad.abs().sum() > 0 and net.weight.grad.abs().sum() > 0


def test_an_unknown_correction_is_located():
    with pytest.raises(mho.ConfigError, match=r"tiles.t.corrections\[0\][\s\S]*tried.scaling"):
        hardware("tried.scalling")


def test_a_part_behind_the_tiles_is_fitted_to_weights_with_learned_scales():
    layer, x = nn.Linear(12, 5), torch.rand(64, 12, generator=torch.Generator().manual_seed(0))
    net = mho.to_analog(
        layer, mho.load("ideal.exact", set=["tiles.exact.corrections=[tried.missing]", "training.out_scale=column"])
    )
    with torch.no_grad():
        net.tiles.out_scale.mul_(3)
    mho.calibrate(net.eval(), [x])
    assert net.tiles.corrections[0].missing.abs().max() < 1e-5  # exact tiles miss nothing
