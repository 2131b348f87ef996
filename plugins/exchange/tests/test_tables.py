"""Tables of chips, and chips of tables: round trips to the bit, measured conductances, faults of single devices."""

import numpy as np
import pytest
import torch
from torch import nn

import mho
from mho import exchange
from mho.tile import tile_arrays

NOISY = "tiles.t.nonidealities=[{kind: pcm.programming_noise}, {kind: pcm.drift}]"


@pytest.fixture(params=["csv", "npz", "parquet"])
def suffix(request):
    if request.param == "parquet":
        pytest.importorskip("pyarrow")
    return request.param


def test_a_chip_goes_to_a_table_and_comes_back_to_the_bit(network, x, tmp_path, suffix):
    net, table = network(NOISY), tmp_path / f"chip.{suffix}"
    chip = mho.program(net, seed=3)
    before = {a.name: a.chip.programmed.clone() for a in tile_arrays(net)}
    chip.age("1 day")
    y = net(x)
    exchange.write_chip(net, table)
    again = exchange.measured_chip(net, table, tmp_path / "chip.safetensors", seed=3)
    assert all(torch.equal(before[a.name], a.chip.programmed) for a in tile_arrays(net))
    again.age("1 day")
    assert torch.equal(net(x), y)  # the same chip, drift included
    assert torch.equal(mho.load_chip(net, tmp_path / "chip.safetensors").age("1 day").net(x), y)


def test_the_columns_say_where_a_device_is_and_what_it_is_for(network):
    """Against the matrix of the layer: w = (g+ - g-)/(g_max - g_min) γ, at (output, input)"""
    net = network()
    mho.program(net, seed=0)
    t = exchange.chip_table(net)
    for array, matrix in ((a, m) for layer in net if hasattr(layer, "tiles") for a, m in layer.matrices()):
        here = {n: c[t["layer"] == array.name] for n, c in t.items()}
        assert len(here["row"]) == 2 * matrix.numel()
        rebuilt = np.zeros(tuple(matrix.shape))
        sign = 1 - 2 * here["device"]
        gamma = array.gamma.numpy()[here["tile"], here["column"]]
        np.add.at(rebuilt, (here["output"], here["input"]), sign * here["g_uS"] / 24 * gamma)
        assert np.allclose(rebuilt, matrix.detach().numpy(), atol=1e-6)
        assert np.array_equal(here["block"], array.layout.block.numpy()[here["column"]])
        assert np.array_equal(here["code"], np.round(127 * here["weight"]).astype(int))


def test_a_measured_chip_is_read_like_any_other(network, x, tmp_path):
    """Twice the measured difference of a pair is twice the output of its column"""
    net = network("tiles.t.dac=none", "tiles.t.adc=none")
    mho.program(net, seed=0)
    t = exchange.chip_table(net)
    last = t["layer"] == "5"
    t["g_uS"] = np.where(last, t["g_uS"] / 2, t["g_uS"])
    exchange.write_table({n: c for n, c in t.items() if n in (*exchange.tables.PLACE, "g_uS")}, tmp_path / "m.csv")
    y = net(x)
    chip = exchange.measured_chip(net, tmp_path / "m.csv", tmp_path / "m")
    assert torch.allclose(net(x) - net[5].bias, (y - net[5].bias) / 2, atol=1e-5)
    assert mho.use.chip_on(net) is chip


def test_what_is_wrong_with_a_table_is_said_with_its_row(network, tmp_path):
    net, file = network(), tmp_path / "m.csv"
    mho.program(net, seed=0)
    head = "layer,tile,column,row,device,g_uS\n"
    for text, message in (
        ("layer,tile,column,row,g_uS\n0,0,0,0,1\n", "no column 'device'; it has layer, tile, column, row, g_uS"),
        (head + "0,0,0,0,0,1\n9,0,0,0,0,1\n", "no layer '9'; its layers: 0, 3, 5"),
        (head + "0,0,0,99,0,1\n", "row 1: layer '0' has row 0 to 7, got 99"),
        (head + "0,0,0,0,0,1\n0,0,0,0,0,2\n", "row 2: this device of layer '0' comes twice"),
        (head + "0,0,0,0,0,-1\n", "row 1: a conductance is a number of µS, at least 0; got -1"),
        (head + "0,0,0,0.5,0,1\n", "row 1: expected a whole number from 0 on in column 'row', got 0.5"),
        (head + "0,0,0,0,0,x\n", "column 'g_uS' holds numbers only"),
        (head + "0,0,0\n", "every line must have the 6 cells"),
        (head + "0,0,0,0,0,1\n", "lacks 575 devices of layer '0'"),
        ("", "no column 'layer'"),
    ):
        file.write_text(text)
        with pytest.raises(mho.MhoError, match=message):
            exchange.measured_chip(net, file, tmp_path / "c")
    with pytest.raises(mho.MhoError, match=r"ends in \.csv, \.npz or \.parquet"):
        exchange.write_chip(net, tmp_path / "chip.txt")
    np.savez(tmp_path / "evil.npz", layer=np.array([object()], dtype=object))
    with pytest.raises(mho.MhoError, match=r"cannot read.*allow_pickle=False"):
        exchange.read_table(tmp_path / "evil.npz")
    file.write_text(head + "0,0,0,0,0,7\n")
    exchange.measured_chip(net, file, tmp_path / "c", partial=True)
    assert float(net[0].tiles.chip.programmed[0, 0, 0, 0]) == 7


