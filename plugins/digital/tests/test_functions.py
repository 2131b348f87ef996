"""What digital corrections must not change: the function of a network on ideal tiles, through clips, files, copies and folds; and
chips keep the corrections that they were programmed with."""

import copy

import pytest
import torch
from mho_kit.fixtures import needs
from torch import nn
from torch.nn.utils import prune

import mho
from mho.tile import tile_arrays

SCALED, BESIDE = "[digital.channel_scaling]", "[{kind: digital.outlier_channels, share: 0.3, factor: 0.5}]"
ROWS = "tiles.exact.rows=7"


def relative(a, b):
    return float(((a - b).norm() / b.norm()).detach())


@pytest.fixture
def x():
    x = torch.randn(128, 20, generator=torch.Generator().manual_seed(0))
    x[:, 3] *= 30
    return x


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


def corrected(model, x, corrections="[]", *changes):
    net = mho.to_analog(model, mho.load("ideal.exact", set=[f"tiles.exact.corrections={corrections}", ROWS, *changes])).eval()
    mho.calibrate(net, [x])
    return net


def with_adapters(net, *args, **about):
    parameters = mho.adapt(net, *args, **about)
    with torch.no_grad():
        for p in parameters:
            p.normal_(std=0.3)
    return net


@pytest.mark.parametrize("corrections", ["[]", SCALED, BESIDE, "[digital.affine]", f"[{SCALED[1:-1]}, {BESIDE[1:-1]}]"])
def test_a_clip_is_of_what_the_tiles_hold(model, x, corrections):
    model[0].weight.data[:, 3] *= 5
    net, y = corrected(model, x, corrections), model(x)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    mho.attach(optimizer, net, steps_per_epoch=1)
    net.train()(x).sum().backward()
    optimizer.step()  # changes nothing
    assert relative(net.eval()(x), y) < 1e-6
    optimizer.param_groups[0]["lr"] = 1.0
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net.train()(x), torch.arange(128) % 4).backward()
        optimizer.step()
    assert relative(net.eval()(x), y) > 0.1
    for array, weight in ((net[0].tiles, net[0].weight), (net[2].tiles, net[2].weight)):
        assert (array.on_tiles(weight.detach()).abs() <= array.gamma[..., None] * (1 + 1e-5)).all()
    assert relative(mho.to_digital(net)(x), net(x)) < 1e-6 and relative(copy.deepcopy(net)(x), net(x)) < 1e-6


@needs("mho-pcm")
@pytest.mark.parametrize("corrections", [SCALED, BESIDE, "[{kind: digital.affine, rank: 4}]"])
def test_a_saved_chip_asks_for_the_corrections_it_was_programmed_with(model, x, corrections, tmp_path):
    hw = mho.load("pcm.standard", set=[f"tiles.pcm.corrections={corrections}"])
    net = mho.to_analog(model, hw).eval()
    mho.calibrate(net, [x])
    chip, y = mho.program(net, seed=0, age="1 h"), net(x)
    chip.save(tmp_path / "chip.safetensors")
    mho.save_model(net, tmp_path / "net.safetensors")
    other = mho.to_analog(model, hw).eval()
    with pytest.raises(mho.MhoError, match="other digital corrections: load its network first"):
        mho.load_chip(other, tmp_path / "chip.safetensors")
    assert all(a.chip is None for a in tile_arrays(other))
    mho.load_model(other, tmp_path / "net.safetensors")
    mho.adapt(other, rank=2)  # new ones do nothing, and belong to no chip
    mho.load_chip(other, tmp_path / "chip.safetensors")
    assert torch.equal(other(x), y)


@needs("mho-pcm")
def test_calibrating_with_a_chip_on_reads_its_directions_anew(model, x):
    hw = mho.load("pcm.standard", set=["tiles.pcm.corrections=[{kind: digital.affine, rank: 4}]"])
    net = mho.to_analog(model, hw).eval()
    mho.calibrate(net, [x])
    mho.program(net, seed=0, age="1 year")
    before = relative(net(x), model(x))
    mho.calibrate(net, [x[torch.randperm(128, generator=torch.Generator().manual_seed(1))]])
    assert before < 0.25 and relative(net(x), model(x)) < 1.2 * before


