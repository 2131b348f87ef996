"""`mho fit`: parameters come back from synthetic data with honest error bars, wrong models are rejected.

Synthetic data are made with NumPy from the formulas of the papers, not with the code under test.
"""

import gzip
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from mho_lab.fit.fitting import anderson_darling, fit, ks_distance, read_csv
from mho_pcm import Drift, ProgrammingNoise
from mho_rram.relaxation import Relaxation
from mho_rram.variability import Variability

import mho
from mho.cli import main
from mho.effects.measurements import Column, Measurements

SETS = 40  # repeated synthetic sets: the rms of that many z-scores is within 0.8 ... 1.25 with p > 0.95 per parameter


def table(g_max, **columns):
    kinds = {"device": torch.long}
    return Measurements({n: torch.tensor(v, dtype=kinds.get(n, torch.float64)) for n, v in columns.items()}, g_max)


def pcm_programming(rng, n=600, c=(0.26348, 1.9650, -1.1731)):
    """R003 Eq. 7 at g_max = 25 uS."""
    target = rng.uniform(0.5, 25, n)
    r = target / 25
    return table(25.0, g_target=target, g=target + (c[0] + c[1] * r + c[2] * r**2) * rng.standard_normal(n))


def pcm_drift(rng, devices=400, mean=1.0, std=1.0, noise=0.02):
    """R003 Eqs. 8, 9; six readings of every device, with noise that alone would spread a fitted slope by 0.006."""
    times = np.array([0.0, 60, 600, 3600, 36_000, 86_400])
    target = rng.uniform(1, 25, devices)
    ln_r = np.log(target / 25)
    mu = mean * np.clip(-0.0155 * ln_r + 0.0244, 0.049, 0.1)
    sigma = std * np.clip(-0.0125 * ln_r - 0.0059, 0.008, 0.045)
    nu = np.maximum(mu + sigma * rng.standard_normal(devices), 0)[:, None]
    start = target * rng.uniform(0.9, 1.1, devices)  # devices miss their targets; the fit does not need to know
    g = start[:, None] * ((times + 20) / 20) ** -nu * np.exp(noise * rng.standard_normal((devices, len(times))))
    device = np.repeat(np.arange(devices), len(times))
    return table(25.0, device=device, g_target=target[device], t=np.tile(times, devices), g=g.ravel())


def rram_variability(rng, devices=150, cycles=6, lrs=(0.044, 0.037), hrs=(0.17, 0.433)):
    """Synaptogen: log-normal, spreads linear between the states; targets differ from cycle to cycle."""
    target = rng.uniform(1, 40, (devices, cycles))
    x = target / 40
    d2d, c2c = (h + (low - h) * x for low, h in zip(lrs, hrs))
    y = d2d * rng.standard_normal((devices, 1)) + c2c * rng.standard_normal((devices, cycles))
    device = np.repeat(np.arange(devices), cycles)
    return table(40.0, device=device, g_target=target.ravel(), g=(target * np.exp(y)).ravel())


TWO_TIMES = Relaxation(
    times=(1.0, 1e4),
    location=((0.1, -0.5), (0.3, -1.5)),
    spread=((-0.3, -0.4), (0.5, -0.3)),
    nu=((0.9,), (1.4,)),
    correlation=(0.4,),
    largest=(1e6, 1e6),
)


def rram_relaxation(rng, devices=1500):
    """docs/rram_relaxation.md, with fewer times and coefficients; Student-t numbers from NumPy."""
    start = rng.uniform(0.5, 40, devices)
    x = start / 40
    parts = []
    for k, t in enumerate(TWO_TIMES.times):
        location = TWO_TIMES.location[k][0] + TWO_TIMES.location[k][1] * np.sqrt(x)
        scale = np.exp(TWO_TIMES.spread[k][0] + TWO_TIMES.spread[k][1] * np.log(x + 0.02))
        g = start + location + scale * rng.standard_t(np.exp(TWO_TIMES.nu[k][0]), devices)
        parts.append((np.arange(devices), start, np.full(devices, t), g))
    device, programmed, time, g = (np.concatenate(v) for v in zip(*parts))
    return table(40.0, device=device, g_programmed=programmed, t=time, g=g)


