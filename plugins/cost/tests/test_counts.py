"""Counts against counts by hand."""

import json

import pytest
import torch
from mho_cost.counts import counts
from torch import nn

import mho


def hardware(more="", layers="[]", rows=16, columns=8, device=""):
    return mho.Hardware.from_yaml(
        f"mho: 1\ndefault: t\nlayers: {layers}\ntiles: {{t: {{rows: {rows}, columns: {columns}, split: row, dac: {{bits: 7}}, "
        f"adc: {{bits: 6, bound: 10}}, {device}{more}}}}}"
    )


def test_a_layer_on_six_tiles_by_hand():
    """40 x 20 weights: ceil(40/16) = 3 row tiles, ceil(20/8) = 3 column blocks; 5 vectors."""
    (c,) = counts(nn.Linear(40, 20), torch.zeros(5, 40), hardware())
    assert (c.tiles, c.cells, c.mvm) == (9, 9 * 16 * 8, 45)
    assert c.cell_read == 40 * 20 * 2 * 5  # a pair of devices
    assert c.drive == 40 * 3 * 5 and c.input_bit == 40 * 3 * 5 * 7
    assert c.conversion == c.scale == 20 * 3 * 5
    assert c.multiply_add == 20 * 5  # biases
    assert c.byte == -(-(40 * 3 * 5 * 7 + 300 * 6) // 8)
    assert c.write == 800  # the active device of each pair


@pytest.mark.parametrize("total, conversions", [("analog", 1), ("digital", 2)])
def test_two_phases_read_twice_and_convert_as_often_as_they_are_summed_digitally(total, conversions):
    effect = f"nonidealities: [{{kind: circuit.two_phase, sum: {total}}}]"
    (one,), (two,) = (counts(nn.Linear(40, 20), torch.zeros(5, 40), hardware(e)) for e in ("", effect))
    assert (two.passes, two.cell_read, two.drive) == (2, 2 * one.cell_read, 2 * one.drive)
    assert two.conversion == conversions * one.conversion and two.mvm == one.mvm


def test_both_devices_of_a_pair_are_written_where_both_are_modelled():
    one, both = (counts(nn.Linear(40, 20), torch.zeros(5, 40), hardware(device=d))[0] for d in ("", "device: {pair: both}, "))
    assert (one.devices, both.devices, one.write, both.write) == (2, 2, 800, 1600)


sliced = pytest.mark.skipif(not hasattr(mho.Mapping, "factors"), reason="weights are not sliced here")


@sliced
@pytest.mark.parametrize(
    "mapping, tiles, devices, columns",
    [
        ("mapping: {kind: circuit.equal_shares, devices: 2}", 3 * 5, 4, 2),  # 4 outputs on a tile of 8 columns
        ("mapping: {kind: circuit.equal_shares, devices: 2, sum: analog}", 3 * 3, 4, 1),
        (
            "mapping: {kind: circuit.digits, bits: 8, digit: 2, sign: columns}, device: {pair: single}",
            3 * 20,
            8,
            8,
        ),  # 7 bits: 4 digits
    ],
)
def test_slices_have_devices_and_where_they_are_apart_columns_and_conversions(mapping, tiles, devices, columns):
    (c,) = counts(nn.Linear(40, 20), torch.zeros(5, 40), hardware(mapping))
    assert (c.tiles, c.devices, c.conversion) == (tiles, devices, columns * 300)
    assert c.cell_read == devices * 800 * 5 and c.write == 800 * (8 if devices == 8 else 2)


@sliced
def test_reference_columns_are_read_converted_and_written():
    """3 outputs of 2 columns and a reference on each of 3 x 7 tiles of 8 columns; one device is counted for each cell."""
    mapping = "mapping: {kind: circuit.equal_shares, devices: 2, sign: reference}, device: {pair: single}"
    (c,) = counts(nn.Linear(40, 20), torch.zeros(5, 40), hardware(mapping))
    assert c.tiles == 21 and c.conversion == (20 * 2 + 7) * 3 * 5
    assert c.write == (20 * 2 + 7) * 40 and c.cell_read == 5 * c.write


@sliced
def test_digits_of_inputs_are_passes():
    """6 bits of a magnitude, 2 at a time."""
    hw = mho.load(hardware(), set=["tiles.t.dac={kind: circuit.serial_dac, bits: 7, digit: 2}"])
    (c,) = counts(nn.Linear(40, 20), torch.zeros(5, 40), hw)
    assert (c.passes, c.converted, c.conversion) == (3, 3, 3 * 300) and c.input_bit == 40 * 3 * 5 * 3 * 2


class Digital(nn.Module):
    """conv on tiles; batch norm, linear, LSTM, attention and a bare product digital."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.linear = nn.Linear(4 * 36, 10)
        self.lstm = nn.LSTM(10, 5, batch_first=True)
        self.attention = nn.MultiheadAttention(5, 1, batch_first=True)

    def forward(self, x):
        y = self.linear(self.norm(self.conv(x)).flatten(1))
        h = self.lstm(y[:, None].expand(-1, 3, -1))[0]
        return self.attention(h, h, h)[0] @ h.mT


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_stays_digital_is_counted_by_module(device):
    rules = "[{match: conv, tile: t}, {match: '*', tile: digital}]"
    with torch.device(device):
        model, x = Digital(), torch.randn(1, 1, 8, 8)
    found = {c.name: c for c in counts(model, x, hardware(layers=rules))}
    assert found["conv"].uses == 36 and found["conv"].multiply_add == 36 * 4
    assert found["norm"].multiply_add == 4 * 36
    assert found["linear"].multiply_add == 144 * 10
    assert found["lstm"].multiply_add == 3 * (20 * 10 + 20 * 5)
    assert found["attention"].multiply_add == 3 * 15 * 5 + 2 * 3 * 3 * 5 + 3 * 5 * 5  # q, k, v; scores and sums; output
    assert found[""].multiply_add == 3 * 3 * 5


def test_groups_and_recurrences():
    (conv,) = counts(nn.Conv2d(6, 12, 3, groups=3, bias=False), torch.randn(2, 6, 5, 5), hardware())
    assert (conv.tiles, conv.mvm, conv.conversion) == (3 * 2, 3 * 2 * 18, 12 * 2 * 18)  # 18 rows: two row tiles
    lstm = counts(nn.LSTM(8, 4), torch.randn(5, 1, 8), hardware())
    assert [c.uses for c in lstm] == [5, 5]


class Counted(mho.Correction, kind="counted.seven"):
    """Seven digital operations for a vector."""

    source = "a test"

    def module(self, matrix):
        class Seven(mho.effects.CorrectionModule):
            @property
            def operations(self):
                return 7

        return Seven(self, matrix)


def test_corrections_count_what_they_say():
    mho.register(Counted)
    plain, corrected = (counts(nn.Linear(4, 4), torch.zeros(3, 4), hardware(m))[0] for m in ("", "corrections: [counted.seven]"))
    assert corrected.multiply_add - plain.multiply_add == 7 * 3


def test_a_network_on_its_hardware_is_counted_as_it_is_and_stays_as_it_was():
    net = mho.to_analog(nn.Linear(40, 20), hardware())
    assert counts(net, torch.zeros(5, 40)) == counts(nn.Linear(40, 20), torch.zeros(5, 40), hardware())
    assert not net.tiles.exact and not net.tiles._forward_pre_hooks
    with pytest.raises(mho.MhoError, match="not on tiles"):
        counts(nn.Linear(4, 4), torch.zeros(1, 4))


def test_totals_conversions_by_bits_and_json():
    found = counts(nn.Sequential(nn.Linear(40, 20), nn.Linear(20, 2)), torch.zeros(1, 40), hardware())
    back = json.loads(found.to_json())
    assert back["conversion"] == sum(layer["conversion"] for layer in back["layers"]) == found.conversions[6]
    assert "ADC" in str(found) and back["tiles"] == sum(c.tiles for c in found)


def test_what_forward_makes_of_the_outputs_is_free_to_choose():
    model, x = nn.Sequential(nn.Linear(40, 20)), torch.zeros(1, 40)
    assert counts(model, x, hardware(), forward=lambda net, v: net(v).sum()) == counts(model, x, hardware())


def multiply_adds(model, x):
    return counts(model, x, "ideal.exact").totals()["multiply_add"]


def test_attention_is_counted_wherever_it_runs():
    """Two products of 3 x 3 x 8; on the processor torch has an operator of its own for both."""

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 8, bias=False)

        def forward(self, x):
            return nn.functional.scaled_dot_product_attention(*[self.linear(x)[:, None]] * 3)

    with torch.device("meta"):
        there = Attention(), torch.randn(1, 3, 8)
    assert multiply_adds(Attention(), torch.randn(1, 3, 8)) == multiply_adds(*there) == 2 * 3 * 3 * 8


@pytest.mark.parametrize(
    ("digital", "expected"),
    [(lambda: nn.RMSNorm(8), 8), (lambda: nn.Bilinear(8, 8, 5, bias=False), 5 * 8 * 8), (lambda: torch.randn(7, 8), 7 * 8)],
)
def test_operators_that_torch_does_not_count_are_counted(digital, expected):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.digital = nn.Linear(4, 8, bias=False), digital()

        def forward(self, x):
            y = self.linear(x)
            if isinstance(self.digital, torch.Tensor):
                return self.digital @ y[0]
            return self.digital(y, y) if isinstance(self.digital, nn.Bilinear) else self.digital(y)

    assert multiply_adds(Model(), torch.randn(1, 4)) == expected
