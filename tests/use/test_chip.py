"""Chips: programming, ageing, determinism, and that nothing trainable is ever touched."""

import copy
from dataclasses import replace
from datetime import timedelta

import pytest
import torch
from torch import nn

import mho
from mho.tile.array import tile_arrays
from mho.use.chip import Fingerprint

HOUR, DAY = 3600.0, 86400.0


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 25, 6))
    return mho.to_analog(model, mho.load("pcm.standard", set=["tiles.pcm.rows=64"])).eval()


@pytest.fixture
def x():
    return torch.rand(12, 1, 5, 5, generator=torch.Generator().manual_seed(1))


def state(net):
    return {k: v.clone() for k, v in net.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def run(net, x):
    with torch.no_grad():
        return net(x)


def test_programming_ageing_and_evaluating_leave_all_state_bit_identical(net, x):
    before = state(net)
    mho.program(net, seed=1)
    mho.age(net, "1 year")
    run(net, x)
    mho.evaluate(net, lambda m: float(m(x).mean()), chips=2)
    mho.unprogram(net)
    assert same(before, state(net))


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(net, x):
    outputs = []
    for seed in (5, 5, 6):
        mho.program(net, seed=seed)
        mho.age(net, "1 h")
        outputs.append(run(net, x))
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])


def test_a_programmed_chip_does_not_touch_torchs_generator(net, x):
    mho.program(net, seed=1)
    before = torch.get_rng_state()
    run(net, x)
    assert torch.equal(before, torch.get_rng_state())


def test_chips_of_one_seed_are_independent_and_numbered(net, x):
    chips = mho.program(net, seed=7, chips=3)
    outputs = []
    for chip in chips:
        with chip.on(net):
            outputs.append(run(net, x))
    assert not torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[1], outputs[2])
    assert mho.chip_on(net) is chips[0]
    mho.program(net, seed=7, index=2)
    assert torch.equal(run(net, x), outputs[2])


def test_ageing_has_no_memory_of_the_route(net, x):
    mho.program(net, seed=1)
    mho.age(net, DAY)
    direct = run(net, x)
    for t in ("1 year", 10.0, timedelta(hours=1), "1 day"):
        mho.age(net, t)
    assert torch.equal(run(net, x), direct)


def test_an_evaluation_does_not_depend_on_how_it_is_cut_into_batches(net, x):
    """Same draws for the same samples; values to fp32 rounding, which one ADC code bounds."""
    mho.program(net, seed=1)
    whole = run(net, x)
    mho.age(net, 0)
    parts = torch.cat([run(net, part) for part in x.split([1, 4, 7])])
    step = (
        10
        / 127
        * float(torch.stack([a.gamma.max() for a in net.modules() if isinstance(a, mho.AnalogLinear) for a in [a.tiles]]).max())
    )
    assert (whole - parts).abs().max() < 2 * step
    assert (whole - parts).abs().mean() < 0.02 * whole.abs().mean()


def test_per_sample_draws_repeat_exactly_over_batch_splits():
    """The noise itself, with nothing to round: bit-equal however the batch is cut."""
    hw = mho.Hardware.from_yaml("mho: 1\ndefault: t\ntiles:\n  t: {rows: 4, nonidealities: [circuit.output_noise]}")
    tile = mho.Tile(torch.zeros(3, 8), hw).program(seed=0)
    x = torch.zeros(10, 8)
    whole = tile(x)
    tile.age(0)
    assert torch.equal(whole, torch.cat([tile(p) for p in x.split([3, 1, 6])]))
    assert not torch.equal(whole[0], whole[1])


def test_short_term_noise_changes_per_mvm_and_long_term_noise_only_with_time(net, x):
    """R003-20, R003-31: one programming serves all times; within one time only per-MVM noise changes."""
    mho.program(net, seed=1)
    array = net[3].tiles
    weights = {}
    for t in (1.0, HOUR):
        mho.age(net, t)
        first, again = array.chip.weights.clone(), run(net, x)
        assert torch.equal(array.chip.weights, first)
        assert not torch.equal(run(net, x), again)  # the next samples of the stream
        weights[t] = first
    assert not torch.equal(weights[1.0], weights[HOUR])


def test_a_reloaded_chip_has_the_same_bits_even_after_training(net, x, tmp_path):
    """R003-33."""
    chip = mho.program(net, seed=3)
    chip.age("1 h")
    expected = run(net, x)
    chip.save(tmp_path / "chip.safetensors")
    mho.unprogram(net)
    with torch.no_grad():
        net[3].weight.add_(0.1)
    again = mho.load_chip(net, tmp_path / "chip.safetensors")
    assert torch.equal(run(net, x), expected) and again.time == HOUR
    fresh = copy.deepcopy(net)
    mho.unprogram(fresh)
    mho.load_chip(fresh, tmp_path / "chip.safetensors").age("1 day")
    assert not torch.equal(run(fresh, x), expected)