@pytest.fixture
def faulty(tmp_path):
    """A map for one layer of 4 x 6 weights: a stuck device, one with a lowest conductance, one that is off by 2 µS."""
    file = tmp_path / "faults.csv"
    rows = ["0,0,0,0,0,,25,25", "0,0,1,2,1,,10,", "0,0,3,5,0,2,,"]
    file.write_text("\n".join(["layer,tile,column,row,device,error_uS,low_uS,high_uS", *rows, ""]))
    tile = f"{{device: {{g_min: 1 uS, pair: both}}, nonidealities: [{{kind: exchange.device_map, file: {file}}}]}}"
    return file, mho.Hardware.from_yaml(f"mho: 1\ndefault: t\ntiles:\n  t: {tile}\ntraining: {{clip: none, remap: 1 steps}}\n")


def test_faults_of_single_devices_are_where_they_were_measured_on_every_chip(faulty):
    _, hw = faulty
    net = mho.to_analog(nn.Sequential(nn.Linear(6, 4)), hw).eval()
    target = net[0].tiles.view.target(net[0].tiles.normalised(net[0].weight))
    for seed in (0, 1):
        mho.program(net, seed)
        g = net[0].tiles.chip.programmed
        expected = target.clone()
        expected[0, 0, 0, 0] = 25.0
        expected[1, 0, 1, 2] = expected[1, 0, 1, 2].clamp(min=10)
        expected[0, 0, 3, 5] += 2
        assert torch.allclose(g, expected) and not torch.allclose(g, target)


def test_networks_train_against_their_faults(faulty):
    """What was trained with the faults loses less on the faulty chip than what was trained without, by half at least"""
    _, hw = faulty
    torch.manual_seed(0)
    start, x = nn.Sequential(nn.Linear(6, 4, bias=False)), torch.randn(256, 6)
    y = x @ torch.randn(6, 4)

    def loss_on_the_faulty_chip(trained_on):
        net = mho.to_analog(start, trained_on)
        optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
        mho.attach(optimizer, net, steps_per_epoch=10)
        for _ in range(300):
            optimizer.zero_grad()
            (net(x) - y).square().mean().backward()
            optimizer.step()
        deployed = mho.to_analog(mho.to_digital(net), hw)
        return mho.evaluate(deployed, lambda n: float((n(x) - y).square().mean()), "0 s", chips=1).mean[0]

    assert loss_on_the_faulty_chip(hw) < loss_on_the_faulty_chip(hw.varied(only=())) / 2


def test_a_map_of_another_network_is_refused(faulty, tmp_path):
    file, hw = faulty
    with pytest.raises(mho.MhoError, match=r"has no row for a layer with exchange\.device_map; it has rows for 0"):
        mho.program(mho.to_analog(nn.ModuleDict({"head": nn.Linear(6, 4)}), hw), seed=0)
    with pytest.raises(mho.MhoError, match="row 3: layer '0' has column 0 to 2, got 3"):
        mho.program(mho.to_analog(nn.Sequential(nn.Linear(6, 3)), hw), seed=0)
    file.write_text("layer,tile,column,row,device,low_uS,high_uS\n0,0,0,0,0,3,2\n")
    with pytest.raises(mho.MhoError, match="row 1: low_uS 3 is above high_uS 2"):
        mho.program(mho.to_analog(nn.Sequential(nn.Linear(6, 4)), hw), seed=0)
    file.unlink()
    with pytest.raises(mho.MhoError, match="no file"):
        mho.program(mho.to_analog(nn.Sequential(nn.Linear(6, 4)), hw), seed=0)
