"""Evaluation over chips and times, and the metrics."""

import math
from datetime import timedelta

import numpy as np
import pytest
import torch
from torch import nn

import mho
from mho.use.evaluation import Evaluation


@pytest.fixture
def net():
    torch.manual_seed(0)
    return mho.to_analog(nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)), "pcm.standard")


def inputs(n=64):
    return torch.randn(n, 16, generator=torch.Generator().manual_seed(1))


def score(model):
    return float(model(inputs()).mean())


def test_mean_and_standard_error_are_over_chips():
    """R003-32: SEM = std/sqrt(N)."""
    e = Evaluation((1.0, 2.0), ((0.8, 0.4), (0.9, 0.4), (1.0, 0.4)), reference=0.95, chance=0.1)
    assert e.mean == pytest.approx((0.9, 0.4))
    assert e.sem == pytest.approx((0.1 / math.sqrt(3), 0.0))
    assert e.normalised == pytest.approx((0.8 / 0.85, 0.3 / 0.85))
    assert math.isnan(Evaluation((1.0,), ((0.8,),)).sem[0])


@pytest.mark.parametrize(
    ("error", "fp", "chance", "printed"),
    [
        (11.68, 5.80, 90.0, 93.0),  # ResNet-32, CIFAR-10, direct, 1 h: A*
        (20.03, 20.00, 99.0, 100.0),  # WRN-16, CIFAR-100
        (32.51, 23.87, 99.9, 88.6),  # ResNet-50, ImageNet, direct, 1 h: printed in Table 2
        (73.16, 72.90, 99.99, 99.0),  # LSTM on PTB
    ],
)
def test_normalised_accuracy_reproduces_the_papers_tables(error, fp, chance, printed):
    """R003-42."""
    a = mho.normalised_accuracy(100 - error, 100 - fp, 100 - chance)
    assert 100 * a == pytest.approx(printed, abs=0.06)


def test_an_evaluation_repeats_bit_for_bit_and_gives_the_network_back(net):
    """R003-32: reproducible from one seed."""
    net.train()
    chip = mho.program(net, seed=9)
    chip.age("1 h")
    a = mho.evaluate(net, score, ["1 s", "1 year"], chips=3, seed=4)
    torch.manual_seed(99)
    b = mho.evaluate(net, score, ["1 s", "1 year"], chips=3, seed=4)
    assert a == b and a.chips == 3
    assert mho.chip_on(net) is chip and net[0].tiles.chip.time == 3600 and net.training
    assert mho.evaluate(net, score, ["1 s"], chips=3, seed=5).scores != a.scores


def test_chips_are_the_same_whatever_was_evaluated_before(net):
    three = mho.evaluate(net, score, ["1 h"], chips=3)
    seen = []
    partly = mho.evaluate(net, score, ["1 h"], chips=3, done={0: (7.0,), 1: (8.0,)}, on_chip=lambda k, s: seen.append((k, s)))
    assert partly.scores == ((7.0,), (8.0,), three.scores[2]) and seen == [(2, three.scores[2])]


def test_the_hardware_file_gives_the_default_times(net):
    assert mho.evaluate(net, score, chips=1).times == (1.0, 3600.0, 86400.0, 31536000.0)


def test_evaluating_after_2_days_is_refused_where_the_law_ends():
    net = mho.to_analog(nn.Linear(4, 4), "rram.wan2022")
    assert len(mho.evaluate(net, lambda m: 0.0, chips=1).times) == 4
    with pytest.raises(mho.MhoError, match="measured up to 2 days"):
        mho.evaluate(net, lambda m: 0.0, ["1 year"], chips=1)


def test_the_table_of_an_evaluation_names_its_times(net):
    text = str(mho.evaluate(net, score, ["1 h", "1 year"], chips=2, reference=1.0, chance=0.0))
    assert "1 h" in text and "1 year" in text and "normalised" in text


