"""The networks of R003 Table 1 go through everything: one hardware-aware step, programming, ageing, evaluation."""

import importlib.util
from pathlib import Path

import pytest
import torch

import mho

NETWORKS = Path(__file__).parents[2] / "examples" / "networks"


def network(file):
    spec = importlib.util.spec_from_file_location(f"networks_{file}", NETWORKS / f"{file}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def goes_through(model, inputs, ends_digital=False):
    """One HWA step with Table A.1's hardware; then two chips at two times."""
    hw = mho.load("pcm.standard")
    if ends_digital:
        rules = network("resnet").DIGITAL_ENDS
        hw = mho.Hardware.from_yaml(hw.to_yaml().replace("layers: []\n", "") + "\n" + rules)
    net = mho.to_analog(model, hw, strict=True)
    optimizer = torch.optim.SGD(net.parameters(), 1e-3)
    mho.attach(optimizer, net, steps_per_epoch=10)
    before = next(mho.use.chip.matrices(net))[1].detach().clone()
    net.train()(*inputs).float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters() if p.requires_grad)
    optimizer.step()
    assert not torch.equal(next(mho.use.chip.matrices(net))[1], before)
    scores = []

    def score(analog):
        y = analog(*inputs)
        assert y.isfinite().all()
        scores.append(y)
        return 0.0

    curve = mho.evaluate(net, score, ["1 s", "1 year"], chips=2, seed=0)
    assert curve.chips == 2 and all(not torch.equal(a, b) for i, a in enumerate(scores) for b in scores[:i])


def images(n, size):
    return (torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0)),)


def tokens(n, length):
    return (torch.randint(0, 40, (n, length), generator=torch.Generator().manual_seed(0)),)


def test_resnet32_goes_through():
    torch.manual_seed(0)
    goes_through(network("resnet").resnet32(), images(2, 16))


def test_a_small_densenet_goes_through():
    torch.manual_seed(0)
    goes_through(network("densenet").DenseNet((2, 2), growth=8, classes=10), images(2, 32), ends_digital=True)


@pytest.mark.parametrize("shared", [False, True])
def test_a_small_bert_and_albert_go_through(shared):
    torch.manual_seed(0)
    model = network("transformer").Encoder(50, 32, layers=2, heads=2, embedding=16 if shared else 32, shared=shared)
    goes_through(model, tokens(2, 8))


def test_small_recurrent_networks_go_through():
    torch.manual_seed(0)
    code = network("recurrent")
    goes_through(code.LanguageModel(40, 24), tokens(2, 5))
    goes_through(code.Speech(12, 16, 2, 8, 20), (torch.randn(2, 5, 12),))
    goes_through(code.Transducer(12, 16, 2, 12, 10, 8, 46), (torch.randn(2, 5, 12), *tokens(2, 3)))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "file, name, inputs, ends_digital",
    [
        ("resnet", "wrn16_8", lambda: images(2, 32), False),
        ("resnet", "resnet18", lambda: images(2, 64), True),
        ("resnet", "resnet50", lambda: images(2, 64), True),
        ("resnet", "wide_resnet50", lambda: images(2, 64), True),
        ("densenet", "densenet121", lambda: images(2, 64), True),
        ("transformer", "bert_base", lambda: tokens(1, 16), False),
        ("transformer", "albert_base", lambda: tokens(1, 16), False),
        ("recurrent", "lstm_ptb", lambda: tokens(2, 4), False),
        ("recurrent", "speech", lambda: (torch.randn(1, 4, 140),), False),
        ("recurrent", "rnn_t", lambda: (torch.randn(1, 4, 340), *tokens(1, 3)), False),
    ],
)
def test_the_large_networks_go_through(file, name, inputs, ends_digital):
    torch.manual_seed(0)
    goes_through(getattr(network(file), name)(), inputs(), ends_digital)
