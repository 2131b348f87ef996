"""The tasks of examples/: their data are read right, each goes through the main job, and no table is typed by hand."""

import gzip
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mho_lab.run.job import Job
from mho_lab.run.task import load_task
from safetensors.torch import load_file

import mho

EXAMPLES = Path(__file__).parents[2] / "examples"
QUICK = """
mho: 1
like: pcm.standard
times: [1 h]
tiles: {pcm: {rows: 64, nonidealities: [pcm.programming_noise, pcm.drift]}}
training: {inject: {scale: 3, ramp: 2 steps}}
"""


def task_of(file):
    """A task whose data are on this machine."""
    task = load_task(EXAMPLES / file)
    try:
        assert task.data_version
    except mho.MhoError as e:
        pytest.skip(str(e))
    return task


def small(task, **sizes):
    """The task in miniature."""
    task.epochs = task.hwa_epochs = 1
    task.calibration_batches = lambda: [next(iter(task.train_batches(0)))]
    for name, value in sizes.items():
        setattr(task, name, value)
    return task


def fashion():
    task = task_of("fashion/task.py")
    task.raw = [part[:200] for part in task.raw]
    return small(task, epoch_images=64, batch_size=32)


def stdlib():
    return small(task_of("stdlib/task.py"), steps=2, sequences=4, length=8, streams=4, stream_length=8)


def vowels(file="task.py"):
    task = task_of(f"vowels/{file}")
    task.data = tuple(type(part)(*(t[:12] for t in part)) for part in task.data)
    return small(task, batch_size=6)


@pytest.mark.parametrize(
    "make",
    [fashion, stdlib, vowels, lambda: vowels("lstm.py"), lambda: vowels("cnn.py")],
    ids=["fashion", "stdlib", "vowels", "vowels-lstm", "vowels-cnn"],
)
def test_a_task_in_miniature_goes_through_the_main_job(make, tmp_path, recwarn):
    task = make()
    summary = Job(task, mho.Hardware.from_yaml(QUICK), tmp_path / "run", chips=1, progress=False).run()
    assert all(0 <= v["scores"][0][0] <= 1 for v in summary["variants"]) and len(summary["variants"]) == 2
    assert not [x["name"] for x in summary["layers"] if x["where"] == "left digital"]
    told = [str(w.message) for w in recwarn.list]  # a network that has hardly been trained may leave its ranges
    assert not [t for t in told if not t.startswith(("inputs", "outputs"))]
    digital, trained = (load_file(tmp_path / "run" / f"{name}.safetensors") for name in ("digital", "trained"))
    assert not torch.equal(digital["head.weight"], trained["head.weight"])


# -- data -------------------------------------------------------------------------------------------------------------
def test_fashion_mnist_is_complete():
    task = task_of("fashion/task.py")
    x, y, test_x, test_y = task.data
    assert x.shape == (60_000, 1, 28, 28) and test_x.shape == (10_000, 1, 28, 28)
    assert y.bincount().tolist() == [6000] * 10 and test_y.bincount().tolist() == [1000] * 10
    assert abs(float(x.mean())) < 1e-2 and abs(float(x.std()) - 1) < 1e-2
    assert sum(p.numel() for p in task.model().parameters()) == 73_338


def idx(values, *sizes):
    return b"\0\0\x08" + bytes([len(sizes)]) + b"".join(n.to_bytes(4, "big") for n in sizes) + bytes(values)


@pytest.mark.parametrize(("inside", "end"), [("", ".gz"), ("", ""), ("FashionMNIST/raw", "")])
def test_fashion_mnist_is_found_in_a_given_folder_as_debian_or_torchvision_lay_it(inside, end, tmp_path, monkeypatch):
    folder = tmp_path / inside
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train", "t10k"):
        for what, raw in (("images-idx3", idx(range(8), 2, 2, 2)), ("labels-idx1", idx([3, 4], 2))):
            (folder / f"{name}-{what}-ubyte{end}").write_bytes(gzip.compress(raw) if end else raw)
    monkeypatch.setenv("FASHION_MNIST", str(tmp_path))
    task = load_task(EXAMPLES / "fashion/task.py")
    assert task.data[0].shape == (2, 1, 2, 2) and task.data[3].tolist() == [3, 4]
    assert task.raw[0].flatten().tolist() == list(range(8))


def test_missing_and_broken_files_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("FASHION_MNIST", str(tmp_path))
    with pytest.raises(mho.MhoError, match=r"no train-images-idx3-ubyte\[.gz\] in .*dataset-fashion-mnist"):
        load_task(EXAMPLES / "fashion/task.py").data
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx([1, 2, 3], 2, 2, 2))
    with pytest.raises(mho.MhoError, match="train-images-idx3-ubyte is not an IDX file of bytes"):
        load_task(EXAMPLES / "fashion/task.py").data
    monkeypatch.setenv("JAPANESE_VOWELS", str(tmp_path))
    with pytest.raises(mho.MhoError, match=r"Japanese Vowels: cannot read .*JapaneseVowels_TRAIN.ts"):
        load_task(EXAMPLES / "vowels/task.py").data


