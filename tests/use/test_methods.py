"""Training beside noise injection: backward per layer, surrogates, scales, direct deployment, and methods of plugins."""

import math
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import mho
from mho.config import Span, registry
from mho.tile.array import RANGE_RATE

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


# --- backward modes (R001) ---


def test_a_rule_gives_its_layers_a_backward_of_their_own(hardware):
    """R001-03: `layers:` decides per layer, `training:` about the rest."""
    hw = hardware(
        FULL,
        "layers:\n  - {match: '0', tile: t, backward: ste}\n"
        "  - {match: '2', tile: t, backward: {mode: surrogate, surrogate: mho.saturating}}",
    )
    net = mho.to_analog(nn.Sequential(nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3)), hw)
    assert [net[i].tiles.training_spec.backward.mode for i in (0, 2, 4)] == ["ste", "surrogate", "through"]
    x, g = torch.randn(4, 9), torch.randn(4, 7)
    net.train()[0](x).backward(g)
    assert torch.allclose(net[0].weight.grad, g.T @ x, rtol=1e-5, atol=1e-5)


def test_a_digital_layer_cannot_have_a_backward(hardware):
    with pytest.raises(mho.ConfigError, match=r"layers\[0\].backward\n.*torch's own backward"):
        hardware(FULL, "layers:\n  - {match: '0', tile: digital, backward: ste}")


def test_nothing_of_the_noise_chain_is_kept_for_the_backward(hardware):
    """R001-04, R001-08: clean backwards save at most 30 % more than the clean layers, autograd through the model far more."""

    def saved(model):
        kept, held = {}, []
        known = {p.untyped_storage().data_ptr() for p in model.parameters()}

        def pack(t):
            store = t.untyped_storage()
            if store.data_ptr() not in known:
                kept[store.data_ptr()] = store.nbytes()
            held.append(t)  # so that no address is used twice
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            y = model(torch.randn(32, 64, generator=torch.Generator().manual_seed(0)))
        assert y.requires_grad
        return sum(kept.values())

    torch.manual_seed(0)
    model = nn.Sequential(*[m for _ in range(4) for m in (nn.Linear(64, 64), nn.ReLU())])
    full = FULL.replace("rows: 8", "rows: 64")
    sizes = {
        mode: saved(mho.to_analog(model, hardware(full, training(backward=mode))).train())
        for mode in ("ste", "masked", "{mode: surrogate, surrogate: mho.saturating}", "{mode: autograd, rounding: ste}")
    }
    clean = saved(model)
    assert sizes.pop("{mode: autograd, rounding: ste}") > 10 * clean and all(size <= 1.3 * clean for size in sizes.values())


@pytest.mark.parametrize("mode", ["surrogate", "{mode: ste, surrogate: mho.saturating}"])
def test_a_surrogate_needs_its_mode_and_the_mode_a_surrogate(hardware, mode):
    with pytest.raises(mho.ConfigError, match="belong together"):
        hardware(FULL, training(backward=mode))


def test_the_gradient_of_a_surrogate_is_that_of_its_stand_in(hardware):
    """R001-02 by hand: y = sum over tiles of gamma b tanh(x.w/(gamma b)), and the forward is the simulator's."""
    hw = "rows: 8\nadc: {bits: 6, bound: 0.7}\nnonidealities: [pcm.programming_noise, circuit.output_noise]"
    net = layer(hardware(hw, training(backward="{mode: surrogate, surrogate: mho.saturating}")))
    through = layer(hardware(hw))
    x, g = torch.randn(5, 20).requires_grad_(), torch.randn(5, 6)
    torch.manual_seed(3)
    y = net(x)
    torch.manual_seed(3)
    assert torch.equal(y, through(x.detach()))
    y.backward(g)

    z, w = x.detach().clone().requires_grad_(), net.weight.detach().clone().requires_grad_()
    by_hand = net.bias.detach()
    for rows in torch.arange(20).split(net.tiles.layout.sizes):
        gamma = w.detach()[:, rows].abs().amax(1)
        by_hand = by_hand + gamma * 0.7 * torch.tanh(z[:, rows] @ w[:, rows].T / (gamma * 0.7))
    by_hand.backward(g)
    assert torch.allclose(x.grad, z.grad, atol=1e-6) and torch.allclose(net.weight.grad, w.grad, atol=1e-6)


