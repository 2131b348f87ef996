"""Digital corrections against closed forms: scales, channels beside the tiles, gains and offsets of a chip."""

import itertools
import math

import numpy as np
import pytest
import torch
from mho_digital.adapters import Adapter
from mho_digital.corrections import Affine, ChannelScaling, GainAndOffset, OutlierChannels, directions, fitted
from mho_kit import CorrectionContract
from mho_kit.fixtures import needs
from torch import nn

import mho


class TestScaling(CorrectionContract):
    spec = ChannelScaling()


class TestOutliers(CorrectionContract):
    spec = OutlierChannels(share=0.3)


class TestAffine(CorrectionContract):
    spec = Affine(vectors=8)


class TestAffineWithDirections(CorrectionContract):
    spec = Affine(vectors=32, rank=3)


class TestAdapter(CorrectionContract):
    spec = Adapter(rank=2)


def hardware(corrections, body=""):
    return mho.Hardware.from_yaml(f"mho: 1\ndefault: t\ntiles:\n  t:\n    rows: 40\n    corrections: [{corrections}]\n{body}")


def outliers(*shape):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    x[:, 3] *= 50
    return x


def test_scales_are_those_of_nora_with_a_geometric_mean_of_one():
    layer, x = nn.Linear(20, 6), outliers(64, 20)
    net = mho.to_analog(layer, hardware("{kind: digital.channel_scaling, migration: 0.3}"))
    mho.calibrate(net, [x])
    s = net.tiles.corrections[0].scale.detach().double()
    wanted = x.abs().amax(0).double() ** 0.3 / layer.weight.detach().abs().amax(0).double() ** 0.7
    assert math.log(float(s.prod())) == pytest.approx(0, abs=1e-4)
    assert torch.allclose(s / s[0], wanted / wanted[0], rtol=1e-4)


def test_the_largest_channels_beyond_the_quantile_are_digital_up_to_their_share():
    x = torch.ones(50, 40)
    x[:, 7], x[:, 9], x[:, 11] = 30, 20, 2
    for share, expected in ((0.05, {7, 9}), (0.025, {7}), (1.0, {7, 9, 11})):
        net = mho.to_analog(nn.Linear(40, 6), hardware(f"{{kind: digital.outlier_channels, quantile: 0.9, share: {share}}}"))
        mho.calibrate(net, [x])
        assert set(net.tiles.corrections[0].digital.nonzero().flatten().tolist()) == expected
        assert mho.conversion_report(net)[0].operations == 6 * len(expected)


def test_digital_channels_have_no_error_and_no_cells():
    """Only the outlier has weights: with it beside the tiles nothing analog is left."""
    layer, x = nn.Linear(20, 6, bias=False), outliers(64, 20)
    with torch.no_grad():
        layer.weight[:, [i for i in range(20) if i != 3]] = 0
    hw = mho.load("pcm.standard", set=["tiles.pcm.corrections=[{kind: digital.outlier_channels, quantile: 0.9, share: 0.1}]"])
    net = mho.to_analog(layer, hw).eval()
    mho.calibrate(net, [x])
    mho.program(net, seed=0)
    assert net.tiles.chip.target.abs().max() == 0
    size = layer(x).norm(dim=1)
    assert ((net(x) - layer(x)).norm(dim=1) / size.clamp(min=1)).max() < 0.5  # output noise of the tiles stays


class Skewed(mho.Nonideality, kind="skewed.outputs"):
    """Outputs of every column with a gain and an offset of their own, and noise."""

    source = "a test"
    noise_std: float = mho.Field(0.0, ge=0, unit="1", description="of the outputs")

    def output(self, y, site):
        n = y.shape[-1]
        gain = torch.linspace(0.3, 0.8, n)
        return y * gain + torch.linspace(-0.2, 0.2, n) + self.noise_std * site.randn_like(y)


@pytest.fixture
def skewed():
    from mho.config import registry

    with registry.using(registry.Registry()):
        mho.register(Skewed)
        yield lambda noise=0.0, dac="": mho.Hardware.from_yaml(
            f"mho: 1\ndefault: t\ntiles:\n  t:\n    {dac}\n    corrections: [digital.affine]\n"
            f"    nonidealities: [{{kind: skewed.outputs, noise_std: {noise}}}]\n"
        )


