"""Sensitivity, layers, budget and diagnosis of a small network: what must come out, comes out."""

import math
from dataclasses import replace

import pytest
import torch
from mho_lab.measure.statistics import Effort
from mho_lab.studies import variants
from mho_lab.studies.budget import budget_study
from mho_lab.studies.diagnose import EVERYTHING, Diagnosis, Diagnostics, Recovery, Rules, Setting, diagnose, under
from mho_lab.studies.gradients import Direction
from mho_lab.studies.layers import layer_study
from mho_lab.studies.rounds import one_after_the_other
from mho_lab.studies.sensitivity import sensitivity
from mho_lab.studies.subject import Subject, column, network, scores

import mho

HOUR = 3600.0
RULES = Rules()


@pytest.fixture(scope="module")
def weak(blobs, tmp_path_factory):
    """The same function with an outlier column in layer 2: input 3 comes 50 times smaller, its weights are 50 times larger
    (ReLU lets factors through). The range of every crossbar column is then set by one weight."""
    net = network(blobs.item(None))
    with torch.no_grad():
        net[0].weight[3] /= 50
        net[0].bias[3] /= 50
        net[2].weight[:, 3] *= 50
    file = tmp_path_factory.mktemp("weak") / "digital.safetensors"
    mho.save_model(net, file)
    return replace(blobs, checkpoint=str(file))


def test_the_weak_layer_is_found_and_a_mixed_deployment_meets_the_target(blobs, weak, standard):
    """Issue 7: one layer's weights with an outlier column; R003-50, R003-51."""
    assert scores(weak.item(None)) == scores(blobs.item(None))  # the function is the same
    found = layer_study(weak, standard, HOUR, one_after_the_other, scale=5.0, target=0.95, chips=6, verify=8)
    assert found.alone[0].layer.name == "2"
    assert found.alone[0].accuracy.high < found.alone[1].accuracy.low
    deployment = found.deployment
    assert deployment.layers == ("2",) and deployment.met and deployment.every
    assert deployment.share == pytest.approx(272 / (144 + 272 + 68))
    again = mho.Hardware.from_yaml(deployment.hardware.to_yaml())  # the file that is written
    chips = scores(replace(weak, seed=99).chips(again, 0, 12, HOUR))
    digital = column([scores(weak.item(None))])[0]
    normalised = [(s - 0.25) / (digital - 0.25) for s in column([chips])]
    assert sum(normalised) / 12 > 0.95
    bare = scores(weak.chips(standard, 0, 12, HOUR))
    assert (sum(column([bare])) / 12 - 0.25) / (digital - 0.25) < 0.9  # without it, the target is missed
    assert [e.share for e in found.exemptions] == sorted(e.share for e in found.exemptions)
    assert found.exemptions[1].accuracy.mean > found.exemptions[0].accuracy.mean
    assert found.exemptions[-1].accuracy == found.quiet  # all exempt is device noise nowhere, not a digital network


def test_without_device_noise_exemption_changes_nothing(blobs, standard):
    """R003-51: what a 3-bit ADC costs is not won back by exemption from PCM noise"""
    hw = mho.load(standard, set=["tiles.pcm.adc.bits=3"])
    coarse = hw.varied(dict.fromkeys(variants.device_noise(hw)["pcm"], 0.0))
    found = layer_study(blobs, coarse, HOUR, one_after_the_other, target=0.1, chips=3, verify=3, scale=1.0)
    assert {e.accuracy for e in found.exemptions} == {found.quiet} and found.quiet.mean < 1
    assert [e.share for e in found.exemptions][-1] == 1.0


def test_a_target_that_nothing_on_tiles_meets_leaves_nothing_on_tiles(weak):
    harsh = mho.load("pcm.standard", set=["tiles.pcm.scale.pcm=40"])
    found = layer_study(weak, harsh, HOUR, one_after_the_other, target=1.0, chips=2, verify=4)
    assert set(found.deployment.layers) == {"0", "2", "4"} and found.deployment.share == 1.0


@pytest.mark.slow
def test_thresholds_hold_below_and_fail_above(blobs, standard):
    """R003-46, with other chips than the search used."""
    found = sensitivity(
        {"net": blobs}, standard, [HOUR], one_after_the_other, only=["pcm", "adc.bits"], boosts=False, effort=Effort((3, 6))
    )
    limit, bits = found.limits
    assert limit.low <= limit.x <= limit.high and 1 < limit.high < 100
    assert bits.bits and 2 <= bits.high < bits.low <= 8 and bits.high < bits.x < bits.low

    def margin(hw):
        new, old = (column([scores(replace(blobs, seed=5).chips(h, 0, 12, HOUR))]) for h in (hw, standard))
        return sum((a - 0.25) - 0.99 * (b - 0.25) for a, b in zip(new, old)) / 12

    assert margin(standard.varied({"pcm": limit.low / 1.5})) > -0.002
    assert margin(standard.varied({"pcm": limit.high * 1.5})) < 0
    assert found.ranked("net", HOUR) == [limit] and found.relative(limit) is None