def test_masked_passes_no_gradient_where_clean_signals_are_beyond_the_converters(hardware):
    """Independently: g_x = sum_i [|u_i| < b] g_i W_ij [|x_j| < alpha], g_W likewise, u = W x / (alpha gamma) of one tile."""
    alpha, bound = 0.8, 0.9
    hw = f"rows: 32\ndac: {{bits: 4, range: {alpha}}}\nadc: {{bits: 3, bound: {bound}}}\nnonidealities: [circuit.output_noise]"
    net, ste = (layer(hardware(hw, training(backward=mode))) for mode in ("masked", "ste"))
    x, g = torch.randn(40, 20).requires_grad_(), torch.randn(40, 6)
    torch.manual_seed(3)
    y = net(x)
    torch.manual_seed(3)
    assert torch.equal(y, ste(x.detach()))
    y.backward(g)

    w, inside, cut = net.weight.detach(), x.detach().abs() < alpha, x.detach().clamp(-alpha, alpha)
    u = cut @ w.T / (alpha * w.abs().amax(1))
    passed = g * (u.abs() < bound)
    assert 0.1 < float((passed == 0).float().mean()) < 0.9  # some outputs are beyond the bound, some are not
    assert torch.allclose(x.grad, passed @ w * inside, atol=1e-5)
    assert torch.allclose(net.weight.grad, passed.T @ cut, atol=1e-4)


def test_masked_is_ste_where_nothing_saturates(hardware):
    grads = []
    for mode in ("masked", "ste"):
        net = layer(hardware("rows: 8\ndac: {range: 9.0}\nadc: {bits: 6, bound: 50}", training(backward=mode)))
        x = torch.linspace(-1, 1, 100).view(5, 20).requires_grad_()
        net(x).square().sum().backward()
        grads.append((x.grad, net.weight.grad))
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(*grads))


def test_a_stand_in_has_second_derivatives(hardware):
    """Those of b tanh(u / b) in the inputs, for a fixed gradient of the outputs, against central differences."""
    net = layer(
        hardware("rows: 32\nadc: {bits: none, bound: 0.9}", training(backward="{mode: surrogate, surrogate: mho.saturating}"))
    )
    net, x, g = net.double(), torch.randn(3, 20, dtype=torch.float64).requires_grad_(), torch.randn(3, 6, dtype=torch.float64)

    def square(v):
        (first,) = torch.autograd.grad((net(v) * g).sum(), v, create_graph=True)
        return first.square().sum()

    (second,) = torch.autograd.grad(square(x), x)
    step = 1e-6 * torch.randn_like(x)
    apart = square((x + step).detach().requires_grad_()) - square((x - step).detach().requires_grad_())
    assert torch.allclose(apart / 2, (second * step).sum(), rtol=1e-3)


