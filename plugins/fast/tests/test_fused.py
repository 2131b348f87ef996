"""The fused path against the reference path: values, noise, gradients, keys, and what it falls back for."""

import copy
import itertools
import math
import pickle
import threading
from typing import ClassVar

import pytest
import torch
from mho_fast import epilogue, kernels, tier, workspace
from mho_fast.route import Pair, _joints
from torch import nn

import mho
from mho.effects import arithmetic, draws
from mho.tile import layout

needs_int8 = pytest.mark.skipif(not tier.has_int8(), reason="no exact and fast integer products on this processor")
pytestmark = pytest.mark.filterwarnings("ignore:training an analog network without mho.attach")
Z = 4.42  # two-sided 1e-5 quantile of the normal distribution
QUIET = "nonidealities: [pcm.programming_noise, circuit.ir_drop, circuit.adc_s_curve]"
FULL = "nonidealities: [pcm.programming_noise, circuit.ir_drop, pcm.read_noise, circuit.output_noise]"
FAST = ("int8", "fp32-main", "fp32")


def tile_yaml(effects=FULL, dac="{bits: 8, range: 1.0}", adc="{bits: 8, bound: 10}", rows=64):
    return f"rows: {rows}\ncolumns: 32\ndac: {dac}\nadc: {adc}\n{effects}"


def data(out=50, rows=150, vectors=40):
    g = torch.Generator().manual_seed(0)
    return torch.randn(out, rows, generator=g) * 0.2, torch.rand(vectors, rows, generator=g) * 2.2 - 1.1


def both(hardware, precision, body, extra=""):
    """The same matrix on the two paths."""
    w, _ = data()
    return [mho.Tile(w, hardware(body, f"precision: {p}\n{extra}")) for p in (precision, "reference")]


CASES = {
    "three uneven row tiles": tile_yaml(QUIET),
    "one tile": tile_yaml(QUIET, rows=256),
    "coarse converters": tile_yaml(QUIET, dac="{bits: 6, range: 1.0}", adc="{bits: 5, bound: 10}"),
    "dynamic input range": tile_yaml(QUIET, dac="{bits: 8, range: dynamic}"),
    "no rounding in the ADC": tile_yaml(QUIET, adc="{bits: none, bound: 10}"),
    "no ADC": tile_yaml("nonidealities: [pcm.programming_noise, circuit.ir_drop]", adc="none"),
    "ten-bit ADC": tile_yaml(QUIET, adc="{bits: 10, bound: 10}"),
    "pairs of devices": tile_yaml(QUIET) + "\ndevice: {g_min: 1 uS, g_max: 25 uS, pair: both}",
    "plain accumulate": tile_yaml("nonidealities: [circuit.polarity_asymmetry, circuit.ir_drop, circuit.ir_drop_ladder]"),
    "plain read": tile_yaml("nonidealities: [rram.telegraph_noise, circuit.ir_drop]"),
    "scaled terms": tile_yaml("nonidealities: [{kind: circuit.ir_drop, scale: 3}]"),
}


@needs_int8
@pytest.mark.parametrize("body", CASES.values(), ids=CASES.keys())
def test_without_fresh_noise_the_paths_agree_to_one_code_of_the_adc(hardware, body):
    """fp32: a few roundings at code edges. Integer sides are good to 1/127 of their range: some codes move by one."""
    _, x = data()
    for precision in FAST:
        fused, reference = both(hardware, precision, body)
        assert fused.tiles.backend.route.tier == precision
        with torch.no_grad():
            a, b = (t.program(seed=3).age("1 h")(x) for t in (fused, reference))
        adc = fused.tiles.spec.adc
        step = 0.01 if adc is None or adc.bits is None else 10 / adc.top
        gain = fused.tiles.digital_scale().amax() * (1.1 if fused.tiles.spec.dac.range == "dynamic" else 1.0)
        moved = (a - b).abs() / (step * gain)
        assert moved.max() < 1.01 * fused.tiles.layout.row_tiles, precision
        assert (moved > 0.01).double().mean() < (1e-3 if precision == "fp32" else 0.12), precision
        assert (a - b).norm() < 0.02 * b.norm(), precision


@pytest.mark.parametrize("precision", FAST)
def test_the_noise_has_the_moments_of_the_reference_path(hardware, precision):
    """n = 2,000 draws of 50 outputs each, a fine ADC: means and variances within their standard errors at alpha = 1e-5."""
    x = data()[1][:1].expand(2000, -1)
    fused, reference = both(hardware, precision, tile_yaml(adc="{bits: 16, bound: 20}"))
    with torch.no_grad():
        a, b = (t.program(seed=3)(x).double() for t in (fused, reference))
    n = len(x)
    se = ((a.var(0) + b.var(0)) / n).sqrt()
    quantised = 0.002 * fused.tiles.digital_scale().sum(0)  # integer sides shift the mean of an output by as much
    assert ((a.mean(0) - b.mean(0)).abs() < 5 * se + quantised).all()
    ratio = (a.var(0) / b.var(0)).log()
    assert ratio.abs().max() < 5 * math.sqrt(4 / n) and abs(ratio.mean()) < Z * math.sqrt(4 / n / 50) + 0.005
    z = (a - a.mean(0)) / a.std(0)
    assert abs((z**4).mean() - 3) < Z * math.sqrt(96 / a.numel()) + 0.01
    assert abs((z[1:] * z[:-1]).mean()) < Z / math.sqrt(a.numel())
    assert abs((z[:, 1:] * z[:, :-1]).mean()) < Z / math.sqrt(a.numel())


