"""What every layer type can do, tried out; docs/layers.md is the committed result and must stay current.

MHO_UPDATE=1 pytest tests/layers/test_abilities.py -k committed   writes the table anew.
"""

import copy
import os
import pickle
import warnings
from pathlib import Path

import layer_cases as cases
import pytest
import torch

import mho
from mho.tile.array import tile_arrays

pytestmark = pytest.mark.filterwarnings(
    "ignore:enable_nested_tensor is True",
    "ignore:LSTM with projections is not supported with oneDNN",
    "ignore:training an analog network without",
)
DOCS = Path(__file__).parents[2] / "docs" / "layers.md"
NOISY = mho.Hardware.from_yaml(
    """
mho: 1
default: t
tiles:
  t:
    rows: 10
    columns: 4
    dac: {bits: 8}
    adc: {bits: 8, bound: 10}
    compensation: {kind: mho.global_drift}
    nonidealities:
      - pcm.programming_noise
      - pcm.drift
      - pcm.read_noise_1f
      - circuit.ir_drop
      - pcm.read_noise
      - circuit.output_noise
training: {inject: 1.0}
""".replace("{inject: 1.0}", "{inject: {scale: 1.0}, remap: 1 steps}")
)


def call(net, case):
    outputs = cases.tensors(net(*case.inputs(), **dict(case.options)))
    return torch.cat([o.flatten() for o in outputs if o.is_floating_point()])


def converted(case, seed=0):
    torch.manual_seed(seed)
    return mho.to_analog(case.layer().eval(), NOISY, strict=True)


def converts(case):
    """Everything with a matrix is on tiles, under torch's parameter names, and comes back."""
    torch.manual_seed(0)
    layer = case.layer().eval()
    net = mho.to_analog(layer, "ideal.exact", strict=True)
    assert isinstance(net, type(layer)) and set(layer.state_dict()) <= set(net.state_dict())
    back = mho.to_digital(net)
    assert type(back) is type(layer) and set(back.state_dict()) == set(layer.state_dict())
    assert torch.allclose(call(back, case), call(layer, case), atol=1e-6)
    mho.to_analog(back, "ideal.exact")


def trains(case):
    """One draw per root forward; gradients reach every weight; clip and remap reach the parameters."""
    net = converted(case).train()
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.1)
    mho.attach(optimizer, net)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    assert not torch.equal(call(net, case), call(net, case))
    call(net, case).square().mean().backward()
    optimizer.step()
    for layer in (m for m in net.modules() if isinstance(m, mho.AnalogLayer)):
        for array, matrix in layer.matrices():
            assert array.step.item() == 1 and array.normalised(matrix).abs().amax() <= 1
            with torch.no_grad():
                matrix.add_(1.0)
    moved = {n for n, p in net.named_parameters() if not torch.equal(p, before[n])}
    assert {n for n in before if "weight" in n and "norm" not in n and "tiles" not in n} <= moved


def programs(case):
    """The same chip gives the same numbers, another chip others; taking it off undoes it."""
    net = converted(case)
    with torch.no_grad():
        mho.program(net, seed=1)
        assert all(a.chip.weights is not None for a in tile_arrays(net))
        first = call(net, case)
        mho.program(net, seed=1)
        assert torch.equal(call(net, case), first)
        mho.program(net, seed=2)
        assert not torch.equal(call(net, case), first)
    mho.unprogram(net)
    assert all(a.chip is None for a in tile_arrays(net))


def ages(case):
    """Ageing starts from the programmed state every time, and changes the output."""
    net = converted(case)
    with torch.no_grad():
        chip = mho.program(net, seed=1)
        young = call(net, case)
        old = (chip.age("1 year"), call(net, case))[1]
        chip.age(0)
        assert torch.equal(call(net, case), young) and not torch.equal(old, young)


def calibrates(case):
    """Every tile sees data, and its range is set from it."""
    net = converted(case)
    forward = lambda model, _: call(model, case)  # noqa: E731
    ranges = mho.calibrate(net, [None], forward=forward)
    assert set(ranges) == {a.name for a in tile_arrays(net)}
    assert all(r != 1.0 for values in ranges.values() for r in values)


def chips(case, path):
    """Many chips are evaluated in any order; a saved one comes back bit by bit."""
    net = converted(case)
    with torch.no_grad():
        made = mho.program(net, seed=3, chips=3)
        scores = []
        for chip in made:
            with chip.on(net):
                scores.append(call(net, case))
        made[2].save(path / "chip")
        again = converted(case)
        with torch.no_grad():
            for p in again.parameters():
                p.mul_(1.0)
        mho.load_chip(again, path / "chip")
        assert torch.equal(call(again, case), scores[2]) and not torch.equal(scores[0], scores[1])


def checkpoints(case, path):
    """Plain and analog states load in both directions, also through safetensors, copies and pickles."""
    net, other = converted(case), case.layer()
    net.load_state_dict(other.state_dict())
    fresh = mho.to_analog(other, NOISY)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), fresh.state_dict().values()))
    mho.save_model(net, path / "net")
    again = mho.load_model(converted(case, seed=5), path / "net")
    with torch.no_grad():
        value = (mho.program(net.eval(), seed=0), call(net, case))[1]
        for same in (again.eval(), copy.deepcopy(net), pickle.loads(pickle.dumps(fresh.eval()))):
            mho.program(same, seed=0)
            assert torch.equal(call(same, case), value)


