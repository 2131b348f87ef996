"""The main job: a task of the user's own, resume, and what the terminal says."""

import json
import os
import re
import statistics

import pytest
import torch
from click.testing import CliRunner
from mho_lab.run.job import Job, claim_folder
from mho_lab.run.kept import keep_state, kept_state
from mho_lab.run.task import load_task

import mho
from mho.cli import main

TASK = '''
import torch
from torch import nn
import mho

class Blobs(mho.Task):
    """Three Gaussian clouds."""
    chance = 1 / 3
    epochs, hwa_epochs, lr, hwa_lr = 10, 3, 0.02, 0.01

    def __init__(self):
        g = torch.Generator().manual_seed(0)
        self.y = torch.randint(3, (240,), generator=g)
        self.x = torch.randn(240, 6, generator=g) + 2.5 * torch.eye(3, 6)[self.y]

    def model(self):
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))

    def train_batches(self, seed):
        for part in torch.randperm(160, generator=torch.Generator().manual_seed(seed)).split(32):
            yield self.x[part], self.y[part]

    def score(self, model):
        return float((model(self.x[160:]).argmax(1) == self.y[160:]).double().mean())
'''
HW = "mho: 1\nlike: pcm.standard\ntimes: [1 s, 1 day]\ntraining: {inject: {scale: 2, ramp: 1 epoch}}\n"


@pytest.fixture
def files(tmp_path, monkeypatch):
    (tmp_path / "blobs.py").write_text(TASK)
    (tmp_path / "hw.yaml").write_text(HW)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def invoke(*args):
    return CliRunner().invoke(main, [str(a) for a in args])


def summary(folder):
    s = json.loads((folder / "summary.json").read_text())
    return {k: v for k, v in s.items() if k not in ("seconds", "command")}


def test_a_users_own_network_and_hardware_go_through_the_main_job(files):
    result = invoke("run", "blobs.py", "hw.yaml", "--chips", 3)
    assert result.exit_code == 0, result.output
    folder = next((files / "mho-runs").iterdir())
    assert re.search(r"direct +accuracy % +\d", result.output) and "1 day" in result.output
    assert f"report: {folder.relative_to(files)}" in result.output
    assert {p.name for p in folder.iterdir()} == {
        "key.json",
        "hardware.yaml",
        "digital.safetensors",
        "trained.safetensors",
        "digital.json",
        "trained.json",
        "results.jsonl",
        "summary.json",
        "report.html",
    }
    s = summary(folder)
    assert [v["name"] for v in s["variants"]] == ["direct", "hwa"] and s["chance"] == pytest.approx(1 / 3)
    for v in s["variants"]:
        assert len(v["scores"]) == 3 and all(len(row) == 2 for row in v["scores"])
        mean = [sum(c) / 3 for c in zip(*v["scores"])]
        assert v["mean"] == pytest.approx(mean)
        assert v["normalised"] == pytest.approx([(m - 1 / 3) / (s["reference"] - 1 / 3) for m in mean])
    assert s["reference"] > 0.7
    curves = s["training"]["digital"], s["training"]["hwa"]
    assert [len(c["loss"]) for (c,) in curves] == [len(c["accuracy"]) for (c,) in curves] == [10, 3]
    assert curves[0][0]["loss"][-1] < 0.7 * curves[0][0]["loss"][0] and 0.7 < curves[0][0]["accuracy"][-1] <= 1
    page = (folder / "report.html").read_text()
    assert "Loss in training" in page and "Accuracy in training" in page
    causes = {(r["time"], r["what"]): r["mean"] for r in s["mvm"]["rows"]}
    assert causes[None, "pcm.drift alone"] < 1e-6 < causes[86_400.0, "pcm.drift alone"] < causes[86_400.0, "all"]
    assert [k["layer"] for k in s["kurtosis"]] == ["0", "2"]
    assert mho.load(folder / "hardware.yaml").digest == mho.load("hw.yaml").digest
    made_with = (folder / "hardware.yaml").read_text()
    assert "# mho-pcm 0.1.0\n" in made_with and f"# torch {torch.__version__}\n" in made_with