CASES = {
    "rram.relaxation": (TWO_TIMES, rram_relaxation, (0.1, -0.5, 0.3, -1.5, -0.3, -0.4, 0.5, -0.3, 0.9, 1.4)),
    "pcm.programming_noise": (ProgrammingNoise(), pcm_programming, (0.26348, 1.9650, -1.1731)),
    "pcm.drift": (Drift(), pcm_drift, (1.0, 1.0, 0.02)),
    "rram.variability": (Variability(), rram_variability, (0.044, 0.037, 0.17, 0.433)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_true_parameters_come_back_within_their_error_bars(case):
    """z-scores over repeated synthetic sets: rms 0.8 to 1.25 for every parameter."""
    effect, make, truth = CASES[case]
    z = []
    for k in range(SETS):
        result = fit(effect, make(np.random.default_rng([7, k])), draws=0)
        z.append((result.values - truth) / result.errors)
    rms = np.sqrt(np.nanmean(np.square(z), axis=0))
    assert np.isfinite(z).mean() > 0.98
    assert ((rms > 0.8) & (rms < 1.25)).all(), rms


def test_measurement_noise_is_not_taken_for_a_spread_of_the_drift_coefficient():
    """Slopes of single devices spread more than nu, var b = var nu + noise^2/S: the fit returns the spread of nu."""
    data = pcm_drift(np.random.default_rng(3), devices=3000, noise=0.1)
    result = fit(Drift(), data, draws=0)
    values = dict(zip(result.names, zip(result.values, result.errors)))
    x = torch.log((data["t"] + 20) / 20).view(3000, 6)
    y = torch.log(data["g"]).view(3000, 6)
    x = x - x.mean(1, keepdim=True)
    slope = -(x * y).sum(1) / (x * x).sum(1)
    mean, std = Drift().moments(data["g_target"].view(3000, 6)[:, 0] / 25)
    naive = float(((slope - mean) / std).std())
    spread, error = values["nu_std"]
    assert naive > 1.5
    assert abs(spread - 1) < 4.42 * error and error < 0.1
    assert abs(values["noise"][0] - 0.1) < 4.42 * values["noise"][1]


def test_the_correlation_of_relaxation_between_times_comes_back():
    """Simulated by the effect itself with rho = 0.4; the standard error of Kendall's tau is at most 2/(3 sqrt n)."""
    data = rram_relaxation(np.random.default_rng(0), devices=20_000)
    data = data.replaced(TWO_TIMES.simulate(data, seed=3))
    (rho,) = TWO_TIMES.estimate(data)["correlation"]
    assert abs(rho - 0.4) < 4.42 * (np.pi / 2) * 2 / (3 * np.sqrt(20_000)) + 0.005


@pytest.mark.slow
@pytest.mark.parametrize("case", ["pcm.programming_noise", "pcm.drift", "rram.variability"])
def test_the_right_model_is_rarely_rejected(case):
    """p-values of the bootstrap are uniform: among 20 sets, 4 or more with p <= 0.05 have probability 0.016."""
    effect, make, _ = CASES[case]
    p = [fit(effect, make(np.random.default_rng([11, k])), draws=99, seed=k).goodness.p for k in range(20)]
    assert sum(v <= 0.05 for v in p) < 4 and max(p) > 0.3, p


def test_the_right_model_passes():
    result = fit(ProgrammingNoise(), pcm_programming(np.random.default_rng(0)), draws=99)
    assert not result.goodness.rejected


def test_a_wrong_shape_of_the_distribution_is_rejected():
    rng = np.random.default_rng(0)
    target = rng.uniform(0.5, 25, 1000)
    heavy = table(25.0, g_target=target, g=target + rng.standard_t(3, 1000))
    assert fit(ProgrammingNoise(), heavy, draws=99).goodness.rejected


def test_a_wrong_dependence_on_the_target_is_rejected_though_it_fits_on_average():
    rng = np.random.default_rng(0)
    target = rng.uniform(0.5, 25, 3000)
    waves = 1 + 0.6 * np.sin(target)
    data = table(25.0, g_target=target, g=target + waves * rng.standard_normal(3000))
    assert fit(ProgrammingNoise(), data, draws=99).goodness.rejected


def test_a_number_at_its_bound_has_no_error_bar():
    data = rram_variability(np.random.default_rng(1), lrs=(0.0, 0.1), hrs=(0.0, 0.1))
    result = fit(Variability(), data, draws=0)
    free = dict(zip(result.names, result.errors))
    assert np.isfinite(free["lrs_c2c"]) and all(v >= 0 for v in result.values)


def test_anderson_darling_agrees_with_scipy():
    """scipy.stats.anderson for a normal with known parameters has no such mode; goodness_of_fit gives the statistic."""
    from scipy import stats

    x = np.random.default_rng(0).normal(size=200)
    known = {"loc": 0.0, "scale": 1.0}
    expected = stats.goodness_of_fit(stats.norm, x, statistic="ad", known_params=known, n_mc_samples=10).statistic
    assert anderson_darling(torch.special.ndtr(torch.tensor(x))) == pytest.approx(expected, rel=1e-9)


def test_the_distance_from_uniform_agrees_with_scipy():
    from scipy import stats

    u = np.random.default_rng(0).uniform(size=101) ** 1.2
    assert ks_distance(torch.tensor(u)) == pytest.approx(stats.kstest(u, "uniform").statistic)


# --- tables ---

NEEDED = {"g_target": Column("uS", "target conductance", positive=True), "g": Column("uS", "conductance read")}


def written(path, text):
    path.write_text(text)
    return path


def test_columns_may_have_other_names_and_rows_with_empty_cells_are_counted(tmp_path):
    file = written(tmp_path / "a.csv", "Goal,x,G (uS)\n10,1,11\n20,2,\n30,3,29.5\n\n")
    data = read_csv(file, NEEDED, {"g_target": "Goal", "g": "G (uS)"})
    assert data["g"].tolist() == [11.0, 29.5] and data.skipped == 1 and data.g_max == 30.0


def test_missing_columns_are_named_beside_what_is_there(tmp_path):
    file = written(tmp_path / "a.csv", "goal,g\n1,2\n")
    with pytest.raises(mho.MhoError) as caught:
        read_csv(file, NEEDED)
    assert "g_target" in str(caught.value) and "the file has: goal, g" in str(caught.value)
    assert "--map NAME_IN_FILE=g_target" in str(caught.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,2,3", r"a\.csv:3: expected 2 cells, got 3"),
        ("1,ten", r"a\.csv:3, column 'g': expected a number in uS, got 'ten'"),
        ("1,nan", r"a\.csv:3, column 'g': expected a finite number"),
        ("0,1", r"a\.csv:3, column 'g_target': expected a number above 0"),
    ],
)
def test_bad_cells_are_located(tmp_path, row, message):
    file = written(tmp_path / "a.csv", f"g_target,g\n1,1\n{row}\n")
    with pytest.raises(mho.MhoError, match=message):
        read_csv(file, NEEDED)


def test_a_file_that_is_not_there_or_not_text_is_an_error(tmp_path):
    with pytest.raises(mho.MhoError, match="no file"):
        read_csv(tmp_path / "no.csv", NEEDED)
    (tmp_path / "a.csv.gz").write_bytes(b"not gzip")
    with pytest.raises(mho.MhoError, match="cannot read"):
        read_csv(tmp_path / "a.csv.gz", NEEDED)


def test_too_few_rows_are_refused():
    with pytest.raises(mho.MhoError, match="8 complete rows are too few for 3 numbers; at least 13"):
        fit(ProgrammingNoise(), pcm_programming(np.random.default_rng(0), n=8))


def test_numbers_that_the_data_do_not_determine_are_an_error():
    """One target only: the three coefficients of sigma cannot be told apart."""
    rng = np.random.default_rng(0)
    data = table(25.0, g_target=np.full(100, 10.0), g=10 + rng.standard_normal(100))
    with pytest.raises(mho.MhoError, match="flat; fix some of them with --fix"):
        fit(ProgrammingNoise(), data)


def test_an_effect_that_does_not_say_how_it_is_fitted_is_an_error():
    from mho_pcm import LongTermReadNoise

    with pytest.raises(mho.MhoError, match="does not say how it is fitted"):
        fit(LongTermReadNoise(), pcm_programming(np.random.default_rng(0)))


# --- the verb ---


@pytest.fixture
def readings(tmp_path):
    """A CSV file of PCM programming, with other column names than the effect's."""
    data = pcm_programming(np.random.default_rng(0))
    lines = [f"{a},{b}" for a, b in zip(data["g_target"].tolist(), data["g"].tolist())]
    return written(tmp_path / "readings.csv", "\n".join(["goal,G (uS)", *lines]) + "\n")


def run(*arguments):
    return CliRunner().invoke(main, ["fit", *map(str, arguments)])


MAPPED = ("--kind", "pcm.programming_noise", "--map", "goal=g_target", "--map", "G (uS)=g", "--g-max", "25 uS")


def test_the_verb_writes_a_fragment_that_a_hardware_file_accepts(readings, tmp_path):
    result = run(readings, *MAPPED, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    text = (tmp_path / "out" / "fit.yaml").read_text()
    hardware = "mho: 1\ndefault: t\ntiles:\n  t:\n" + "".join(f"    {line}\n" for line in text.splitlines())
    (effect,) = mho.Hardware.from_yaml(hardware).tiles["t"].nonidealities
    assert effect.c1 == pytest.approx(1.965, abs=0.6) and "±" in text
    assert (tmp_path / "out" / "fit.svg").stat().st_size > 1000


def test_the_verb_prints_json(readings):
    result = run(readings, *MAPPED, "--json")
    data = json.loads(result.stdout)
    assert data["goodness"]["rejected"] is False and set(data["parameters"]) == {"c0", "c1", "c2"}


def test_a_rejected_fit_exits_with_2_and_gives_parameters_only_when_forced(tmp_path):
    rng = np.random.default_rng(0)
    target = rng.uniform(0.5, 25, 500)
    lines = [f"{a},{a + e}" for a, e in zip(target, rng.standard_t(2, 500))]
    file = written(tmp_path / "heavy.csv", "\n".join(["g_target,g", *lines]))
    refused = run(file, "--kind", "pcm.programming_noise", "--out", tmp_path / "out")
    assert refused.exit_code == 2 and "REJECTED" in refused.output
    assert not (tmp_path / "out" / "fit.yaml").exists()
    forced = run(file, "--kind", "pcm.programming_noise", "--force")
    assert forced.exit_code == 0 and "kind: pcm.programming_noise" in forced.output and "REJECTED" in forced.output


def test_a_fixed_field_stays(readings):
    result = run(readings, *MAPPED, "--fix", "c0=0.25", "--json")
    data = json.loads(result.stdout)
    assert set(data["parameters"]) == {"c1", "c2"} and data["effect"]["c0"] == 0.25


def test_the_search_starts_where_the_user_says_and_ends_at_the_same_place(readings):
    """Lists as well as numbers; a model with other times than the default needs lists of other lengths."""
    near, far = (json.loads(run(readings, *MAPPED, "--start", f"c1={v}", "--json").stdout) for v in ("2 uS", "4 uS"))
    assert near["parameters"]["c1"]["value"] == pytest.approx(far["parameters"]["c1"]["value"], abs=1e-4)


def test_relaxation_of_other_times_is_fitted_from_the_command_line(tmp_path):
    data = rram_relaxation(np.random.default_rng(0), devices=300)
    columns = ("device", "g_programmed", "t", "g")
    rows = zip(*(data[c].tolist() for c in columns))
    file = written(tmp_path / "cells.csv", "\n".join([",".join(columns), *(",".join(map(str, r)) for r in rows)]))
    start = ("location=[[0, 0], [0, 0]]", "spread=[[0, 0], [0, 0]]", "nu=[[1], [1]]", "largest=[99, 99]")
    options = [word for s in (*start, "correlation=[0]") for word in ("--start", s)]
    result = run(file, "--kind", "rram.relaxation", "--fix", "times=[1 s, 1e4 s]", *options, "--g-max", "40 uS")
    assert result.exit_code == 0, result.output
    assert "correlation: [" in result.output and "spread: [[" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--kind", "pcm.programming_noise"), "missing columns"),
        (("--kind", "pcm.read_noise"), "kinds that do: "),
        (("--kind", "pcm.programing_noise"), "did you mean"),
        ((*MAPPED, "--map", "goal=g_goal"), "no column 'g_goal' is needed"),
        ((*MAPPED, "--fix", "c9=1"), "no field 'c9'"),
        ((*MAPPED, "--fix", "scale=-1"), "scale: expected a number"),
        ((*MAPPED, "--start", "c0=much"), "c0: expected a conductance"),
        ((*MAPPED[:-1], "25 V"), "expected a conductance"),
    ],
)
def test_mistakes_of_the_user_exit_with_1_and_say_what_to_do(readings, arguments, message):
    result = run(readings, *arguments)
    assert result.exit_code == 1 and message in result.output, result.output


@pytest.mark.parametrize(("name", "content", "says"), [
    ("wide.csv", b"g_target,g\n1,2\n" + b"1" * 140_000 + b",2\n", r"wide\.csv:\d: field larger than field limit"),
    ("wide.csv", b"1" * 140_000 + b",2\n", r"wide\.csv:1: field larger than field limit"),
    ("damaged.csv.gz", gzip.compress(b"g_target,g\n" * 50, mtime=0)[:20] + b"\xff" * 30, r"cannot read '.*damaged\.csv\.gz'"),
    ("short.csv.gz", gzip.compress(b"g_target,g\n1,2\n", mtime=0)[:-9], r"cannot read '.*short\.csv\.gz'"),
    ("plain.csv.gz", b"g_target,g\n", r"cannot read '.*plain\.csv\.gz'"),
], ids=["wide", "wide header", "damaged", "short", "plain"])  # fmt: skip
def test_files_that_are_no_tables_are_named(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    columns = {"g_target": Column("uS", "target"), "g": Column("uS", "programmed")}
    with pytest.raises(mho.MhoError, match=says):
        read_csv(tmp_path / name, columns)
