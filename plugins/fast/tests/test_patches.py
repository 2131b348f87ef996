"""Convolutions that are coded pixel by pixel against the same ones unfolded first: bit by bit, and in their gradients."""

import math
from dataclasses import replace

import pytest
import torch
from mho_fast import epilogue, tier
from mho_fast.epilogue import many_small
from torch import nn

import mho
from mho.tile import layout
from mho.tile.patches import Patches, Window

needs_int8 = pytest.mark.skipif(not tier.has_int8(), reason="no exact and fast integer products on this processor")
pytestmark = pytest.mark.filterwarnings("ignore:training an analog network without mho.attach")
FULL = "nonidealities: [pcm.programming_noise, circuit.ir_drop, pcm.read_noise, circuit.output_noise]"
QUIET = "nonidealities: [circuit.ir_drop]"
CONVS = {
    "1d": (lambda: nn.Conv1d(5, 7, 3, padding=1), (4, 5, 13)),
    "1d, strides, dilation, replicate": (
        lambda: nn.Conv1d(6, 4, 4, stride=2, padding=3, dilation=2, padding_mode="replicate"),
        (4, 6, 13),
    ),
    "2d": (lambda: nn.Conv2d(5, 7, 3, padding=1), (4, 5, 9, 8)),
    "2d, strides, no bias": (lambda: nn.Conv2d(5, 7, (3, 2), stride=(2, 3), padding=(1, 0), bias=False), (4, 5, 9, 8)),
    "2d, dilation, reflect": (lambda: nn.Conv2d(5, 7, 3, padding="same", dilation=(1, 2), padding_mode="reflect"), (4, 5, 9, 8)),
    "2d, circular, one image": (lambda: nn.Conv2d(5, 7, 3, padding=(2, 1), padding_mode="circular"), (5, 9, 8)),
    "2d, 1 x 1": (lambda: nn.Conv2d(15, 7, 1), (4, 15, 9, 8)),
    "2d, 1 x 1, strides": (lambda: nn.Conv2d(15, 7, 1, stride=2), (4, 15, 9, 8)),
    "2d, one channel": (lambda: nn.Conv2d(1, 7, 3), (4, 1, 9, 8)),
    "2d, groups of uneven tiles": (lambda: nn.Conv2d(10, 6, 3, padding=1, groups=2), (4, 10, 9, 8)),
    "2d, groups of one tile": (lambda: nn.Conv2d(6, 4, (3, 2), stride=2, padding=1, groups=2), (4, 6, 9, 8)),
    "2d, depth-wise, one output each": (
        lambda: nn.Conv2d(6, 6, (3, 2), stride=2, dilation=(1, 2), padding=1, groups=6),
        (4, 6, 9, 8),
    ),
    "2d, depth-wise": (lambda: nn.Conv2d(6, 12, 3, padding=1, groups=6), (4, 6, 9, 8)),
    "2d, transposed, groups": (lambda: nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, groups=2), (4, 6, 5, 4)),
    "1d, groups, 1": (lambda: nn.Conv1d(6, 4, 1, groups=2), (4, 6, 13)),
    "3d": (lambda: nn.Conv3d(4, 3, (2, 3, 2), stride=(1, 2, 1), dilation=(2, 1, 1), padding=1), (3, 4, 5, 6, 7)),
}
# 5 channels of 9 pixels: tiles of 27 and 18 rows; 4 channels of 12 pixels: two and two.
ROWS = 30


def layer(hardware, name, body=FULL, rows=ROWS, extra="training: {out_scale: column}", dac="{bits: 8, range: learned}"):
    """The analog convolution of that name, on tiles with as few rows as told, and an input that clips here and there."""
    torch.manual_seed(0)
    plain, shape = CONVS[name]
    tile = f"rows: {rows}\ncolumns: 4\ndac: {dac}\nadc: {{bits: 8, bound: 2}}\n{body}"
    made = mho.to_analog(plain(), hardware(tile, extra))
    with torch.no_grad():
        made.tiles.input_range.copy_(torch.linspace(0.9, 1.1, made.tiles.layout.row_tiles)[:, None])
    return made, torch.rand(shape) * 2.2 - 1.1


def unfolded(made):
    """From now on the same layer unfolds before it codes."""
    made.tiles.backend.near = replace(made.tiles.backend.near, cells=1, unfolded="for a test")
    if made.tiles.chip is not None:
        made.tiles.chip.coded.clear()
    return made