def test_a_chip_gives_the_same_bits_however_a_batch_is_cut_and_on_any_number_of_threads(hardware):
    w, x = data(vectors=500)
    tile = mho.Tile(w, hardware(tile_yaml())).program(seed=1)
    before = torch.get_num_threads()
    with torch.no_grad():
        whole = tile.age(60.0)(x)
        try:
            torch.set_num_threads(2)
            again = tile.age(60.0)(x)
        finally:
            torch.set_num_threads(before)
        tile.age(60.0)
        parts = torch.cat([tile(p) for p in x.split([1, 40, 87, 372])])
    assert torch.equal(whole, parts) and torch.equal(whole, again)


def test_a_single_output_of_many_tiles_has_the_same_bits_however_a_batch_is_cut(hardware):
    """A sum over tiles takes them in another order where nothing else is left to go along."""
    w, x = torch.randn(1, 600), torch.rand(33, 600)
    tile = mho.Tile(w, mho.load("pcm.standard", set=["tiles.pcm.rows=16"])).program(seed=1)
    with torch.no_grad():
        whole = tile.age(60.0)(x)
        tile.age(60.0)
        assert torch.equal(whole, torch.cat([tile(p) for p in x.split([1, 1, 5, 26])]))


def test_blocks_and_chunks_do_not_change_a_bit(hardware, monkeypatch):
    """Cache-sized blocks of vectors and of weights are an implementation, not a result."""
    w, x = data(vectors=300)
    tile = mho.Tile(w, hardware(tile_yaml())).program(seed=1)
    outputs = []
    for block, room in ((1 << 16, 1 << 26), (1, 1), (1 << 30, 1 << 40)):
        monkeypatch.setattr(layout, "BLOCK", block)
        monkeypatch.setattr(epilogue, "ROOM", room)
        torch.manual_seed(0)
        y = tile.age(1.0)(x)
        trained = tile.train()(x)
        tile.eval()
        outputs.append((y, trained))
    for other in outputs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(outputs[0], other))


# -- training -------------------------------------------------------------------------------------------------
def gradients(layer, x, seed=0):
    torch.manual_seed(seed)
    x = x.clone().requires_grad_()
    for p in layer.parameters():
        p.grad = None
    y = layer(x)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    y.backward(g)
    tiles = layer.tiles
    found = {"x": x.grad, "weight": layer.weight.grad, "alpha": tiles.input_range.grad, "out": tiles.out_scale.grad}
    return {k: v for k, v in found.items() if v is not None}


def cosine(a, b):
    return float(torch.nn.functional.cosine_similarity(a.flatten().double(), b.flatten().double(), 0))


def training(**about):
    return "training: {" + ", ".join(f"{k}: {v}" for k, v in {"inject": "none", "out_scale": "column", **about}.items()) + "}"


LEARNED = "{bits: 8, range: learned}"


@pytest.mark.parametrize("adc", ["{bits: 8, bound: 10}", "{bits: 8, bound: 1.5}", "{bits: none, bound: 1.5}", "none"])
@pytest.mark.parametrize("mode", ["through", "ste"])
def test_gradients_equal_those_of_the_reference_path(hardware, adc, mode):
    """Without noise the masks are the same but for codes that moved by one (R003-64, 65, 70; R001-02)."""
    _, x = data()
    body = tile_yaml("nonidealities: [circuit.ir_drop]", dac=LEARNED, adc=adc)
    a, b = (gradients(t.train(), x) for t in both(hardware, "int8", body, training(backward=mode)))
    assert a.keys() == b.keys()
    for name in a:
        assert cosine(a[name], b[name]) > 0.999, name
        assert (a[name] - b[name]).norm() < 0.05 * b[name].norm(), name
    fine = [gradients(t.train(), x) for t in both(hardware, "fp32", body, training(backward=mode))]
    for name in a:
        assert torch.allclose(fine[0][name], fine[1][name], rtol=1e-3, atol=1e-4 * fine[1][name].abs().max()), name


def test_gradients_with_noise_have_the_mean_of_the_reference_path(hardware):
    """Averages of 60 draws; single draws have other noise on the two paths."""
    _, x = data()
    body = tile_yaml(dac=LEARNED)
    tiles = both(hardware, "auto", body, training(inject="{scale: 1.0}"))
    means = []
    for t in tiles:
        found = [gradients(t.train(), x, seed) for seed in range(60)]
        means.append({k: torch.stack([d[k] for d in found]).mean(0) for k in found[0]})
    for name in means[0]:
        assert cosine(means[0][name], means[1][name]) > 0.99, name