def test_what_fails_at_the_first_step_is_interpolated_from_the_present_state(blobs, standard):
    """Noise of 20 times the file's: any more is too much, and the threshold lies just above 1."""
    harsh = standard.varied({"pcm.read_noise": 20.0})
    found = sensitivity(
        {"net": blobs}, harsh, [HOUR], one_after_the_other, only=["pcm.read_noise"], boosts=False, effort=Effort((3,))
    )
    (limit,) = found.limits
    assert limit.x is not None and 1 < limit.x < limit.high


def test_equal_errors_cost_different_accuracies(blobs, standard):
    """R003-44: every value brings the MVM error to 20 %, and the loss is measured there."""
    found = sensitivity(
        {"net": blobs}, standard, [HOUR], one_after_the_other, only=["circuit.output_noise", "pcm.drift"],
        effort=Effort((3,)), highest=4.0,
    )  # fmt: skip
    drift, output = found.boosts
    assert drift.value is None and "no difference" in drift.note
    assert output.value is None and "not even 4 times" in output.note


@pytest.mark.slow
def test_at_equal_errors_output_noise_costs_more_than_programming_noise(blobs, standard):
    """R003-47, the ranking of Fig. 4 on a small network: outputs hurt more than weights at an MVM error of 20 %."""
    found = sensitivity(
        {"net": blobs}, standard, [HOUR], one_after_the_other, only=["pcm.programming_noise", "circuit.output_noise"],
        effort=Effort((3, 8)), highest=64.0,
    )  # fmt: skip
    weights, outputs = (b.loss["net"] for b in found.boosts)
    assert outputs.low > weights.high


def test_unknown_effects_are_refused(blobs, standard):
    with pytest.raises(mho.MhoError, match=r"no strength or bits 'pcm\.frost'; did you mean 'pcm\.drift'"):
        sensitivity({"net": blobs}, standard, [HOUR], one_after_the_other, only=["pcm.frost"])


def test_a_single_cause_has_no_interaction(blobs, standard):
    only = standard.varied(only="pcm.programming_noise")
    harsh = only.varied({"pcm.programming_noise": 8.0})
    found = budget_study(blobs, harsh, [HOUR], one_after_the_other, chips=4, what_if=["times=[1 h]"])
    effects, layers = found.budgets
    (share,) = effects.shares
    assert share.alone == share.removed == effects.total and effects.total.mean > 0
    assert effects.interaction == (0, 0, 0, 4)
    assert found.what_if[0].gain == (0, 0, 0, 4)  # nothing was changed, chip by chip
    assert {s.cause for s in layers.shares} == {"0", "2", "4"}
    assert layers.interaction.mean == pytest.approx(layers.total.mean - sum(s.alone.mean for s in layers.shares))


def test_what_if_compares_the_same_chips(blobs, standard):
    few = mho.load(standard, set=["tiles.pcm.nonidealities=[circuit.output_noise]"])
    found = budget_study(blobs, few, [HOUR], one_after_the_other, chips=4, what_if=["tiles.pcm.adc.bits=3"])
    answer = found.what_if[0]
    assert answer.gain.mean < -0.05 and answer.gain.clear
    assert answer.score.mean == pytest.approx(found.scores[HOUR].mean + answer.gain.mean)


# --- diagnose ---


def direction(mode="autograd", cosine=0.95, variance=1.0, expected=0.95, dead=0.0):
    return Direction("all", mode, cosine, 0.01, 0.1, variance, expected, 0.01, 0.5, dead)


def point(stage=1.0, strength=1.0, exponent=None, ratio=(1.0, 1.0), still=(0.0, 0.0), **d):
    return Diagnostics(Setting("c", strength, stage), "autograd", (direction(**d),), exponent, 1.0, 0.1, ratio, still)