def test_a_plugins_own_backward_trains(hardware):
    """R001-01, R001-03: a backward written by hand, behind a forward that calls numpy."""

    class Halved(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            ctx.save_for_backward(x, w)
            return torch.einsum("vtr,tor->vto", x, w)

        @staticmethod
        def backward(ctx, g):
            x, w = ctx.saved_tensors
            return torch.einsum("vto,tor->vtr", g, w) / 2, torch.einsum("vto,vtr->tor", g, x) / 2

    class Half(mho.Surrogate, kind="halfback.half"):
        """Half of the clean gradient."""

        def outputs(self, x, w, geometry):
            return Halved.apply(x, w)

    class Table(mho.Nonideality, kind="halfback.table"):
        """An output stage in numpy."""

        strength = None

        def output(self, y, site):
            return torch.from_numpy(y.numpy().round(1))

    mho.register(Half)
    mho.register(Table)
    net = layer(
        hardware("rows: 8\nnonidealities: [halfback.table]", training(backward="{mode: surrogate, surrogate: halfback.half}"))
    )
    x, g = torch.randn(5, 20), torch.randn(5, 6)
    net(x).backward(g)
    assert torch.allclose(net.weight.grad, g.T @ x / 2, atol=1e-6)


@pytest.mark.parametrize("mode", ["ste", "masked", "{mode: surrogate, surrogate: mho.saturating}"])
def test_without_a_gradient_input_ranges_follow_statistics(hardware, mode):
    """R003-62: the running mean of the abs-max of mini-batches, cap 10, of each row tile."""
    net = layer(hardware("rows: 10\ndac: {bits: 8, range: learned}", training(backward=mode, inject="none")))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    mho.attach(optimizer, net)
    expected = torch.ones(2, 1)
    for size in (3.0, 0.5, 100.0):
        x = torch.randn(6, 20) * size
        net(x).sum().backward()
        optimizer.step()
        tops = torch.stack([x[:, :10].abs().max(), x[:, 10:].abs().max()])[:, None]
        expected = expected + RANGE_RATE * (tops - expected)
        assert torch.allclose(net.tiles.input_range, expected)
    net.eval()(torch.randn(6, 20) * 50)
    optimizer.step()
    assert torch.allclose(net.tiles.input_range, expected)
    assert not net.tiles.input_range.requires_grad


def test_checkpointed_forwards_replay_their_own_weights(hardware):
    """R001-10: two root forwards before one backward; each replays the draw that it had."""

    class Net(nn.Module):
        def __init__(self, ckpt):
            super().__init__()
            self.a, self.b, self.ckpt = nn.Linear(20, 20), nn.Linear(20, 4), ckpt

        def forward(self, x):
            def body(v):
                return self.b(torch.relu(self.a(v)))

            return {"logits": checkpoint(body, x, use_reentrant=False) if self.ckpt else body(x)}

    results = []
    for ckpt in (False, True):
        torch.manual_seed(0)
        net = mho.to_analog(Net(ckpt), hardware(FULL)).train()
        torch.manual_seed(1)
        x = torch.randn(5, 20).requires_grad_()
        first, second = net(x)["logits"], net(2 * x)["logits"]
        third = net(x)["logits"]
        (first.pow(2).sum() + second.pow(3).sum()).backward()
        third.sum().backward()
        results.append((first, second, x.grad, net.a.weight.grad, net.b.weight.grad))
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_training_computes_with_everything_but_ageing(hardware):
    """R003-61, R003-63: mapped by column (Eq. 21), all effects of a product, no drift and no long-term read noise."""
    plain = layer(hardware(FULL))
    ageing = layer(hardware(FULL.replace("[pcm.prog", "[pcm.drift, pcm.read_noise_1f, pcm.prog")))
    assert torch.equal(ageing.tiles.gamma, ageing.tiles.layout.cut_weight(ageing.weight.detach()).abs().amax(-1))
    out, x = [], torch.randn(4, 20)
    for net in (plain, ageing):
        torch.manual_seed(1)
        out.append(net(x))
    assert torch.equal(*out)


# --- noise per sample (R003-64, option) ---


def test_every_sample_can_have_noisy_weights_of_its_own(hardware):
    """Samples differ, positions of one sample do not; the law is that of programming (n = 20,000, alpha = 1e-5: 2.2 %)."""
    hw = hardware("rows: 10\nnonidealities: [pcm.programming_noise]", training(inject="{scale: 2, per: sample}", clip="none"))
    net = mho.to_analog(nn.Linear(10, 100, bias=False), hw).train()
    with torch.no_grad():
        net.weight.fill_(1.0)
    net.tiles.remap(net.weight)
    torch.manual_seed(0)
    y = net(torch.eye(10).expand(20, 10, 10)).detach()  # 20 samples of 10 positions: all their weights
    sigma = 2 * (0.26348 + 1.9650 - 1.1731) / 25
    assert y.std() / sigma == pytest.approx(1, abs=0.022)
    between = ((y[:-1] - 1) * (y[1:] - 1)).mean() / sigma**2
    assert abs(float(between)) < 4.42 / 19_000**0.5
    twice = net(torch.eye(10)[:1].expand(3, 2, 10)).detach()
    assert torch.equal(twice[:, 0], twice[:, 1]) and not torch.equal(twice[0], twice[1])


@pytest.mark.parametrize("mode", ["through", "ste"])
def test_noise_per_sample_goes_back_through_the_weights_of_the_sample(hardware, mode):
    net = layer(hardware(EXACT, training(inject="{scale: 1, per: sample}", backward=mode)))
    x = torch.eye(20)[:4].clone().requires_grad_()
    torch.manual_seed(1)
    net(x).sum().backward()
    noisy = []
    for k in range(4):  # the weights of sample k, read with unit vectors
        torch.manual_seed(1)
        unit = torch.eye(20)[:, None].expand(20, 4, 20).transpose(0, 1)  # [sample, position, in]
        noisy.append((net(unit)[k] - net.bias).sum(1).detach())
    clean = net.weight.sum(0).detach()
    expected = torch.stack(noisy) if mode == "through" else clean.expand(4, -1)
    assert torch.allclose(x.grad, expected, atol=1e-5)


def test_recurrent_layers_keep_the_weights_of_a_sample_over_time(hardware):
    hw = hardware(EXACT, training(inject="{scale: 3, per: sample}"))
    torch.manual_seed(0)
    net = mho.to_analog(nn.RNN(4, 4, bias=False, batch_first=True), hw).train()
    with torch.no_grad():
        net.weight_hh_l0.zero_()
    y, _ = net(torch.ones(3, 5, 4))
    torch.testing.assert_close(y[:, :1].expand_as(y), y)
    assert (y[0] - y[1]).abs().max() > 1e-3


# --- output scales (R003-71 ... R003-74) ---


@pytest.mark.parametrize(
    ("learn", "learned"), [("fixed", set()), ("tile", {"kappa"}), ("column", {"out_scale"}), ("both", {"kappa", "out_scale"})]
)
def test_out_scale_says_which_factors_learn(hardware, learn, learned):
    """R003-71: gamma~ per column and kappa per physical tile, each optional."""
    hw = hardware("rows: 8\ncolumns: 4\nadc: {bits: 8, bound: 5}", training(out_scale=learn, inject="none"))
    net = layer(hw)
    tiles = net.tiles
    assert tiles.kappa.shape == (3, 2) and (tiles.kappa == 5).all()  # kappa~ starts at b_out (R003-73)
    assert (tiles.output_factor() == 1).all()
    assert {n for n in ("kappa", "out_scale") if getattr(tiles, n).requires_grad} == learned


def test_the_gradients_of_the_scales_are_those_of_the_formula(hardware):
    """R003-71 to R003-73: y_i = sum_t gamma_ti c_ti p_ti (kappa~_tb/b_out) F_ti, with F the exact analog outputs."""
    hw = hardware(
        "rows: 8\ncolumns: 4\nadc: {bits: none, bound: 5}", training(out_scale="both", auto_scale="true", inject="none")
    )
    net, x, g = layer(hw), torch.randn(7, 20), torch.randn(7, 6)
    tiles = net.tiles
    aws = math.sqrt(3 / 20)
    assert torch.allclose(tiles.out_scale, tiles.gamma / aws)  # p starts at gamma/c_aws (R003-72)
    net(x).backward(g)
    p, kappa = torch.nn.Parameter(tiles.out_scale.detach()), torch.nn.Parameter(torch.full((3, 2), 5.0))
    y = torch.zeros(7, 6)
    for t, rows in enumerate(torch.arange(20).split(tiles.layout.sizes)):
        analog = x[:, rows] @ (net.weight.detach()[:, rows] / tiles.gamma[t][:, None]).T
        y = y + aws * p[t] * (kappa[t, tiles.layout.block] / 5) * analog
    assert torch.allclose(y + net.bias, net(x), atol=1e-5)
    y.backward(g)
    assert torch.allclose(tiles.out_scale.grad, p.grad, atol=1e-5) and torch.allclose(tiles.kappa.grad, kappa.grad, atol=1e-5)


def test_weight_decay_on_kappa_asks_for_larger_weights(hardware):
    """R003-73: with decay on kappa~ alone, training to the same targets ends with larger weights on tiles."""
    norms = []
    for decay in (0.0, 0.3):
        net = layer(hardware("rows: 20\nadc: {bits: 8, bound: 10}", training(out_scale="tile", inject="none", clip="none")))
        start = net.weight.detach().clone()
        groups = [{"params": [net.tiles.kappa], "weight_decay": decay}, {"params": [net.weight], "weight_decay": 0.0}]
        optimizer = torch.optim.SGD(groups, lr=0.02)
        mho.attach(optimizer, net)
        x = torch.randn(64, 20, generator=torch.Generator().manual_seed(0))
        for _ in range(100):
            optimizer.zero_grad()
            F.mse_loss(net(x), F.linear(x, start, net.bias).detach()).backward()
            optimizer.step()
        norms.append(float(net.weight.detach().norm()))
    assert norms[1] > 1.05 * norms[0]


def test_folding_leaves_the_function_and_one_scale_per_column(hardware):
    """R003-74: folded and unfolded agree to 1e-6; in the plain torch network too."""
    net = layer(hardware("rows: 8\ncolumns: 4\nadc: {bits: none, bound: 5}", training(out_scale="both", auto_scale="true")))
    with torch.no_grad():
        net.tiles.out_scale.mul_(torch.rand_like(net.tiles.out_scale) + 0.5)
        net.tiles.kappa.mul_(torch.rand_like(net.tiles.kappa) + 0.5)
    x = torch.randn(5, 20)
    before, plain = net.eval()(x), mho.to_digital(net)(x)
    net.fold_scales()
    assert (net.tiles.output_factor() == 1).all()
    assert torch.allclose(net(x), before, atol=1e-6) and torch.allclose(plain, before, atol=1e-6)


def test_a_checkpoint_computes_the_same_behind_an_adc_with_another_bound(hardware):
    """R003-73: kappa is relative to the bound of the hardware that it was trained on, not to that it is deployed on."""
    trained = layer(hardware("rows: 8\nadc: {bits: none, bound: 5}", training(out_scale="tile", inject="none")))
    with torch.no_grad():
        trained.tiles.kappa.mul_(1.2)
    deployed = layer(hardware("rows: 8\nadc: {bits: none, bound: 20}"))
    deployed.load_state_dict(trained.state_dict())
    x = torch.randn(5, 20)
    assert torch.allclose(deployed.eval()(x), trained.eval()(x))


def test_auto_scale_needs_something_to_scale(hardware):
    with pytest.raises(mho.ConfigError, match="out_scale: column"):
        hardware(EXACT, training(auto_scale="true"))


# --- methods of plugins ---


class Recorder(mho.TrainingMethod, kind="recorder.calls"):
    """Writes down what it is asked."""

    source = "a test"
    strict: bool = mho.Field(False, description="refuse to start")
    seen: ClassVar[list] = []

    def convert(self, array, weight):
        self.seen.append(("convert", array.name, tuple(weight.shape)))
        with torch.no_grad():
            weight[:, 0] = 0

    def start(self, training):
        self.seen.append(("start", training.spec.method(self.kind) is self, training.steps(Span(2, "epochs"), "it")))
        if self.strict:
            raise mho.MhoError("it does not want to")
        return self

    def before_forward(self, step):
        self.seen.append(("before", step))

    def after_step(self, array, weight, step):
        self.seen.append(("after", array.name, step))
        weight.mul_(0.5)

    def detach(self):
        self.seen.append(("detach",))

    def decides(self):
        return {"epochs": 7, "inject.ramp": "slowly"}


@pytest.fixture
def seen():
    with registry.using(registry.Registry()):
        mho.register(Recorder)
        Recorder.seen.clear()
        yield Recorder.seen


def test_a_method_of_a_plugin_acts_where_yaml_lists_it(hardware, seen):
    hw = hardware("rows: 8", training(methods="[recorder.calls]", inject="none", clip="none"))
    torch.manual_seed(0)
    net = mho.to_analog(nn.Sequential(nn.Linear(9, 4)), hw).train()
    assert (net[0].weight[:, 0] == 0).all() and net[0].tiles.gamma.shape == (2, 4)
    optimizer, before = torch.optim.SGD(net.parameters(), lr=0.0), net[0].weight.detach().clone()
    attached = mho.attach(optimizer, net, steps_per_epoch=5)
    for _ in range(2):
        net(torch.ones(2, 9)).sum().backward()
        optimizer.step()
    net.eval()(torch.ones(2, 9))
    attached.detach()
    assert torch.equal(net[0].weight, before / 4)
    assert seen == [
        ("convert", "0", (4, 9)),
        ("start", True, 10),
        ("before", 0),
        ("before", 0),
        ("after", "0", 1),
        ("before", 1),
        ("after", "0", 2),
        ("detach",),
    ]


def test_what_a_method_decides_is_written_nowhere_else(hardware, seen):
    assert hardware("rows: 8", training(methods="[recorder.calls]")).training.decided["epochs"] == 7
    with pytest.raises(mho.ConfigError) as error:
        hardware("rows: 8", training(methods="[recorder.calls, recorder.calls]", epochs=3, inject="{ramp: 1 epoch}"))
    found = {p.path: p.message for p in error.value.problems}
    assert found["training.epochs"] == "training.methods[1] says this already; remove one of them"
    assert set(found) == {"training.methods[0]", "training.methods[1]", "training.epochs", "training.inject.ramp"}


def test_a_training_that_cannot_start_leaves_the_network_free(hardware, seen):
    net = layer(hardware("rows: 8", training(methods="[{kind: recorder.calls, strict: true}]")))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    for _ in range(2):
        with pytest.raises(mho.MhoError, match="does not want to"):
            mho.attach(optimizer, net, steps_per_epoch=5)
    optimizer.step()
    assert not net.tiles.is_attached and int(net.tiles.step) == 0


def test_a_method_goes_on_with_what_it_remembers(hardware):
    """The mean of a weight over three steps, interrupted after the second; a state of other methods is refused."""

    class Mean(mho.TrainingHooks):
        def __init__(self):
            self.sum, self.count = torch.zeros(3, 4), 0

        def after_step(self, array, weight, step):
            self.sum, self.count = self.sum + weight, self.count + 1

        def state_dict(self):
            return {"sum": self.sum, "count": self.count}

        def load_state_dict(self, state):
            self.sum, self.count = state["sum"], state["count"]

    class Averaged(mho.TrainingMethod, kind="remembering.mean"):
        """Weights are averaged."""

        source = "a test"

        def start(self, training):
            return Mean()

    def begun():
        net = mho.to_analog(nn.Linear(4, 3), mho.load("ideal.exact", set=["training.methods=[remembering.mean]"]))
        with torch.no_grad():
            net.weight.copy_(torch.arange(12.0).reshape(3, 4) / 12)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
        return optimizer, mho.attach(optimizer, net)

    with registry.using(registry.Registry()):
        mho.register(Averaged)
        optimizer, attached = begun()
        optimizer.step(), optimizer.step()
        state = attached.state_dict()
        optimizer, attached = begun()
        attached.load_state_dict(state)
        optimizer.step()
        assert attached.methods[0].count == 3
        assert torch.allclose(attached.methods[0].sum, torch.arange(12.0).reshape(3, 4) / 4)
        with pytest.raises(mho.MhoError, match="with other methods: qat; here: methods"):
            attached.load_state_dict({"qat": {}})