def error(net, layer, x):
    return float(((net(x) - layer(x)).norm(dim=1) / layer(x).norm(dim=1)).mean().detach())


def test_gains_and_offsets_are_read_from_the_chip(skewed):
    layer, x = nn.Linear(30, 6, bias=False), torch.randn(300, 30, generator=torch.Generator().manual_seed(0))
    net = mho.to_analog(layer, skewed()).eval().requires_grad_(False)
    mho.calibrate(net, [x])
    assert error(net, layer, x) > 0.4  # without a chip nothing is repaired
    mho.program(net, seed=0)
    assert error(net, layer, x) < 1e-4
    gamma = net.tiles.chip.gamma[0]
    gain, offset, *_ = net.tiles.chip.repair[1]
    assert torch.allclose(gain, 1 / torch.linspace(0.3, 0.8, 6), rtol=1e-3)
    assert torch.allclose(offset, -gain * gamma * torch.linspace(-0.2, 0.2, 6), atol=1e-3)
    mho.unprogram(net)
    assert error(net, layer, x) > 0.4


@needs("mho-circuit")
@pytest.mark.parametrize(
    ("sign", "pair", "sum"),
    [
        *itertools.product(["pair"], ["active", "both"], ["digital", "analog"]),
        *itertools.product(["columns", "offset", "twos_complement"], ["single"], ["digital", "analog"]),
        ("reference", "single", "digital"),
    ],
)
def test_gains_are_fitted_to_the_exact_products_of_sliced_weights(monkeypatch, sign, pair, sum):
    """Digits of 5 bits on ideal devices: x_i round(15 w_ij/gamma_i) gamma_i/15, whatever holds them, and offset devices that
    conduct 1 of 25 uS where they hold 0."""
    layer, x, seen = nn.Linear(50, 6, bias=False), torch.randn(64, 50, generator=torch.Generator().manual_seed(0)), []
    mapping = f"mapping: {{kind: circuit.digits, bits: 5, digit: 2, sign: {sign}, sum: {sum}}}"
    tile = f"    {mapping}\n    device: {{g_min: {0 if pair == 'active' else 1} uS, g_max: 25 uS, pair: {pair}}}\n"
    net = mho.to_analog(layer, hardware("digital.affine", tile)).eval().requires_grad_(False)
    mho.calibrate(net, [x])
    monkeypatch.setattr(GainAndOffset, "repair", lambda self, read: seen.append(read(x)))
    mho.program(net, seed=0)
    w = net.tiles.layout.cut_weight(layer.weight.detach())
    gamma = w.abs().amax(-1, keepdim=True)
    exact = net.tiles.layout.add_up(mho.product(net.tiles.layout.cut(x), (15 * w / gamma).round() * gamma / 15))
    assert torch.allclose(seen[0]["exact"], exact, atol=1e-5) and torch.allclose(seen[0]["outputs"], exact, atol=1e-4)


