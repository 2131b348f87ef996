"""Signals, the error split, noisy training and the robustness study."""

import math
import os
from pathlib import Path

import pytest
import torch
from mho_lab.studies.robustness import robustness
from mho_lab.studies.rounds import one_after_the_other
from mho_lab.studies.signals import error_by_layer, signals, split_error
from mho_lab.studies.subject import network, task_of
from mho_lab.studies.training import noisy_network, states
from torch import nn

import mho


def test_a_known_gain_offset_and_noise_are_recovered():
    """R002-11: gain 0.9, an offset per output, and noise; 20,000 MVMs."""
    g = torch.Generator().manual_seed(0)
    exact = torch.randn(20_000, 6, generator=g)
    offset = 0.05 * torch.randn(6, generator=g)
    found = split_error(exact, 0.9 * exact + offset + 0.02 * torch.randn(20_000, 6, generator=g))
    assert found.gain == pytest.approx(0.9, abs=0.003)
    assert found.systematic == pytest.approx(float(offset.square().mean().sqrt()), abs=0.003)
    assert found.stochastic == pytest.approx(0.02, abs=0.001)
    assert found.error == pytest.approx(math.hypot(found.systematic, found.stochastic), rel=0.01)


def test_exact_products_have_gain_1_and_no_error():
    y = torch.randn(50, 3)
    assert split_error(y, y) == (1, 0, 0, 0)
    with pytest.raises(mho.MhoError, match="no gain"):
        split_error(torch.zeros(5, 2), y[:5, :2])


@torch.no_grad()
@pytest.mark.parametrize("std", [0.0, 0.2])
def test_errors_of_a_network_are_those_of_its_products(hardware, std):
    """Without effects or converters there is none, in any layer; with output noise it is the noise, scaled by gamma."""
    torch.manual_seed(0)
    noise = f"nonidealities: [{{kind: circuit.output_noise, std: {std}}}]"
    net = mho.to_analog(nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 10)), hardware(noise))
    x = torch.randn(4000, 30)
    mho.program(net, 0)
    found = error_by_layer(net, lambda n: n(x))
    assert set(found) == {"0", "2"}
    assert all((e.stochastic > 1e-3) == (std > 0) and e.gain == pytest.approx(1, abs=0.01) for e in found.values())
    scale = float(net[0].tiles.gamma.square().mean().sqrt())
    signal = float((x @ net[0].weight.T).square().mean().sqrt())
    assert found["0"].stochastic == pytest.approx(std * scale / signal, rel=0.03, abs=1e-6)


@torch.no_grad()
def test_signals_are_root_mean_squares():
    """R002-08."""
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    x = torch.randn(50, 4)
    first, second = signals(net, lambda n: [n(p) for p in x.split(25)])
    assert (first.layer, second.layer) == ("0", "2")
    assert first.weights == pytest.approx(float(net[0].weight.square().mean().sqrt()))
    assert first.preactivations == pytest.approx(float(net[0](x).square().mean().sqrt()))
    assert first.snr(0.5) == pytest.approx(first.preactivations / 0.5) and first.snr(0) == math.inf


@torch.no_grad()
def test_signals_of_recurrent_layers_are_those_of_their_products(hardware):
    net = mho.to_analog(nn.LSTM(3, 4, batch_first=True), hardware())
    found = signals(net, lambda n: n(torch.randn(6, 5, 3)))
    assert [s.layer for s in found] == ["weight_ih_l0", "weight_hh_l0"]
    assert found[0].weights == pytest.approx(float(net.weight_ih_l0.square().mean().sqrt()))


@pytest.mark.slow
def test_noisy_training_is_more_robust_and_raises_the_signal(blobs, standard, tmp_path):
    """R002-08, R002-09: the midpoint grows with the noise of the training, and so does the signal, since both work by it."""
    found = robustness(
        blobs, standard, one_after_the_other, str(tmp_path), train_sigmas=(0.5, 2.0), epochs=30, repeats=2, walking=False
    )
    plain, little, much = (found.curve(n).midpoint for n in list(found.trained_with)[1:])
    assert plain.mu < little.mu < much.mu and much.mu > 1.5 * plain.mu
    strength = [sum(s.preactivations for s in found.signals[n]) for n in list(found.trained_with)[1:]]
    assert strength == sorted(strength)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:training. the clip holds")  # weights want to grow, which is the point
def test_behind_an_output_bound_the_gain_of_noisy_training_saturates(blobs, standard, tmp_path):
    """R002-10: with b_out = 10 the midpoint stays finite however strong the noise of the training; without it, it grows on."""
    task = task_of(blobs.task)

    def signal(sigma, bound):
        item = {"task": blobs.task, "seed": 0, "mode": "additive", "epochs": 30, "out": str(tmp_path), "sigma": sigma,
                "bound": bound, "hardware": standard.to_data()}  # fmt: skip
        file = noisy_network(item)["file"]
        net = network({**blobs.item(None), "checkpoint": file})
        return sum(s.preactivations for s in signals(net, lambda n: n(task.x)))

    free, bounded = signal(20.0, None) / signal(2.0, None), signal(20.0, 10.0) / signal(2.0, 10.0)
    assert bounded < free and bounded < 2


@pytest.mark.parametrize("other", [{"epochs": 2}, {"bound": 5.0}, {"seed": 1}, "code"])
def test_another_training_does_not_overwrite_the_network_of_the_first(blobs, standard, tmp_path, other):
    """Nor does the same one of an edited task."""
    task = tmp_path / "blobs.py"
    task.write_text(Path(blobs.task).read_text())
    item = {"task": str(task), "seed": 0, "mode": "additive", "epochs": 1, "out": str(tmp_path), "sigma": 0.5,
            "bound": None, "hardware": standard.to_data()}  # fmt: skip
    stages = {"task": str(task), "seed": 0, "epochs": 1, "stages": [0.0, 1.0], "out": str(tmp_path)}
    made = [noisy_network(item)["file"], *states(stages)["files"].values()]
    before = [Path(f).read_bytes() for f in made]
    if other == "code":
        task.write_text(task.read_text().replace("1e-2", "2e-2"))
        os.utime(task, ns=(1, 1))
    changed = {} if other == "code" else other
    again = [noisy_network({**item, **changed})["file"], *states({**stages, **changed})["files"].values()]
    assert len({*made, *again}) == 6 and [Path(f).read_bytes() for f in made] == before


def test_the_study_finds_midpoints_of_all_layers_and_of_each(blobs, standard, tmp_path):
    """R002-06, R002-07."""
    found = robustness(blobs, standard, one_after_the_other, str(tmp_path), train_sigmas=(), repeats=1)
    (network_name,) = found.trained_with
    whole, walking = found.curve(network_name).midpoint, found.walking(network_name)
    assert [c.place.layer for c in found.curves] == ["all", "0", "2", "4"]
    assert all(whole.mu < c.midpoint.mu * 1.05 for c in walking)  # one noisy layer is never worse than all
    assert set(found.errors) == {"0", "2", "4"}
    half = 0.25 + (whole.a0 - 0.25) / 2
    levels = found.curve(network_name).levels
    above, below = [v.sigma for v in levels if v.mean > half], [v.sigma for v in levels if v.mean < half]
    assert min(below) / 2 < whole.mu < max(above) * 2
