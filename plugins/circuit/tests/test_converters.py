"""Circuits of ADCs: their components are drawn for each, ideal ones are the ideal ADC, errors follow in closed form."""

import math

import pytest
import torch
from mho_circuit.converters import ColumnAdc, CyclicAdc, RampAdc, SarAdc, TableAdc
from mho_circuit.ranges import adc_bounds
from mho_kit import ConverterContract
from torch import nn

import mho


@pytest.mark.slow
class TestSarAdc(ConverterContract):
    spec = SarAdc(mismatch=0.02, columns=3)


@pytest.mark.slow
class TestColumnAdc(ConverterContract):
    spec = ColumnAdc(gain=0.1, offset=0.02)


@pytest.mark.slow
class TestRampAdc(ConverterContract):
    spec = RampAdc(bits=6, steps=0.1, slope=0.01, offset=0.01)


@pytest.mark.slow
class TestCyclicAdc(ConverterContract):
    spec = CyclicAdc(bits=6, mismatch=0.02)


@pytest.mark.slow
class TestPipelineAdc(ConverterContract):
    spec = CyclicAdc(bits=6, pipeline=True)


@pytest.mark.slow
class TestTableAdc(ConverterContract):
    spec = TableAdc()


def converted(tile, adc, y, outputs=300, columns=None):
    """What so many outputs of one row make of inputs y: [vector, output]."""
    t = tile(torch.ones(outputs, 1), adc=adc, rows=1, columns=columns or outputs).program(seed=0)
    return t(y[:, None])


Y = torch.linspace(-1, 1, 4001, dtype=torch.float32)


@pytest.mark.parametrize("kind", ["sar_adc, mismatch: 0", "ramp_adc, steps: 0", "column_adc, gain: 0"])
def test_without_errors_they_are_the_ideal_adc(tile, kind):
    """But for values on an edge between two levels."""
    y = Y + 1e-5
    circuit = converted(tile, f"{{kind: circuit.{kind}, bits: 6, bound: 1}}", y, 2)
    ideal = converted(tile, "{bits: 6, bound: 1}", y, 2)
    assert float((circuit - ideal).abs().max()) < 1e-6


@pytest.mark.parametrize("pipeline", ["true", "false"])
def test_ideal_stages_of_one_and_a_half_bits_round(tile, pipeline):
    """Within half a step, for any threshold errors below a quarter of the range: what redundancy is for."""
    adc = f"{{kind: circuit.cyclic_adc, bits: 8, bound: 1, mismatch: 0, threshold: 0.03, pipeline: {pipeline}}}"
    off = converted(tile, adc, Y, 40) - Y[:, None]
    assert float(off.abs().max()) < 1 / 127 and float(off.std()) < 1.1 / 127 / math.sqrt(12) + 1 / 256


@pytest.mark.parametrize("kind", ["sar_adc, mismatch: 0.1", "cyclic_adc, mismatch: 0.05", "column_adc, gain: 0.1"])
def test_every_adc_has_components_of_its_own_and_shared_ones_are_the_same(tile, kind):
    """Errors of two ADCs do not correlate: |r| < 4.42/sqrt(n) over the n pairs of neighbours; columns of one are equal."""
    y = torch.tensor([0.77])
    own = converted(tile, f"{{kind: circuit.{kind}, bits: 12, bound: 1}}", y, 4000)[0]
    a, b = own[::2] - own.mean(), own[1::2] - own.mean()
    assert abs(float((a * b).mean() / (a.std() * b.std()))) < 4.42 / math.sqrt(2000)
    shared = converted(tile, f"{{kind: circuit.{kind}, bits: 12, bound: 1, columns: 8}}", y, 60)[0]
    assert all(len(group.unique()) == 1 for group in shared.split(8)) and len(shared.unique()) > 5
    blocks = converted(tile, f"{{kind: circuit.{kind}, bits: 12, bound: 1, columns: 64}}", y, 60, columns=20)[0]
    assert len(blocks.unique()) == 3  # an ADC belongs to one tile


def test_mismatch_of_capacitors_spreads_a_level_as_the_root_of_its_units(tile):
    """At full scale all capacitors are on: their sum has a standard deviation of mismatch sqrt(2^7 - 1) units, 20,000 ADCs."""
    t = tile(torch.ones(20_000, 1), adc="{kind: circuit.sar_adc, bits: 8, bound: 1, mismatch: 0.05}", columns=20_000)
    sum_of_all = t.program(seed=0).tiles.chip.constants[0]["capacitors"].sum(0)
    assert float(sum_of_all.std()) == pytest.approx(0.05 * math.sqrt(127), rel=0.02)