def test_an_interrupted_run_goes_on_and_ends_with_the_same_numbers(files, monkeypatch):
    task, hw = load_task("blobs.py"), mho.load("hw.yaml")

    def job(name):
        return Job(load_task("blobs.py"), hw, files / name, chips=3, progress=False)

    whole = job("whole")
    whole.run()
    for stop_at in (1, 4):  # in the middle of the first and of the second variant
        calls = 0
        original = type(task).score

        def counted(self, model, stop_at=stop_at, original=original):
            nonlocal calls
            calls += 1
            if calls > 2 * stop_at + 2:
                raise KeyboardInterrupt
            return original(self, model)

        broken = job("parts")
        monkeypatch.setattr(type(broken.task), "score", counted)
        with pytest.raises(KeyboardInterrupt):
            broken.run()
        monkeypatch.setattr(type(broken.task), "score", original)
    with (files / "parts" / "results.jsonl").open("a") as f:
        f.write('{"variant": "hwa", "chip": 2, "sco')  # a crash in the middle of a line
    job("parts").run()
    assert summary(files / "parts") == summary(files / "whole")


def test_a_folder_never_mixes_two_runs(files):
    assert invoke("run", "blobs.py", "hw.yaml", "--chips", 1, "--out", "a", "--no-report").exit_code == 0
    result = invoke("run", "blobs.py", "hw.yaml", "--chips", 1, "--out", "a", "--seed", 1)
    assert result.exit_code == 1
    assert "a holds another run (seed was 0, is 1); choose another folder with --out" in result.output


def test_more_chips_of_the_same_run_reuse_the_old_ones(files):
    assert invoke("run", "blobs.py", "hw.yaml", "--chips", 2, "--out", "a", "--no-report").exit_code == 0
    two = summary(files / "a")["variants"][1]["scores"]
    assert invoke("run", "blobs.py", "hw.yaml", "--chips", 4, "--out", "a", "--no-report").exit_code == 0
    assert summary(files / "a")["variants"][1]["scores"][:2] == two
    assert len((files / "a" / "results.jsonl").read_text().splitlines()) == 8


