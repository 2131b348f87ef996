"""Quantised and noisy training from YAML: the sections `noise`, `quantise`, `distill` and `schedule`."""

import math

import pytest
import torch
from mho_kit import contract_of, run
from mho_kit.fixtures import needs
from torch import nn
from torch.nn import functional as F

import mho
from mho.config import registry
from mho.effects import quantisers, straight

pytestmark = pytest.mark.filterwarnings("ignore:training an analog network without mho.attach")

EXACT = "rows: 8\nnonidealities: [pcm.programming_noise]"


def training(**keys):
    return "training: {" + ", ".join(f"{k}: {v}" for k, v in keys.items()) + "}"


def layer(hw, out=6, rows=20, seed=0):
    torch.manual_seed(seed)
    return mho.to_analog(nn.Linear(rows, out), hw).train()


# --- the schedule (R002-05) ---


def test_the_schedule_reproduces_the_published_epochs():
    """R002-05: FP for 10 epochs, quantisation from 11, noise from 21, full at 121, end at 300, 1e-3 -> 1e-6 by a cosine."""
    s = mho.Schedule()
    begins = range(300)  # `done` when epoch 1, 2, ... begins
    assert [s.quantised(d) for d in begins].index(True) + 1 == 11
    noise = [s.noise(d) for d in begins]
    assert noise[:21] == [0.0] * 21 and noise[21] == pytest.approx(0.01)
    assert noise.index(1.0) + 1 == 121 and noise[70] == pytest.approx(0.5)
    assert s.epochs == 300
    assert s.rate(0) == pytest.approx(1e-3) and s.rate(300) == pytest.approx(1e-6)
    assert s.rate(150) == pytest.approx((1e-3 + 1e-6) / 2)
    assert s.rate(75) == pytest.approx(1e-6 + (1e-3 - 1e-6) * (1 + math.sqrt(0.5)) / 2)


def test_a_stretched_schedule_keeps_its_shape():
    s = mho.Schedule().stretched(30)
    assert (s.quantise_from, s.noise_from, s.noise_full, s.epochs) == (2, 3, 13, 30)


@needs("mho-pcm")
def test_attach_follows_a_schedule_in_any_loop(hardware):
    """Learning rate, quantisers, injection and pre-activation noise all come from it, step by step."""
    plan = "{quantise_from: 2, noise_from: 3, noise_full: 5, epochs: 6, lr: 0.1, lr_end: 0}"
    hw = hardware(EXACT, training(schedule=plan, noise="{sigma: 1}", quantise="{weights: {bits: 4}}", clip="none"))
    net = layer(hw)
    optimizer = torch.optim.SGD(net.parameters(), lr=7.0)
    attached = mho.attach(optimizer, net, steps_per_epoch=2)
    shares, ramps, on, rates = [], [], [], []
    for _ in range(12):
        net(torch.randn(3, 20)).sum().backward()
        shares.append(attached.methods[0].noise.share)
        ramps.append(float(net.tiles.ramp_share()))
        on.append(net.tiles.weight_quantiser.on)
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
    assert shares == [0, 0, 0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 1] == ramps
    assert on == [False] * 2 + [True] * 10
    assert rates == pytest.approx([0.05 * (1 + math.cos(math.pi * k / 12)) for k in range(12)])


def test_a_digital_network_follows_a_schedule_by_hand():
    net = mho.quantise(nn.Sequential(nn.Linear(3, 2)), weights=4)
    noise, optimizer = mho.PreactivationNoise(0.1).attach(net), torch.optim.Adam(net.parameters())
    mho.follow(mho.Schedule(), 70, optimizer, net, noise)
    assert noise.share == 0.5 and all(q.on for q in quantisers(net))
    mho.follow(mho.Schedule(), 5, optimizer, net, noise)
    assert noise.share == 0 and not any(q.on for q in quantisers(net))
    x = torch.randn(4, 3)
    assert torch.equal(net(x), F.linear(x, net[0].parametrizations.weight.original, net[0].bias))


# --- noise on pre-activations, from YAML (R002-03) ---


def test_noise_on_preactivations_is_there_in_training_only_and_grows(hardware):
    """std of 20,000 outputs follows the ramp: sigma k/4; alpha = 1e-5 is 2.2 %."""
    net = layer(hardware("rows: 20", training(noise="{sigma: 2, ramp: 4 steps}", clip="none")), out=200)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    attached = mho.attach(optimizer, net)
    x = torch.zeros(100, 20)
    for k in range(6):
        spread = float((net(x) - net.bias).detach().std())
        assert spread == pytest.approx(2 * min(1, k / 4), rel=0.022)
        optimizer.step()
    assert torch.equal(net.eval()(x), net.bias.expand(100, -1))
    assert torch.equal(mho.to_digital(net).eval()(x), net.bias.expand(100, -1))
    attached.detach()
    assert torch.equal(net.train()(x), net.bias.expand(100, -1))


@needs("mho-pcm")
def test_a_schedule_is_the_only_one_to_count_epochs(hardware):
    with pytest.raises(mho.ConfigError) as error:
        hardware(EXACT, training(schedule="{epochs: 30}", epochs=3, lr=0.1, inject="{ramp: 1 epoch}"))
    assert [p.path for p in error.value.problems] == ["training.epochs", "training.lr", "training.inject.ramp"]


# --- distillation (R003-75) ---


