"""Plans of arms, grids, seeds and chips: files and options, what is measured, what comes out."""

import json
import math
import re

import pytest
from click.testing import CliRunner
from mho_lab import sweep
from mho_lab.sweep.arms import outcomes, read_plan, short_names
from mho_lab.sweep.plan import SweepPlan, parsed_arms, parsed_grid
from mho_lab.sweep.points import run_plan

import mho
from mho.cli import main
from mho.config.units import seconds
from mho.ground.errors import ConfigError, MhoError

TASK = '''
import torch
from torch import nn
import mho

class Blobs(mho.Task):
    """Three Gaussian clouds."""
    chance = 1 / 3
    epochs, hwa_epochs, lr, hwa_lr = 4, 2, 0.02, 0.01

    def __init__(self):
        g = torch.Generator().manual_seed(0)
        self.y = torch.randint(3, (160,), generator=g)
        self.x = torch.randn(160, 6, generator=g) + 2 * torch.eye(3, 6)[self.y]

    def model(self):
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

    def train_batches(self, seed):
        for part in torch.randperm(96, generator=torch.Generator().manual_seed(seed)).split(32):
            yield self.x[part], self.y[part]

    def score(self, model):
        return mho.Score(float((model(self.x[96:]).argmax(1) == self.y[96:]).double().mean()), figure=1.0)
'''
HW = "mho: 1\nlike: pcm.standard\ntimes: [1 s, 1 year]\ntraining: {inject: {scale: 2, ramp: 1 epoch}}\n"
FILE = """sweep: 1
task: blobs.py
hardware: hw.yaml
seeds: 2
chips: 2
arms:
  direct: {}
  trained: {train: true}
  trained quietly: {train: true, train_with: {training.inject: none, "tiles.pcm.nonidealities[pcm.drift]": none}}
grid:
  tiles.pcm.adc.bits: [4, 8]
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    (tmp_path / "blobs.py").write_text(TASK)
    (tmp_path / "hw.yaml").write_text(HW)
    (tmp_path / "plan.yaml").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A finished sweep of the file above, in this process."""
    folder = tmp_path_factory.mktemp("swept")
    (folder / "blobs.py").write_text(TASK)
    (folder / "hw.yaml").write_text(HW)
    (folder / "plan.yaml").write_text(FILE)
    run_plan(SweepPlan.from_file(folder / "plan.yaml"), folder / "out")
    return folder / "out"


def invoke(*args):
    return CliRunner().invoke(main, [str(a) for a in args])


# -- plans ----------------------------------------------------------------------------------------------------------
def test_options_and_a_file_say_the_same(files):
    given = SweepPlan.checked(
        task="blobs.py",
        hardware="hw.yaml",
        seeds=2,
        chips=2,
        arms=parsed_arms(
            [
                "direct:",
                "trained: train",
                "trained quietly: train; train training.inject=none; train tiles.pcm.nonidealities[pcm.drift]=none",
            ]
        ),
        grid=parsed_grid(["tiles.pcm.adc.bits=4,8"]),
    )
    read = SweepPlan.from_file("plan.yaml")
    assert given.arms == read.arms and given.grid == read.grid
    (files / "again.yaml").write_text(given.to_yaml())
    assert SweepPlan.from_file("again.yaml") == read


def test_values_of_a_grid_are_read_as_yaml_and_brackets_keep_their_commas():
    assert parsed_grid(["a.b=1,2.5, none ,x y", "c=[1, 2],{d: 3}"]) == {"a.b": (1, 2.5, "none", "x y"), "c": ((1, 2), {"d": 3})}


@pytest.mark.parametrize("option", ["tiles.pcm.adc.bits", "tiles.pcm.adc.bits="])
def test_a_grid_without_values_is_refused(option):
    with pytest.raises(MhoError, match="PATH=V1,V2"):
        parsed_grid([option])


