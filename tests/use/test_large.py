"""Large models: converted on `meta`, loaded from shards, and used on chips that keep no cells, without a second copy."""

import copy
import json
import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import mho
from mho.tile import TileArray

FEW = mho.load("pcm.standard", set=["tiles.pcm.compensation.vectors=1"])  # read-outs are kept


class Words(nn.Module):
    """A head that shares its weight with the embedding, and a buffer that no file has."""

    def __init__(self):
        super().__init__()
        self.words, self.inside, self.head = nn.Embedding(30, 16), nn.Linear(16, 16), nn.Linear(16, 30, bias=False)
        self.head.weight = self.words.weight
        self.register_buffer("scale", torch.full((16,), 1.5), persistent=False)

    def forward(self, x):
        return self.head(self.inside(self.words(x) * self.scale).relu())


def storages(values):
    return {t.untyped_storage() for t in tree_leaves(values) if isinstance(t, torch.Tensor) and not t.is_meta}


class Live(TorchDispatchMode):
    """The most bytes that tensors have held at once which were made inside; what a file is mapped to is not among them."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.known = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for storage in storages(result) - storages((args, kwargs)):
            if storage not in self.known:
                size = self.known[storage] = storage.nbytes()
                self.now += size
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self.gone, size)
        return result

    def gone(self, size):
        self.now -= size


def shards(model, folder, count, without=()):
    """The state in files, and their index."""
    state = {k: v.clone() for k, v in model.state_dict().items() if k not in without}
    where = {name: f"part-{i % count}.safetensors" for i, name in enumerate(state)}
    for file in set(where.values()):
        save_file({name: state[name] for name in where if where[name] == file}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return index


def on_meta(make):
    with torch.device("meta"):
        return make()


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_shards_into_a_network_from_meta_are_the_network(kind, tmp_path):
    torch.manual_seed(0)
    plain = Words().to(kind)
    index = shards(plain, tmp_path, 3, without=["head.weight"])
    model = on_meta(lambda: Words().to(kind))
    with pytest.raises(mho.MhoError, match=r"no file has a value for scale, on meta"):
        mho.load_model(mho.to_analog(model, "pcm.standard"), index)
    model.scale = plain.scale
    net, expected = mho.load_model(mho.to_analog(model, "pcm.standard"), index), mho.to_analog(plain, "pcm.standard")
    assert net.head.weight is net.words.weight and isinstance(net.words.weight, nn.Parameter)
    state, right = net.state_dict(), expected.state_dict()
    assert state.keys() == right.keys() and all(torch.equal(state[k], right[k]) for k in right)
    for n in (net, expected):
        mho.program(n.eval(), seed=0, age="1 h")
    x = torch.arange(12).view(3, 4)
    assert torch.equal(net(x), expected(x))


@pytest.mark.parametrize(
    ("text", "why"),
    [("[]", "cannot read"), ('{"weight_map": {"weight": "gone"}}', "cannot read"), ('{"weight_map": 3}', "cannot read")],
)
def test_an_index_that_is_none_is_named(text, why, tmp_path):
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(mho.MhoError, match=why):
        mho.load_model(nn.Linear(2, 2), tmp_path / "index.json")


def test_what_a_file_lacks_and_has_too_much_is_named(tmp_path):
    save_file({"0.weight": torch.ones(2, 2), "0.other": torch.ones(1)}, tmp_path / "f")
    with pytest.raises(mho.MhoError, match=r"does not fit this Sequential: it has no 0\.other; it lacks 0\.bias"):
        mho.load_model(nn.Sequential(nn.Linear(2, 2)), tmp_path / "f")


def test_every_further_layer_takes_the_memory_of_its_weights(tmp_path):
    """When it is converted, loaded, programmed and called: a second copy anywhere would be twice that, kept cells four times."""
    most = []
    for count in (4, 16):
        plain = nn.Sequential(*(nn.Linear(64, 64) for _ in range(count)))
        (tmp_path / f"{count}").mkdir()
        index = shards(plain, tmp_path / f"{count}", 4)
        model = on_meta(lambda: nn.Sequential(*(nn.Linear(64, 64) for _ in range(count))))  # noqa: B023
        with Live() as live, torch.no_grad():
            net = mho.load_model(mho.to_analog(model, FEW), index).eval()
            mho.program(net, seed=0, age="1 h", lean=True)
            net(torch.ones(2, 64))
        most.append(live.most)
    assert 64 * 64 * 4 <= (most[1] - most[0]) / 12 < 1.3 * 64 * 64 * 4


@pytest.mark.filterwarnings("ignore:training an analog network without")
@pytest.mark.parametrize("how", [True, "codes"])
@pytest.mark.parametrize("precision", ["auto", "reference"])
def test_a_lean_chip_has_the_bits_of_one_that_is_kept(tmp_path, how, precision):
    torch.manual_seed(0)
    hw = mho.load("pcm.standard", set=[f"precision={precision}", "tiles.pcm.corrections=[digital.affine]"])
    net = mho.to_analog(nn.Sequential(nn.Linear(20, 12), nn.Tanh(), nn.Linear(12, 3)), hw).eval()
    x = torch.randn(5, 20)
    mho.calibrate(net, [torch.randn(64, 20)])

    def seen(lean):
        chip = mho.program(net, seed=3, age="1 h", lean=lean)
        with torch.no_grad():
            found = [net(x), net(x), net(x)]
        found.append(net(x))  # for a gradient
        chip.age("1 day")
        with torch.no_grad():
            found += [net(x), net(x)]
        net.train()
        net(x)
        net.eval()
        chip.save(tmp_path / f"{lean}")
        mho.unprogram(net)
        with chip.on():
            found.append(net(x))
        assert (net[0].tiles.chip is None) and mho.chip_on(net) is None
        return torch.stack(found)

    assert torch.equal(seen(how), seen(False))
    kept, lean = (load_file(tmp_path / f"{lean}") for lean in (False, how))
    assert kept.keys() == lean.keys() and all(torch.equal(kept[k], lean[k]) for k in kept)

    def score(net):
        return float(net(x).square().mean())

    assert mho.evaluate(net, score, chips=2, lean=how) == mho.evaluate(net, score, chips=2)


@pytest.mark.skipif(mho.routes(mho.load("pcm.standard"))["pcm"].tier != "int8", reason="no fast integer products here")
def test_a_lean_chip_may_keep_its_codes_which_take_the_memory_of_the_weights(monkeypatch):
    """Cells are programmed once at every age, and gone when the forward is; a copy of the network carries none."""
    write, kept = TileArray._write, []
    for count in (4, 4, 12):  # the first for tables and workspaces that stay
        net = mho.to_analog(nn.Sequential(*(nn.Linear(256, 256, bias=False) for _ in range(count))), FEW).eval()
        made = []
        monkeypatch.setattr(TileArray, "_write", lambda self, *a: (made.append(self.name), write(self, *a))[1])  # noqa: B023
        mho.program(net, seed=0, age="1 h", lean="codes")
        with Live() as live, torch.no_grad():
            net(torch.ones(2, 256))
            net(torch.ones(200, 256))
        assert made == [str(k) for k in range(count)]  # by the first forward
        kept.append(live.now)
    assert 256 * 256 * 4 <= (kept[2] - kept[1]) / 8 < 1.1 * 256 * 256 * 4
    with torch.no_grad():
        mho.age(net, "1 day")
        assert not net[0].tiles.chip.coded
        y = net(torch.ones(2, 256))
    assert made == [str(k) for k in range(12)] * 2 and net[0].tiles.chip.coded and torch.isfinite(y).all()
    assert not copy.deepcopy(net)[0].tiles.chip.coded


def test_a_lean_chip_keeps_nothing_codes_or_all():
    net = mho.to_analog(nn.Linear(2, 2), "pcm.standard").eval()
    with pytest.raises(mho.MhoError, match="lean is True, False or 'codes', got 'code'"):
        mho.program(net, seed=0, lean="code")


def test_a_lean_chip_is_no_chip_of_other_weights():
    net = mho.to_analog(nn.Sequential(nn.Linear(4, 3)), "pcm.standard").eval()
    mho.program(net, seed=0, lean=True)
    with torch.no_grad():
        net[0].weight.mul_(1.1)
    with pytest.raises(mho.MhoError, match="have changed or moved since its lean chip was made"):
        net(torch.ones(1, 4))


@pytest.mark.parametrize("lean", [True, "codes"])
@pytest.mark.parametrize("hw", ["precision=reference", "tiles.pcm.corrections=[{kind: digital.affine, rank: 2}]"])
def test_what_happens_around_a_lean_chip_does_not_change_it(lean, hw):
    """Autocast, another mapping of the same weights, bf16: it is written as it would have been when it was programmed."""
    torch.manual_seed(7)
    x, many = torch.randn(5, 20), torch.randn(64, 20)

    def outputs(lean):
        torch.manual_seed(0)
        net = mho.to_analog(nn.Linear(20, 12), mho.load("pcm.standard", set=[hw])).eval()
        mho.calibrate(net, [many])
        chip = mho.program(net, 3, age="1 h", lean=lean)
        found = []
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            found.append(net(x).float())
        with torch.no_grad():
            net.tiles.gamma.mul_(2)
            chip.age("2 h")
            found += [net(x), net(x), copy.deepcopy(net)(x)]
        return torch.stack(found)

    assert torch.equal(outputs(lean), outputs(False))


@pytest.mark.parametrize("lean", [True, "codes"])
def test_a_lean_chip_is_none_of_rounded_weights_and_shows_no_cells(lean):
    net = mho.to_analog(nn.Linear(20, 12), "pcm.standard").eval()
    mho.program(net, seed=0, lean=lean)
    with pytest.raises(mho.MhoError, match="this lean chip keeps no weights: program it again without `lean`"):
        net.tiles.trace(torch.ones(1, 20), net.weight)
    net(torch.ones(1, 20))
    with pytest.raises(mho.MhoError, match="have changed or moved since its lean chip was made"):
        net.bfloat16()(torch.ones(1, 20, dtype=torch.bfloat16))