def test_train_and_evaluate_are_the_halves_of_run(files):
    assert invoke("run", "blobs.py", "hw.yaml", "--chips", 2, "--out", "a", "--no-report").exit_code == 0
    result = invoke("train", "blobs.py", "hw.yaml", "--out", "b")
    assert result.exit_code == 0 and "trained.safetensors" in result.output
    result = invoke("evaluate", "b/trained.safetensors", "blobs.py", "hw.yaml", "--chips", 2, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["scores"] == summary(files / "a")["variants"][1]["scores"]
    plain = invoke("evaluate", "b/digital.safetensors", "blobs.py", "hw.yaml", "--chips", 2, "--time", "1 h")
    assert plain.exit_code == 0 and "1 h" in plain.output
    change = "--set", "tiles.pcm.dac.range=0.01"
    fixed = "evaluate", "b/trained.safetensors", "blobs.py", "hw.yaml", "--chips", 2, "--json", *change
    with pytest.warns(UserWarning, match="keeps the input range 0.01 of the hardware file"):
        narrow = invoke(*fixed)  # a sign of every input is left
    assert json.loads(narrow.stdout)["scores"] != json.loads(result.output)["scores"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("run", "nope", "hw.yaml"), "; or give a Python file with a mho.Task"),
        (("run", "nope.py", "hw.yaml"), "no such task file: nope.py"),
        (("run", "empty.py", "hw.yaml"), "must define exactly one subclass of mho.Task, found: none"),
        (("run", "broken.py", "hw.yaml"), "broken.py:1: ZeroDivisionError"),
        (("run", "half.py", "hw.yaml"), "does not write model, train_batches, score"),
        (("run", "blobs.py", "rule.yaml"), "rule.yaml:3:10  layers[0]\n    no layer is called 'hed'"),
        (("run", "blobs.py", "rule.yaml"), "       3 | layers: [{match: hed, tile: digital}]\n         |          ^"),
        (("run", "blobs.py", "nope.yaml"), "nope.yaml"),
    ],
)
def test_mistakes_end_with_one_message_and_no_traceback(files, args, message):
    (files / "empty.py").write_text("x = 1\n")
    (files / "broken.py").write_text("1 / 0\n")
    (files / "half.py").write_text("import mho\nclass T(mho.Task): pass\n")
    (files / "rule.yaml").write_text("mho: 1\nlike: pcm.standard\nlayers: [{match: hed, tile: digital}]\n")
    result = invoke(*args)
    assert result.exit_code == 1 and message in result.output and "Traceback" not in result.output


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("None", "got None"),
        ("97.5", "got 97.5; divide percent by 100"),
        ("-0.1", "got -0.1"),
        ("float('nan')", "got nan"),
        ("torch.ones(3)", "got [1.0, 1.0, 1.0]"),
        ("'good'", "got 'good'"),
    ],
)
def test_a_score_that_is_no_fraction_is_a_clear_error(files, returned, said):
    body = TASK[: TASK.index("        return float((model")].replace("= 10, 3,", "= 1, 1,") + f"        return {returned}\n"
    (files / "blobs.py").write_text(body)
    result = invoke("run", "blobs.py", "hw.yaml", "--out", "a")
    assert result.exit_code == 1 and "Traceback" not in result.output, result.exception
    assert f"score of task blobs must return a number from 0 to 1, {said}\n" in result.output


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("CI") and os.cpu_count() == 1, reason="takes minutes on one core")
def test_training_for_a_harsh_chip_pays_on_real_digits(tmp_path):
    """At 1 year, with three times the programming noise, three times the drift spread and a 6-bit ADC."""
    pytest.importorskip("sklearn")
    hw = mho.load(
        "pcm.standard",
        set=[
            "tiles.pcm.nonidealities[pcm.programming_noise].scale=3",
            "tiles.pcm.nonidealities[pcm.drift].nu_std=3",
            "tiles.pcm.adc.bits=6",
        ],
    )
    torch.manual_seed(0)
    s = Job(load_task("digits"), hw, tmp_path / "run", chips=10, progress=False).run()
    direct, hwa = s["variants"]
    gap = hwa["mean"][-1] - direct["mean"][-1]
    assert gap > 0.02 and gap > 3 * (hwa["sem"][-1] ** 2 + direct["sem"][-1] ** 2) ** 0.5


# -- several trainings ------------------------------------------------------------------------------------------------
EXTRA = TASK.replace(
    "return float((model(self.x[160:]).argmax(1) == self.y[160:]).double().mean())",
    "y = model(self.x[160:])\n        right = float((y.argmax(1) == self.y[160:]).double().mean())\n"
    "        return mho.Score(right, mean_square=y.square().mean())",
).replace("epochs, hwa_epochs, lr", "epochs, hwa_epochs, lr = 2, 1, 0.02  #")


@pytest.fixture
def quick(files):
    """Two epochs, one hardware-aware one, and a further figure beside the score."""
    (files / "blobs.py").write_text(EXTRA.replace("chance = 1 / 3", "chance, hwa_lr = 1 / 3, 0.01"))
    return files


