"""Compiled kernels (`compile: true`): the same bits as the eager fast path, and no silent change of path."""

import copy
import gc
import pickle
import warnings
import weakref
from dataclasses import replace

import pytest
import torch
import torch._inductor.config
from mho_fast import Fast, cells, kernels as made, tier
from torch import nn

import mho
from mho import Field, Nonideality
from mho.effects import draws
from mho.effects.nonideality import Side, absolute, magnitude

needs_int8 = pytest.mark.skipif(not tier.has_int8(), reason="no exact and fast integer products on this processor")
pytestmark = [
    pytest.mark.filterwarnings("ignore:training an analog network without mho.attach"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
]
QUIET = ["tiles.pcm.dac.range=1.0", "training.inject.ramp=none"]
SMALL = ["tiles.pcm.rows=24"]  # several, uneven row tiles


def _compiler() -> bool:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return bool(get_cpp_compiler())
    except InvalidCxxCompiler:
        return False


needs_compiler = pytest.mark.skipif(not _compiler(), reason="no C++ compiler")


def tiles(*changes, n=50, out=30):
    """The same tile on both back-ends."""
    w = 0.2 * torch.randn(out, n, generator=torch.Generator().manual_seed(0))
    both = ([], ["compile=true"])
    return [mho.Tile(w, mho.load("pcm.standard", set=[*QUIET, *SMALL, *changes, *more])) for more in both]


def inputs(vectors, n=50):
    return torch.rand(vectors, n, generator=torch.Generator().manual_seed(1)) * 2.2 - 1.1  # some are clipped


def the_same_chip(eager, compiled, seed=0, t="0 s"):
    """Programmed by eager code, for both: kernels of programming and ageing round differently."""
    eager.program(seed).age(t)
    bring_over(eager, compiled)


def bring_over(eager, compiled):
    """The chip of one layer to another."""
    compiled.tiles.chip = replace(eager.tiles.chip, coded={})  # coded by a kernel
    compiled.tiles.session.sample = 0


@pytest.fixture(autouse=True)
def all_sizes(monkeypatch):
    monkeypatch.setattr(made, "WORTHWHILE", 1)


def test_small_work_stays_eager(monkeypatch):
    """Kernels are made for many weights, and for many inputs or outputs of a call."""
    monkeypatch.setattr(made, "_compiled", lambda function, **options: function)
    monkeypatch.setattr(made, "WORTHWHILE", 50 * 30 + 1)
    eager, compiled = (t.program(seed=0) for t in tiles())
    for vectors, kernels in ((16, set()), (17, {"epilogue"}), (31, {"DAC", "epilogue"})):
        with torch.no_grad():
            assert torch.equal(eager(inputs(vectors)), compiled(inputs(vectors)))
        assert set(compiled.tiles.backend.kernels.made) == kernels and not eager.tiles.backend.kernels.made
    monkeypatch.setattr(made, "WORTHWHILE", 50 * 30)
    compiled = tiles()[1].program(seed=0)
    with torch.no_grad():
        compiled(inputs(1))
    assert {"weight codes", "DAC", "epilogue"} <= set(compiled.tiles.backend.kernels.made)


def test_weights_of_many_tiles_are_coded_by_a_kernel_however_they_lie(monkeypatch):
    """Drop-connected weights are a transposed view of the layer's."""
    monkeypatch.setattr(made, "_compiled", lambda function, **options: function)
    _, compiled = tiles("tiles.pcm.rows=16", "training.drop_connect=0.1", n=160)
    compiled.train()(inputs(3, 160)).sum().backward()
    assert "weight codes" in compiled.tiles.backend.kernels.made and not compiled.tiles.backend.kernels.refused


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("products", ["fp32", "bf16"])
def test_training_gives_the_same_bits_compiled(products):
    results = []
    for tile in tiles("tiles.pcm.dac.range=learned", f"training.backward.products={products}"):
        tile.train()
        torch.manual_seed(2)
        x = inputs(20).requires_grad_()
        tile(x).square().sum().backward()
        assert not tile.tiles.backend.kernels.refused
        results.append([x.grad, *(p.grad for p in tile.parameters() if p.grad is not None)])
    assert len(results[0]) > 2
    for eager, compiled in zip(*results, strict=True):
        assert torch.equal(eager, compiled)


@needs_compiler
@pytest.mark.slow
def test_a_tile_may_take_turns_in_training_and_evaluation_with_one_vector_or_many():
    """What is None in one of them is not in the other: the kernel of one is no kernel of the other."""
    results, both = [], tiles("tiles.pcm.dac.range=learned")
    the_same_chip(*both)
    for tile in both:
        found = []
        for vectors in (8, 5, 1):
            with torch.no_grad():
                found.append(tile.eval()(inputs(vectors)))
            for mode in (tile.train, tile.eval):  # only training pulls on the input range
                torch.manual_seed(2)
                tile.zero_grad()
                mode()(0.5 * inputs(vectors)).square().sum().backward()
                found += [p.grad for p in tile.parameters() if p.grad is not None]
        assert not tile.tiles.backend.kernels.refused
        results.append(found)
    for eager, compiled in zip(*results, strict=True):
        assert torch.equal(eager, compiled)


@needs_compiler
@pytest.mark.slow
def test_a_convolution_in_groups_of_uneven_tiles_gives_the_same_bits_compiled():
    x, results, nets = torch.rand(4, 10, 9, 8, generator=torch.Generator().manual_seed(1)), [], []
    for change in ("compile=false", "compile=true"):
        torch.manual_seed(0)
        net = mho.to_analog(nn.Conv2d(10, 6, 3, groups=2), mho.load("pcm.standard", set=["tiles.pcm.rows=30", *QUIET, change]))
        net.train()(x).square().sum().backward()
        nets.append(net.eval())
    mho.program(nets[0], seed=0).age("1 h")
    bring_over(*nets)
    for net in nets:
        with torch.no_grad():
            results.append([net.weight.grad, net(x)])
        assert net.tiles.layout.sizes == [27, 18] and not net.tiles.backend.kernels.refused
    for eager, compiled in zip(*results, strict=True):
        assert torch.equal(eager, compiled)


@needs_compiler
@pytest.mark.slow
def test_chips_ages_and_batches_give_the_same_bits_compiled():
    eager, compiled = tiles("tiles.pcm.adc.bits=8")
    for seed in range(2):
        for t in ("0 s", "1 h"):
            the_same_chip(eager, compiled, seed, t)
            for vectors in (20, 7, 7):
                x = inputs(vectors)
                with torch.no_grad():
                    assert torch.equal(eager(x), compiled(x))
    names = compiled.tiles.backend.kernels
    assert {"DAC", "epilogue", "weight codes"} <= set(names.made) and not names.refused


@needs_compiler
@pytest.mark.slow
def test_a_nan_still_poisons_its_own_vector_and_nothing_else():
    x = inputs(4)
    x[2, 5] = float("nan")
    compiled = tiles()[1].program(seed=0)
    with torch.no_grad():
        y = compiled(x)
    assert y[2].isnan().all() and torch.isfinite(y[[0, 1, 3]]).all()


class DrawsInside(Nonideality, kind="draws.inside"):
    """A shift that draws random numbers of its own, which a kernel cannot."""

    source = "test"
    sides = {"a": Side(magnitude, absolute)}
    size: float = Field(0.1, unit="1", description="size")

    def shift(self, site, a):
        return self.size * site.randn_like(a)


@needs_compiler
def test_what_cannot_be_compiled_says_so_once_and_runs_eagerly():
    results = []
    for compiled in (False, True):
        tile = {"dac": {"bits": 8, "range": 1.0}, "adc": {"bits": 8}, "nonidealities": (DrawsInside(),)}
        hw = mho.Hardware.model_validate({"mho": 1, "default": "t", "compile": compiled, "tiles": {"t": tile}})
        made_tile = mho.Tile(0.2 * torch.randn(5, 9, generator=torch.Generator().manual_seed(0)), hw).program(seed=0)
        with torch.no_grad(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            results.append([made_tile(inputs(6, 9)), made_tile(inputs(6, 9))])
        ours = [str(w.message) for w in caught if "epilogue" in str(w.message)]
        assert len(ours) == compiled
        assert not compiled or "runs eagerly" in ours[0]
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_a_machine_without_a_compiler_runs_eagerly_and_says_so(monkeypatch):
    def no_compiler(function, **options):
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(made, "_compiled", no_compiler)
    monkeypatch.setattr(made, "_kinds", {})  # kernels of other tests
    with torch.no_grad(), pytest.warns(UserWarning, match="No working C"):
        eager, compiled = (t.program(seed=0) for t in tiles())
        assert torch.equal(eager(inputs(5)), compiled(inputs(5)))
    assert {"programming", "ageing", "DAC"} <= set(compiled.tiles.backend.kernels.refused)


def test_every_kernel_counts_for_itself(monkeypatch):
    """torch gives up on the ninth kernel of one piece of code; ours have code of their own, so there is no ninth."""
    seen = []
    monkeypatch.setattr(torch, "compile", lambda f, **how: seen.append((f.__code__, how)) or f)

    def function():
        return 1

    for _ in range(10):
        made._compiled(function)
    assert len({id(code) for code, _ in seen}) == len({code.co_name for code, _ in seen}) == 10
    assert all(how["fullgraph"] for _, how in seen)  # so a tenth size raises, and is reported


@needs_int8
def test_arrays_of_one_kind_share_their_kernels_and_keep_nobody(monkeypatch):
    """Not those that draw, nor arrays of another hardware, shape, arithmetic or backward pass; and no kernel keeps an array."""
    compiled = []

    def uncompiled(function):
        compiled.append(function.__qualname__)
        return function

    monkeypatch.setattr(made, "_compiled", uncompiled)
    monkeypatch.setattr(made, "_kinds", weakref.WeakValueDictionary())

    def trained(*changes, n=50):
        tile = tiles(*changes, n=n)[1].train()
        tile(inputs(7, n).requires_grad_()).sum().backward()
        return tile

    first = trained()
    names = set(first.tiles.backend.kernels.made)
    assert {"weight noise", "weight codes", "DAC", "epilogue", "gradient of the DAC"} <= names
    second, count = trained(), len(compiled)
    assert {n for n in names if first.tiles.backend.kernels.made[n] is not second.tiles.backend.kernels.made[n]} == {
        "weight noise"
    }
    assert count == len(names) + 1
    for changes, n in (
        (["tiles.pcm.adc.bits=6"], 50),
        (["precision=fp32"], 50),
        (["training.backward.products=bf16"], 50),
        ([], 51),
    ):
        before = len(compiled)
        trained(*changes, n=n)
        assert len(compiled) == before + len(names)
    gone = weakref.ref(first.tiles)
    del first
    gc.collect()
    assert gone() is None and second.tiles.backend.kernels.made


def test_copies_keep_the_switch_and_make_kernels_of_their_own():
    net = mho.to_analog(nn.Linear(6, 4), mho.load("pcm.standard", set=[*QUIET, "compile=true"]))
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert other.tiles.backend.kernels.wanted and other.tiles.backend.kernels is not net.tiles.backend.kernels


@pytest.mark.slow
@needs_compiler
def test_a_network_compiled_whole_is_evaluated_like_any_other():
    """All chips, ages and batches share few graphs, and the scores are those of the network itself."""
    torch.compiler.reset()
    model = nn.Sequential(nn.Linear(50, 30), nn.ReLU(), nn.Linear(30, 4)).eval()
    net, x = mho.to_analog(model, mho.load("pcm.standard", set=[*QUIET, *SMALL])), inputs(40)
    labels = model(x).argmax(1)

    def score(net):
        return float((torch.cat([net(part) for part in x.split(16)]).argmax(1) == labels).float().mean())

    plain = mho.evaluate(net, score, chips=4, times=("1 s", "1 year"))
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    whole = mho.evaluate(torch.compile(net, fullgraph=True, backend="eager"), score, chips=4, times=("1 s", "1 year"))
    assert whole.scores == plain.scores and len(set(plain.scores)) > 1
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - before <= 4


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("groups", [1, 4])
def test_a_convolution_in_a_network_compiled_whole_gives_the_same_numbers(groups):
    torch.compiler.reset()
    conv = nn.Conv2d(4, 8, 3, padding=1, groups=groups)
    net = mho.to_analog(nn.Sequential(conv, nn.ReLU()), mho.load("pcm.standard", set=[*QUIET, *SMALL])).eval()
    x = torch.rand(2, 4, 5, 5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        mho.program(net, seed=0)
        eager = net(x)
        mho.program(net, seed=0)
        assert torch.allclose(torch.compile(net, fullgraph=True)(x), eager, atol=1e-6)


@pytest.mark.slow
@needs_compiler
def test_a_compiled_network_serves_all_batches_of_a_chip():
    """The number of the first sample is no constant of the graph: it was, so every batch compiled anew."""
    torch.compiler.reset()
    net = mho.to_analog(nn.Linear(12, 8), mho.load("pcm.standard", set=QUIET)).eval()
    chip = mho.program(net, seed=0)
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    x = inputs(8 * 20, 12)
    with torch.no_grad():
        whole = net(x)
        chip.age(0)
        first = [compiled(part) for part in x[:24].split(8)]  # the chip's codes are made; a new number
        before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        rest = [compiled(part) for part in x[24:].split(8)]
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before
    assert torch.allclose(whole, torch.cat(first + rest), atol=1e-6)


def _twice(a, b):
    return a + 2 * b


@needs_compiler
@pytest.mark.slow
@torch.no_grad()
def test_a_kernel_that_was_first_given_one_tensor_twice_is_right_for_two():
    tile, one = tiles()[1], torch.ones(3)
    for a, b in ((one, one), (one, 0 * one), (one, 5 * one)):
        assert torch.equal(tile.tiles.backend.kernels.run("sum", lambda _: _twice, (a, b), lambda: None), a + 2 * b)


def test_a_site_without_kernels_calls_the_function():
    site = mho.Site(None, None, (0, 0), "output")
    assert not site.compiles and site.kernel(_twice, 1, 2) == 5


def _of_module(name, function):
    function.__module__, function.__qualname__ = name, "_do"
    return function


_raise, _halve = _of_module("one", lambda y: y + 1.0), _of_module("two", lambda y: y / 2)


class _Raising(Nonideality):
    """Adds 1 by a kernel."""

    def output(self, y, site):
        return site.kernel(_raise, y)


class _Halving(Nonideality):
    """Halves by a kernel whose function has the name of another module's."""

    def output(self, y, site):
        return site.kernel(_halve, y)


def test_functions_of_one_name_in_two_modules_are_two_kernels(monkeypatch):
    monkeypatch.setattr(made, "_compiled", lambda function: function)
    monkeypatch.setattr(made, "_kinds", weakref.WeakValueDictionary())
    seen = []
    for tile in tiles("tiles.pcm.adc=none", n=20):
        effects = (_Raising(kind="test.raising"), _Halving(kind="test.halving"))
        spec = tile.tiles.spec.model_copy(update={"nonidealities": effects})
        array = mho.tile.array.TileArray(30, 20, spec, tile.tiles.training_spec).eval()
        array.backend = Fast(array.view, "auto", tile.tiles.backend.compiled)
        array.remap(tile.weight)
        with torch.no_grad():
            seen.append(array(inputs(5, 20), tile.weight))
    assert torch.equal(*seen)


@needs_compiler
@pytest.mark.slow
def test_one_network_may_want_more_than_eight_variants_of_a_kernel():
    """Batches of one and of several vectors, with and without a gradient, in inference mode, with and without a chip: it stopped
    at the eighth, with a warning, and was eager from then on."""
    eager, compiled = tiles()
    for chip in (False, True):
        if chip:
            the_same_chip(eager, compiled)
        for context in (torch.enable_grad, torch.no_grad, torch.inference_mode):
            for vectors in (5, 1, 7):
                eager.tiles.session.sample = compiled.tiles.session.sample = 0
                values = []
                for tile in (eager, compiled):
                    torch.manual_seed(0)
                    with context():
                        values.append(tile.eval()(inputs(vectors)).detach())
                assert torch.equal(*values)
    assert not compiled.tiles.backend.kernels.refused


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("out", [17, 24, 40])
def test_weight_noise_has_the_same_bits_for_any_number_of_outputs(out):
    """Vector code of 16 numbers has to end somewhere: shifts of 64-bit integers went wrong there."""
    drawn = []
    for tile in tiles("tiles.pcm.rows=512", "training.inject={scale: 1}", n=20, out=out):
        torch.manual_seed(0)
        drawn.append(tile.train().tiles.draw(tile.weight).w.detach())
        assert not tile.tiles.backend.kernels.refused
    assert torch.allclose(*drawn, atol=1e-6)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(("out", "vectors"), [(17, 5), (24, 24)])
@torch._inductor.config.patch(fallback_random=True)
def test_a_network_compiled_whole_trains_and_infers_with_the_same_numbers(out, vectors):
    """Lengths that are no multiple of 16 went wrong in inductor's vector code of the hash. `fallback_random`: keys of training
    come from torch's generator then, as in eager."""
    torch.compiler.reset()
    tile = tiles("tiles.pcm.adc.bits=none", out=out)[0].program(seed=0)
    results, x = [], inputs(vectors)
    for f in (tile, torch.compile(tile, fullgraph=True)):
        tile.eval().age(0)
        with torch.no_grad():
            found = [f(x), f(x)]
        torch.manual_seed(0)
        tile.weight.grad = None
        y = f.train()(x)
        y.square().sum().backward()
        results.append([*found, y.detach(), tile.weight.grad])
    for eager, compiled in zip(*results, strict=True):
        assert torch.allclose(eager, compiled, atol=1e-5, rtol=1e-4)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "changes", "n"),
    [
        ("pcm.standard", ["tiles.pcm.rows=24"], 50),  # rows of 17 numbers, some of them padding
        ("rram.cmo", [], 50),  # two devices for each weight
        ("pcm.hermes", [], 35),
    ],
)
def test_programming_and_ageing_are_the_same_but_for_rounding_compiled(preset, changes, n):
    """Draws are the same numbers; logarithms and cosines of the compiler differ in the last places."""
    w = 0.2 * torch.randn(30, n, generator=torch.Generator().manual_seed(0))
    eager, compiled = (mho.Tile(w, mho.load(preset, set=[*changes, *more])).tiles for more in ([], ["compile=true"]))
    for seed in range(2):
        for array in (eager, compiled):
            array.program(w, draws.key("chip", seed))
        torch.testing.assert_close(compiled.chip.programmed, eager.chip.programmed, rtol=1e-5, atol=1e-4)  # µS
        for t in (0.0, 3600.0, 3.15e7):
            eager.age(t), compiled.age(t)
            aged = compiled.chip.weights
            torch.testing.assert_close(aged, eager.chip.weights, rtol=1e-5, atol=3e-6)
            if not eager.layout.full:
                assert not aged[(eager.layout.used == 0)[:, None, :].expand_as(aged)].any()
    kernels = compiled.backend.kernels
    assert {"programming", "ageing"} <= set(kernels.made) and not kernels.refused


@needs_compiler
@pytest.mark.slow
def test_layers_of_one_kind_share_their_kernels_and_have_draws_of_their_own():
    hw = mho.load("pcm.standard", set=["tiles.pcm.compensation=none", "compile=true"])
    net = mho.to_analog(nn.Sequential(*[nn.Linear(20, 20, bias=False) for _ in range(3)], nn.Linear(20, 8)), hw)
    with torch.no_grad():
        for layer in net[:3]:
            layer.weight.fill_(0.1)
            layer.tiles.remap(layer.weight)
    chip = mho.program(net, seed=0, age="1 h")
    made = [layer.tiles.backend.kernels.made for layer in net]
    for name in ("programming", "ageing"):
        assert made[0][name] is made[1][name] is made[2][name] is not made[3][name]
    weights = [layer.tiles.chip.weights.clone() for layer in net[:3]]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])
    mho.program(net, seed=1).age("1 day")
    chip.put_on(net)  # regenerated from its seed, to the bit
    assert all(torch.equal(layer.tiles.chip.weights, w) for layer, w in zip(net, weights))


