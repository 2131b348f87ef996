"""The verbs of the studies, end to end on a small network."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from mho_kit.fixtures import needs
from mho_lab.studies.subject import task_of

import mho
from mho.cli import main


@pytest.fixture
def call(blobs, tmp_path, monkeypatch):
    """mho VERB TASK pcm.standard --checkpoint ... --out ..."""
    monkeypatch.chdir(tmp_path)

    def run(verb, *more, checkpoint=True):
        given = ["--checkpoint", blobs.checkpoint] if checkpoint else []
        out = str(tmp_path / verb)
        small = ["--set", "tiles.pcm.rows=64", "--set", "tiles.pcm.nonidealities=[pcm.programming_noise, pcm.drift]"]
        return CliRunner().invoke(main, [verb, blobs.task, "pcm.standard", *small, "--out", out, *given, *more])

    return run


def report(folder):
    return (Path(folder) / "report.html").read_text()


def test_layers_writes_a_hardware_file_that_checks(call, tmp_path):
    found = call("layers", "--chips", "2", "--verify", "3", "--target", "0.5")
    assert found.exit_code == 0, found.output
    assert "most sensitive layer" in found.output and "mixed.yaml" in found.output
    assert mho.load(tmp_path / "layers/mixed.yaml").default == "pcm"
    assert CliRunner().invoke(main, ["check", str(tmp_path / "layers/mixed.yaml")]).exit_code == 0
    page = report(tmp_path / "layers")
    assert "Fig. 7A" in page and "<script" not in page
    data = json.loads((tmp_path / "layers/study.json").read_text())
    assert data["deployment"]["met"] is True and data["versions"]["mho"]


@needs("mho-digital")
def test_layers_that_leave_are_predicted_from_backward_passes(call, tmp_path):
    found = call("layers", "--predict", "1e-9")
    assert found.exit_code == 0, found.output
    assert "off the tiles: left on tiles: KL 0 nats; 100.00 % of the multiply-adds digital" in found.output
    rules = mho.load(tmp_path / "layers/mixed.yaml").layers
    assert {r.match for r in rules} == {"0", "2", "4"} and {r.tile for r in rules} == {"digital"}
    data = json.loads((tmp_path / "layers/study.json").read_text())
    assert data["kl"] == 0 and data["share"] == 1 and "Divergence of each layer alone" in report(tmp_path / "layers")


def test_budget_answers_what_if_and_resumes(call, tmp_path):
    arguments = ["--chips", "2", "--what-if", "tiles.pcm.adc.bits=3", "--json"]
    first = call("budget", *arguments)
    assert first.exit_code == 0, first.output
    data = json.loads(first.stdout)
    assert data["what_if"][0]["changes"] == ["tiles.pcm.adc.bits=3"]
    stamps = {f: f.stat().st_mtime_ns for f in (tmp_path / "budget/items").rglob("*.json") if "plan" not in f.name}
    again = call("budget", *arguments)
    assert json.loads(again.stdout)["budgets"] == data["budgets"]
    results = {f: t for f, t in stamps.items() if "results" in str(f)}
    assert results and all(f.stat().st_mtime_ns == t for f, t in results.items())  # nothing was measured twice


def test_sensitivity_prints_thresholds(call, tmp_path):
    found = call("sensitivity", "--effect", "pcm.programming_noise", "--effect", "adc.bits", "--chips", "3", "--no-boost")
    assert found.exit_code == 0, found.output
    assert "pcm.programming_noise" in found.output and "bits" in found.output
    assert "How far each knob may be turned" in report(tmp_path / "sensitivity")


def test_robustness_and_diagnose_write_reports(call, tmp_path):
    found = call("robustness", "--no-train", "--no-walk", "--repeats", "1")
    assert found.exit_code == 0, found.output
    assert "Midpoint noise levels" in found.output and "Products on this hardware" in report(tmp_path / "robustness")
    found = call(
        "diagnose", "--cause", "pcm.programming_noise", "--strength", "1", "--stage", "1", "--chips", "2", "--steps", "0",
        "--epochs", "2", checkpoint=False,
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    assert "compensable" in found.output and "Phase plot" in report(tmp_path / "diagnose")


def test_another_network_in_the_same_checkpoint_file_is_measured(blobs, call, tmp_path):
    """With its old bytes the file has its old results again, and nothing is measured."""
    file = tmp_path / "net.safetensors"
    file.write_bytes(Path(blobs.checkpoint).read_bytes())

    def digital():
        found = call("budget", "--chips", "2", "--checkpoint", str(file), "--json", checkpoint=False)
        assert found.exit_code == 0, found.output
        return json.loads(found.stdout)["budgets"]

    first = digital()
    net = task_of(blobs.task).model()
    torch.nn.init.zeros_(net[4].weight)
    mho.save_model(net, file)
    assert digital() != first
    measured = len(list((tmp_path / "budget/items/results").iterdir()))
    file.write_bytes(Path(blobs.checkpoint).read_bytes())
    assert digital() == first and len(list((tmp_path / "budget/items/results").iterdir())) == measured


def test_a_network_trained_by_another_task_is_not_taken_silently(call, blobs, tmp_path):
    task = tmp_path / "other.py"
    task.write_text(Path(blobs.task).read_text().replace("epochs, hwa_epochs, lr = 12, 4", "epochs, hwa_epochs, lr = 1, 1"))
    arguments = ["layers", str(task), "ideal.exact", "--chips", "2", "--verify", "2", "--out", str(tmp_path / "study")]
    first = CliRunner().invoke(main, arguments)
    assert "training other in" in first.output
    task.write_text(task.read_text() + "# edited\n")
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 1 and "(other.py has changed)" in again.output and "--checkpoint" in again.output


@pytest.mark.parametrize(("verb", "arguments", "says"), [
    ("sensitivity", ["--effect", "pcm.frost"], "no strength or bits 'pcm.frost'; did you mean 'pcm.drift'"),
    ("sensitivity", ["--level", "2"], "a share between 0 and 1"),
    ("layers", ["--target", "99"], "up to 1"),
    ("layers", ["--family", "fefet"], "no effect 'fefet'"),
    ("budget", ["--what-if", "tiles.pcm.adc.bit=7"], "did you mean 'bits'"),
])  # fmt: skip
def test_mistakes_end_with_one_message(call, verb, arguments, says):
    found = call(verb, *arguments)
    assert found.exit_code == 1 and says in found.output and "Traceback" not in found.output


def test_unknown_causes_of_a_diagnosis_are_named(call):
    found = call("diagnose", "--cause", "pcm.frost", checkpoint=False)
    assert found.exit_code == 1 and "did you mean 'pcm.drift'" in found.output