def test_bf16_products_of_the_backward_pass_keep_the_direction(hardware):
    _, x = data()
    w, _ = data()
    made = [
        mho.Tile(w, hardware(tile_yaml(dac=LEARNED), training(backward=f"{{mode: through, products: {p}}}")))
        for p in ("fp32", "bf16")
    ]
    a, b = (gradients(t.train(), x) for t in made)
    for name in a:
        assert cosine(a[name], b[name]) > 0.9999, name
    assert b["weight"].dtype == torch.float32


def test_training_noise_is_drawn_anew_for_every_mini_batch_and_held_within_one(hardware):
    """Injected noise of the fused path has the width of Eq. 7 (R003-64), relative error of a standard deviation of 7,500
    cells: 0.8 % per standard error."""
    w, _ = data()
    tile = mho.Tile(w, hardware(tile_yaml("nonidealities: [pcm.programming_noise]"), "training: {inject: {scale: 2.0}}"))
    tile.train()
    seen = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        seen.append(tile.tiles.draw(tile.weight).w.detach())
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])
    target = tile.tiles.normalised(tile.weight).abs()
    error = (seen[0] - seen[2])[target > 0.2] * 25
    r = target[target > 0.2]
    expected = math.sqrt(2) * 2 * (0.26348 + 1.9650 * r - 1.1731 * r**2)
    assert abs((error / expected).std() - 1) < 5 * 0.016


def test_the_gradient_stops_where_weights_saturate(hardware):
    w, x = data()
    for p in ("int8", "reference"):
        tile = mho.Tile(w, hardware(tile_yaml(), f"precision: {p}\n{training()}")).train()
        with torch.no_grad():
            tile.tiles.gamma.mul_(0.5)
        tile(x).sum().backward()
        beyond = tile.weight.abs() > tile.tiles.layout.spread(tile.tiles.gamma)
        assert beyond.any() and not tile.weight.grad[beyond].any() and tile.weight.grad[~beyond].any()


# -- safety ---------------------------------------------------------------------------------------------------
def test_vmap_gives_what_a_loop_gives(hardware):
    w, x = data()
    tile = mho.Tile(w, hardware(tile_yaml())).program(seed=0)
    batches = torch.stack([x, x.flip(0)])
    mapped = torch.func.vmap(tile.age(1.0))(batches)
    for one, y in zip(batches, mapped):
        assert torch.equal(tile.age(1.0)(one), y)


def test_vmap_over_weights_in_training_gives_what_a_loop_gives(hardware):
    w, x = data()
    tile = mho.Tile(w, hardware(tile_yaml(QUIET), training())).train()
    mho.attach(torch.optim.SGD(tile.parameters()), tile)  # a training keeps its mapping
    stacked = torch.stack([tile.weight.detach(), 0.5 * tile.weight.detach()])

    def call(weight):
        return torch.func.functional_call(tile, {"weight": weight}, (x,)).square().sum()

    values = torch.func.vmap(call, randomness="same")(stacked)
    slopes = torch.func.vmap(torch.func.grad(call), randomness="same")(stacked)
    for weight, value, slope in zip(stacked, values, slopes):
        leaf = weight.clone().requires_grad_()
        alone = call(leaf)
        alone.backward()
        assert torch.allclose(alone, value) and torch.allclose(leaf.grad, slope, atol=1e-5)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch about its own unfold, in mode ste
@pytest.mark.parametrize("mode", ["through", "ste"])
@pytest.mark.parametrize("adc", ["{bits: 8, bound: 1.5}", "none"])
def test_gradients_per_sample_are_those_of_a_loop(hardware, adc, mode):
    """vmap of grad: the backward pass itself is mapped, some of its tensors and not others."""
    hw = hardware(tile_yaml("nonidealities: [circuit.ir_drop]", LEARNED, adc), training(backward=mode))
    torch.manual_seed(0)
    convolution = (nn.Unflatten(1, (6, 5, 5)), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Flatten())
    net = mho.to_analog(nn.Sequential(nn.Linear(150, 150), nn.ReLU(), *convolution, nn.Linear(36, 5)), hw).train()
    parameters = {n: p.detach() for n, p in net.named_parameters() if p.requires_grad}
    x = data(vectors=7)[1]

    def total(parameters, x):
        return torch.func.functional_call(net, parameters, (x[None],)).sum()  # its cotangent is the same for all samples

    def loss(parameters, x):
        return torch.func.functional_call(net, parameters, (x[None],)).square().sum()

    for f in (total, loss):
        mapped = torch.func.vmap(torch.func.grad(f), in_dims=(None, 0), randomness="same")(parameters, x)
        assert "0.weight" in mapped and mapped["0.weight"].any()
        for k, one in enumerate(x):
            for name, g in torch.func.grad(f)(parameters, one).items():
                assert torch.allclose(mapped[name][k], g, atol=1e-5 * float(g.abs().max()) + 1e-9), name