def gradients(made, x):
    torch.manual_seed(1)
    x = x.clone().requires_grad_()
    made.zero_grad()
    y = made(x)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(2)))
    named = {n: p.grad.clone() for n, p in made.named_parameters() if p.grad is not None}
    return y.detach(), {"x": x.grad, **named}


@needs_int8
@pytest.mark.parametrize("name", CONVS)
def test_a_chip_gives_the_same_bits_whichever_comes_first(hardware, name):
    made, x = layer(hardware, name)
    assert made.tiles.backend.route.tier == "int8" and not made.tiles.backend.route.unfolded
    mho.program(made.eval(), seed=0).age("1 h")
    with torch.no_grad():
        y = made(x)
        mho.age(made, "1 h")  # the samples are counted from here again
        assert torch.equal(unfolded(made)(x), y)


@needs_int8
@pytest.mark.parametrize("name", CONVS)
def test_training_has_the_same_bits_and_gradients_whichever_comes_first(hardware, name):
    """Weights, inputs, input ranges (R003-70), output scales; sums are in another order, so gradients agree to rounding."""
    made, x = layer(hardware, name)
    y, found = gradients(made.train(), x)
    z, expected = gradients(unfolded(made), x)
    assert torch.equal(y, z) and {"x", "weight", "tiles.input_range", "tiles.out_scale"} <= set(found) == set(expected)
    for name, g in expected.items():
        assert torch.allclose(found[name], g, rtol=1e-4, atol=1e-5 * float(g.abs().max())), name
    assert (x.abs() > 1).any() and found["tiles.input_range"].any()


@needs_int8
@pytest.mark.parametrize("name", [n for n in CONVS if "groups" in n or "depth" in n or n == "2d"])
def test_values_and_gradients_are_those_of_the_reference_path(hardware, name):
    """Without noise, to one code of the ADC in every row tile: integer sides are good to 1/127 of their range."""
    found = []
    for precision in ("int8", "reference"):
        made, x = layer(hardware, name, QUIET, extra=f"precision: {precision}\ntraining: {{inject: none, out_scale: column}}")
        assert made.tiles.backend.route.tier == precision
        found.append((gradients(made.train(), x), made))
    ((y, ours), made), ((z, theirs), _) = found
    step = 2 / 127 * 1.1 * made.tiles.gamma.max()
    assert (y - z).abs().max() < 1.01 * len(made.tiles.layout.sizes) * step and ((y - z).abs() > 1e-5).double().mean() < 0.2
    for name, g in theirs.items():
        assert (ours[name] - g).norm() < 0.1 * g.norm(), name


def test_small_tiles_at_once_give_the_bits_of_one_after_the_other(hardware, monkeypatch):
    made, x = layer(hardware, "2d, depth-wise")
    assert many_small(made.tiles.layout, 288) and not many_small(made.tiles.layout, 1 << 20)
    mho.program(made.eval(), seed=0).age("1 h")
    with torch.no_grad():
        y = made(x)
        monkeypatch.setattr(epilogue, "SMALL", 0)
        mho.age(made, "1 h")
        assert torch.equal(made(x), y)


@needs_int8
@pytest.mark.parametrize("precision", ["fp32-main", "fp32"])
def test_sums_in_another_order_move_a_few_codes_in_the_other_tiers(hardware, precision):
    made, x = layer(hardware, "2d", QUIET, extra=f"precision: {precision}")
    made.eval()
    with torch.no_grad():
        y = made(x)
        moved = (unfolded(made)(x) - y).abs() > 1e-4
    assert made.tiles.backend.route.tier == precision and moved.double().mean() < 0.01


@pytest.mark.parametrize("mode", ["ste", "{mode: through, products: bf16}"])
def test_other_backward_modes_have_the_same_gradients_too(hardware, mode):
    made, x = layer(hardware, "2d", extra=f"training: {{backward: {mode}}}")
    y, found = gradients(made.train(), x)
    z, expected = gradients(unfolded(made), x)
    assert torch.equal(y, z)
    for name, g in expected.items():
        assert torch.allclose(found[name], g, rtol=1e-2, atol=1e-2 * float(g.abs().max())), name


