"""The fast path of accelerators: the same plan, tried on the device without values, and with values on the processor."""

import itertools

import pytest
import torch
from mho_fast import backend, route, tier
from mho_kit.far import answer
from torch import nn

import mho
from mho.tile import tile_arrays

FULL = "pcm.standard"
PRECISIONS = {"auto": "fp32", "fp32": "fp32", "fp32-main": "fp32-main", "int8": "int8"}
WAYS = [
    [],
    pytest.param(["training.backward={mode: through, products: bf16}"], marks=pytest.mark.slow),
    ["training.backward=ste", "tiles.pcm.dac.range=dynamic"],
]


def network(precision, changes):
    """A convolution and a linear layer that must run on the fast path, and inputs."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(4, 6, 3), nn.ReLU(), nn.Linear(6, 3))
    net = mho.to_analog(model, mho.load(FULL, set=[f"precision={precision}", *changes]))
    for array in tile_arrays(net):
        array.backend.takes = Fused(array.backend)
    return net, (torch.randn(2, 4, 8),)


class Fused:
    """In place of `Fast.takes`."""

    def __init__(self, fast):
        self.fast = fast

    def __call__(self, *call):
        assert type(self.fast).takes(self.fast, *call), "this call takes the reference path"
        return True


@pytest.mark.parametrize("precision", ["auto", "int8", pytest.param("fp32-main", marks=pytest.mark.slow)])
@pytest.mark.parametrize("changes", WAYS, ids=["through", "bf16", "ste, dynamic ranges"])
def test_the_fast_path_never_waits(precision, changes):
    found = answer(network, precision, changes)
    if found.skipped:
        pytest.skip(found.skipped)
    assert not found.problem


def test_what_takes_the_reference_path_is_seen():
    found = answer(network, "reference", [])
    assert found.skipped or "this call takes the reference path" in found.problem


@pytest.fixture
def accelerated(monkeypatch):
    """Arrays of the processor are simulated as on an accelerator, whose integer products ask for whole words."""
    monkeypatch.setattr(backend, "on_accelerator", lambda view: True)
    monkeypatch.setattr(tier, "fits", lambda x, w: len(x) > 16 and x.shape[1] % 16 == 0 == len(w) % 16)


@pytest.mark.parametrize(("precision", "expected"), PRECISIONS.items())
def test_values_are_those_of_the_reference_path(precision, expected, accelerated):
    """On a chip, without fresh noise: as the tiers of the processor (test_fused.py), codes of the ADC at their edges."""
    torch.manual_seed(0)
    quiet = "tiles.pcm.nonidealities=[pcm.programming_noise, circuit.ir_drop, circuit.adc_s_curve]"
    w, x = 0.2 * torch.randn(48, 160), torch.rand(40, 160) * 2.2 - 1.1
    changes = [quiet, "tiles.pcm.rows=64", "tiles.pcm.dac={bits: 8, range: 1.0}", "tiles.pcm.compensation=none"]
    fused, reference = (mho.Tile(w, mho.load(FULL, set=[*changes, f"precision={p}"])) for p in (precision, "reference"))
    assert fused.tiles.backend.route.tier == expected and reference.tiles.backend.route.tier == "reference"
    with torch.no_grad():
        a, b = (t.program(seed=3).age("1 h")(x) for t in (fused, reference))
    moved = (a - b).abs() / (fused.tiles.digital_scale().amax() * 10 / fused.tiles.spec.adc.top)
    assert moved.max() < 1.01 * fused.tiles.layout.row_tiles
    assert (moved > 0.01).double().mean() < (1e-3 if expected == "fp32" else 0.12)
    assert (a - b).norm() < 0.02 * b.norm()


@pytest.mark.filterwarnings("ignore:training an analog network without mho.attach")
def test_a_training_step_has_the_bits_of_the_same_tier_on_the_processor(monkeypatch):
    """In one piece instead of blocks."""
    found = []
    for there in (False, True):
        monkeypatch.setattr(backend, "on_accelerator", lambda view, there=there: there)
        torch.manual_seed(0)
        tile = mho.Tile(0.2 * torch.randn(48, 160), mho.load(FULL, set=["precision=fp32", "training.inject.ramp=none"])).train()
        x = torch.rand(40, 160, requires_grad=True)
        y = tile(x)
        y.square().sum().backward()
        found.append((y.detach(), x.grad, tile.weight.grad))
    assert all(torch.equal(a, b) for a, b in zip(*found))


def test_integer_products_that_do_not_fit_are_exact(monkeypatch):
    monkeypatch.setattr(tier, "fits", lambda x, w: False)
    g = torch.Generator().manual_seed(0)
    for m, k, n in itertools.product((1, 5, 17), (1, 2, 512, tier.EXACT), (1, 3, 8)):
        x, w = (torch.randint(-128, 128, (count, k), dtype=torch.int8, generator=g) for count in (m, n))
        x[0], w[0] = 127, -128
        out = torch.empty(m, n, dtype=torch.int32)
        assert torch.equal(tier.int8_product(x, w, out).long(), x.long() @ w.long().t()), (m, k, n)


def test_tiers_of_an_accelerator():
    """Sums of integers that fp32 would have to hold set the limit; without a DAC there is no fast path there either."""
    assert tier.chosen_tier("auto", 8, 512, True)[0] == "fp32"
    assert tier.chosen_tier("int8", 8, 512, True)[0] == "int8" and tier.chosen_tier("int8", 9, 512, True)[0] == "fp32-main"
    assert tier.chosen_tier("int8", 8, 2 * tier.EXACT, True)[0] == "fp32"
    assert {r.tier for r in route.routes(mho.load("ideal.exact"), True).values()} == {"reference"}
