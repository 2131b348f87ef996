"""The driver runs in miniature and goes on where it was; the tables of the page are those of the results."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

import mho

HERE = Path(__file__).parent


def load(name):
    spec = importlib.util.spec_from_file_location(f"examples_training_ste_{name}", HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


study, tables = load("study"), load("tables")


class Tiny(mho.Task):
    """Which of four numbers is the largest."""

    name = "tiny"
    chance = 0.25
    epochs = hwa_epochs = 2

    def model(self):
        return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))

    def train_batches(self, seed):
        x = torch.rand(96, 4, generator=torch.Generator().manual_seed(seed))
        return [(part, part.argmax(1)) for part in x.split(32)]

    def score(self, model):
        ((x, y),) = self.train_batches(7)[:1]
        return float((model(x).argmax(1) == y).double().mean())


@pytest.fixture
def tiny(monkeypatch):
    """A study of every kind of arm on a task of a moment."""
    kinds = ("Gaussian", "through", "ste, ranges of through", "through, ranges by statistics", "masked at the ADC", "saturating")
    more = {"ranges searched": study.Arm(study.MASKED, "searched"), "warm": study.Arm(study.STE, first=study.CLEAN, draws=2)}
    arms = {name: study.WHY[name] for name in kinds} | more
    monkeypatch.setitem(study.TASKS, "tiny", Tiny)
    monkeypatch.setitem(study.STUDIES, "tiny", study.Study("tiny", "tiny", study.A, arms, (0,), 2))
    return arms


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_study_runs_and_goes_on_where_it_was(tiny, tmp_path, monkeypatch):
    result = study.run("tiny", tmp_path / "runs", tmp_path)
    assert set(result["arms"]) == set(tiny)
    for rows in result["arms"].values():
        assert all(len(rows["0"][how]) == 2 and len(rows["0"][how][0]) == len(study.TIMES) for how in ("as trained", "searched"))
    of_through, of_ste = (result["arms"][arm]["0"]["ranges"] for arm in ("through", "ste, ranges of through"))
    assert of_ste == pytest.approx(of_through)
    kept = json.loads((tmp_path / "tiny.json").read_text())
    monkeypatch.setattr(study, "train", lambda *_: pytest.fail("it was there already"))
    assert study.run("tiny", tmp_path / "runs", tmp_path) == kept
    assert tables.compared(kept, "Gaussian").count("\n") == 3 + len(tiny)


def test_the_page_holds_the_tables_of_the_results():
    page = tables.README.read_text()
    assert tables.filled(page) == page
