"""What a forward pass must not do: each test is a trap that has cost a factor, seen by the operations that torch is asked for."""

import sys
from collections import Counter

import pytest
import torch
from mho_fast import tier
from mho_kit.bench import Witness
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import mho
from mho.config import registry
from mho.tile import layout
from mho.tile.watch import Watch


@pytest.fixture(autouse=True)
def steady(monkeypatch):
    """Calls between those at which ranges are looked at (1, 2, 4, 8, ...)."""
    monkeypatch.setattr(Watch, "due", lambda watch, array: False)


needs_int8 = pytest.mark.skipif(not tier.has_int8(), reason="no exact and fast integer products on this processor")
pytestmark = pytest.mark.filterwarnings("ignore:training an analog network without mho.attach")
FAST = ("int8", "fp32-main", "fp32")
OUT, ROWS, TILE = 300, 400, 128  # 120,000 weights on tiles of 4 x 100 rows; the quantile table has 65,536 numbers
FLOAT = "_linear_pointwise"  # of oneDNN, which returns memory of its own, a tile at a time
PRODUCTS = ("mm", "_int_mm", FLOAT)


class Operations(TorchDispatchMode):
    """Takes down the name of every operation, and the sizes of the tensors that it reads or makes; views are free."""

    def __init__(self):
        super().__init__()
        self.names, self.sizes, self.made = [], [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            given = tensors((args, kwargs))
            memory = {t.untyped_storage().data_ptr() for t in given}
            self.names.append(func.overloadpacket.__name__)
            self.sizes.append(max((t.numel() for t in (*given, *tensors(result))), default=0))
            fresh = [t.numel() for t in tensors(result) if t.untyped_storage().data_ptr() not in memory]
            self.made.append(max(fresh, default=0))
        return result

    def of_size(self, size):
        return [n for n, s in zip(self.names, self.sizes) if s >= size]

    def making(self, size):
        return [n for n, s in zip(self.names, self.made) if s >= size]


def tensors(values):
    return [t for t in tree_leaves(values) if isinstance(t, torch.Tensor)]


def operations(f):
    with Operations() as seen:
        f()
    return seen


def layer(precision="int8", *changes, out=OUT, rows=ROWS):
    g = torch.Generator().manual_seed(0)
    hw = mho.load(
        "pcm.standard",
        set=[
            f"precision={precision}",
            f"tiles.pcm.rows={TILE}",
            "tiles.pcm.dac.range=1.0",
            "training.inject.ramp=none",
            *changes,
        ],
    )
    return mho.Tile(0.2 * torch.randn(out, rows, generator=g), hw)


def vectors(n=4):
    return torch.rand(n, ROWS, generator=torch.Generator().manual_seed(1)) * 2 - 1


def evaluated(tile, x):
    """A second forward on a chip: planes, workspaces and tables are there."""
    with torch.no_grad():
        tile(x)
        return operations(lambda: tile(x))


@needs_int8
@pytest.mark.parametrize("precision", FAST)
def test_a_forward_on_a_chip_does_nothing_with_the_weights_but_multiply(precision):
    """abs(W), W as integers, W in another type: made once for every age, not for every forward."""
    seen = evaluated(layer(precision).program(seed=0).age("1 h"), vectors())
    assert {*seen.of_size(OUT * ROWS // 4)} <= {*PRODUCTS, "index_select"}  # a quarter: the tiles are multiplied in turn
    # W_hi, W_lo and W j/n with x, |W| with |x| and x^2; of other tiers W with x, W j/n with x in 8 bits, |W| as before
    assert sum(n in PRODUCTS for n in seen.names) == 4 * (2 if precision == "int8" else 3)


def test_the_guard_sees_an_operation_on_the_weights():
    """A plain `read` looks at all weights in every call, and they are coded anew: the seam of docs/speed.md."""
    telegraph = "tiles.pcm.nonidealities=[rram.telegraph_noise]"
    seen = evaluated(layer("int8", telegraph).program(seed=0), vectors())
    assert not {*seen.of_size(OUT * ROWS)} <= {*PRODUCTS, "index_select"}


@pytest.mark.parametrize("precision", FAST)
def test_no_forward_allocates_its_products_or_whole_intermediates(precision, monkeypatch):
    """Products lie in a workspace that stays, everything behind them runs over blocks."""
    monkeypatch.setattr(layout, "BLOCK", 1 << 12)
    count = 512
    seen = evaluated(layer(precision).program(seed=0), vectors(count))
    assert seen.making(4 * count * OUT) == []
    whole = Counter(n for n in seen.making(count * OUT // 2) if n != FLOAT)
    assert sum(whole.values()) <= 5, whole  # inputs as x, |x| and x^2 in tier fp32, whether they are clipped, outputs


def test_the_guard_sees_what_the_reference_path_allocates(monkeypatch):
    monkeypatch.setattr(layout, "BLOCK", 1 << 12)
    assert len(evaluated(layer("reference").program(seed=0), vectors(512)).making(4 * 512 * OUT)) > 10


@pytest.mark.parametrize("products", ["fp32", "bf16"])
def test_of_the_size_of_the_weights_a_training_step_makes_noisy_weights_and_a_gradient(products, monkeypatch):
    """autograd takes the gradient over as it is, since it lies in memory as the weight does."""
    monkeypatch.setattr(layout, "BLOCK", 1 << 12)
    tile = layer("int8", f"training.backward.products={products}").train()
    x = vectors().requires_grad_()

    def step():
        tile.weight.grad = None
        tile(x).backward(torch.ones(4, OUT))

    step()
    made = Counter(operations(step).making(OUT * ROWS))
    assert sum(made.values()) == (2 if products == "fp32" else 3), made  # and their copy in bf16
    assert tile.weight.grad.is_contiguous()


@pytest.mark.parametrize("mode", ["on a chip", "in training"])
def test_random_numbers_come_from_counters_and_quantisers_are_plain(mode):
    """`randn` is slow when it is compiled and depends on the order of calls, fake_quantize is slow everywhere. A training step
    asks torch's generator for its keys only."""
    tile, x = layer("int8").program(seed=0), vectors()
    if mode == "on a chip":
        seen = evaluated(tile, x)
    else:
        tile.train()
        seen = operations(lambda: tile(x.requires_grad_()).sum().backward())
    words = ("rand", "normal", "bernoulli", "uniform", "exponential", "fake_quant", "quantize")
    asked = Counter(n for n in seen.names if any(w in n for w in words))
    assert {*asked} <= ({"randint"} if mode == "in training" else set())
    assert asked["randint"] <= 2
    assert operations(lambda: torch.randn(3)).names == ["randn"]


def test_chips_are_evaluated_one_after_the_other_with_the_same_operations():
    """A vmap over chips makes batched products, up to twice as slow on a processor."""
    tile, x, seen = layer("int8"), vectors(), []

    def score(net):
        assert not torch._C._are_functorch_transforms_active()
        seen.append(operations(lambda: net(x)).names)
        return 1.0

    mho.evaluate(tile, score, ["1 h"], chips=3)
    first, *others = seen[-3:]
    assert others == [first, first]


def python_calls(f):
    """How many functions of Python are entered."""
    count = [0]

    def called(frame, event, arg):
        count[0] += event == "call"

    sys.setprofile(called)
    try:
        f()
    finally:
        sys.setprofile(None)
    return count[0]


def test_plugins_that_are_installed_and_not_used_cost_no_operation_and_no_call():
    """Also one that acts everywhere, at strength 0."""
    x, counts = vectors(), []
    with registry.using(registry.Registry()):
        for _ in range(2):
            tile = layer("int8").program(seed=0)
            names = evaluated(tile, x).names
            with torch.no_grad():
                counts.append((names, python_calls(lambda t=tile: t(x))))
            for k in range(20):
                mho.register(
                    type(f"Idle{k}", (Witness,), {"__doc__": "It acts at every stage.", "__annotations__": {}}, kind=f"idle.e{k}")
                )
        off = "tiles.pcm.nonidealities=[" + ", ".join(f"{{kind: idle.e{k}, scale: 0}}" for k in range(20)) + "]"
        idle, none = (layer("int8", e).program(seed=0) for e in (off, "tiles.pcm.nonidealities=[]"))
    assert counts[0] == counts[1]
    assert evaluated(idle, x).names == evaluated(none, x).names


@pytest.mark.parametrize("precision", [*FAST, "reference"])
def test_as_many_operations_for_many_vectors_as_for_few(precision):
    """No loop over samples."""
    tile = layer(precision).program(seed=0)
    few, many = (evaluated(tile, vectors(n)).names for n in (2, 40))
    assert few == many
