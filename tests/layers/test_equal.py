"""With exact tiles every converted layer is the torch layer, in values and gradients."""

import copy

import layer_cases as cases
import pytest
import torch

import mho

pytestmark = pytest.mark.filterwarnings(  # what torch says of its own layers
    "ignore:Using padding='same' with even kernel",
    "ignore:enable_nested_tensor is True",
    "ignore:The PyTorch API of nested",
    "ignore:LSTM with projections is not supported with oneDNN",
)

# Small tiles, so that every matrix is cut along rows, unevenly.
SMALL = mho.Hardware.from_yaml("mho: 1\ndefault: t\ntiles: {t: {rows: 10, columns: 4}}\ntraining: {inject: none}")


def run(layer, case, grad=True):
    """Outputs and gradients (of the input and of every parameter) of the sum of squares of the outputs."""
    first, *rest = case.inputs()
    leaf = first.data if hasattr(first, "batch_sizes") else first
    leaf = leaf.clone().requires_grad_(grad)
    given = first._replace(data=leaf) if hasattr(first, "batch_sizes") else leaf
    if case.name.startswith("MultiheadAttention") and len(rest) == 2 and rest[0] is first:
        rest = [given, given]
    outputs = cases.tensors(layer(given, *rest, **dict(case.options)))
    outputs = [o for o in outputs if o.is_floating_point()]
    if not grad:
        return outputs, {}
    sum((o.square() * torch.arange(1.0, o.numel() + 1).view(o.shape) / o.numel()).sum() for o in outputs).backward()
    grads = {n: p.grad for n, p in layer.named_parameters() if p.grad is not None and "tiles" not in n}
    return outputs, {"input": leaf.grad, **grads}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("case", cases.CASES, ids=repr)
def test_exact_tiles_compute_what_torch_computes(case, training):
    torch.manual_seed(0)
    layer = case.layer().train(training)
    net = mho.to_analog(layer, SMALL, strict=True)
    assert isinstance(net, type(layer))
    expected, grads = run(copy.deepcopy(layer), case)
    values, own = run(net, case)
    assert [v.shape for v in values] == [v.shape for v in expected]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(values, expected))
    assert set(own) == set(grads)
    for name, g in grads.items():
        assert torch.allclose(own[name], g, atol=1e-5, rtol=1e-4), name


@pytest.mark.parametrize("case", cases.ATTENTION, ids=repr)
def test_without_gradients_nothing_goes_round_the_tiles(case):
    """Torch's fused inference paths read the weights directly; every tile array must be called all the same."""
    torch.manual_seed(0)
    layer = case.layer().eval()
    net = mho.to_analog(layer, SMALL, strict=True)
    called = set()
    arrays = [m for m in net.modules() if type(m).__name__ == "TileArray"]
    for array in arrays:
        array.forward = lambda *a, own=array.forward, n=array.name: called.add(n) or own(*a)
    with torch.no_grad():
        values, _ = run(net, case, grad=False)
        expected, _ = run(layer, case, grad=False)
    assert called == {a.name for a in arrays}
    if len(values) == len(expected):
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(values, expected))


@pytest.mark.parametrize("norm", [None, torch.nn.LayerNorm(12)])
@pytest.mark.parametrize("grad", [True, False])
def test_padded_positions_are_what_torch_returns_for_them(norm, grad):
    """Zeros from torch's nested tensors, and values where torch does not take them; to_digital leaves nothing behind."""
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(12, 2, 20, 0.0, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, 2, norm=norm).eval()
    net = mho.to_analog(model, SMALL)
    with torch.set_grad_enabled(grad):
        for padding in (cases.PADDED, cases.PADDED.flip(1)):  # behind and in front
            expected = model(cases.x(2, 6, 12), src_key_padding_mask=padding)
            for other in (net, copy.deepcopy(net)):
                assert torch.allclose(other(cases.x(2, 6, 12), src_key_padding_mask=padding), expected, atol=1e-5)
    back = mho.to_digital(net)
    assert back.use_nested_tensor and not back._forward_hooks and not back._forward_hooks_with_kwargs
