"""The contract of nonidealities: physics that is a pure function of chip, place and time, on both paths and in training."""

from mho_kit.checks.declared import DeclaredChecks
from mho_kit.checks.description import EffectDescriptionChecks
from mho_kit.checks.devices import DeviceChecks
from mho_kit.checks.learnable import LearnableChecks
from mho_kit.checks.paths import EffectPathChecks
from mho_kit.checks.randomness import RandomnessChecks
from mho_kit.checks.statistics import StatisticsChecks
from mho_kit.checks.strength import StrengthChecks
from mho_kit.checks.tiles import EffectTileChecks
from mho_kit.checks.values import ValueChecks


class NonidealityContract(
    DeviceChecks,
    LearnableChecks,
    StatisticsChecks,
    DeclaredChecks,
    StrengthChecks,
    EffectPathChecks,
    EffectTileChecks,
    RandomnessChecks,
    ValueChecks,
    EffectDescriptionChecks,
):
    """Everything a plugin's effect promises to the core, as named checks for pytest.

        class TestTelegraphNoise(NonidealityContract):
            spec = TelegraphNoise(depth=0.2)

    The author declares

    spec                    the effect, with values with which it does something visible
    tile                    YAML of a tile, where it needs another than the bench's, e.g. "device: {g_max: 40 uS}"
    ages                    seconds at which ageing is looked at
    expected                stage -> callable with the arguments of the stage, giving (mean, std) of what it returns
    draws_taken, tolerance  how many chips, and what deviation is allowed besides chance
    expected_failed_checks  check -> why this effect may fail it

    What is checked, in this order

    description   kind, docstring, source, units, YAML and JSON schema, signatures of its methods
    values        shape, type, device, finite results, units, no argument changed
    randomness    the same chip is the same numbers, chips and layers and cells differ, no memory, no global generator
    tiles         gradients, chips on disk, copies, vmap, torch.compile, other geometries, a converted network
    paths         the fast path gives what the reference path gives: values, moments of noise, gradients
    strength      0 is no effect, more is more
    declared      sides and terms fit, and agree with a plain method where both are written
    statistics    `expected` at alpha = 1e-5
    learnable     what `build(site)` makes gets gradients, and is saved
    devices       a network with it never waits for an accelerator, tried on one that has no values
    """