def test_chunks_of_images_and_of_lines_give_the_same_bits(hardware, monkeypatch):
    made, x = layer(hardware, "2d")
    x = torch.rand(3, 5, 30, 20)  # 600 vectors an image: lines, one image, two, all
    mho.program(made.eval(), seed=0)
    outputs = []
    for vectors, block in ((256, 1), (700, 1 << 12), (1300, 1 << 18), (1 << 20, 1 << 30)):
        monkeypatch.setattr(epilogue, "ROOM", vectors * 4 * 5 * 2 * 7)
        monkeypatch.setattr(layout, "BLOCK", block)
        mho.age(made, "1 h")
        with torch.no_grad():
            outputs.append(made(x))
    assert all(torch.equal(y, outputs[0]) for y in outputs)


@pytest.mark.parametrize(
    "change, why",
    [
        ({"body": FULL + "\nsplit: row"}, "channels are cut"),
        ({"dac": "{bits: 8, range: dynamic}"}, "an input range of its own"),
        ({"body": "nonidealities: [circuit.polarity_asymmetry]"}, "polarity_asymmetry works on the values"),
    ],
)
def test_what_needs_the_vectors_unfolds_them_first_for_a_stated_reason(hardware, change, why):
    made, x = layer(hardware, "2d", **change)
    assert made.tiles.backend.route.fused and why in made.tiles.backend.route.unfolded
    y = made.eval()(x)
    assert torch.isfinite(y).all() and y.shape == (4, 7, 9, 8)


def test_a_nan_reaches_the_outputs_whose_kernel_saw_it_and_no_others(hardware):
    made, x = layer(hardware, "2d")
    x[1, 2, 4, 3] = math.nan
    mho.program(made.eval(), seed=0)
    y = made(x)
    hit = torch.zeros(4, 9, 8, dtype=torch.bool)
    hit[1, 3:6, 2:5] = True
    assert torch.equal(y.isnan().any(1), hit) and torch.equal(y.isnan().all(1), hit)


@needs_int8
def test_saved_for_backward_are_the_codes_of_pixels(hardware):
    """Bytes per pixel and channel: one of the code, one of the clip mask; nothing nine times as large."""
    made, _ = layer(hardware, "2d")
    x = torch.rand(4, 5, 30, 30)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t), t)[1], lambda t: t):
        made.train()(x.requires_grad_())
    image = 4 * 32 * 32 * 5
    codes = [t for t in sizes if t.dtype in (torch.int8, torch.bool)]
    assert [t.numel() for t in codes if t.shape[-1] == 5] == [image, image]
    assert sum(t.numel() for t in codes) < 2 * image + 4 * 900 * 2 * 7 + 1


def test_plain_vectors_may_be_given_to_the_tiles_of_a_convolution(hardware):
    made, x = layer(hardware, "2d")
    mho.program(made.eval(), seed=0).age("1 h")
    patches = Patches(x.movedim(1, -1), Window((3, 3), (1, 1), (1, 1)))
    with torch.no_grad():
        y = made.tiles(patches, made.matrix)
        mho.age(made, "1 h")
        assert torch.equal(made.tiles(patches.flat(), made.matrix), y)


@pytest.mark.parametrize("precision", ["int8", "reference"])
def test_images_without_pixels_or_samples(hardware, precision):
    made, x = layer(hardware, "2d, strides, no bias", extra=f"precision: {precision}")
    assert made.eval()(x[:0]).shape == (0, 7, 5, 3)
    with pytest.raises(mho.MhoError, match=r"kernel \(3, 2\) does not fit an image of \(2, 8\) pixels"):
        made(x[:, :, :0])


def test_patches_are_those_of_torch(hardware):
    x = torch.rand(2, 3, 9, 8)
    patches = Patches(x.movedim(1, -1), Window((3, 2), (1, 2), (2, 1)))
    expected = nn.functional.unfold(x, (3, 2), (1, 2), 0, (2, 1)).transpose(1, 2)
    assert patches.shape == patches.flat().shape == (2, 4, 6, 18)
    assert torch.equal(patches.flat().flatten(1, 2), expected)
    back = torch.zeros(2, 9, 8, 3)
    patches.window.add_to(back, patches.window.view(patches.image))
    assert torch.allclose(back.movedim(-1, 1), nn.functional.fold(expected.mT, (9, 8), (3, 2), (1, 2), 0, (2, 1)))


# -- memory layout --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["2d", "2d, transposed, groups"])
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_outputs_lie_in_memory_as_those_of_torch_do(hardware, name, form):
    """`y.view(len(y), -1)` behind a convolution is as common as networks that run channels last."""
    made, x = layer(hardware, name)
    x = x.contiguous(memory_format=form)
    plain = CONVS[name][0]()
    assert made.eval()(x).stride() == plain(x).stride()


