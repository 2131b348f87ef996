"""Presets and ways of training on a device without values: nothing mixes devices, waits, or copies from the host."""

import pytest
import torch
from mho_kit.far import answer
from torch import nn

import mho
from mho.config import registry

PRESETS = sorted(name for name in registry.default().presets() if mho.load(name).tiles)
TRAINING = {
    "straight through": "{backward: ste, inject: {scale: 1.0}}",
    "surrogate": "{backward: {mode: surrogate, surrogate: mho.saturating}}",
    "true derivatives": "{backward: {mode: autograd, rounding: ste}}",
    "noise per sample": "{inject: {scale: 1.0, per: sample}}",
    "dropped weights, scales": "{drop_connect: 0.1, out_scale: both, auto_scale: true}",
    "clip, remap, ramp": "{clip: 2.5 sigma, remap: 1 steps, inject: {scale: 1.0, ramp: 3 steps}}",
}


def network(preset, changes):
    """A convolution and a linear layer on the tiles of a preset, and inputs; contracts of layers try the others."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(4, 6, 3), nn.ReLU(), nn.Linear(6, 3))
    hardware = mho.load(mho.load(preset), set=["layers=[]", *changes])
    return mho.to_analog(model, hardware), (torch.randn(2, 4, 8),)


def works(preset, changes=()):
    found = answer(network, preset, list(changes))
    if found.skipped:
        pytest.skip(found.skipped)
    assert not found.problem


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_never_waits(preset):
    works(preset)


@pytest.mark.parametrize("training", TRAINING.values(), ids=TRAINING)
def test_training_never_waits(training):
    works("pcm.standard", [f"training={training}"])


def test_bound_management_and_dynamic_ranges_never_wait():
    works("pcm.standard", ["tiles.pcm.dac.halvings=2"])
    works("pcm.standard", ["tiles.pcm.dac.range=dynamic"])