def test_a_folder_that_is_called_aeon_is_not_the_package(tmp_path, monkeypatch):
    (tmp_path / "aeon").mkdir()
    monkeypatch.delenv("JAPANESE_VOWELS", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(mho.MhoError, match="pip install --no-deps aeon"):
        load_task(EXAMPLES / "vowels/task.py").data


def test_japanese_vowels_are_those_of_the_archive():
    train, test = task_of("vowels/task.py").data
    assert train.speaker.bincount().tolist() == [30] * 9
    assert test.speaker.bincount().tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]
    lengths = (~train.padding).sum(1)
    assert (int(lengths.min()), int(lengths.max())) == (7, 26) and not train.x[train.padding].any()
    frames = train.x[~train.padding]
    assert torch.allclose(frames.mean(0), torch.zeros(12), atol=1e-5) and torch.allclose(frames.std(0), torch.ones(12))


@pytest.mark.parametrize("file", ["task.py", "lstm.py"])
def test_padding_does_not_reach_the_answer(file):
    task = task_of(f"vowels/{file}")
    test = task.data[1]
    torch.manual_seed(0)
    net = task.model().eval()
    dirty = test._replace(x=torch.where(test.padding.unsqueeze(-1), torch.tensor(9.0), test.x))
    assert torch.allclose(task.predict(net, test), task.predict(net, dirty), atol=1e-5)


def write_library(folder, text="pass\n"):
    for name in ("os", "zipfile", "csv", "ast"):
        (folder / f"{name}.py").write_text(text * 40)


def test_modules_stay_in_their_set_and_new_text_is_new_data(tmp_path):
    task = task_of("stdlib/task.py")
    module = sys.modules[type(task).__module__]
    sets = {name: module.part_of(name) for name in ("os", "zipfile", "csv", "ast", "typing")}
    write_library(tmp_path)
    first = type(task)(tmp_path).data_version
    (tmp_path / "_sysconfigdata__linux.py").write_text("machine specific")
    same = type(task)(tmp_path).data_version
    (tmp_path / "os.py").write_text("changed é\t\n")
    assert first == same != type(task)(tmp_path).data_version
    assert sets == {"os": "train", "zipfile": "train", "csv": "valid", "ast": "test", "typing": "test"}
    assert module.encode("\n ~é\t").tolist() == [0, 1, 95, 96, 96]
    with pytest.raises(mho.MhoError, match="too few Python modules"):
        type(task)(tmp_path / "nothing").texts


def test_batches_of_text_predict_the_next_character_of_the_training_set():
    task = task_of("stdlib/task.py")
    x, y = next(iter(task.train_batches(3)))
    assert x.shape == y.shape == (64, 64) and torch.equal(x[:, 1:], y[:, :-1])
    assert torch.equal(next(iter(task.train_batches(3)))[0], x)
    commonest = task.texts["train"].bincount().argmax()
    assert task.chance == float((task.texts["test"] == commonest).double().mean()) and 0.1 < task.chance < 0.4


# -- READMEs ----------------------------------------------------------------------------------------------------------
def results_script():
    spec = importlib.util.spec_from_file_location("examples_results", EXAMPLES / "results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_the_readmes_are_those_of_the_result_files():
    script = results_script()
    pages = [p for p in [EXAMPLES / "README.md", *EXAMPLES.glob("*/README.md")] if script.MARK.search(p.read_text())]
    assert len(pages) == 4
    for page in pages:
        assert script.filled(page) == page.read_text(), f"run: python examples/results.py ({page})"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("folder", ["fashion", "stdlib", "vowels"])
def test_the_command_of_a_readme_runs_and_agrees_with_its_table(folder, tmp_path):
    """The first of its trainings. After a year, within 1 % of guessing-to-digital of what that training has in the table:
    machines differ in rounding only."""
    task_of(f"{folder}/task.py")
    before = results_script().result(folder, "pcm.standard")
    assert before is not None
    command = [sys.executable, "-c", "from mho.cli import main; main()", "run", str(EXAMPLES / folder / "task.py")]
    options = ["pcm.standard", "--seed", "0", "--threads", "1", "--chips", "10", "--no-report", "--out", str(tmp_path)]
    subprocess.run([*command, *options], check=True)
    after = json.loads((tmp_path / "summary.json").read_text())
    room = before["reference"] - before["chance"]
    for old, new in zip(before["variants"], after["variants"], strict=True):
        assert new["mean"][-1] == pytest.approx(old["by_seed"][0][-1], abs=0.01 * room)
