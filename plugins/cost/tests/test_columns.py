"""Columns in sweeps, the Pareto front, and deployments that take least."""

import json

import pytest
import torch
from click.testing import CliRunner
from mho_cost import columns
from mho_kit import contract_of, run
from mho_lab.studies.columns import column
from mho_lab.studies.layers import layer_study
from mho_lab.studies.subject import Subject
from mho_lab.sweep.arms import ArmScore, front, outcomes, quantity
from mho_lab.sweep.page import sweep_page

import mho
from mho.cli import main

TASK = """
import torch
from mho_lab import Task

class Tiny(Task):
    name, chance, epochs = "tiny", 0.5, 0
    def model(self):
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    def train_batches(self, seed):
        x = torch.randn(32, 16, generator=torch.Generator().manual_seed(seed))
        yield x, (x.sum(1) > 0).long()
    def score(self, model):
        x = torch.randn(64, 16, generator=torch.Generator().manual_seed(7))
        return float((model(x).argmax(1) == torch.nn.functional.one_hot(self.model()(x).argmax(1)).argmax(1)).double().mean())
"""


@pytest.fixture
def task(tmp_path):
    file = tmp_path / "tiny.py"
    file.write_text(TASK)
    return str(file)


@pytest.fixture
def chosen(tmp_path):
    file = tmp_path / "table.yaml"
    file.write_text("cost: 1\nmix_nodes: true\ninclude: [components32]\n")
    return str(file)


@pytest.fixture(scope="module")
def hw():
    return mho.load("pcm.standard", set=["tiles.pcm.rows=64", "tiles.pcm.columns=64"])


@pytest.mark.parametrize("name", ["energy", "latency", "interval", "area"])
def test_they_keep_the_contract_of_columns(name, task):
    kit = contract_of(getattr(columns, name), task=task)
    assert [(o.check, o.message) for o in run(kit) if o.state == "failed"] == []


@pytest.mark.parametrize("found", [{}, {"value": None}, {"value": float("nan")}, {"value": 2.0, "low": 3.0}])
def test_a_column_that_gives_no_number_is_refused(task, hw, found, monkeypatch):
    monkeypatch.setattr("mho_lab.studies.columns.registry.thing", lambda what: lambda task, hw, text: found)
    with pytest.raises(mho.MhoError, match=r"column 'area' gives .*expected a finite value, with low and high around it"):
        column(task, hw, "area:x")


def test_energy_of_a_column_is_that_of_the_cost(task, hw):
    found = column(task, hw, "energy:components32")
    c = mho.cost(
        torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)),
        torch.zeros(1, 16),
        hw,
        "components32",
    )
    assert found == pytest.approx({"value": 1e9 * c.energy, "low": 1e9 * c.band[0], "high": 1e9 * c.band[1], "unit": "nJ"})
    assert column(task, hw, "area:components32")["value"] == pytest.approx(1e6 * c.area)
    assert {n: getattr(columns, n)(task, hw, "components32")["unit"] for n in ("latency", "interval")} == {
        "latency": "µs",
        "interval": "µs",
    }


def test_a_network_that_is_digital_altogether_costs_its_multiply_adds(task, hw):
    off = mho.Hardware.from_data({**hw.to_data(), "layers": [{"match": "*", "tile": "digital"}]})
    assert column(task, off, "energy:components32")["value"] == pytest.approx(0.41e-3 * (16 * 8 + 8 * 2))


@pytest.mark.parametrize(
    "name, said",
    [("energie:components32", "did you mean 'energy'"), ("energy", "needs a table"), ("energy:isaac", "no row per multiply_add")],
)
def test_columns_that_cannot_be_are_refused(task, hw, name, said):
    with pytest.raises(mho.MhoError, match=said):
        column(task, hw, name)


def test_a_sweep_with_a_pareto_front(task, tmp_path):
    out = tmp_path / "out"
    options = [
        "--grid",
        "tiles.pcm.adc.bits=4,8",
        "--chips",
        "2",
        "--time",
        "1 h",
        "--executor",
        "serial",
        "--out",
        str(out),
        "--json",
    ]
    result = CliRunner().invoke(main, ["sweep", "run", task, "pcm.standard", *options, "--pareto", "energy:components32"])
    assert result.exit_code == 0, result.output
    found = outcomes(out)
    energies = [o.columns["energy:components32"]["value"] for o in found]
    assert energies[0] < energies[1]  # fewer bits, less energy
    assert json.loads(result.output[result.output.index("[") :])[0]["columns"] == found[0].columns
    page = sweep_page(out)
    assert "against energy" in page and "Hardware of 1" in page and "bits: 4" in page


def made(mean, value):
    return ArmScore(
        "a", {}, 1.0, mean, 0.0, None, 1, 2, "chips", None, {"e": {"value": value, "low": value, "high": value, "unit": ""}}
    )


def test_the_front_holds_what_nothing_beats():
    points = [made(0.9, 1), made(0.8, 2), made(0.95, 3), made(0.95, 4), made(0.99, 3), made(0.9, 0.5)]
    best = front(points, "e")
    assert [(o.mean, o.columns["e"]["value"]) for o in best] == [(0.9, 0.5), (0.99, 3)]
    beaten = [
        o
        for o in points
        if any(p.mean >= o.mean and p.columns["e"]["value"] <= o.columns["e"]["value"] and p != o for p in points)
    ]
    assert all(o in best or o in beaten for o in points)
    assert quantity({"value": 2.0, "low": 1.0, "high": 3.0, "unit": "nJ"}) == "2 nJ (1 … 3)"


def test_a_deployment_takes_least_of_what_is_weighed(task, hw, tmp_path):
    """All choices score alike, so the lightest wins; weighed in reverse, another one does."""
    net = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    mho.save_model(net, tmp_path / "net.safetensors")
    subject = Subject(task, str(tmp_path / "net.safetensors"))

    def measured(items, measure):
        many = [range(*i["chips"]) if i["hardware"] else [0] for i in items]
        return [{"scores": [[0.9 + 1e-4 * (k % 2) if i["hardware"] else 0.9] for k in ks]} for i, ks in zip(items, many)]

    def weight(rules):
        return lambda h: rules.get(tuple(sorted(r.match for r in h.layers)), 9.0)

    for rules, kept in (({(): 1.0, ("0",): 2.0}, ()), ({("2",): 1.0, (): 2.0}, ("2",)), ({("0", "2"): 1.0}, ("0", "2"))):
        found = layer_study(subject, hw, 1.0, measured, target=0.5, chips=2, verify=2, weigh=weight(rules)).deployment
        assert sorted(found.layers) == sorted(kept) and found.weight == 1.0


@pytest.mark.parametrize(
    "args, message",
    [
        (("layers", "--least", "enrgy:components32"), "no column 'enrgy'"),
        (("layers", "--least", "energy:component32"), "no cost table 'component32'"),
        (("spec", "--axes", "nois,drift"), "expected two or three of window,noise,drift"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(task, args, message, tmp_path, monkeypatch):
    def trained(self, name):
        raise AssertionError("it trains first")

    monkeypatch.setattr("mho_lab.studies.study.Study.trained", trained)
    verb, *options = args
    result = CliRunner().invoke(main, [verb, task, "pcm.standard", *options, "--out", str(tmp_path / "out")])
    assert result.exit_code == 1 and message in result.output, result.output