def compiles(case):
    """One graph in training, in evaluation and on a chip, with the values of eager mode."""
    net = converted(case)
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    for training in (True, False):
        net.train(training)
        torch.manual_seed(0)
        expected = call(net, case)
        torch.manual_seed(0)
        assert torch.allclose(call(compiled, case), expected, atol=1e-6)
    mho.program(net, seed=0)
    expected = call(net, case)
    mho.program(net, seed=0)
    assert torch.allclose(call(compiled, case), expected, atol=1e-6)


def takes_the_fused_path(case):
    """Every matrix of the layer, with the whole standard model on its tiles (`mho.routes`)."""
    why = {a.backend.route.why for a in tile_arrays(converted(case)) if not a.backend.route.fused}
    assert not why, str(why)


ABILITIES = {
    "convert": converts,
    "train": trains,
    "program": programs,
    "age": ages,
    "calibrate": calibrates,
    "chips": chips,
    "checkpoint": checkpoints,
    "compile": compiles,
    "fused path": takes_the_fused_path,
}
NOT_YET = {
    (
        row,
        "compile",
    ): "no: `torch.compile` does not trace nn.LSTM, nn.GRU and nn.RNN unless `torch._dynamo.config.allow_rnn` is set"
    for row in cases.TYPES
    if row.partition(",")[0] in ("LSTM", "GRU", "RNN")
}
HEAD = """# Layers

Generated by `MHO_UPDATE=1 pytest tests/layers/test_abilities.py -k committed`; every cell is a test of that file.
Values and gradients of every row are compared with torch's in `tests/layers/test_equal.py`.

"""
FOOT = """
Biases, norms and embeddings are digital; products of activations with activations (attention) too. Every group of a
grouped convolution is a matrix on tiles of its own. Input and recurrent matrices of LSTM, GRU and RNN are on tiles of
their own, for every layer and direction, and query, key and value projections as well.

A subclass is converted to a class that is both; a forward of its own is kept if it only wraps `super().forward`.
Layers of plugins (`mho_layers`) are asked first: before these, and before a type is digital by design.
Refused, with the reason in a warning: subclasses whose code reads the weight itself, replaced `forward` methods,
parametrized or pruned weights, complex weights, lazy layers, `nn.Bilinear`.

Which layers stay digital or go on other tiles is up to the `layers:` rules of the hardware file (docs/hardware.md).

On a chip, noise is numbered by sample, so results do not depend on how data are cut into batches. Samples are counted
along the first axis of what the network is given; for `[time, batch, ...]` say `mho.evaluate(..., batch_axis=1)`.
Experts of a mixture see the tokens that come to them, in the order in which they come: their noise is numbered by call, so it
depends on the batch (its distribution does not). Inside `torch.vmap` a layer sees one sample at a time and cannot count them: all
samples of a vmap draw the same noise.
A network counts its samples while it runs, so threads need copies of it (`copy.deepcopy`).
"""


def tries(row, ability, path):
    """ "yes", or the stated reason; anything else raises."""
    function, args = ABILITIES[ability], (cases.TYPES[row],)
    if function is compiles:
        warnings.simplefilter("ignore")  # what torch.compile says of itself; pytest puts the filters back
    if (row, ability) in NOT_YET:
        with pytest.raises(torch._dynamo.exc.Unsupported):
            function(*args)
        return NOT_YET[row, ability]
    function(*args, path) if function in (chips, checkpoints) else function(*args)
    return "yes"


def _cells():
    """Compilation takes up to a minute per layer, so it is in the slow lane but for the simplest one."""
    for row in cases.TYPES:
        for ability in ABILITIES:
            slow = ability == "compile" and row != "Linear" and (row, ability) not in NOT_YET
            yield pytest.param(row, ability, marks=[pytest.mark.slow] if slow else [], id=f"{row}-{ability}")


@pytest.mark.parametrize("row, ability", list(_cells()))
def test_every_layer_type_can(row, ability, tmp_path):
    assert tries(row, ability, tmp_path) == NOT_YET.get((row, ability), "yes")


def test_the_committed_table_is_current():
    """Each cell is held by the test above."""
    reasons = sorted(set(NOT_YET.values()))
    lines = [f"| layer | {' | '.join(ABILITIES)} |", "|---|" + "---|" * len(ABILITIES)]
    for row in cases.TYPES:
        cells = [f"no [{reasons.index(NOT_YET[row, a]) + 1}]" if (row, a) in NOT_YET else "yes" for a in ABILITIES]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    notes = "".join(f"\n[{i}] {r.removeprefix('no: ')}.\n" for i, r in enumerate(reasons, 1))
    text = HEAD + "\n".join(lines) + "\n" + notes + FOOT
    if os.environ.get("MHO_UPDATE"):
        DOCS.parent.mkdir(exist_ok=True)
        DOCS.write_text(text)
    assert DOCS.read_text() == text, "run MHO_UPDATE=1 pytest tests/layers/test_abilities.py -k committed"