class NeedsANumber(Nonideality, kind="needs.number"):
    """An ageing law that branches on the time, which a kernel for all times cannot."""

    source = "test"
    cellwise = True

    def age(self, g, t, site):
        return g if t <= 1 else 0.5 * g


@needs_compiler
def test_a_law_that_needs_the_time_as_a_number_runs_eagerly_and_says_so():
    tile = {"nonidealities": (NeedsANumber(),)}
    hw = mho.Hardware.model_validate({"mho": 1, "default": "t", "compile": True, "tiles": {"t": tile}})
    made_tile = mho.Tile(torch.eye(6), hw)
    with pytest.warns(UserWarning, match="its ageing cannot be compiled and runs eagerly"):
        made_tile.program(seed=0)
    assert torch.equal(made_tile.age("1 h").tiles.chip.weights[0], 0.5 * torch.eye(6))


def test_halves_of_rows_are_views_wherever_there_is_room():
    array = mho.Tile(torch.eye(6), mho.load("ideal.exact")).tiles
    for n in (6, 7):
        t = torch.rand(2, 3, n)
        for given, alone in ((t, n % 2 == 1), (cells._roomy(t.shape, t).copy_(t), False)):
            halves = cells._halves(given)
            assert torch.equal(torch.cat(halves, -1)[:, :n].view(2, 3, n), t)
            assert (halves[0].data_ptr() != given.data_ptr()) == alone
    assert torch.equal(cells.laid_out(array.backend.kernels, t), t)