def test_a_saved_chip_keeps_the_constants_of_its_converters(tmp_path):
    hw = mho.Hardware.from_yaml(
        "mho: 1\ndefault: t\ntiles:\n  t:\n    rows: 9\n    adc: {bits: 8, bound: 10}\n"
        "    nonidealities: [{kind: circuit.adc_s_curve, std: 0.3}]"
    )
    w, x = torch.rand(5, 9), torch.rand(4, 9)
    tile = mho.Tile(w, hw).program(seed=1)
    expected = tile(x)
    mho.chip_on(tile).save(tmp_path / "c.safetensors")
    other = mho.Tile(w, hw).program(seed=2)
    assert not torch.equal(other(x), expected)
    mho.load_chip(other, tmp_path / "c.safetensors")
    assert torch.equal(other(x), expected)


def test_a_chip_cannot_be_regenerated_from_weights_that_have_changed(net):
    chip = mho.program(net, seed=3)
    mho.unprogram(net)
    with torch.no_grad():
        net[3].weight.add_(0.1)
    with pytest.raises(mho.MhoError, match="weights have changed since"), chip.on(net):
        pass


def test_a_chip_on_the_network_survives_training_and_is_used_again_in_eval(net, x):
    mho.program(net, seed=3)
    first = net[3].tiles.chip.weights.clone()
    net.train()
    with pytest.warns(UserWarning, match=r"without mho\.attach"):
        net(x).sum().backward()
    with torch.no_grad():
        net[3].weight.sub_(0.01 * net[3].weight.grad)
    net.eval()
    assert torch.equal(net[3].tiles.chip.weights, first)


def test_the_gain_at_programming_is_exactly_1_and_grows_with_drift(net):
    """R003-22."""
    mho.program(net, seed=3)
    assert net[3].tiles.chip.gain is None
    gains = []
    for t in ("1 h", "1 year"):
        mho.age(net, t)
        gains.append(float(net[3].tiles.chip.gain.mean()))
    assert 1 < gains[0] < gains[1]


@pytest.mark.parametrize("kind", ["mho.global_drift", "mho.column_drift"])
@pytest.mark.parametrize("inputs", ["random", "one_hot"])
def test_compensation_restores_equal_drift_exactly(hardware, kind, inputs):
    """R003-22: the same nu everywhere, no noise, no ADC: restored to 1e-6."""
    drift = "{kind: pcm.drift, nu_std: 0}"
    w = torch.where(torch.rand(6, 10, generator=torch.Generator().manual_seed(0)) < 0.5, -0.4, 0.4)  # one level: one mean of nu
    hw = hardware(f"rows: 5\nnonidealities: [{drift}]\ncompensation: {{kind: {kind}, inputs: {inputs}}}")
    tile, x = mho.Tile(w, hw).program(seed=0), torch.rand(3, 10)
    tile.age("1 year")
    assert torch.allclose(tile(x), x @ w.T, rtol=1e-5, atol=1e-6)
    tile.tiles.chip = replace(tile.tiles.chip, gain=None)
    assert not torch.allclose(tile(x), x @ w.T, rtol=1e-2)


def test_compensation_with_an_adc_is_right_to_its_resolution(hardware):
    """R003-22: within (1 + 1/f)/2 ADC bins plus 0.1 %, f = drift factor."""
    w = torch.full((4, 10), 0.4)
    hw = hardware(
        "rows: 10\nadc: {bits: 8, bound: 10}\nnonidealities: [{kind: pcm.drift, nu_std: 0}]\ncompensation: mho.global_drift"
    )
    tile, x = mho.Tile(w, hw).program(seed=0), torch.rand(50, 10, generator=torch.Generator().manual_seed(0))
    tile.age("1 year")
    f = ((31_536_000 + 20) / 20) ** -0.049
    bound = (1 + 1 / f) / 2 * (20 / 254) * 0.4
    assert ((tile(x) - x @ w.T).abs() <= bound + 1e-3 * (x @ w.T).abs()).all()


def test_deepcopy_and_the_original_are_independent(net, x):
    mho.program(net, seed=3)
    twin = copy.deepcopy(net)
    mho.program(twin, seed=4)
    assert mho.chip_on(net).seed == 3 and not torch.equal(run(net, x), run(twin, x))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n: mho.age(n, "1 h"), "no chip is on this network"),
        (lambda n: mho.program(nn.Linear(2, 2), seed=0), "no analog layers"),
        (lambda n: mho.program(n, seed=0, chips=0), "at least 1"),
        (lambda n: mho.program(n, seed=0).age("1 uS"), "a time such as '1 h'"),
        (lambda n: mho.load_chip(n, "/no/such/file"), "is not a saved chip"),
    ],
)
def test_mistakes_are_named(net, call, message):
    with pytest.raises(mho.MhoError, match=message):
        call(net)


def _programs(net, file):
    mho.program(net, seed=1)