@pytest.mark.parametrize(("change", "fails"), [
    ({}, set()),
    ({"cosine": 0.89}, {"D1"}),
    ({"cosine": math.nan}, {"D1"}),
    ({"variance": 11.0}, {"D2"}),
    ({"variance": math.inf}, {"D2"}),
    ({"exponent": 2.4}, {"D2"}),
    ({"ratio": (1.0, 0.05)}, {"D3"}),
    ({"ratio": (1.0, 11.0)}, {"D3"}),
    ({"still": (1.0, 0.0)}, set()),  # only the step of an optimiser update counts
    ({"still": (0.0, 0.2)}, {"D3"}),
    ({"dead": 0.1}, {"D3"}),
])  # fmt: skip
def test_diagnostics_follow_the_stated_rules(change, fails):
    """R000-01 ... R000-03 with the default thresholds."""
    assert {n for n, fine in point(**change).passes(Rules()).items() if not fine} == fails


def diagnosis(points, recoveries=(), rules=RULES):
    return Diagnosis(rules, ("c",), (1.0,), (0.1, 1.0), HOUR, tuple(points), tuple(recoveries))


def test_a_verdict_needs_every_stage_and_names_what_fails():
    """R000-04."""
    v = diagnosis([point(0.1), point(1.0)]).verdicts()[0]
    assert v.compensable and v.failing == () and v.agrees(Rules()) is None
    v = diagnosis([point(0.1, cosine=0.2), point(1.0)]).verdicts()[0]
    assert not v.compensable and v.failing == ("D1 at 10%",)
    assert diagnosis([point(0.1, cosine=0.2)], rules=Rules(cosine=0.1)).verdicts()[0].compensable
    assert diagnosis([point(0.1, cosine=0.2)]).verdicts("expected")[0].compensable


def test_a_verdict_is_compared_with_what_training_recovered():
    """R000-06: recovered share above one half."""
    good = Recovery("c", 1.0, "autograd", 0.6, 0.9, 1.0, 0.1)
    assert good.share == pytest.approx(0.75)
    v = diagnosis([point()], [good]).verdicts()[0]
    assert v.agrees(Rules()) is True
    assert diagnosis([point(cosine=0)], [good]).verdicts()[0].agrees(Rules()) is False
    assert Recovery("c", 1.0, "autograd", 0.995, 0.9, 1.0, 0.1).share is None


def test_a_cause_of_some_strength_is_alone(standard):
    hw = under(standard, "pcm.drift", 4.0)
    assert [e.kind for e in hw.tiles["pcm"].nonidealities] == ["pcm.drift"] and hw.tiles["pcm"].factor("pcm.drift") == 4
    assert under(standard, "adc", 4.0).tiles["pcm"].adc.bits == 6
    assert under(standard, EVERYTHING, 1.0).tiles["pcm"].factor("pcm.drift") == 1


def test_rounding_breaks_vanilla_gradients_and_no_others(blobs, standard, tmp_path):
    """R000-05, R000-15: the modes differ at the ADC; output noise leaves all of them alone at the file's strength."""
    wide = mho.load(standard, set=["tiles.pcm.adc.bound=40"])  # nothing saturates
    found = diagnose(
        blobs, wide, one_after_the_other, str(tmp_path), causes=["adc", "circuit.output_noise"], strengths=[1.0],
        stages=[0.2, 1.0], chips=3, batch=100, steps=0, time=0.0,
    )  # fmt: skip
    adc = {p.mode: p for p in found.points if p.setting.cause == "adc" and p.setting.stage == 0.2}
    assert (adc["autograd"].whole.cosine, adc["autograd"].whole.bias, adc["autograd"].whole.dead) == (0, 1, 1)
    assert adc["ste"].whole.cosine > 0.9 and adc["through"].whole.cosine > 0.9
    assert not adc["autograd"].passes(Rules())["D1"] and adc["autograd"].slope == 0
    noise = [p for p in found.points if p.setting.cause == "circuit.output_noise"]
    assert all(p.whole.expected > 0.9 and p.slope == pytest.approx(1, abs=0.35) for p in noise)
    assert {len(p.directions) for p in found.points} == {4}  # the whole and three layers
    assert all(v.recovered is None for v in found.verdicts())


@pytest.mark.slow
def test_training_recovers_what_noise_took(blobs, standard, tmp_path):
    """R000-06 on chips that training has not seen: programming noise at 12 times the file's, mode through."""
    found = diagnose(
        blobs, standard, one_after_the_other, str(tmp_path), causes=["pcm.programming_noise"], strengths=[12.0],
        stages=[1.0], modes=["through"], chips=2, steps=150, time=0.0,
    )  # fmt: skip
    (recovery,) = found.recoveries
    assert recovery.before < recovery.clean - 0.02 and recovery.after > recovery.before


def test_subjects_are_plain_data(blobs, standard):
    import json

    assert json.loads(json.dumps(blobs.chips(standard, 0, 2, HOUR)))["chips"] == [0, 2]
    assert isinstance(blobs, Subject)