@needs_int8
@pytest.mark.parametrize(("rows", "products"), [(32, "mho.int8_products"), (64, "_int_mm")])
def test_a_graph_computes_products_where_they_are_read(rows, products):
    """Each of several tiles on its own would be copied behind the others; a tile alone needs no operation of mho's."""
    seen = []

    def look(graph, _):
        seen.extend(str(getattr(n.target, "__name__", n.target)) for n in graph.graph.nodes if n.op == "call_function")
        return graph

    eager, _ = tiles(f"tiles.pcm.rows={rows}")
    eager.program(seed=0)
    with torch.no_grad():
        found = torch.compile(eager, backend=look, fullgraph=True)(inputs(4))
        eager.tiles.session.sample = 0
        assert torch.allclose(found, eager(inputs(4)), atol=1e-5)
    used = [name for name in seen if "int8_products" in name or "_int_mm" in name]
    assert used and all(products.split(".")[-1] in name for name in used)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("out", [1, 3])
def test_few_outputs_of_many_tiles_are_added_in_one_order(out):
    eager, compiled = tiles("tiles.pcm.rows=16", n=600, out=out)
    the_same_chip(eager, compiled)
    x = inputs(33, 600)
    with torch.no_grad():
        expected = eager(x)
        compiled.tiles.session.sample = 0
        assert torch.equal(expected, torch.cat([compiled(p) for p in x.split([1, 5, 27])]))
    assert not compiled.tiles.backend.kernels.refused