def _ages(net, file):
    mho.age(net, "1 h")


def _saves_and_loads(net, file):
    mho.chip_on(net).save(file)
    mho.load_chip(net, file).age("1 day")


def _changes_for_a_while(net, file):
    with mho.Chip(net, seed=2).on():
        net(torch.rand(2, 1, 5, 5))


@pytest.mark.parametrize("precision", ["auto", "reference"])
@pytest.mark.parametrize("call", [_programs, _ages, _saves_and_loads, _changes_for_a_while])
def test_a_chip_of_inference_mode_can_be_differentiated_afterwards(x, tmp_path, precision, call):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 25, 6))
    net = mho.to_analog(model, mho.load("pcm.standard", set=["tiles.pcm.rows=64", f"precision={precision}"])).eval()
    mho.program(net, seed=0)
    with torch.inference_mode():
        call(net, tmp_path / "chip.safetensors")
    x.requires_grad_()
    net(x).sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("compensation", ["mho.global_drift", "none"])
def test_a_chip_programmed_at_an_age_is_the_one_that_has_come_to_it(compensation):
    net = mho.to_analog(nn.Linear(6, 4), mho.load("pcm.standard", set=[f"tiles.pcm.compensation={compensation}"])).eval()
    x, found = torch.rand(3, 6), []
    for chip in (mho.program(net, seed=1, age="1 h"), mho.program(net, seed=1).age("1 h")):
        chip.put_on(net)
        assert chip.time == 3600
        with torch.no_grad():
            found.append(net(x))
        assert (net.tiles.chip.reference is None) == (compensation == "none")
    assert torch.equal(*found)


def test_chips_of_the_same_weights_share_their_target(net, x):
    def targets():
        return [a.chip.target for a in tile_arrays(net)]

    mho.program(net, seed=1)
    first = targets()
    mho.program(net, seed=2)
    assert all(a is b for a, b in zip(first, targets(), strict=True))

    def change_weights():
        net[3].weight.data.mul_(0.5)  # seen by no version counter

    def program_array():
        first = tile_arrays(net)[0]
        first.program(torch.zeros(4, 9), mho.effects.draws.key("somebody"))

    def to_double_and_back():
        net.double(), mho.program(net, seed=1), net.float()

    def change_signs():
        net[3].weight.data[:, 1].neg_()

    def come_back_in_double():
        with mho.program(net, seed=1).on():
            net.double()
        mho.program(net, seed=1)
        assert {a.chip.target.dtype for a in tile_arrays(net)} == {torch.float64}
        net.float()

    for change in (change_weights, program_array, to_double_and_back, change_signs, come_back_in_double):
        change()
        mho.program(net, seed=1)
        found, kept = run(net, x), targets()
        mho.unprogram(net)
        mho.program(net, seed=1)
        assert torch.equal(found, run(net, x)) and all(map(torch.equal, kept, targets()))


def test_a_fingerprint_notices_a_single_bit_and_an_exchange():
    net = mho.to_analog(nn.Linear(300, 300), mho.load("pcm.standard"))
    before = Fingerprint(net)
    weight = net.weight.data
    for change in (
        lambda: weight.view(torch.int32)[170, 40].bitwise_xor_(1),
        lambda: weight[:2].copy_(weight[:2].flip(0).clone()),
        weight.neg_,
        weight[0, :2].neg_,
        weight[5, 6:8].neg_,
        lambda: net.tiles.gamma[0, 3].mul_(2),
    ):
        change()
        after = Fingerprint(net)
        assert after != before and after == Fingerprint(net)
        before = after


def test_a_chip_ages_where_it_is(net, x):
    """On a copy inside `on`, and the network that it was on has its age again afterwards."""
    other, chip = copy.deepcopy(net), mho.program(net, seed=0, age="1 s")
    y = run(net, x)
    with chip.on(other):
        chip.age("1 year")
        aged = run(other, x)
    assert chip.time == 1.0 and mho.chip_on(other) is None
    chip.age("1 s")
    assert torch.equal(run(net, x), y)
    chip.age("1 year")
    assert torch.equal(run(net, x), aged) and not torch.equal(aged, y)


def test_a_file_that_holds_another_chip_by_now_is_refused(net, tmp_path):
    mho.program(net, seed=0).save(tmp_path / "chip.safetensors")
    chip = mho.load_chip(net, tmp_path / "chip.safetensors")
    mho.program(net, seed=1).save(tmp_path / "chip.safetensors")
    with pytest.raises(mho.MhoError, match="holds another chip by now"):
        chip.put_on(net)


def test_a_network_is_made_and_used_in_inference_mode(x):
    with torch.inference_mode():
        model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(100, 6))
        net = mho.to_analog(model, "ideal.quantised").eval()
        mho.calibrate(net, [x])
        assert torch.allclose(net(x), model(x), atol=0.1) and torch.equal(net(x), net(x))