def test_several_trainings_give_means_over_trainings_and_a_paired_difference(quick):
    result = invoke("run", "blobs.py", "hw.yaml", "--chips", 2, "--seeds", 3, "--jobs", 1, "--out", "a")
    assert result.exit_code == 0, result.output
    assert "3 trainings with 2 chips each, mean ± SEM over trainings" in result.output
    whole, parts = summary(quick / "a"), [summary(quick / "a" / f"seed-{k}") for k in range(3)]
    assert whole["seeds"] == [0, 1, 2] and len({p["reference"] for p in parts}) > 1
    assert whole["reference"] == pytest.approx(sum(p["reference"] for p in parts) / 3)
    for k, v in enumerate(whole["variants"]):
        means = [[sum(c) / 2 for c in zip(*p["variants"][k]["scores"])] for p in parts]  # [training][time]
        assert v["mean"] == pytest.approx([statistics.fmean(c) for c in zip(*means)])
        assert v["sem"] == pytest.approx([statistics.stdev(c) / 3**0.5 for c in zip(*means)])
        shares = [[(m - 1 / 3) / (p["reference"] - 1 / 3) for m in row] for row, p in zip(means, parts)]
        assert v["normalised"] == pytest.approx([statistics.fmean(c) for c in zip(*shares)])
        within = [statistics.fmean(statistics.variance(c) for c in at) for at in zip(*(columns(p, k) for p in parts))]
        assert v["sem_chips"] == pytest.approx([(w / 6) ** 0.5 for w in within])
        assert len(v["scores"]) == 6
    pairs = [[b - a for a, b in zip(*(v["mean"] for v in p["variants"]))] for p in parts]
    gain = whole["difference"]
    assert gain["of"] == "hwa - direct" and gain["mean"] == pytest.approx([statistics.fmean(c) for c in zip(*pairs)])
    half = [4.302653 * statistics.stdev(c) / 3**0.5 for c in zip(*pairs)]  # Student's t, 2 degrees of freedom
    assert gain["half"] == pytest.approx(half)
    assert [c["seed"] for c in whole["training"]["digital"]] == [c["seed"] for c in whole["training"]["hwa"]] == [0, 1, 2]
    assert whole["training"]["hwa"][1] == parts[1]["training"]["hwa"][0]
    assert "3 trainings, each deployed on chips of its own" in (quick / "a" / "report.html").read_text()


def columns(part, variant):
    """The scores of all chips at each time."""
    return list(zip(*part["variants"][variant]["scores"]))


def test_further_figures_of_a_score_reach_table_summary_and_report(quick):
    result = invoke("run", "blobs.py", "hw.yaml", "--chips", 2, "--out", "a")
    assert result.exit_code == 0, result.output
    assert re.search(r"mean square +\d", result.output) and re.search(r"mean square \d", result.output)
    s = summary(quick / "a")
    lines = [json.loads(line) for line in (quick / "a" / "results.jsonl").read_text().splitlines()]
    values = [line["extra"]["mean square"] for line in lines if line["variant"] == "hwa"]
    extra = s["variants"][1]["extra"]["mean square"]
    assert extra["values"] == values and extra["mean"] == pytest.approx([sum(c) / 2 for c in zip(*values)])
    assert "hwa: mean square" in (quick / "a" / "report.html").read_text()


def run_into(folder, *args):
    result = invoke("run", "blobs.py", "hw.yaml", "--out", folder, "--no-report", "--jobs", 1, *args)
    assert result.exit_code == 0, result.output
    return summary(folder)


@pytest.mark.slow
def test_more_seeds_and_more_chips_go_on_from_what_is_there(quick):
    folder = quick / "a"
    run_into(folder, "--chips", 1, "--seeds", 2)
    kept = (folder / "seed-1" / "digital.safetensors").stat().st_mtime_ns
    more = run_into(folder, "--chips", 2, "--seeds", 3)
    assert len(more["variants"][0]["scores"]) == 6
    assert (folder / "seed-1" / "digital.safetensors").stat().st_mtime_ns == kept
    result = invoke("run", "blobs.py", "hw.yaml", "--out", folder)
    assert result.exit_code == 1 and "holds another run (seed was several, is 0)" in result.output


def test_several_seeds_need_no_hardware_aware_training(quick):
    found = run_into(quick / "a", "--chips", 1, "--seeds", 2, "--set", "training.epochs=0")
    assert [v["name"] for v in found["variants"]] == ["direct"] and "difference" not in found


@pytest.mark.slow
def test_trainings_in_processes_of_their_own_give_the_same(quick):
    args = ("--chips", 2, "--seeds", 3)
    assert run_into(quick / "a", *args, "--jobs", 2) == run_into(quick / "b", *args)