def test_a_noisy_read_shrinks_the_gain_to_what_minimises_the_error(skewed):
    """One read of y = a t + noise: g = a var t/(a^2 var t + sigma^2), for one output and vectors of equal weight"""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.ones_(layer.weight)
    x = torch.randint(0, 2, (256, 1), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    net = mho.to_analog(layer, skewed(noise=0.3)).eval().requires_grad_(False)
    mho.calibrate(net, [x])
    mho.program(net, seed=0)
    gain = float(net.tiles.chip.repair[1][0])
    assert gain == pytest.approx(0.3 / (0.09 + 0.09), abs=4.42 * 0.12)  # std of a slope of 256 points: 0.1


def test_drift_is_repaired_again_at_every_age_and_saved_with_the_chip(tmp_path):
    layer, x = nn.Linear(64, 16), torch.randn(300, 64, generator=torch.Generator().manual_seed(0))
    errors = []
    for corrections in ("", "digital.affine"):
        changes = [f"tiles.pcm.corrections=[{corrections}]", "tiles.pcm.compensation=none"]
        net = mho.to_analog(layer, mho.load("pcm.standard", set=changes)).eval().requires_grad_(False)
        mho.calibrate(net, [x])
        chip = mho.program(net, seed=0)
        found = [error(net, layer, x)]
        for t in ("1 h", "1 year"):
            chip.age(t)
            found.append(error(net, layer, x))
        errors.append(found)
    assert all(b < 1.02 * a for a, b in zip(*errors)) and errors[1][2] < errors[0][2] / 2
    chip.save(tmp_path / "chip")
    y, repair = net(x), net.tiles.chip.repair
    mho.unprogram(net)
    mho.load_chip(net, tmp_path / "chip")
    assert all(torch.equal(a, b) for a, b in zip(net.tiles.chip.repair[1], repair[1])) and net(x).shape == y.shape


def test_a_chip_of_a_network_in_training_is_read_as_it_is_deployed():
    layer, x = nn.Linear(64, 16), torch.randn(300, 64, generator=torch.Generator().manual_seed(0))
    changes = ["tiles.pcm.corrections=[digital.affine]", "tiles.pcm.compensation=none"]
    net = mho.to_analog(layer, mho.load("pcm.standard", set=changes))
    mho.calibrate(net, [x])
    repairs = []
    for mode in (True, False):
        net.train(mode)
        mho.program(net, seed=3).age("1 year")
        repairs.append(net.tiles.chip.repair[1])
        assert net.tiles.training is mode
    assert torch.equal(repairs[0][0], repairs[1][0]) and torch.equal(repairs[0][1], repairs[1][1])


def test_clipped_vectors_do_not_rule_the_fit(skewed):
    """A few vectors far beyond the input range: least squares over all of them would follow these"""
    layer = nn.Linear(30, 6, bias=False)
    x = torch.randn(400, 30, generator=torch.Generator().manual_seed(0))
    x[::10] *= 100
    net = mho.to_analog(layer, skewed(dac="dac: {bits: none, range: 4.0}")).eval().requires_grad_(False)
    mho.calibrate(net, [x])
    mho.program(net, seed=0)
    good = x[1::10]
    assert error(net, layer, good) < 0.05
    assert torch.allclose(net.tiles.chip.repair[1][0], 1 / torch.linspace(0.3, 0.8, 6), rtol=0.05)


def test_vectors_without_outputs_and_huge_ones_do_not_rule_the_fit(skewed):
    """A tenth of the vectors gives almost nothing (what is read is noise), another outputs 300 times as large"""
    layer = nn.Linear(30, 6, bias=False)
    x = torch.randn(400, 30, generator=torch.Generator().manual_seed(0))
    x[::10] *= 1e-4
    x[1::10] *= 300
    net = mho.to_analog(layer, skewed(noise=0.05)).eval().requires_grad_(False)
    mho.calibrate(net, [x])
    mho.program(net, seed=0)
    assert torch.allclose(net.tiles.chip.repair[1][0], 1 / torch.linspace(0.3, 0.8, 6), rtol=0.05)


def test_a_fit_that_does_not_help_on_the_other_half_is_not_taken(skewed):
    """Pure noise has nothing to fit: gains of 0 would be the best, and held-out vectors decide"""
    layer = nn.Linear(4, 6, bias=False)
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    net = mho.to_analog(layer, mho.load("ideal.exact", set=["tiles.exact.corrections=[digital.affine]"])).eval()
    mho.calibrate(net, [x])
    mho.program(net, seed=0)
    before = net.tiles.chip.repair
    assert before is None or torch.allclose(before[1][0], torch.ones(6), atol=1e-3)


def test_gains_are_read_with_the_vectors_that_the_layer_is_given(skewed):
    """Behind other corrections of the inputs, calibration vectors are still those of the layer: they are scaled once."""
    layer, x = nn.Linear(30, 6, bias=False), torch.randn(300, 30, generator=torch.Generator().manual_seed(0))
    x *= torch.logspace(-2, 2, 30)
    data = skewed().to_data()
    data["tiles"]["t"]["corrections"].insert(0, {"kind": "digital.channel_scaling"})
    net = mho.to_analog(layer, mho.Hardware.from_data(data)).eval().requires_grad_(False)
    mho.calibrate(net, [x])
    scaling, affine = net.tiles.corrections
    assert (scaling.scale != 1).all()
    kept = affine.bits[: int(affine.count)].view(torch.bfloat16)
    assert torch.equal(kept, x[: len(kept)].to(torch.bfloat16))
    mho.program(net, seed=0)
    assert error(net, layer, x) < 1e-3


@pytest.mark.parametrize("rank", [0, 3])
def test_the_joint_fit_is_the_least_squares_solution_of_every_output(rank):
    """g y_j + z b + o against numpy's solution for the columns [y_j, z, 1] of one output after the other, in fp64"""
    generator = torch.Generator().manual_seed(0)
    y, t, z = (torch.randn(50, n, generator=generator, dtype=torch.float64) for n in (4, 4, rank))
    weight = torch.rand(50, generator=generator, dtype=torch.float64) + 0.1
    g, o, b = fitted(y, t, weight, z)
    root = weight.sqrt().numpy()[:, None]
    for j in range(4):
        columns = np.concatenate([y[:, j : j + 1], z, np.ones((50, 1))], 1) * root
        exact = np.linalg.lstsq(columns, t[:, j].numpy() * root[:, 0], rcond=None)[0]
        assert np.allclose([g[j], *b[:, j], o[j]], exact, atol=1e-10)


def test_directions_are_those_of_a_singular_value_decomposition():
    """x of rank 4 in 12 channels, equally long vectors: right singular vectors over singular values of centred x; no fifth"""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((40, 4), (4, 12)))
    x = a @ b
    x /= x.norm(dim=1, keepdim=True)
    centred = x - x.mean(0)
    _, s, vh = torch.linalg.svd(centred)
    found = directions(x, 5)
    assert torch.allclose(found[:, :4].abs(), (vh[:4].T / s[:4]).abs(), rtol=1e-6, atol=1e-9) and not found[:, 4].any()
    assert torch.allclose((centred @ found[:, :4]).norm(dim=0), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("grouped", [False, True])
def test_errors_along_the_directions_of_the_inputs_are_repaired(grouped):
    """Inputs of rank 3: whatever the cells of a chip make of them, rank 3 holds it; gains and offsets do not"""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 3, generator=generator) @ torch.randn(3, 32, generator=generator) + 0.5
    layer, given = nn.Linear(32, 8), x
    if grouped:
        layer, given = nn.Conv1d(32, 8, 1, groups=2), x[:, :, None]
    errors = {}
    for rank in (0, 3):
        changes = [f"tiles.afm.corrections=[{{kind: digital.affine, rank: {rank}}}]", "tiles.afm.dac=none", "tiles.afm.adc=none"]
        net = mho.to_analog(layer, mho.load("pcm.afm2025", set=changes)).eval().requires_grad_(False)
        mho.calibrate(net, [given])
        mho.program(net, seed=0)
        errors[rank] = error(net, layer, given)
        (part,) = net.tiles.corrections
        assert part.operations == rank * (32 + 8)
    assert errors[3] < 0.005 < 0.02 < errors[0]


