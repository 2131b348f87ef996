"""A table of measurements as a device: its points come out again, and a bad file is an error with a sentence."""

import pytest
import torch
from mho_kit import Bench, NonidealityContract
from mho_measured import MeasuredDevice, read_table

import mho


def table(g, times):
    rows = {t: torch.tensor(r, dtype=g.dtype) for t, r in read_table("example.csv")}[times]
    from numpy import interp

    return tuple(torch.tensor(interp(g.numpy(), rows[:, 0], rows[:, k])) for k in (1, 2))


class TestMeasuredDevice(NonidealityContract):
    spec = MeasuredDevice()
    expected = {"program": lambda g, site: table(g, 1.0)}
    expected_failed_checks = {"never_waits_for_an_accelerator": "the table is read on the host"}


@pytest.mark.parametrize(("t", "row"), [(1.0, 1.0), (86_400.0, 86_400.0)])
def test_the_points_of_the_table_come_out_again(t, row):
    """n = 40,000 devices at each measured conductance, five sigma."""
    for target, mean, std in dict(read_table("example.csv"))[row][1:]:
        g = torch.full((1, 1, 200, 200), target, dtype=torch.float64)
        site = Bench().site(MeasuredDevice(), "age", t=t, target=g)
        programmed = MeasuredDevice().program(g, Bench().site(MeasuredDevice(), "program", target=g))
        aged = MeasuredDevice().age(programmed, t, site)
        assert float(aged.mean()) == pytest.approx(mean, abs=5 * std / 200)
        assert float(aged.std()) == pytest.approx(std, rel=5 / (2**0.5 * 200))


@pytest.mark.parametrize("text", ["", "g,mean\n1,2\n", "g_target,mean,std\n1,2,x\n", "g_target,mean,std\n1,2,3\n"])
def test_a_bad_file_is_an_error_with_a_sentence(tmp_path, text):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(ValueError, match="expected"):
        read_table(str(tmp_path / "bad.csv"))


def test_a_missing_file_is_named_where_the_hardware_file_names_it():
    mho.register(MeasuredDevice)
    text = "mho: 1\ndefault: t\ntiles:\n  t:\n    nonidealities: [{kind: measured.device, file: absent.csv}]\n"
    with pytest.raises(mho.ConfigError, match=r"nonidealities\[0\]\n +no file 'absent.csv'"):
        mho.Hardware.from_yaml(text)