@pytest.mark.slow
def test_a_training_that_fails_in_its_process_says_why(quick):
    task = "import mho\n" + EXTRA.replace(
        "def score(self, model):", "def score(self, model):\n        raise mho.MhoError('no score')"
    )
    (quick / "blobs.py").write_text(task)
    result = invoke("run", "blobs.py", "hw.yaml", "--seeds", 2, "--jobs", 2)
    assert result.exit_code == 1 and "the training with seed 0 failed:\nno score" in result.output


# -- mistakes -----------------------------------------------------------------------------------------------------
def test_an_exception_of_a_task_names_its_file_and_line(files):
    (files / "blobs.py").write_text(TASK.replace("        for part in", "        open('gone.csv')\n        for part in"))
    result = invoke("run", "blobs.py", "hw.yaml", "--no-report", "--out", "a")
    where = f"task blobs.py failed in train_batches ({files / 'blobs.py'}:20): FileNotFoundError"
    assert result.exit_code == 1 and result.stderr.startswith(where) and "gone.csv" in result.stderr, result.output
    (files / "blobs.py").write_text("import not_there\n")
    result = invoke("train", "blobs.py", "hw.yaml")
    assert result.exit_code == 1 and result.stderr.startswith("blobs.py:1: ModuleNotFoundError")


@pytest.mark.parametrize("verb", ["run", "train", "footprint", "budget"])
def test_a_task_and_a_hardware_that_are_swapped_are_recognised(files, verb):
    result = invoke(verb, "hw.yaml", "blobs.py")
    assert result.exit_code == 1 and result.stderr == "TASK comes first, then HW; expected: blobs.py hw.yaml\n"


def test_a_task_imports_what_lies_beside_it_and_two_folders_do_not_meet(files):
    for name, width in (("one", 16), ("two", 24)):
        (files / name).mkdir()
        (files / name / "shape_beside.py").write_text(f"WIDTH = {width}\n")
        code = TASK.replace("from torch import nn", "from torch import nn\nfrom shape_beside import WIDTH").replace("16", "WIDTH")
        (files / name / "blobs.py").write_text(code)
    tasks = [load_task(f"{name}/blobs.py") for name in ("one", "two", "one")]
    assert [t.model()[0].out_features for t in tasks] == [16, 24, 16]


def test_a_folder_of_another_run_says_what_differs(files):
    job = Job(load_task("blobs.py"), mho.load("hw.yaml"), files / "a", progress=False)
    claim_folder(job.folder, job.task, job.hardware, 0)
    claim_folder(job.folder, job.task, job.hardware, 0)
    with pytest.raises(
        mho.MhoError, match=r"another run \(tiles\.pcm\.rows was 512, is 64\); choose another folder with --out, or"
    ):
        claim_folder(job.folder, job.task, mho.load("hw.yaml", set=["tiles.pcm.rows=64"]), 0)
    (files / "blobs.py").write_text(TASK + "# edited\n")
    with pytest.raises(mho.MhoError, match=r"another run \(blobs\.py has changed\)"):
        claim_folder(job.folder, load_task("blobs.py"), job.hardware, 0)
    (job.folder / "key.json").write_text("{")
    with pytest.raises(mho.MhoError, match=r"key\.json is not what mho wrote"):
        claim_folder(job.folder, job.task, job.hardware, 0)


def test_the_state_of_a_training_comes_back_as_it_was(tmp_path):
    state = {"a": {0: torch.arange(3), "b": (1, None, [True, 0.1 + 0.2])}, "empty": (), "cell": torch.tensor(float("nan"))}
    keep_state(state, tmp_path / "s.safetensors")
    back = kept_state(tmp_path / "s.safetensors")
    assert back["a"]["b"] == state["a"]["b"] and back["empty"] == () and back["cell"].isnan()
    assert torch.equal(back["a"][0], state["a"][0]) and back["a"].keys() == state["a"].keys()
    with pytest.raises(mho.MhoError, match="plain values between epochs, and no object"):
        keep_state({"a": object()}, tmp_path / "t")
    (tmp_path / "s.safetensors").write_bytes(b"short")
    with pytest.raises(mho.MhoError, match=r"cannot go on from .*remove it, and run again"):
        kept_state(tmp_path / "s.safetensors")