def test_a_rank_is_read_again_at_every_age_and_saved_with_the_network(tmp_path):
    layer, x = nn.Linear(64, 16), torch.randn(300, 4, generator=torch.Generator().manual_seed(0)) @ torch.randn(4, 64)
    errors = {}
    for rank in (0, 8):
        hw = mho.load("pcm.standard", set=[f"tiles.pcm.corrections=[{{kind: digital.affine, rank: {rank}}}]"])
        net = mho.to_analog(layer, hw).eval().requires_grad_(False)
        mho.calibrate(net, [x])
        mho.save_model(net, tmp_path / "net.safetensors")
        again = mho.load_model(mho.to_analog(layer, hw).eval(), tmp_path / "net.safetensors")
        for n in (net, again):
            mho.program(n, seed=0, age="1 year")
        assert torch.equal(net(x), again(x))
        errors[rank] = error(net, layer, x)
    assert errors[8] < 0.8 * errors[0]


def test_a_chip_keeps_its_repair_when_adapters_are_exchanged():
    """Listed in front of the gains, an adapter is exchanged in its place."""
    layer, x = nn.Linear(32, 8), torch.randn(100, 32, generator=torch.Generator().manual_seed(0))
    hw = mho.load(
        "pcm.standard", set=["tiles.pcm.corrections=[{kind: digital.adapter, rank: 2}, {kind: digital.affine, rank: 2}]"]
    )
    net = mho.to_analog(nn.Sequential(layer), hw).eval()
    mho.calibrate(net, [x])
    mho.program(net, seed=0)
    before = error(net, layer, x)
    mho.adapt(net, rank=4)
    assert error(net, layer, x) == pytest.approx(before, rel=0.1)