def test_a_backward_pass_can_be_differentiated(hardware):
    """A penalty on gradients: with codes held, the gradient of x is linear in the weights, gx = (g alpha gamma) W / alpha, so
    |gx|^2 has the derivative of that."""
    w, x = data()
    tile = mho.Tile(w, hardware(tile_yaml("nonidealities: []", "{bits: 8, range: 2.0}", "none"), training())).train()
    x = x.requires_grad_()
    (gx,) = torch.autograd.grad(tile(x).sum(), x, create_graph=True)
    (found,) = torch.autograd.grad(gx.square().sum(), tile.weight)
    wanted = 2 * len(x) * w.sum(0).expand_as(w)  # gx of every vector is the sum of the rows of w
    inside = w.abs() < tile.tiles.layout.spread(tile.tiles.gamma)
    assert inside.double().mean() > 0.95 and torch.allclose(found[inside], wanted[inside], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("layer", [nn.Linear(6, 6), nn.Conv2d(1, 6, 3)], ids=["linear", "convolution"])
def test_second_derivatives_by_the_weights_are_those_of_the_reference_path_and_by_inputs_refused(hardware, layer):
    """Of inputs only codes are kept: the gradient of the weights cannot be differentiated by them, and says so."""
    found = []
    x = torch.rand(4, *((6,) if isinstance(layer, nn.Linear) else (1, 5, 5)))
    for precision in ("reference", "fp32"):
        hw = hardware("dac: {bits: 8, range: 1.0}\nadc: {bits: 8, bound: 10}", f"precision: {precision}")
        net = mho.to_analog(nn.Sequential(layer), hw).train()
        weight = net[0].weight
        (gw,) = torch.autograd.grad(net(x).square().sum(), weight, create_graph=True)
        found.append(torch.autograd.grad(gw.square().sum(), weight)[0])
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
    (gw,) = torch.autograd.grad(net(x.requires_grad_()).square().sum(), weight, create_graph=True)
    with pytest.raises(mho.MhoError, match="by the inputs; 'precision: reference' has"):
        gw.square().sum().backward()


@pytest.mark.parametrize("effects", ["pcm.programming_noise", "rram.telegraph_noise"])
def test_a_graph_that_is_kept_gives_the_same_gradients_again(hardware, effects):
    """The gradient of noisy weights becomes that of the weights in place, unless an effect reads them in between."""
    w, x = data()
    tile = mho.Tile(w, hardware(tile_yaml(f"nonidealities: [{effects}]"), training())).train()
    y = tile(x).square().sum()
    first = torch.autograd.grad(y, tile.weight, retain_graph=True)[0].clone()
    assert torch.equal(torch.autograd.grad(y, tile.weight)[0], first)


def test_a_checkpointed_layer_sees_the_same_weights_when_it_is_replayed(hardware):
    _, x = data()
    effects = "nonidealities: [pcm.programming_noise, circuit.ir_drop]"
    grads = []
    for replay in (False, True):
        torch.manual_seed(0)
        net = mho.to_analog(nn.Sequential(nn.Linear(150, 50), nn.ReLU()), hardware(tile_yaml(effects, dac=LEARNED)))
        root = Replayed(net) if replay else net
        torch.manual_seed(1)
        root.train()(x).square().sum().backward()
        grads.append(net[0].weight.grad)
    assert torch.allclose(*grads, atol=1e-6)


class Replayed(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=False)


def test_two_threads_on_one_model_do_not_disturb_each_other(hardware):
    """Workspaces are per thread. The chip has no per-vector noise, so the order of the calls does not matter."""
    w, x = data(vectors=200)
    tile = mho.Tile(w, hardware(tile_yaml(QUIET))).program(seed=0)
    with torch.no_grad():
        expected = [tile(x * f) for f in (0.5, 1.0)]
    wrong = []

    def work(f, y):
        with torch.no_grad():
            wrong.extend(k for k in range(20) if not torch.equal(tile(x * f), y))

    threads = [threading.Thread(target=work, args=pair) for pair in zip((0.5, 1.0), expected)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_outputs_and_saved_tensors_are_no_views_of_a_workspace(hardware):
    _, x = data(vectors=1)
    torch.manual_seed(0)
    layer = mho.to_analog(nn.Linear(150, 50), hardware(tile_yaml())).train()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t), t)[1], lambda t: t):
        y = layer(x.requires_grad_())
    before, bias = y.detach().clone(), layer.bias.detach().clone()
    spaces = {s.untyped_storage().data_ptr() for s in workspace._kept.spaces.values()}
    assert spaces and not spaces & {t.untyped_storage().data_ptr() for t in [y, *saved]}
    layer(-3 * x)
    assert torch.equal(y, before) and torch.equal(layer.bias, bias)


def test_a_nan_in_a_vector_reaches_its_outputs_and_no_others(hardware):
    w, x = data()
    x[3, 7] = math.nan
    tile = mho.Tile(w, hardware(tile_yaml())).program(seed=0)
    y = tile(x)
    assert y[3].isnan().all() and torch.isfinite(y[[i for i in range(40) if i != 3]]).all()


