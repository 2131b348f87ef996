"""What a stranger adds in one file: a task, a report page, and a study with a verb, a page and a progress bar."""

import json
import os
import uuid

import pytest
from click.testing import CliRunner

from mho.cli import main
from mho.config import registry

FOREIGN = '''
import click
import torch
from torch import nn

import mho
from mho.tile.watch import Watch
from mho_lab import Page, Part, Study, Task, scores, study_options


class Morse(Task):
    """Tell short from long."""

    chance, epochs, hwa_epochs = 0.5, 1, 1

    def model(self):
        return nn.Linear(4, 2)

    def batch(self, seed):
        x = torch.randn(32, 4, generator=torch.Generator().manual_seed(seed))
        return x, (x[:, 0] > 0).long()

    def train_batches(self, seed):
        yield self.batch(seed)

    def score(self, model):
        x, y = self.batch(99)
        return float((model(x).argmax(1) == y).double().mean())


@mho.hookimpl
def mho_tasks():
    return {"telegraph.morse": Morse, "telegraph.later": "mho_telegraph:Morse"}


def page_of(folder):
    return f"<p>{(folder / 'telegraph.txt').read_text()}</p>"


@mho.hookimpl
def mho_pages():
    return {"telegraph.txt": page_of}


def loudness(item):
    return {"scores": scores(item)["scores"], "watched": not Watch.off}


@click.command()
@study_options
def telegraph(**options):
    """How loud does it click?"""
    study = Study.begin("telegraph", options)
    subject = study.subject(study.trained("digital.safetensors"))
    values = study.measured([subject.chips(study.hardware, k, k + 1, 1.0) for k in range(3)], loudness)
    loud = [v["scores"][0][0] for v in values]
    part = Part("Clicks", ("chip", "score"), list(enumerate(loud)))
    found = {"study": "telegraph", "scores": loud, "watched": any(v["watched"] for v in values)}
    study.finish(Page(study.title("Telegraph"), "It clicks.", [part]), found)
'''


@pytest.fixture
def telegraph(tmp_path, monkeypatch):
    """The folder of a session in which a plugin of one file is installed."""
    site = tmp_path / "site"
    about = site / "mho_telegraph-1.0.dist-info"
    about.mkdir(parents=True)
    module = f"mho_telegraph_{uuid.uuid4().hex}"  # what is imported once stays imported
    (site / f"{module}.py").write_text(FOREIGN.replace("mho_telegraph", module))
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mho-telegraph\nVersion: 1.0\n")
    points = {"mho": f"telegraph = {module}", "mho.commands": f"telegraph = {module}:telegraph"}
    (about / "entry_points.txt").write_text("".join(f"[{group}]\n{line}\n" for group, line in points.items()))
    monkeypatch.syspath_prepend(str(site))
    paths = [str(site), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.chdir(tmp_path)
    with registry.using(registry.Registry()):
        yield tmp_path


def mho(*args):
    result = CliRunner().invoke(main, [str(a) for a in args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_a_task_of_a_plugin_is_run_by_its_name(telegraph):
    code, said = mho("train", "telegraph.none", "ideal.exact")
    assert code == 1 and "no task 'telegraph.none'; did you mean 'telegraph.morse'?" in said
    for name in ("telegraph.morse", "telegraph.later"):
        code, said = mho("train", name, "ideal.exact", "--out", name)
        assert code == 0, said
        assert (telegraph / name / "trained.safetensors").is_file()


def test_a_page_of_a_plugin_is_written_by_mho_report(telegraph):
    folder = telegraph / "results"
    folder.mkdir()
    (folder / "telegraph.txt").write_text("dash dot")
    code, said = mho("report", folder)
    assert code == 0, said
    assert (folder / "report.html").read_text() == "<p>dash dot</p>"


def test_a_study_of_a_plugin_has_a_verb_a_page_and_remembers_its_items(telegraph):
    command = ("telegraph", "telegraph.morse", "pcm.standard", "--out", "out")
    code, said = mho(*command)
    assert code == 0, said
    assert "It clicks." in said and "Telegraph: telegraph.morse on" in said and "report: out/report.html" in said
    found = json.loads((telegraph / "out" / "study.json").read_text())
    assert not found["watched"]  # hardware that is tried is not warned about
    assert len(found["scores"]) == 3 and found["versions"]["mho-telegraph"] == "1.0"
    first = {f: f.stat().st_mtime_ns for f in (telegraph / "out" / "items" / "results").iterdir()}
    assert mho(*command)[0] == 0
    assert {f: f.stat().st_mtime_ns for f in (telegraph / "out" / "items" / "results").iterdir()} == first
    page = (telegraph / "out" / "report.html").read_text()
    assert mho("report", "out")[0] == 0
    assert (telegraph / "out" / "report.html").read_text() == page


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("    return ['telegraph.morse']", 'mho_tasks must return a dict, name -> "module:attribute"'),
        ("    return {'telegraph.morse': 3}", "mho_tasks must return name -> "),
        ("    return {'pcm.morse': Morse}", "task 'pcm.morse': names of this plugin must start with 'telegraph.'"),
    ],
)
def test_what_a_hook_returns_wrongly_is_said(telegraph, body, message):
    (file,) = (telegraph / "site").glob("*.py")
    text = file.read_text()
    right = next(line for line in text.splitlines() if line.startswith('    return {"telegraph.morse"'))
    file.write_text(text.replace(right, body))
    code, said = mho("train", "telegraph.morse", "ideal.exact")
    assert code == 1 and message in said and "Traceback" not in said


FILE = '''
import torch

import mho


class Hiss(mho.Nonideality, kind="hiss.noise"):
    """Noise that only this file knows."""

    source = "an example"

    def read(self, w, site):
        return w + 0.01 * site.randn_like(w)


@mho.hookimpl
def mho_nonidealities():
    return [Hiss]
'''
NOISY = "--set=tiles.exact.nonidealities=[hiss.noise]"


@pytest.fixture
def with_file(telegraph):
    (telegraph / "hiss.py").write_text(FILE)
    return telegraph


@pytest.mark.parametrize("place", ["before", pytest.param("behind", marks=pytest.mark.slow)])
def test_trainings_in_processes_of_their_own_know_the_plugin_files(with_file, place):
    verb = ["run", "telegraph.morse", "ideal.exact", NOISY, "--seeds", 2, "--jobs", 2, "--chips", 1, "--no-report"]
    given = ["--plugin", "hiss.py"]
    code, said = mho(*(given + verb if place == "before" else verb + given))
    assert code == 0, said


@pytest.mark.slow
def test_workers_of_sweeps_and_studies_know_the_plugin_files(with_file):
    sweep = ["sweep", "run", "telegraph.morse", "ideal.exact", NOISY, "--chips", 2, "--executor", "process", "--out", "s"]
    code, said = mho("--plugin", "hiss.py", *sweep)
    assert code == 0, said
    code, said = mho("sweep", "retry", "s")
    assert code == 0, said
    study = ["telegraph", "telegraph.morse", "ideal.exact", NOISY, "--executor", "process", "--out", "t"]
    code, said = mho("--plugin", "hiss.py", *study)
    assert code == 0, said
