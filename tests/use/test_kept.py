"""State told apart: what the hardware file fixes, what is learned, and what a chip is."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

import mho

X = torch.rand(64, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
QUIET = "training: {inject: none}"
QUANTISED = (
    "rows: 64\ncolumns: 64\ndac: {bits: 8, range: learned}\nadc: {bits: 8, bound: 10}\n"
    "nonidealities: [{kind: ideal.device, levels: 128}]"
)


def error(net, model, x=X):
    """Relative error of the outputs against those of the digital model."""
    with torch.no_grad():
        y = model(x)
        return float((net(x) - y).norm() / y.norm())


def model(out=16, inputs=16):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, out), nn.Linear(out, 4))


def digital(net):
    """The torch model with the weights of an analog network."""
    plain = model()
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if ".tiles." not in k})
    return plain.eval()


# -- weights that change where nobody is told -----------------------------------------------------------------------
def in_place(net):
    with torch.no_grad():
        net[0].weight.mul_(20)


def exchanged(net):
    net[0].weight = nn.Parameter(net[0].weight.detach() * 20)


def by_data(net):
    net[0].weight.data = net[0].weight.data * 20


def by_data_twice(net):
    """The second copy lies where the first values did."""
    by_data(net)
    net[0].weight.data = net[0].weight.data / 4


def within_data(net):
    """No version counter tells."""
    net[0].weight.data.mul_(20)


def smaller(net):
    with torch.no_grad():
        net[0].weight.mul_(0.01)


def a_row(net):
    with torch.no_grad():
        net[0].weight[3] *= 3


@pytest.mark.parametrize("change", ["exchanged twice", "copied"])
def test_a_weight_at_the_address_of_one_that_is_gone_is_another(hardware, change, monkeypatch):
    """Python and torch give ids and addresses out again."""
    net = mho.to_analog(model(), hardware(QUANTISED, QUIET)).eval()
    net(X)
    gone = net[0].tiles.known
    exchanged(net)
    if change == "copied":
        net = copy.deepcopy(net)
    array = net[0].tiles
    real = type(array)._state_of
    monkeypatch.setattr(type(array), "_state_of", lambda self, w: real(self, w) and gone)
    net(X)
    assert torch.equal(array.gamma, mho.to_analog(digital(net), hardware(QUANTISED, QUIET))[0].tiles.gamma)


@pytest.mark.parametrize("change", [in_place, exchanged, by_data, by_data_twice, within_data, smaller, a_row])
@pytest.mark.parametrize("how", ["eval", "program", "copy", "pickle", "save", "to"])
def test_changed_weights_are_mapped_as_by_a_fresh_conversion(hardware, tmp_path, change, how):
    hw = hardware(QUANTISED, QUIET)
    net = mho.to_analog(model(), hw).eval()
    if (change, how) != (within_data, "eval"):  # seen in the first forward and wherever weights are written, not in every forward
        net(X)
    change(net)
    if how == "copy":
        net = copy.deepcopy(net)
    elif how == "pickle":
        net = pickle.loads(pickle.dumps(net))
    elif how == "save":
        mho.save_model(net, tmp_path / "n.safetensors")
        net = mho.load_model(mho.to_analog(model(), hw).eval(), tmp_path / "n.safetensors")
    elif how == "to":
        net = net.double().float()
    fresh = mho.to_analog(digital(net), hw).eval()
    for other in (net, fresh):
        mho.calibrate(other, [X])
        if how != "eval":
            mho.program(other, seed=0)
    assert torch.equal(net(X), fresh(X)) and torch.equal(net[0].tiles.gamma, fresh[0].tiles.gamma)
    assert error(net, digital(net)) < 0.08


@pytest.mark.parametrize("how", [copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n)), lambda n: n.double().float()])
def test_what_training_made_of_the_scales_stays(hardware, tmp_path, how):
    """A trained network has columns that do not fill their range any more; no copy maps them anew."""
    net = mho.to_analog(model(), hardware(QUANTISED, QUIET))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, weight_decay=1.0)
    attached = mho.attach(optimizer, net)
    for _ in range(5):
        optimizer.zero_grad()
        net(X).square().sum().backward()
        optimizer.step()
    gamma = net[0].tiles.gamma.clone()
    assert (net[0].weight.abs().amax(1) < 0.99 * gamma[0]).any()
    other = how(net)
    attached.detach()
    for n in (net.eval(), other.eval()):
        n(X)
        mho.program(n, seed=0)
        assert torch.equal(n[0].tiles.gamma, gamma)
    mho.save_model(net, tmp_path / "n.safetensors")
    loaded = mho.load_model(mho.to_analog(model(), hardware(QUANTISED, QUIET)).eval(), tmp_path / "n.safetensors")
    mho.unprogram(net)
    assert torch.equal(loaded(X), net(X)) and torch.equal(loaded[0].tiles.gamma, gamma)


def test_weights_changed_within_an_attached_training_get_room(hardware):
    net = mho.to_analog(model(), hardware(QUANTISED, QUIET))
    mho.attach(torch.optim.SGD(net.parameters(), lr=0.0), net)
    in_place(net)
    mho.calibrate(net, [X])
    mho.program(net.eval(), seed=0)
    assert error(net, digital(net)) < 0.08


@pytest.mark.parametrize("times", [0.5, 3.0])
def test_functional_call_maps_what_it_is_given_and_leaves_the_network_alone(hardware, times):
    net = mho.to_analog(model(), hardware("rows: 64\nnonidealities: [{kind: ideal.device, levels: 1024}]", QUIET)).eval()
    before = net(X)
    own = dict(net.named_parameters())
    assert torch.equal(torch.func.functional_call(net, own, X), before)
    larger = {k: v.detach() * times if k.endswith("weight") else v for k, v in own.items()}
    plain = model()
    plain.load_state_dict({k: v for k, v in larger.items() if ".tiles." not in k})
    assert torch.allclose(torch.func.functional_call(net, larger, X), plain(X), atol=0.02)
    assert torch.equal(net(X), before)


def test_pruned_weights_are_programmed_as_they_are_now(hardware):
    net = mho.to_analog(model(), hardware("rows: 64\nnonidealities: [ideal.device]", QUIET)).eval()
    prune.random_unstructured(net[0], "weight", 0.5)
    prune.custom_from_mask(net[1], "weight", torch.ones(4, 16))
    with torch.no_grad():
        net[0].weight_orig.mul_(3)
        net[1].weight_orig.add_(1)
    mho.program(net, seed=0)
    expected = nn.functional.linear(X, net[0].weight_orig * net[0].weight_mask, net[0].bias) @ net[1].weight_orig.T + net[1].bias
    assert torch.allclose(net(X), expected, atol=1e-4)
    mho.unprogram(net)
    assert torch.allclose(net(X), expected, atol=1e-4)


def test_parametrized_weights_are_mapped_as_they_are_now(hardware):
    class Times(nn.Module):
        by = 1.0

        def forward(self, w):
            return w * self.by

    net = mho.to_analog(model(), hardware("rows: 64\nnonidealities: [ideal.device]", QUIET)).eval()
    parametrize.register_parametrization(net[0], "weight", Times())
    for by in (1.0, 9.0):
        net[0].parametrizations.weight[0].by = by
        expected = net[1].weight @ (X @ net[0].weight.T + net[0].bias).T
        assert torch.allclose(net(X), expected.T + net[1].bias, atol=1e-4)
        mho.program(net, seed=0)
        assert torch.allclose(net(X), expected.T + net[1].bias, atol=1e-4)
        mho.unprogram(net)


def test_averaged_weights_are_mapped_as_by_a_fresh_conversion(hardware):
    net = mho.to_analog(model(), hardware(QUANTISED, QUIET)).eval()
    average = torch.optim.swa_utils.AveragedModel(net)
    in_place(net)
    average.update_parameters(net)
    mho.calibrate(average, [X])
    assert error(average, digital(average.module)) < 0.08


# -- columns that start as zeros ------------------------------------------------------------------------------------
@pytest.mark.parametrize("attached", [True, False])
@pytest.mark.parametrize("resumed", [True, False])
@pytest.mark.filterwarnings("ignore:training an analog network without mho.attach")
def test_columns_that_start_as_zeros_are_mapped_as_if_converted_after_training(hardware, tmp_path, attached, resumed):
    hw = hardware(QUANTISED, QUIET)
    plain = nn.Sequential(nn.Linear(16, 8, bias=False))
    nn.init.zeros_(plain[0].weight)
    target = 0.01 * torch.randn(8, 16, generator=torch.Generator().manual_seed(1))
    net = mho.to_analog(plain, hw)

    def train(net, steps):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        training = mho.attach(optimizer, net) if attached else None
        for _ in range(steps):
            optimizer.zero_grad()
            (net[0].weight - target).square().sum().mul(5).backward()
            optimizer.step()
        if training:
            training.detach()

    train(net, 3)
    if resumed:
        mho.save_model(net, tmp_path / "n.safetensors")
        net = mho.load_model(mho.to_analog(nn.Sequential(nn.Linear(16, 8, bias=False)), hw), tmp_path / "n.safetensors")
    train(net, 30)
    fresh = mho.to_analog(mho.to_digital(net), hw)
    for n in (net.eval(), fresh.eval()):
        mho.calibrate(n, [X])
    assert torch.equal(net(X), fresh(X))
    goal = X @ target.T
    assert float((net(X) - goal).detach().norm() / goal.norm()) < 0.08


# -- what the clip does -------------------------------------------------------------------------------------------------
def trained(hw, steps=200, **options):
    """A linear layer trained towards weights that are 5 times those of its start; the network and its last loss."""
    torch.manual_seed(0)
    net = mho.to_analog(nn.Sequential(nn.Linear(16, 4, bias=False)), hw)
    target = 5 * net[0].weight.detach().clone()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    mho.attach(optimizer, net)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (net(X) - X @ target.T).square().mean()
        loss.backward()
        optimizer.step()
    return net, loss.item()


def test_a_clip_that_binds_is_said(hardware):
    with pytest.warns(UserWarning, match=r"the clip holds \d+% of the weights of layer '0'.*out_scale: column.*remap: 1 step"):
        _, loss = trained(hardware("rows: 64"))
    assert loss > 1


@pytest.mark.parametrize("training", ["clip: none, remap: 1 step", "clip: 2.5 sigma, remap: 1 step", "out_scale: column"])
def test_what_the_warning_about_the_clip_proposes_works(hardware, training):
    _, loss = trained(hardware("rows: 64", f"training: {{inject: none, {training}}}"), 400)
    assert loss < 0.1


# -- statistics ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("where", ["mapping", "training"])
@pytest.mark.parametrize(
    "weights", [torch.tensor([[0.3]]), torch.full((3, 3), 0.2), 1 + 0.1 * torch.randn(8, 8), torch.zeros(2, 3)]
)
def test_a_clip_in_sigmas_spares_weights_of_one_size(hardware, where, weights):
    clip = "clip: 2.5 sigma"
    body = f"mapping: {{kind: mho.per_column, {clip}}}" if where == "mapping" else "rows: 64"
    hw = hardware(body, "training: {inject: none}" if where == "mapping" else f"training: {{inject: none, {clip}}}")
    plain = nn.Sequential(nn.Linear(weights.shape[1], weights.shape[0], bias=False))
    with torch.no_grad():
        plain[0].weight.copy_(weights)
    net = mho.to_analog(plain, hw)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    mho.attach(optimizer, net)
    net(torch.ones(1, weights.shape[1])).sum().backward()
    optimizer.step()
    assert torch.allclose(net[0].weight, weights)
    assert torch.allclose(net.eval()(torch.eye(weights.shape[1])), weights.T, atol=1e-6)


def test_inputs_of_one_sign_are_calibrated_by_their_size(hardware):
    net = mho.to_analog(nn.Linear(8, 2), hardware("dac: {bits: 8}"))
    mho.calibrate(net, [torch.full((4, 8), 5.0)], "moving_std")
    assert net.tiles.input_range.item() == pytest.approx(15)


@pytest.mark.parametrize("clip", ["clip: 0.1", "clip: 0.5 sigma"])
def test_frozen_weights_are_not_clipped(hardware, clip):
    net = mho.to_analog(model(), hardware("rows: 64", f"training: {{inject: none, {clip}}}"))
    net[0].weight.requires_grad_(False)
    before = [net[k].weight.detach().clone() for k in (0, 1)]
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=1e-4)
    mho.attach(optimizer, net)
    net(X).sum().backward()
    optimizer.step()
    assert torch.equal(net[0].weight, before[0]) and not torch.allclose(net[1].weight, before[1])


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
@pytest.mark.parametrize("closure", [True, False])
def test_weight_decay_leaves_input_ranges_alone(hardware, kind, closure):
    ranges = []
    for decay in (0.0, 0.5):
        net = mho.to_analog(model(), hardware("dac: {bits: 8}", QUIET))
        optimizer = kind([{"params": net.parameters(), "weight_decay": decay}], lr=0.01)
        mho.attach(optimizer, net)

        def evaluated(net=net, optimizer=optimizer):
            optimizer.zero_grad()
            y = net[0](4 * X)
            (y.square().sum() + net[1].weight.sum()).backward()
            return y.sum()

        for _ in range(3):
            net[0].weight.data.fill_(0.1)
            if closure:
                optimizer.step(evaluated)
            else:
                evaluated()
                optimizer.step()
        ranges.append(net[0].tiles.input_range.detach().clone())
    assert torch.allclose(*ranges, rtol=1e-5) and (ranges[0] - 1).abs() > 1e-4


# -- the hardware file and checkpoints ----------------------------------------------------------------------------------
def saved(hardware, tmp_path, body, change=None):
    net = mho.to_analog(model(), hardware(body, QUIET)).eval()
    if change is not None:
        change(net)
    mho.save_model(net, tmp_path / "n.safetensors")
    return net, tmp_path / "n.safetensors"


def test_an_input_range_that_the_file_fixes_is_not_loaded(hardware, tmp_path):
    _, file = saved(hardware, tmp_path, "dac: {bits: 8, range: 5}")
    net = mho.to_analog(model(), hardware("dac: {bits: 8, range: 0.01}"))
    with pytest.warns(UserWarning, match=r"'0' keeps the input range 0.01 of the hardware file, not .* \(5\)"):
        mho.load_model(net, file)
    assert all(float(net[k].tiles.input_range) == pytest.approx(0.01) for k in (0, 1))


def test_an_input_range_that_was_learned_is_loaded(hardware, tmp_path):
    def calibrated(net):
        mho.calibrate(net, [3 * X])

    before, file = saved(hardware, tmp_path, "dac: {bits: 8}", calibrated)
    net = mho.load_model(mho.to_analog(model(), hardware("dac: {bits: 6}")), file)
    assert torch.equal(net[0].tiles.input_range, before[0].tiles.input_range)


def test_another_mapping_of_the_file_maps_anew(hardware, tmp_path):
    _, file = saved(hardware, tmp_path, "mapping: mho.per_column")
    for mapping in ("mho.tile_max", "{kind: mho.direct, full: 0.5}", "{kind: mho.per_column, clip: 2.5 sigma}"):
        hw = hardware(f"mapping: {mapping}")
        net = mho.to_analog(model(), hw)
        with pytest.warns(UserWarning, match="layer '0' is mapped anew by the mapping of the hardware file"):
            mho.load_model(net, file)
        assert torch.equal(net[0].tiles.gamma, mho.to_analog(digital(net), hw)[0].tiles.gamma)


def test_a_checkpoint_of_other_tiles_says_what_to_do(hardware, tmp_path):
    _, file = saved(hardware, tmp_path, "rows: 16")
    with pytest.raises(mho.MhoError, match=r"'0' of the checkpoint is on \(1, 16\).*mho.to_digital and mho.to_analog"):
        mho.load_model(mho.to_analog(model(), hardware("rows: 8")), file)


# -- chips ----------------------------------------------------------------------------------------------------------------
def test_input_ranges_travel_with_a_saved_chip(hardware, tmp_path):
    hw = hardware(QUANTISED, QUIET)
    net = mho.to_analog(model(), hw).eval()
    mho.calibrate(net, [5 * X])
    mho.program(net, seed=0).save(tmp_path / "c.safetensors")
    other = mho.to_analog(model(), hw).eval()
    uncalibrated = other[0].tiles.input_range.clone()
    mho.load_chip(other, tmp_path / "c.safetensors")
    assert torch.equal(other(5 * X), net(5 * X))
    mho.unprogram(other)
    assert torch.equal(other[0].tiles.input_range, uncalibrated)
    mho.load_chip(other, tmp_path / "c.safetensors")
    mho.calibrate(other, [50 * X])
    assert error(other, digital(other), 50 * X) < 0.1


def test_a_saved_chip_without_input_ranges_says_so(hardware, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    net = mho.to_analog(model(), hardware(QUANTISED, QUIET)).eval()
    file = tmp_path / "c.safetensors"
    mho.program(net, seed=0).save(file)
    with safe_open(file, "pt") as f:
        about = f.metadata()
    save_file({k: v for k, v in load_file(file).items() if not k.endswith("|input_range")}, file, about)
    with pytest.warns(UserWarning, match="holds no input ranges: those of the network are used"):
        mho.load_chip(net, file)


# -- arguments ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n: mho.program(n, seed="a"), "seed must be a whole number, got 'a'"),
        (lambda n: mho.program(n, seed=1.5), "seed must be a whole number, got 1.5"),
        (lambda n: mho.program(n, seed=0, chips=0), "chips must be a whole number of at least 1, got 0"),
        (lambda n: mho.program(n, seed=0, chips=1.5), "chips must be a whole number of at least 1, got 1.5"),
        (lambda n: mho.program(n, seed=0, index=-1), "index must be a whole number of at least 0, got -1"),
        (lambda n: mho.attach(torch.optim.SGD(model().parameters(), lr=1), n), "the optimizer trains no parameter of"),
        (lambda n: mho.attach(torch.optim.SGD(n.parameters(), lr=1), n, steps_per_epoch="a"), "steps_per_epoch must be a whole"),
        (lambda n: (n[0].weight.data.fill_(torch.nan), mho.program(n, seed=0)), "layer '0' has weights that are NaN or infinite"),
    ],
)
def test_arguments_that_make_no_sense_are_named(hardware, call, message):
    net = mho.to_analog(model(), hardware("rows: 16"))
    with pytest.raises(mho.MhoError, match=message):
        call(net)


def test_scalars_of_torch_and_numpy_are_numbers(hardware):
    import numpy as np

    net = mho.to_analog(model(), hardware("rows: 16\nnonidealities: [pcm.programming_noise]")).eval()
    outputs = []
    for one in (3, np.int32(3), torch.tensor(3)):
        mho.program(net, seed=one, chips=one, age=one)
        outputs.append(net(X))
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])