def test_planes_follow_the_chip_that_is_on(hardware):
    w, x = data()
    tile = mho.Tile(w, hardware(tile_yaml("nonidealities: [pcm.programming_noise, pcm.drift, circuit.ir_drop]")))
    first, second = mho.program(tile, seed=0, chips=2)
    with torch.no_grad():
        a = tile(x)
        with second.on():
            b = tile(x)
        assert torch.equal(tile(x), a) and not torch.equal(a, b)
        assert torch.equal(copy.deepcopy(tile)(x), a)
        first.age("1 year")
        assert not torch.equal(tile(x), a)
        mho.unprogram(tile)
        assert tile.tiles.chip is None or (not tile.tiles.chip.coded and not torch.equal(tile(x), a))


class OwnSides(mho.Nonideality, kind="own.sides"):
    """Side functions that cannot be pickled."""

    source = "a test"
    sides = {"s": mho.Side(lambda w, site: 0.5 * w, lambda x: x * x)}

    def shift(self, site, s):
        return 0.1 * s


class Idle(mho.Nonideality, kind="own.idle"):
    """A weight of 0 conducts more, or much less, than weights do."""

    source = "a test"
    size: float = mho.Field(1.0, unit="1", description="of phi")

    def prepare(self, site):
        site.size = torch.full((1,), self.size)

    sides = {"s": mho.Side(lambda w, site: site.size * (1 + 0.1 * w), mho.square)}

    def shift(self, site, s):
        return 0.1 / site.size * s


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("size", [1e-4, 1.0, 100.0])
def test_codes_of_a_side_have_the_range_of_its_values_not_that_of_the_weights(size, compile, monkeypatch):
    monkeypatch.setattr(kernels, "WORTHWHILE", 1)
    monkeypatch.setattr(kernels, "_compiled", lambda function: function)
    w, x = data()
    tile = {"dac": {"bits": 8, "range": 1.0}, "adc": {"bits": None, "bound": 100.0}, "nonidealities": (Idle(size=size),)}
    about = {"mho": 1, "default": "t", "compile": compile, "tiles": {"t": {**tile, "mapping": "mho.direct"}}}
    y = {}
    for precision in ("reference", "fp32", "int8"):
        made = mho.Tile(0.05 * w, mho.Hardware.model_validate({**about, "precision": precision})).program(seed=0)
        with torch.no_grad():
            y[precision] = made(x)
    changed = (y["reference"] - x.clamp(-1, 1) @ (0.05 * w).T).abs().max()
    assert ("weight codes" in made.tiles.backend.kernels.made) == compile
    assert (y["fp32"] - y["reference"]).abs().max() < 1e-5 * changed
    assert (y["int8"] - y["reference"]).abs().max() < 0.01 * changed


class KeptProduct(mho.Nonideality, kind="own.kept"):
    """Returns a tensor that it keeps, whose elements share memory."""

    source = "a test"
    kept: ClassVar[dict] = {}

    def mvm(self, x, w, site):
        y = self.kept.setdefault("y", torch.einsum("vtr,tor->vto", x, w)[..., :1])
        return y.expand(-1, -1, w.shape[1])


def test_what_a_plugin_returns_is_not_written_to():
    w, x = data()
    KeptProduct.kept.clear()
    tile = {"dac": {"bits": 8, "range": 1.0}, "adc": {"bits": 8}, "nonidealities": (KeptProduct(),)}
    layer = mho.Tile(w, mho.Hardware.model_validate({"mho": 1, "tiles": {"t": tile}, "default": "t"})).program(seed=0)
    with torch.no_grad():
        first, kept = layer(x), KeptProduct.kept["y"].clone()
        assert torch.equal(first, layer(x)) and torch.equal(kept, KeptProduct.kept["y"])
    assert layer.tiles.backend.route.fused


@needs_int8
def test_networks_are_copied_and_pickled_whatever_functions_their_effects_have():
    w, x = data()
    tile = {"dac": {"bits": 8, "range": 1.0}, "adc": {"bits": 8}, "nonidealities": (OwnSides(),)}
    hw = mho.Hardware.model_validate({"mho": 1, "default": "t", "precision": "fp32-main", "tiles": {"t": tile}})
    made = mho.Tile(w, hw).program(seed=0)
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(mho.Tile(w, hw))).program(seed=0)):
        assert other.tiles.backend.route.tier == "fp32-main" and torch.equal(other(x), made.age(0)(x))


def test_a_forward_in_inference_mode_leaves_nothing_that_training_trips_over(hardware):
    w, x = data()
    tile = mho.Tile(w, hardware(tile_yaml(dac=LEARNED)))
    draws._columns64.cache_clear()
    draws._quantile_table.cache_clear()
    with torch.inference_mode():
        tile(x)
    tile.train()(x).sum().backward()
    assert torch.isfinite(tile.weight.grad).all()