@pytest.mark.parametrize("returned", [None, "good", torch.ones(3)])
def test_a_score_that_is_no_number_is_a_clear_error(net, returned):
    with pytest.raises(mho.MhoError, match=r"score\(net\) must return a number, got (NoneType|str|Tensor)"):
        mho.evaluate(net, lambda model: returned, ["1 s"], chips=1)


class Bypass(nn.Module):
    """Reads the weight of a layer itself."""

    def __init__(self):
        super().__init__()
        self.proj, self.head = nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(nn.functional.linear(x, self.proj.weight))


def test_layers_that_no_forward_entered_are_named():
    net = mho.to_analog(Bypass(), "pcm.standard")
    with pytest.warns(UserWarning, match="no forward entered proj while the score was computed"):
        mho.evaluate(net, score, "1 h", chips=1)
    assert [e.remarks for e in mho.conversion_report(net)] == [("no forward of the evaluation entered it",), ()]


def test_a_compiled_network_is_entered_too(net):
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    mho.evaluate(net, lambda _: score(compiled), ["1 s", "1 h"], chips=2)
    assert not any(e.remarks for e in mho.conversion_report(net))


@pytest.mark.parametrize(
    "times", [3600, 3600.0, "1 h", timedelta(hours=1), np.float32(3600), torch.tensor(3600), ["1 h"], np.array([3600])]
)
def test_one_time_or_several(net, times):
    assert mho.evaluate(net, score, times, chips=1).times == (3600.0,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"times": []}, "times is empty"),
        ({"times": [None]}, "expected a time"),
        ({"times": -1}, "expected a time"),
        ({"chips": 0}, "chips must be a whole number of at least 1, got 0"),
        ({"chips": -1}, "chips must be a whole number of at least 1, got -1"),
        ({"chips": 2.5}, "chips must be a whole number of at least 1, got 2.5"),
        ({"chips": True}, "chips must be a whole number of at least 1, got True"),
        ({"seed": "a"}, "seed must be a whole number, got 'a'"),
        ({"seed": 1.5}, "seed must be a whole number, got 1.5"),
        ({"seed": None}, "seed must be a whole number, got None"),
    ],
)
def test_arguments_that_mean_nothing_are_refused_by_name(net, arguments, message):
    with pytest.raises(mho.MhoError, match=message):
        mho.evaluate(net, score, **{"times": ["1 s"], "chips": 1, **arguments})


def test_scalars_of_numpy_and_torch_are_welcome(net):
    found = mho.evaluate(net, score, ["1 s"], np.int64(2), torch.tensor(3))
    assert found == mho.evaluate(net, score, ["1 s"], 2, 3)


def test_an_evaluation_is_a_data_frame_and_a_curve():
    pandas = pytest.importorskip("pandas")
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    e = Evaluation((1.0, 3600.0), ((0.8, 0.4), (0.9, 0.5)), reference=0.95, chance=0.1)
    data = e.to_pandas()
    assert list(data.columns) == ["chip", "time_s", "score", "normalised"] and len(data) == 4
    assert data.groupby("time_s")["score"].mean().tolist() == pytest.approx(e.mean)
    assert data.groupby("time_s")["normalised"].mean().tolist() == pytest.approx(e.normalised)
    assert isinstance(data, pandas.DataFrame)
    ax = e.plot()
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1 s", "1 h"]
    assert [list(line.get_ydata()) for line in ax.lines[:2]] == [[0.8, 0.4], [0.9, 0.5]]
    assert e.plot(ax) is ax


def test_scores_that_are_known_must_be_of_these_times():
    net = mho.to_analog(nn.Linear(4, 2), "ideal.exact")
    with pytest.raises(mho.MhoError, match=r"done\[0\] must have a score for each of 2 times, got 1"):
        mho.evaluate(net, lambda net: 0.0, ["1 s", "1 h"], chips=1, done={0: (0.5,)})


def test_outputs_of_different_shapes_are_not_compared():
    with pytest.raises(mho.MhoError, match="outputs of one shape"):
        mho.mvm_error(torch.ones(5, 1), torch.ones(5))