def test_distillation_is_the_mixture_of_the_paper():
    """R003-75, by hand in float64: T = 10, 0.75 of T^2 KL and 0.25 of the task."""
    torch.manual_seed(0)
    y, t = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True), torch.randn(4, 3, 5, dtype=torch.float64)
    task = F.cross_entropy(y.flatten(0, 1), torch.zeros(12, dtype=torch.long))
    p, q = (t / 10).softmax(-1), (y / 10).softmax(-1)
    expected = 0.75 * 100 * (p * (p / q).log()).sum(-1).mean() + 0.25 * task
    assert torch.allclose(mho.distillation_loss(y, t, task), expected)
    assert torch.allclose(mho.distillation_loss(y, y, task), 0.25 * task)


def test_the_gradient_of_a_soft_teacher_does_not_shrink_with_the_temperature():
    """Hinton et al. 2015: for large T it is (y - mean y - t + mean t)/classes per logit; n = 1 vector."""
    y, t = torch.randn(1, 6, dtype=torch.float64, requires_grad=True), torch.randn(1, 6, dtype=torch.float64)
    mho.distillation_loss(y, t, torch.zeros(()), temperature=1e4, weight=1.0).backward()
    centred = (y - y.mean() - t + t.mean()).detach() / 6
    assert torch.allclose(y.grad, centred, rtol=1e-3)


# --- in hardware files ---


@pytest.mark.parametrize("kind", ["qat.noise", "qat.quantise", "qat.distill", "qat.schedule"])
@pytest.mark.filterwarnings("ignore")
def test_a_method_keeps_the_contract_of_training_methods(kind):
    cls = registry.resolve(kind)
    outcomes = run(contract_of(cls.model_validate(cls.example)))
    assert {o.check: o.message for o in outcomes if o.state == "failed"} == {}
    assert sum(o.state == "passed" for o in outcomes) > 15


@needs("mho-pcm")
def test_sections_and_the_list_mean_the_same(hardware):
    section = hardware(EXACT, training(noise="{sigma: 0.3}", quantise="none"))
    listed = hardware(EXACT, training(methods="[{kind: qat.noise, sigma: 0.3}]"))
    assert section.training.method("qat.noise") == listed.training.method("qat.noise")
    assert section.training.method("qat.quantise") is None
    for hw in (section, listed):
        assert mho.Hardware.from_yaml(hw.to_yaml()) == hw
    assert mho.load(section, set=["training.noise.sigma=0.5"]).training.method("qat.noise").sigma == 0.5
    changed = mho.load(listed, set=["training.methods[qat.noise].sigma=0.5"])
    assert changed.training.method("qat.noise").sigma == 0.5


@pytest.mark.parametrize(
    ("keys", "path", "says"),
    [
        ({"nois": "{}"}, "training.nois", "unknown key 'nois'; did you mean 'noise'?"),
        ({"noise": "{sigm: 1}"}, "training.noise.sigm", "unknown key 'sigm'; did you mean 'sigma'?"),
        ({"noise": "0.3"}, "training.noise", "expected keys with values or none, got 0.3"),
        ({"noise": "{kind: qat.distill}"}, "training.noise.kind", "expected 'qat.noise', got 'qat.distill'"),
        ({"quantise": "{weights: {bits: 1}}"}, "training.quantise.weights.bits", "≥ 2 and ≤ 8"),
        ({"noise": "{}", "methods": "[qat.noise]"}, "training.methods[0]", "'qat.noise' is given twice"),
        ({"methods": "[pcm.drift]"}, "training.methods[0]", "'pcm.drift' is a nonideality, not a training method"),
        ({"schedule": "{noise_from: 9, noise_full: 8}"}, "training.schedule", "noise_full (8) must not come before"),
    ],
)
@needs("mho-pcm")
def test_mistakes_in_a_section_are_located(hardware, keys, path, says):
    with pytest.raises(mho.ConfigError) as error:
        hardware(EXACT, training(**keys))
    (problem,) = error.value.problems
    assert problem.path == path and says in problem.message


# --- quantisers of other plugins ---


class Powers(mho.Quantiser, kind="powers.of_two"):
    """Rounds every value to a power of two, or to 0."""

    source = "a test"
    lowest: int = mho.Field(-6, unit="1", description="exponent of the smallest value that is not 0")

    def rounded(self, v):
        size = 2.0 ** v.abs().clamp(min=1e-30).log2().round()
        return straight(v, v.sign() * size * (size >= 2.0**self.lowest))


def test_a_quantiser_of_another_plugin_takes_the_same_places(hardware):
    with registry.using(registry.Registry()):
        mho.register(Powers)
        hw = hardware("rows: 8", training(quantise="{weights: {kind: powers.of_two, lowest: -4}}", inject="none"))
        net = layer(hw)
        digital = mho.quantise(nn.Linear(20, 6), weights=Powers(), activations={"kind": "powers.of_two"})
    x = torch.randn(5, 20)
    exponents = net.tiles.stored(net.weight).detach().abs().log2()
    assert ((exponents == exponents.round()) | exponents.isinf()).all() and exponents[exponents.isfinite()].min() >= -4
    net(x).sum().backward()
    assert torch.allclose(net.weight.grad, x.sum(0).expand(6, -1), atol=1e-5)
    plain = mho.to_digital(net)
    assert torch.allclose(plain(x), net(x), atol=1e-5)
    spec = Powers()
    assert torch.equal(digital(x), F.linear(spec.rounded(x), digital.weight, digital.bias))
    assert not any(True for _ in quantisers(mho.unquantise(digital)))