def test_an_arm_that_cannot_be_read_is_refused():
    with pytest.raises(MhoError, match="expected PATH=VALUE"):
        parsed_arms(["odd: tiles.pcm"])


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("sweeps: 1", "unknown key 'sweeps'; did you mean 'sweep'?"),
        ("chips: 0", "expected at least 1"),
        ("chips: many", "expected a whole number"),
        ("baseline: trian", "no arm 'trian'"),
        ("times: [1 parsec]", "parsec"),
        ("seeds: 0", "at least one seed"),
        ("seeds: [1, 1]", "each once"),
        ("grid: {tiles.pcm.rows: []}", "at least one value"),
        ("arms: {a: {trian: true}}", "did you mean 'train'?"),
    ],
)
def test_mistakes_of_a_sweep_file_are_located(files, line, complaint):
    key = line.partition(":")[0]
    kept = re.sub(rf"^{key}:.*\n(?:  .*\n)*", "", FILE, flags=re.M)
    (files / "wrong.yaml").write_text(kept + line + "\n")
    with pytest.raises(ConfigError) as caught:
        SweepPlan.from_file("wrong.yaml")
    assert complaint in str(caught.value) and f"wrong.yaml:{len(kept.splitlines()) + 1}:" in str(caught.value)


def test_a_setting_that_the_hardware_does_not_have_is_an_error_before_anything_runs(files):
    result = invoke("sweep", "run", "blobs.py", "hw.yaml", "--grid", "tiles.pcm.adc.bit=4,8", "--out", "out")
    assert result.exit_code == 1 and "did you mean 'bits'" in result.output and not (files / "out").exists()


def test_train_with_needs_training(files):
    plan = SweepPlan.checked(task="blobs.py", hardware="hw.yaml", arms=parsed_arms(["a: train training.inject=none"]))
    with pytest.raises(MhoError, match="add train: true"):
        list(plan.points())


def test_names_of_settings_are_as_short_as_they_can_be():
    assert short_names(["tiles.pcm.rows"]) == {"tiles.pcm.rows": "rows"}
    assert list(short_names(["tiles.a.rows", "tiles.b.rows"]).values()) == ["a.rows", "b.rows"]


# -- results --------------------------------------------------------------------------------------------------------
def test_every_arm_point_seed_and_chip_is_in_the_table(swept):
    rows = sweep.read(swept).rows
    assert len(rows) == 3 * 2 * 2 * 2 * 2  # arms, bits, seeds, chips, times
    assert {r["figure"] for r in rows} == {1.0}
    assert len({(r["arm"], r["grid.tiles.pcm.adc.bits"], r["seed"], r["chip"], r["time"]) for r in rows}) == len(rows)


def test_networks_are_trained_once_and_arms_start_from_the_same(swept):
    digital, network, chip = sweep.status(swept)
    assert [s.planned for s in (digital, network, chip)] == [2, 12, 24]
    assert [s.done for s in (digital, network, chip)] == [2, 12, 24]


def test_outcomes_are_means_over_seeds_of_means_over_chips_and_differences_are_paired(swept):
    """Against the same figures computed from the table with the formulas written out."""
    rows = sweep.read(swept).rows

    def by_seed(arm, bits, t):
        at = [r for r in rows if (r["arm"], r["grid.tiles.pcm.adc.bits"], r["time"]) == (arm, bits, t)]
        return [sum(r["score"] for r in at if r["seed"] == s) / 2 for s in (0, 1)]

    for o in outcomes(swept):
        a, b = by_seed(o.arm, o.grid["tiles.pcm.adc.bits"], o.time)
        assert o.mean == pytest.approx((a + b) / 2) and o.sem == pytest.approx(abs(a - b) / 2)
        assert (o.seeds, o.chips, o.over) == (2, 4, "seeds")
        if o.arm == "direct":
            assert o.difference is None
            continue
        d = [v - w for v, w in zip((a, b), by_seed("direct", o.grid["tiles.pcm.adc.bits"], o.time))]
        assert o.difference.mean == pytest.approx(sum(d) / 2)
        assert o.difference.half == pytest.approx(12.7062 * abs(d[0] - d[1]) / 2, rel=1e-3, abs=1e-12)


@pytest.mark.slow
def test_direct_deployment_equals_the_main_job(swept, files):
    """The same network, chips and scores as `mho run` has them."""
    from mho_lab.run.job import Job
    from mho_lab.run.task import load_task

    hw = mho.load("hw.yaml", set=["tiles.pcm.adc.bits=8"])
    summary = Job(load_task("blobs.py"), hw, files / "job", chips=2, seed=0, progress=False).run()
    want = {v["name"]: v["scores"] for v in summary["variants"]}
    rows = [r for r in sweep.read(swept).rows if r["seed"] == 0 and r["grid.tiles.pcm.adc.bits"] == 8]
    for arm, variant in (("direct", "direct"), ("trained", "hwa")):
        got = [[r["score"] for r in rows if r["arm"] == arm and r["chip"] == k] for k in (0, 1)]
        assert got == [list(s) for s in want[variant]]