def test_gains_spread_and_trimming_leaves_a_step(tile):
    """Of 20,000 columns: 0.1 before, uniform within half a step of 0.02 after."""
    adc = "{kind: circuit.column_adc, bits: none, bound: 10, gain: 0.1, trim: %s}"
    before, after = (converted(tile, adc % trim, torch.ones(1), 20_000)[0] for trim in ("none", "0.02"))
    assert float(before.std()) == pytest.approx(0.1, rel=0.03)
    assert float(after.std()) == pytest.approx(0.02 / math.sqrt(12), rel=0.03)
    assert float((after - 1).abs().max()) <= 0.01 + 1e-6


def test_steps_of_a_ramp_add_up(tile):
    """Code c of the ramp lies where c steps have passed: the edge at 3/4 of 2^9 - 2 steps is off by steps sqrt(n) of one."""
    t = tile(torch.ones(3000, 1), adc="{kind: circuit.ramp_adc, bits: 9, bound: 1, steps: 0.1}", rows=1, columns=1).program(
        seed=0
    )
    ramp = t.tiles.chip.constants[0]["ramp"][0]  # a tile for each output
    assert float(ramp[:, 381].std()) == pytest.approx(0.1 * math.sqrt(382), rel=0.06)


def test_levels_come_from_a_table(tile, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "levels.csv").write_text("level,edge\n-1,-0.5\n0,0.1\n0.2,0.6\n1,\n")
    y = converted(tile, "{kind: circuit.table_adc, bound: 2, file: levels.csv}", torch.tensor([-1.7, -0.9, 0.19, 0.21, 1.3]), 2)
    assert y[:, 0].tolist() == pytest.approx([-2, 0, 0, 0.4, 2])
    for wrong in ("level\n1\n0\n", "level\n"):
        (tmp_path / "levels.csv").write_text(wrong)
        with pytest.raises(mho.MhoError, match="ascending"):
            mho.Hardware.from_yaml("mho: 1\ndefault: t\ntiles: {t: {adc: {kind: circuit.table_adc, file: levels.csv}}}")


def test_outputs_beyond_the_current_limit_stay_there(tile):
    t = tile(torch.ones(2, 4), "{kind: circuit.current_limit, limit: 1.5}", adc="{bits: none, bound: 9}")
    assert t(torch.tensor([[1.0, 1, 1, 1], [0.5, 0.5, 0, 0], [-1, -1, 0, 0]]))[:, 0].tolist() == [1.5, 1.0, -1.5]


HW = """\
mho: 1
default: t
tiles:
  t:
    device: {pair: %s}
    mapping: %s
    dac: %s
    adc: {bits: %d, bound: 50}
"""


@pytest.mark.parametrize("dac", ["{bits: 8}", "{kind: circuit.serial_dac, digit: 2}"])
def test_bounds_of_adcs_come_from_outputs(dac):
    """The largest output, the power of 2 above it, a share, and the least error, which a search of 200 bounds does not beat by
    more than 2 %."""
    torch.manual_seed(0)
    model, x = nn.Linear(64, 32), torch.randn(300, 64)
    net = mho.to_analog(model, mho.Hardware.from_yaml(HW % ("active", "circuit.digits", dac, 6)))
    mho.calibrate(net, [x])
    bounds = {m: adc_bounds(net, [x], m)[""] for m in ("max", "granular", "quantile", "mse")}
    step = bounds["granular"] / 31
    assert math.log2(step) == round(math.log2(step)) and bounds["max"] <= bounds["granular"] < 2 * bounds["max"]
    assert bounds["quantile"] < bounds["max"] and bounds["mse"] < bounds["max"]
    with pytest.raises(mho.MhoError, match="one of max"):
        adc_bounds(net, [x], "best")
    with pytest.raises(mho.MhoError, match="give batches"):
        adc_bounds(net, [])

    def error(bound):
        hw = mho.load(mho.Hardware.from_yaml(HW % ("active", "circuit.digits", dac, 6)), set=[f"tiles.t.adc.bound={bound}"])
        made = mho.to_analog(model, hw)
        made.load_state_dict(net.state_dict())
        with torch.no_grad():
            return float((made(x) - model(x)).square().mean())

    assert error(bounds["mse"]) < error(bounds["max"]) and error(bounds["mse"]) < 0.5 * error(50)