# -- transforms -----------------------------------------------------------------------------------------------
def test_vmap_gives_what_a_loop_gives(hardware):
    made, x = layer(hardware, "2d")
    mho.program(made.eval(), seed=0).age("1 h")
    batches = torch.stack([x, x.flip(0)])
    mapped = torch.func.vmap(made)(batches)
    for one, y in zip(batches, mapped):
        mho.age(made, "1 h")
        assert torch.equal(made(one), y)


def test_vmap_over_weights_in_training_gives_what_a_loop_gives(hardware):
    made, x = layer(hardware, "2d", QUIET, extra="training: {inject: none}")
    made.train()
    mho.attach(torch.optim.SGD(made.parameters()), made)  # a training keeps its mapping
    stacked = torch.stack([made.weight.detach(), 0.5 * made.weight.detach()])

    def call(weight):
        return torch.func.functional_call(made, {"weight": weight}, (x,)).square().sum()

    values = torch.func.vmap(call, randomness="same")(stacked)
    slopes = torch.func.vmap(torch.func.grad(call), randomness="same")(stacked)
    for weight, value, slope in zip(stacked, values, slopes):
        leaf = weight.clone().requires_grad_()
        alone = call(leaf)
        alone.backward()
        assert torch.allclose(alone, value) and torch.allclose(leaf.grad, slope, atol=1e-4)


@pytest.mark.parametrize("name", ["2d", "2d, 1 x 1", "2d, depth-wise"])
def test_gradients_of_single_samples_are_those_of_a_loop(hardware, name):
    made, x = layer(hardware, name, QUIET, extra="training: {inject: none}")
    parameters = {n: p.detach() for n, p in made.train().named_parameters()}

    def loss(parameters, x):
        return torch.func.functional_call(made, parameters, (x[None],)).square().sum()

    both = torch.func.grad(loss, argnums=(0, 1))
    found, of_x = torch.func.vmap(both, in_dims=(None, 0), randomness="same")(parameters, x)
    for k, sample in enumerate(x):
        made.zero_grad()
        leaf = sample.clone().requires_grad_()
        loss(dict(made.named_parameters()), leaf).backward()
        assert torch.allclose(of_x[k], leaf.grad, atol=1e-5)
        for n, p in made.named_parameters():
            assert p.grad is None or torch.allclose(found[n][k], p.grad, rtol=1e-4, atol=1e-4), n


def test_second_derivatives_under_torch_func_are_refused(hardware):
    made, x = layer(hardware, "2d", QUIET, extra="training: {inject: none}")
    made.train()
    slope = torch.func.grad(lambda x: made(x).square().sum())
    with pytest.raises(mho.MhoError, match="no second derivatives"):
        torch.func.grad(lambda x: slope(x).square().sum())(x)


def test_inference_mode_and_checkpointing_give_the_same_values(hardware):
    made, x = layer(hardware, "2d", QUIET, extra="training: {inject: none}")
    mho.program(made.eval(), seed=0)
    with torch.no_grad():
        y = made(x)
    with torch.inference_mode():
        assert torch.equal(made(x), y)
    made.train()
    grads = []
    for run in (made, lambda x: torch.utils.checkpoint.checkpoint(made, x, use_reentrant=False)):
        made.zero_grad()
        run(x).square().sum().backward()
        grads.append(made.weight.grad)
    assert torch.equal(*grads)


@pytest.mark.slow
def test_a_compiled_convolution_is_one_graph_with_the_same_values(hardware):
    torch.compiler.reset()
    made, x = layer(hardware, "2d")
    compiled = torch.compile(made, fullgraph=True, backend="aot_eager")
    for mode in (made.train, made.eval, lambda: mho.program(made.eval(), seed=0)):
        mode()
        values = []
        for f in (made, compiled):
            torch.manual_seed(0)
            made.tiles.session.sample = 0
            values.append(f(x).detach())
        assert torch.allclose(*values, atol=1e-6)


@pytest.mark.parametrize("preset", ["ideal.exact", "pcm.standard"])
@pytest.mark.parametrize("channels", [1, 40])
def test_a_batch_of_no_images_has_gradients_of_0(preset, channels):
    layer = nn.Conv2d(channels, 6, 3)
    net, x = mho.to_analog(layer, preset), torch.zeros(0, channels, 6, 6, requires_grad=True)
    net(x).sum().backward()
    assert x.grad.shape == x.shape and not net.weight.grad.any()