def test_training_without_an_effect_does_not_take_it_off_the_chips(swept):
    """`train_with` changes the training only: the chips of that arm drift."""
    from mho_lab.run.networks import hardware_of

    state = json.loads((swept / "plans" / "mho_lab.sweep.points.network.json").read_text())
    quiet = [i for i in state["items"].values() if i["trained"] and i["training"] != i["hardware"]]
    assert len(quiet) == 4
    for item in quiet:
        training = (swept / "hardware" / f"{item['training']}.yaml").read_text()
        assert "pcm.drift" not in training
    files = list((swept / "networks").glob("*/network.safetensors"))
    assert len(files) == 12 and all("pcm.drift" in str(hardware_of(f).to_data()) for f in files)


def test_a_folder_with_other_settings_shows_only_what_these_ask_for(files):
    """Chips of other hardware or at other times are not in the tables, and are not measured again when they come back."""
    common = {"task": "blobs.py", "hardware": "hw.yaml"}
    first = SweepPlan.checked(**common, chips=2, times=("1 s",))
    run_plan(first, "out")
    before, made = outcomes("out"), sweep.read("out").rows
    run_plan(SweepPlan.checked(**common, set={"tiles.pcm.adc.bits": 2}, times=("1 year",), chips=1), "out")
    (found,) = outcomes("out")
    assert (found.chips, found.time) == (1, seconds("1 year")) and len(sweep.read("out")) == 1
    assert [s.planned for s in sweep.status("out")] == [1, 1, 1]
    results = sorted((files / "out" / "results").iterdir())
    run_plan(first, "out")
    assert sorted((files / "out" / "results").iterdir()) == results
    assert outcomes("out") == before and sweep.read("out").rows == made


@pytest.mark.slow
def test_a_removed_network_is_made_again(files):
    plan = SweepPlan.checked(task="blobs.py", hardware="hw.yaml", chips=1, times=("1 s",))
    run_plan(plan, "out")
    (file,) = (files / "out").glob("networks/*/network.safetensors")
    before = file.read_bytes()
    file.unlink()
    run_plan(plan.model_copy(update={"chips": 2}), "out")
    assert file.read_bytes() == before and len(sweep.read("out")) == 2


@pytest.mark.slow
def test_shards_do_not_share_a_network_and_together_are_everything(files, swept):
    plan = SweepPlan.from_file("plan.yaml").model_copy(update={"seeds": 1, "chips": 1})
    made = []
    for i in (1, 2):
        run_plan(plan, "out", shard=(i, 2))
        made.append(len(list((files / "out").glob("networks/*/network.safetensors"))))
    assert 0 < made[0] < made[1] == 6
    want = [r["score"] for r in sweep.read(swept).rows if r["seed"] == 0 and r["chip"] == 0]
    assert [r["score"] for r in sweep.read("out").rows] == want


# -- commands -------------------------------------------------------------------------------------------------------
def test_a_sweep_through_the_command_line(files):
    command = ["sweep", "run", "blobs.py", "hw.yaml", "--seeds", 2, "--chips", 1, "--grid", "tiles.pcm.adc.bits=4,8"]
    result = invoke(*command, "--out", "out", "--executor", "serial")
    assert result.exit_code == 0, result.output
    assert re.search(r"direct +4 +\d+\.\d+ ± \d+\.\d+", result.output) and "mean ± SEM over seeds" in result.output
    assert "planned" in (shown := invoke("sweep", "status", "out").output) and "mho_lab.sweep.points:chip" in shown
    counts = json.loads(invoke("sweep", "status", "out", "--json").output)
    assert [(c["planned"], c["done"], c["waiting"]) for c in counts] == [(2, 2, 0), (4, 4, 0), (4, 4, 0)]
    lines = invoke("sweep", "export", "out", "--format", "jsonl").output.splitlines()
    assert len(lines) == 8 and json.loads(lines[0])["arm"] == "direct"
    assert invoke("sweep", "export", "out", "--out", "t.csv").exit_code == 0
    assert (files / "t.csv").read_text().startswith("arm,grid.tiles.pcm.adc.bits,seed,chip,")
    assert "0 failed items" in invoke("sweep", "retry", "out", "--executor", "serial").output