# -- routes ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "body, why",
    [
        ("rows: 8", "no integers"),
        ("rows: 8\ndac: {bits: none}", "no integers"),
        (tile_yaml(dac="{bits: 8, range: 1.0, halvings: 2}"), "bound management"),
        (tile_yaml("nonidealities: [circuit.two_phase]"), "several passes"),
    ],
)
def test_what_the_fused_path_cannot_do_runs_on_the_reference_path_for_a_stated_reason(hardware, body, why):
    hw = hardware(body)
    route = mho.routes(hw)["t"]
    assert route.tier == "reference" and why in route.why and not route.fused
    assert mho.Tile(torch.ones(3, 8), hw).tiles.backend.route.why == route.why


@needs_int8
def test_the_tier_follows_from_hardware_file_and_processor(hardware, monkeypatch):
    nine = tile_yaml(dac="{bits: 9, range: 1.0}")
    monkeypatch.setattr(tier, "has_int8", lambda: True)
    assert [mho.routes(hardware(b))["t"].tier for b in (tile_yaml(), nine)] == ["int8", "fp32-main"]
    for p in ("fp32-main", "fp32", "reference"):
        assert mho.routes(hardware(tile_yaml(), f"precision: {p}"))["t"].tier == p
    monkeypatch.setattr(tier, "has_int8", lambda: False)
    assert mho.routes(hardware(tile_yaml()))["t"].tier == "fp32"
    assert mho.routes(hardware(tile_yaml(), "precision: int8"))["t"].tier == "int8"
    monkeypatch.setattr(tier, "is_exact", lambda: False)
    assert mho.routes(hardware(tile_yaml(), "precision: int8"))["t"].tier == "fp32"


@needs_int8
def test_a_private_product_that_is_missing_or_wrong_is_not_used(monkeypatch):
    assert tier.is_exact()
    for broken in (None, lambda x, w, out: out.zero_()):
        tier.is_exact.cache_clear()
        with monkeypatch.context() as m:
            m.setattr(torch, "_int_mm", broken) if broken else m.delattr(torch, "_int_mm")
            assert not tier.is_exact()
    tier.is_exact.cache_clear()


def test_products_of_the_backward_pass_are_those_of_fp32_however_their_operands_lie(monkeypatch):
    """To the rounding of sums of 96 products; strided operands are copied first, since oneDNN is slow at them."""
    a, b = torch.randn(40, 96), torch.randn(96, 24)
    wide = torch.randn(96, 100)
    with torch.no_grad():
        for x, w in ((a, b), (a, b.t().contiguous().t()), (torch.randn(96, 40).t(), wide[:, 3:27]), (a[:0], b)):
            exact = x.double() @ w.double()
            assert torch.allclose(arithmetic.float_product(x, w).double(), exact, rtol=0, atol=96 * 2**-23 * 10)
        assert torch.equal(arithmetic.float_product(a[:, :0], b[:0]), torch.zeros(40, 24))
        assert arithmetic.float_product(a.bfloat16(), b.bfloat16()).dtype == torch.bfloat16
    assert arithmetic.float_product(a.requires_grad_(), b).grad_fn is not None
    monkeypatch.setattr(arithmetic, "has_onednn", lambda: False)
    with torch.no_grad():
        assert torch.equal(arithmetic.float_product(a, b), a @ b)


def test_double_precision_and_plain_methods_that_need_gradients_take_the_reference_path(hardware):
    w, x = data()
    plain = hardware(tile_yaml("nonidealities: [circuit.polarity_asymmetry]"), "training: {inject: none}")
    tile = mho.Tile(w, plain).train()
    assert "polarity_asymmetry has a plain accumulate" in tile.tiles.backend.route.by_reference
    y = tile(x)
    assert "TileProduct" not in names(y.grad_fn)
    assert "TileProduct" in names(mho.Tile(w, hardware(tile_yaml())).train()(x).grad_fn)
    assert "TileProduct" not in names(mho.Tile(w.double(), hardware(tile_yaml())).train()(x.double()).grad_fn)


def names(node):
    if node is None:
        return ""
    return type(node).__name__ + "".join(names(n) for n, _ in node.next_functions)


def test_two_effects_with_one_weighing_of_their_own_do_not_share_its_constants(hardware):
    """Side functions of mho are shared, others belong to the effect that asks: it may use constants of its own."""
    route = mho.Tile(*data()[:1], hardware(tile_yaml("nonidealities: [circuit.ir_drop, pcm.read_noise]"))).tiles.backend.route
    assert len(route.phis) == 2 and len(route.pairs) == 3 and all(p.owner is None for p in route.phis)


