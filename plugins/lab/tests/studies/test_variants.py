"""Hardware with something changed, and networks carried onto it."""

import math

import pytest
from mho_lab.run.product import MvmExperiment, standard_mvm_error
from mho_lab.studies import variants
from mho_lab.studies.rounds import one_after_the_other
from mho_lab.studies.subject import Subject, column, network, scores, task_of

import mho
from mho.config.hardware import Hardware


class Half(mho.Nonideality, kind="halves.half"):
    """Lowers conductances by a share that has an upper limit."""

    source = "a test"
    strength = "share"
    share: float = mho.Field(0.1, ge=0, le=0.8, unit="1", description="lost share")

    def program(self, g, site):
        return g * (1 - self.share)


@pytest.fixture
def halves():
    from mho.config import registry

    known = registry.Registry()
    known.register(Half)
    with registry.using(known):
        yield Hardware.from_yaml(
            "mho: 1\ndefault: t\ntiles: {t: {dac: {bits: 6}, nonidealities: [halves.half], adc: {bits: none, bound: none}}}"
        )


def names(hw):
    return [k.name for k in variants.knobs(hw)]


def test_knobs_are_every_effect_with_a_strength_device_families_and_bits(standard):
    kinds = [e.kind for e in standard.tiles["pcm"].nonidealities]
    assert names(standard) == ["pcm", *kinds, "dac.bits", "adc.bits"]


def test_effects_of_any_plugin_are_found_and_their_limits_respected(halves):
    """share 0.1 may be at most 0.8: a factor of 8."""
    knob = variants.knobs(halves)[0]
    assert names(halves) == ["halves.half", "dac.bits"] and knob.highest == pytest.approx(3.0)
    assert knob.value(3.0) == 8.0
    turned = knob.turned(halves, 3.0)
    assert turned.tiles["t"].factor("halves.half") == 8.0


def test_a_turned_knob_is_a_hardware_file(standard):
    for knob in variants.knobs(standard):
        turned = knob.turned(standard, 1.0)
        assert Hardware.from_yaml(turned.to_yaml()) == turned != standard
        assert knob.turned(standard, 0.0).tiles["pcm"].adc == standard.tiles["pcm"].adc


def test_bits_are_taken_away_where_there_are_that_many(standard):
    hw = Hardware.from_data(standard.to_data())
    knob = next(k for k in variants.knobs(hw) if k.name == "adc.bits")
    assert knob.turned(hw, 3).tiles["pcm"].adc.bits == 5 and knob.value(3) == 5 and knob.highest == 6


def test_unknown_names_are_refused(standard):
    with pytest.raises(mho.MhoError, match=r"did you mean 'pcm\.drift'"):
        standard.varied({"pcm.drif": 2})


def tile_of(hw, layer):
    return next((rule.tile for rule in hw.layers if rule.matches(layer, "Linear", 5)), hw.default)


@pytest.mark.parametrize("layer", ["2", "a.b", "odd[1]", "star*", ""])
def test_a_rule_for_one_layer_matches_that_layer_only(standard, layer):
    hw = variants.digital(standard, [layer])
    assert tile_of(hw, layer) == "digital"
    assert tile_of(hw, layer + "x") == tile_of(hw, "").replace("digital", "pcm")
    assert Hardware.from_yaml(hw.to_yaml()) == hw


def test_without_any_cause_the_products_are_exact(blobs, standard):
    """Input ranges may cut inputs off; wide ones do not."""
    wide = mho.load(standard, set=["tiles.pcm.dac.range=50"])
    exact, digital = one_after_the_other([blobs.chips(wide.varied(only=()), 0, 1, 3600.0), blobs.item(None)], scores)
    assert column([exact]) == column([digital])


def test_only_and_without_are_complements(standard):
    for cause in variants.causes(standard):
        alone, rest = standard.varied(only=cause).tiles["pcm"], standard.varied(without=cause).tiles["pcm"]
        kinds = [e.kind for e in standard.tiles["pcm"].nonidealities]
        assert [e.kind for e in alone.nonidealities] == [k for k in kinds if k == cause]
        assert [e.kind for e in rest.nonidealities] == [k for k in kinds if k != cause]
        assert (alone.adc is not None) == (cause == "adc") == (rest.adc is None)
        assert (alone.dac.bits is not None) == (cause == "dac") == (rest.dac.bits is None)
        assert alone.dac.range == rest.dac.range == "learned"  # the unit of everything analog stays


def test_a_transfer_curve_keeps_the_bound_it_is_drawn_in():
    hw = mho.load("pcm.standard", set=["tiles.pcm.nonidealities=[{kind: circuit.adc_s_curve, mean: 0.2}]"])
    adc = hw.varied(only="circuit.adc_s_curve").tiles["pcm"].adc
    assert (adc.bits, adc.bound) == (None, 10.0)
    assert hw.varied(without="adc").tiles["pcm"].adc.bits is None