@pytest.mark.parametrize("corrections", ["[]", SCALED, BESIDE])
def test_learned_output_scales_are_those_of_the_whole_layer(model, x, corrections):
    net = corrected(model, x, corrections, "training.out_scale=column")
    with torch.no_grad():
        for array in tile_arrays(net):
            array.out_scale.mul_(1.5)
    y, one = net(x), 1.5 * (1.5 * (x @ model[0].weight.T) + model[0].bias).relu() @ model[2].weight.T + model[2].bias
    assert relative(y, one) < 1e-6 and relative(mho.to_digital(net)(x), y) < 1e-6
    done = mho.calibrate(copy.deepcopy(net), [x], method="auto")
    assert all(r.before < 1e-5 for r in done)  # of exact tiles
    for layer in (net[0], net[2]):
        layer.fold_scales()
    assert relative(net(x), y) < 1e-6


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(20, 20), nn.Linear(20, 20)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.a(x).relu())


@pytest.mark.parametrize("make", ["model", Tied])
def test_adapters_become_weights(model, x, make):
    net = with_adapters(corrected(make() if make is Tied else model, x), rank=2)
    digital = mho.to_digital(net)
    assert relative(digital(x), net(x)) < 1e-5 and not any("corrections" in n for n, _ in digital.named_modules())
    assert all(r.before < 1e-5 for r in mho.calibrate(net, [x], method="auto"))  # they are part of what exact tiles compute


def test_adapters_of_groups_are_no_weights():
    net = with_adapters(mho.to_analog(nn.Conv2d(4, 6, 3, groups=2), "ideal.exact"), rank=2)
    with pytest.raises(mho.MhoError, match=r"digital\.adapter adds across groups"):
        mho.to_digital(net)


def test_more_digital_channels_than_the_hardware_allows_are_refused(model, x, tmp_path):
    net = corrected(model, x, BESIDE)
    mho.save_model(net, tmp_path / "net.safetensors")
    less = mho.to_analog(model, mho.load("ideal.exact", set=[f"tiles.exact.corrections={BESIDE.replace('0.3', '0.05')}"]))
    with pytest.raises(mho.MhoError, match=r"\d+ of \d+ channels are digital .* more than share: 0\.05 allows"):
        mho.load_model(less, tmp_path / "net.safetensors")


def test_a_lean_chip_trains_adapters_and_its_network_is_copied(model, x):
    net = with_adapters(corrected(model, x), rank=2)
    mho.program(net, seed=0, lean=True)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
    other = copy.deepcopy(net)
    assert torch.equal(other(x), net(x))
    with torch.no_grad():
        other[0].weight.mul_(2)
    with pytest.raises(mho.MhoError, match="have changed or moved"):
        other(x)


def test_a_lean_chip_of_computed_weights_is_refused(model, x):
    net = corrected(model, x)
    prune.l1_unstructured(net[0], "weight", 0.3)
    mho.program(net, seed=0, lean=True)
    with pytest.raises(mho.MhoError, match="lean chip was made, or are computed"):
        net(x)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_auto_names_inputs_it_cannot_use(model, x, bad):
    with pytest.raises(mho.MhoError, match="NaN, infinite or too large"):
        mho.calibrate(mho.to_analog(model, "ideal.exact"), [x * bad], method="auto")


def test_auto_says_where_it_has_nothing_to_work_with(model, x):
    with pytest.raises(mho.MhoError, match="saw no data"):
        mho.calibrate(mho.to_analog(model, "ideal.exact"), [x[:0]], method="auto")
    with torch.inference_mode(), pytest.raises(mho.MhoError, match="inference_mode"):
        mho.calibrate(mho.to_analog(model, "ideal.exact"), [x], method="auto")


@pytest.mark.parametrize("given", [{"budget": 0.5}, {"dac": "moving_std", "method": "auto"}])
def test_what_would_be_ignored_is_refused(model, x, given):
    with pytest.raises(mho.MhoError, match="a budget belongs to a method"):
        mho.calibrate(mho.to_analog(model, "ideal.exact"), [x], **given)