@pytest.mark.parametrize("mains", [0, 2])
def test_joint_products_are_each_of_the_products_once(mains):
    """Planes that other codes use too leave gaps; psis with the same planes are one product only as neighbours."""
    g = torch.Generator().manual_seed(0)
    for _ in range(200):
        some = torch.rand(4, 5, generator=g) < 0.4
        pairs = [Pair(phi, psi - 1 if psi else None) for phi, psi in some.nonzero().tolist()]
        wanted = [(None, plane) for plane in range(mains)] + [(psi, mains + phi) for phi, psi in pairs]
        joints = _joints(mains, pairs)
        assert sorted(((psi, plane) for planes, psis in joints for plane in planes for psi in psis or [None]), key=str) == (
            sorted(wanted, key=str)
        )
    assert _joints(2, [Pair(0, None), Pair(1, 0), Pair(1, 1)]) == ((range(3), None), (range(3, 4), range(2)))


# -- torch.compile --------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_compiled_network_stays_one_graph_in_training_and_on_every_chip_at_every_age(hardware):
    torch.compiler.reset()
    torch.manual_seed(0)
    net = mho.to_analog(nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 5)), hardware(tile_yaml()))
    x = torch.rand(6, 30, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(net, fullgraph=True, backend="eager")

    def same():
        values = []
        for f in (net, compiled):
            torch.manual_seed(0)
            net[0].tiles.session.sample = 0
            values.append(f(x).detach())
        assert torch.allclose(*values, atol=1e-6)

    net.train()
    same()
    net.eval()
    same()
    frames = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for seed in range(3):
        chip = mho.program(net, seed)
        for t in (0.0, 60.0 + seed):
            chip.age(t)
            same()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - frames <= 4  # with and without gain, sample 0 and others


def test_quick_normal_numbers_are_normal():
    z = draws.quick_normal(draws.words_at(draws.key("quick"), torch.arange(2048, dtype=torch.int32)), 1024).double()
    n = z.numel()
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((z**power).mean() - expected) < Z * math.sqrt(variance / n)
    ordered = z.flatten().sort().values
    exact = 0.5 * (1 + torch.erf(ordered / math.sqrt(2)))
    steps = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    assert (exact - steps).abs().max() < math.sqrt(-0.5 * math.log(1e-5 / 2) / n)
    for level in (3.0, 4.0):
        p = math.erfc(level / math.sqrt(2))
        assert abs((z.abs() > level).sum() - n * p) < Z * math.sqrt(n * p)
    squares = z**2 - 1
    for a, b, variance in ((z[1:], z[:-1], 1), (squares[1:], squares[:-1], 4)):
        assert abs((a * b).mean()) < Z * math.sqrt(variance / n)
    for shift in (1, 2, 3, 4, 256):
        assert abs((z[:, shift:] * z[:, :-shift]).mean()) < Z / math.sqrt(n)
        assert abs((squares[:, shift:] * squares[:, :-shift]).mean()) < Z * 2 / math.sqrt(n)


def test_rows_of_quick_normal_numbers_are_independent_along_every_axis():
    """n = 2^21 products for every pair of rows that are 1, 2 or 16 apart in sample, position or tile; and for swapped indices."""
    size = (64, 32, 16)
    index = [torch.arange(n, dtype=torch.int32).view(-1, *[1] * (2 - k)) for k, n in enumerate(size)]
    words = draws.words_at(draws.key("rows"), *index)
    assert len(words.unique()) == words.numel()
    z = draws.quick_normal(words, 64).double()
    pairs = [(z.narrow(d, s, n - s), z.narrow(d, 0, n - s)) for d, n in enumerate(size) for s in (1, 2, n // 2)]
    square = z[:16, :16, :16]
    pairs += [(square[a, b], square[b, a]) for a, b in ((1, 3), (2, 15), (0, 7))]
    pairs += [(square, square.transpose(0, 2)[..., torch.arange(63, -1, -1)])]
    other = draws.quick_normal(draws.words_at(draws.fold(draws.key("rows"), 1), *index), 64).double()
    for a, b in (*pairs, (z, other)):
        assert abs((a * b).mean()) < Z / math.sqrt(a.numel())
        assert abs(((a**2 - 1) * (b**2 - 1)).mean()) < Z * 2 / math.sqrt(a.numel())
    sums = z.sum((0, 1)) / math.sqrt(size[0] * size[1])  # a common part of rows would add up
    assert abs(sums.var() - 1) < Z * math.sqrt(2 / sums.numel())


def test_a_backward_pass_follows_whatever_parameter_asks_for_it():
    """Only the step of the weight quantiser, or only what an effect has learned, is trained."""
    hw = mho.load(
        "pcm.standard",
        set=[
            "tiles.pcm.dac.range=1.0",
            "tiles.pcm.nonidealities=[]",
            "training.inject=none",
            "training.quantise={weights: {bits: 4}}",
        ],
    )
    gradients = []
    for precision in ("auto", "reference"):
        torch.manual_seed(0)
        tile = mho.to_analog(nn.Linear(20, 8), mho.load(hw, set=[f"precision={precision}"])).train()
        tile.requires_grad_(False)
        step = tile.tiles.weight_quantiser.step.requires_grad_()
        tile(torch.rand(16, 20) * 2 - 1).square().sum().backward()
        gradients.append(step.grad.clone())
    assert torch.allclose(*gradients, rtol=0.02)


def test_tiles_without_side_products_have_no_planes_in_tier_fp32(hardware):
    """A split of nothing has one part, which once was taken for a plane."""
    hw = hardware("dac: {bits: 8, range: 1.0}").model_copy(update={"precision": "fp32"})
    tile = mho.Tile(torch.eye(4), hw).program(seed=0)
    assert tile.tiles.backend.route.tier == "fp32" and torch.equal(tile(torch.eye(4)), torch.eye(4))


def test_a_backward_mode_that_changes_later_is_followed(hardware):
    """Rounding has the derivative 0 in mode autograd: no gradient may pass, whatever mode the layer was made with."""
    _, x = data()
    tile = both(hardware, "auto", tile_yaml(dac=LEARNED))[0].train()
    straight = gradients(tile, x, 0)
    assert any(g.abs().sum() > 0 for g in straight.values())
    backward = type(tile.tiles.training_spec.backward)(mode="autograd")
    tile.tiles.training_spec = tile.tiles.training_spec.model_copy(update={"backward": backward})
    assert all(g is None or not g.any() for n, g in gradients(tile, x, 0).items() if n in ("x", "weight"))


@pytest.mark.skipif(not tier.is_exact(), reason="no integer products in this torch")
def test_integer_products_are_right_for_every_small_shape():
    """Vectors, rows and outputs from 0 on, dense and as slices of larger ones."""
    g = torch.Generator().manual_seed(0)
    rows = (0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33, 64)
    for m, k, n, pad in itertools.product((0, 1, 2, 3, 5, 8, 17, 64), rows, (0, 1, 2, 3, 5, 8, 16, 33), (0, 1, 3)):
        x, w = (torch.randint(-128, 128, (count, k + pad), dtype=torch.int8, generator=g)[:, :k] for count in (m, n))
        out = torch.full((m, n), 7, dtype=torch.int32)
        assert torch.equal(tier.int8_product(x, w, out).long(), x.long() @ w.long().t()), (m, k, n, pad)


@pytest.mark.parametrize("layer", [lambda: torch.nn.Linear(1, 32), lambda: torch.nn.LSTM(1, 8), lambda: torch.nn.Conv1d(1, 5, 1)])
def test_layers_of_one_input_are_right(layer):
    """The relative error of `Linear(1, 32)` was 8.9."""
    torch.manual_seed(0)
    plain = layer().eval()
    net = mho.to_analog(plain, "ideal.quantised").eval()
    x = torch.rand(6, 1, 9) - 0.5 if isinstance(plain, torch.nn.Conv1d) else torch.rand(9, 6, 1) - 0.5
    mho.calibrate(net, [x])
    with torch.no_grad():
        y, exact = (out[0] if isinstance(out, tuple) else out for out in (net(x), plain(x)))
    assert float((y - exact).norm() / exact.norm()) < 0.05


@needs_int8
@pytest.mark.skipif(not tier.has_packed(), reason="no products with packed integers in this torch")
def test_packed_integer_products_are_right():
    """Few vectors, up to as many rows as fp32 counts exactly, dense and as slices of larger inputs."""
    g = torch.Generator().manual_seed(0)
    for m, k, n, pad in itertools.product((1, 2, 17, 64), (1, 3, 16, 65, tier.EXACT), (1, 2, 33, 200), (0, 3)):
        x = torch.randint(-127, 128, (m, k + pad), dtype=torch.int8, generator=g)[:, :k]
        w = torch.randint(-128, 128, (n, k), dtype=torch.int8, generator=g)
        out = torch.full((m, n), 7, dtype=torch.int32)
        assert torch.equal(tier.packed_product(x, tier.pack(w), out).long(), x.long() @ w.long().t()), (m, k, n, pad)


@needs_int8
@pytest.mark.skipif(not tier.has_packed(), reason="no products with packed integers in this torch")
def test_few_vectors_read_packed_weights_and_give_the_bits_of_many(hardware):
    """Weights are packed once per age, for vectors that come in small batches; copies pack their own."""
    net = mho.to_analog(nn.Linear(600, 1200), hardware(tile_yaml(rows=512))).eval()
    x = torch.rand(epilogue.FEW + 9, 600) * 2 - 1
    with torch.no_grad():
        mho.program(net, 0, age="1 h")
        whole, coded = net(x), net.tiles.chip.coded["packed"]
        assert not coded
        mho.program(net, 0, age="1 h")
        parts = torch.cat([net(p) for p in x.split([1, 2, 30, 40])])
        coded = net.tiles.chip.coded["packed"]
        assert coded and not copy.deepcopy(coded)
        assert torch.equal(parts, whole)


def test_packed_products_that_are_missing_or_wrong_are_not_used(monkeypatch):
    for broken in (lambda *a: torch.zeros(3, 7), lambda *a: torch.no_such_product):
        tier.has_packed.cache_clear()
        with monkeypatch.context() as m:
            m.setattr(tier, "packed_product", broken)
            assert not tier.has_packed()
    tier.has_packed.cache_clear()