def test_device_noise_in_no_layer_leaves_the_other_effects(blobs, standard):
    """R003-50: scale 0 for all is the hardware without them, bit for bit; read noise from cycle to cycle stays."""
    noise = variants.device_noise(standard)
    assert noise == {"pcm": ["pcm.programming_noise", "pcm.drift", "pcm.read_noise_1f"]}
    quiet = standard.varied(dict.fromkeys(noise["pcm"], 0.0))
    bare = standard.varied(without=noise["pcm"])
    a, b = one_after_the_other([blobs.chips(h, 0, 3, 3600.0) for h in (quiet, bare)], scores)
    assert a == b


def test_one_noisy_layer_has_all_of_the_noise(standard):
    strong = standard.varied({"pcm": 3.0})
    hw = variants.one_noisy_layer(strong, "2", "pcm", variants.device_noise(strong)["pcm"], 15)
    here, there = (hw.tiles[tile_of(hw, n)] for n in ("2", "0"))
    assert here.factor("pcm.drift") == 15 and there.factor("pcm.drift") == 0
    assert here.factor("circuit.ir_drop") == there.factor("circuit.ir_drop") == 1
    assert here.factor("pcm.read_noise") == there.factor("pcm.read_noise") == 3  # cycle to cycle: as the file has it
    assert Hardware.from_yaml(hw.to_yaml()) == hw


def test_a_tile_without_device_noise_keeps_its_cycle_to_cycle_noise():
    """R003-50: standard MVM error 0.0410; without any PCM effect it would be 0.0229"""
    hw = mho.load("pcm.standard", set=["tiles.pcm.mapping.kind=mho.tile_max"])
    quiet = hw.varied(dict.fromkeys(variants.device_noise(hw)["pcm"], 0.0))
    assert standard_mvm_error(quiet, "1 h", MvmExperiment(matrices=2)).mean == pytest.approx(0.0410, abs=0.0008)


def test_exempt_layers_lose_device_noise_and_nothing_else(standard):
    """R003-51: converters, output noise, IR-drop and read noise stay, on a tile of the same kind"""
    kinds = variants.device_noise(standard)["pcm"]
    hw = variants.exempt(standard, {"2": "pcm", "a.b": "pcm"}, kinds)
    own = standard.tiles["pcm"]
    for layer in ("2", "a.b"):
        tile = hw.tiles[tile_of(hw, layer)]
        assert tile.model_copy(update={"scale": {}}) == own
        assert {k: tile.factor(k) for k in own.effect_names} == {k: float(k not in kinds) for k in own.effect_names}
    assert hw.tiles[tile_of(hw, "0")] == own


def test_the_noise_of_a_device_has_no_defects_and_no_reads():
    """Stuck cells and telegraph noise are not among what programming and ageing do."""
    effects = "[rram.variability, rram.relaxation, rram.telegraph_noise, rram.stuck_at, circuit.output_noise]"
    hw = mho.Hardware.from_yaml(f"mho: 1\ndefault: t\ntimes: [1 s]\ntiles: {{t: {{nonidealities: {effects}}}}}\n")
    assert variants.device_noise(hw) == {"rram": ["rram.variability", "rram.relaxation"]}
    assert variants.device_noise(hw, ["circuit"]) == {"circuit": ["circuit.output_noise"]}


def test_a_network_on_its_own_hardware_is_the_deployed_one(blobs, standard, tmp_path):
    """Digital checkpoints are calibrated, trained ones keep scales and ranges: the same scores as `mho evaluate` gives."""
    from mho_lab.run.job import deploy

    task = task_of(blobs.task)
    net = mho.to_analog(network(blobs.item(None)), standard)
    net[0].tiles.gamma.mul_(1.2)
    net[2].tiles.input_range.data.fill_(2.5)
    net[2].tiles.out_scale.data.fill_(0.9)
    mho.save_model(net, tmp_path / "trained.safetensors")
    for subject in (blobs, Subject(blobs.task, str(tmp_path / "trained.safetensors"))):
        deployed = deploy(task, standard, subject.checkpoint)
        expected = mho.evaluate(deployed, task.score, ["1 h"], chips=3).scores
        assert scores(subject.chips(standard, 0, 3, 3600.0))["scores"] == [list(row) for row in expected]


def test_a_network_is_carried_onto_other_tiles(blobs, standard):
    """Another size or mapping: mapped and calibrated anew, the digital function unchanged."""
    for change in ("tiles.pcm.rows=7", "tiles.pcm.mapping.kind=mho.tile_max", "tiles.pcm.dac.range=dynamic"):
        exact = mho.load(standard, set=[change]).varied(only=())
        assert abs(scores(blobs.chips(exact, 0, 1, 0.0))["scores"][0][0] - scores(blobs.item(None))["scores"][0][0]) < 0.02


def test_broken_checkpoints_are_named(blobs, standard, tmp_path):
    with pytest.raises(mho.MhoError, match="cannot read"):
        scores(Subject(blobs.task, str(tmp_path / "none.safetensors")).chips(standard, 0, 1, 0.0))
    assert math.isfinite(scores(blobs.item(None))["scores"][0][0])