def test_one_seed_is_compared_chip_by_chip(files):
    plan = SweepPlan.checked(
        task="blobs.py", hardware="hw.yaml", chips=3, times=("1 s",), arms=parsed_arms(["a:", "b: tiles.pcm.adc.bits=3"])
    )
    run_plan(plan, "out")
    a, b = outcomes("out")
    assert a.over == "chips" and b.difference.n == 3
    first, second = ([r["score"] for r in sweep.read("out").rows if r["arm"] == arm] for arm in "ab")
    assert b.difference.mean == pytest.approx(sum(y - x for x, y in zip(first, second)) / 3)


def test_a_checkpoint_is_deployed_as_it_is_instead_of_a_digital_training(files):
    import torch
    from mho_lab.run.task import load_task

    torch.manual_seed(3)
    task = load_task("blobs.py")
    model = task.model()
    mho.save_model(model, files / "net.safetensors")
    plan = SweepPlan.checked(task="blobs.py", hardware="ideal.exact", checkpoint="net.safetensors", seeds=2, chips=1)
    run_plan(plan, "out")
    with torch.no_grad():
        want = float(task.score(model))
    assert {r["score"] for r in sweep.read("out").rows} == {want}
    assert [o.normalised for o in outcomes("out")] == [pytest.approx(1.0)] * len(plan.at)


def test_failures_are_told_and_retried(files):
    broken = TASK.replace("def score(self, model):", "def score(self, model):\n        raise ValueError('no data')")
    (files / "blobs.py").write_text(broken)
    command = ["sweep", "run", "blobs.py", "hw.yaml", "--chips", 1, "--out", "out", "--executor", "serial"]
    result = invoke(*command)
    assert result.exit_code == 1
    assert "ValueError: no data" in result.output and "mho sweep retry out" in result.output
    assert "1 failed item to measure again" in invoke("sweep", "retry", "out", "--executor", "serial").output


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["sweep", "run", "plan.yaml", "--chips", "3"], "--chip: a sweep file says this itself"),
        (["sweep", "run", "digits", "pcm.standard", "--shard", "3"], "expected I/N"),
        (["sweep", "run", "digits", "pcm.standard", "--baseline", "x"], "baseline"),
        (["sweep", "status", "."], "holds no sweep"),
        (["sweep", "export", "."], "holds no sweep"),
        (["sweep", "run", "digits", "pcm.standard", "--executor", "nonsense", "--chips", "1"], "nonsense"),
    ],
)
def test_mistakes_end_with_one_message(files, args, said):
    result = invoke(*args)
    assert result.exit_code == 1 and said in result.output and "Traceback" not in result.output


def test_the_mean_of_nothing_is_told(files):
    plan = SweepPlan.from_file("plan.yaml")
    (files / "out").mkdir()
    (files / "out" / "sweep.yaml").write_text(plan.to_yaml())
    assert outcomes("out") == [] and read_plan("out").chips == 2 and math.isfinite(plan.at[0])


@pytest.mark.slow
def test_workers_that_stay_follow_their_driver_into_another_folder(files, tmp_path_factory, monkeypatch):
    pytest.importorskip("joblib")
    (there := tmp_path_factory.mktemp("there") / "blobs.py").write_text((files / "blobs.py").read_text())
    plan = SweepPlan.from_file("plan.yaml").model_copy(update={"seeds": 1, "chips": 1})
    for folder in (files, there.parent):
        monkeypatch.chdir(folder)
        run_plan(plan, "out", "loky", workers=2)
        assert len(outcomes("out")) == 12, folder


@pytest.mark.slow
def test_loky_and_the_worker_process_give_the_table_of_this_process(files):
    pytest.importorskip("joblib")
    plan = SweepPlan.from_file("plan.yaml").model_copy(update={"seeds": 1})
    for name, executor in (("here", "serial"), ("process", "process"), ("loky", "loky")):
        run_plan(plan, name, executor, workers=2)
    tables = {name: sweep.read(name).to_csv() for name in ("here", "process", "loky")}
    assert len(tables["here"].splitlines()) == 1 + 3 * 2 * 2 * 2 and len(set(tables.values())) == 1


def test_an_arm_and_the_grid_may_not_set_the_same(files):
    (files / "plan.yaml").write_text(FILE.replace("direct: {}", "direct: {set: {tiles.pcm.adc.bits: 3}}"))
    result = invoke("sweep", "run", "plan.yaml")
    assert result.exit_code == 1 and "arm 'direct' sets tiles.pcm.adc.bits, which the grid varies" in result.output
