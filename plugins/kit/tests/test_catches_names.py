"""A deliberately bad task, report page or method of calibration for every check of their contracts: what has no schema."""

import time

import pytest
import torch
from mho_kit import CalibrationContract, ColumnContract, PageContract, TaskContract, run
from mho_kit.fixtures import needs
from torch import nn

from mho.effects import draws
from mho.ground import MhoError

pytestmark = needs("mho-lab")


def contract(base, **about):
    return type(base.__name__, (base,), about)


def failed(made):
    return [(o.check, o.message) for o in run(made) if o.state == "failed"]


# --- tasks ---
def morse():
    """A task, well made."""
    from mho_lab import Task

    class Morse(Task):
        """Tell short clicks from long ones, of an example."""

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

    return Morse


def scaled(net):
    with torch.no_grad():
        net.weight.mul_(0.5)
    return 0.5


ONE = nn.Linear(4, 2)


def seeded_model(self):
    torch.manual_seed(0)
    return nn.Linear(4, 2)


BAD_TASKS = [
    ("documents_itself", "docstring", {"__doc__": ""}),
    ("its_numbers_make_sense", "chance is 50", {"chance": 50}),
    ("its_numbers_make_sense", "hwa_epochs is 1.5", {"hwa_epochs": 1.5}),
    ("makes_a_fresh_network", "a torch.nn.Module", {"model": lambda s: lambda x: x}),
    ("makes_a_fresh_network", "a new network", {"model": lambda s: ONE}),
    ("makes_a_fresh_network", "the same weights", {"model": seeded_model}),
    ("a_seed_gives_the_same_batches", "two orders", {"train_batches": lambda s, seed: [(torch.randn(4, 4), torch.ones(4))]}),
    ("a_seed_gives_the_same_batches", "no batch", {"train_batches": lambda s, seed: []}),
    ("another_seed_gives_other_batches", "shuffle by seed", {"train_batches": lambda s, seed: [s.batch(0)]}),
    ("leaves_global_generators_alone", "score draws", {"score": lambda s, net: float(torch.rand(()))}),
    ("the_loss_is_a_finite_number", "one number", {"loss": lambda s, y, b: y.square().mean(1)}),
    ("the_loss_is_a_finite_number", "NaN", {"loss": lambda s, y, b: y.sum() / 0}),
    ("the_loss_is_a_finite_number", "without detach", {"loss": lambda s, y, b: y.detach().mean()}),
    ("training_lowers_the_loss", "check its sign", {"optimizer": lambda s, p, lr: torch.optim.SGD(p, lr=0.1, maximize=True)}),
    ("the_score_is_a_fraction", "gives 93", {"score": lambda s, net: 93.0}),
    ("the_score_follows_from_the_network", "held-out data", {"score": lambda s, net: float(torch.rand(()))}),
    ("the_score_leaves_the_network_alone", "changes weight", {"score": lambda s, net: scaled(net)}),
    ("it_runs_on_tiles", "cannot go on tiles", {"model": lambda s: nn.LayerNorm(4)}),
    ("it_runs_on_tiles", "gives no batch", {"calibration_batches": lambda s: iter(())}),
    ("its_fingerprint_follows_the_data", "results of old data", {"fingerprint": lambda s: "1"}),
]


@pytest.mark.parametrize(("check", "words", "changes"), BAD_TASKS, ids=[f"{c}-{w}" for c, w, _ in BAD_TASKS])
def test_a_bad_task_is_caught(check, words, changes):
    task = type("Bad", (morse(),), changes)
    with pytest.raises(AssertionError) as caught:
        getattr(contract(TaskContract, task=task)(), f"test_{check}")()
    assert words in str(caught.value)


def test_good_tasks_pass():
    from mho_lab.run.digits import Digits

    assert failed(contract(TaskContract, task=morse())) == []
    assert failed(contract(TaskContract, task=Digits)) == []


# --- pages ---
HTML = '<!doctype html><html><head><meta charset="utf-8"><title>Clicks</title></head><body>{}</body></html>'


def good_page(folder):
    """A page, well made."""
    return HTML.format(f"<p>{(folder / 'telegraph.txt').read_text()}<br><img src='data:,'>")


def writing_page(folder):
    (folder / "report.html").write_text("")
    return good_page(folder)


BAD_PAGES = [
    ("is_a_whole_page", "the page as text", lambda folder: b"<p>"),
    ("is_a_whole_page", "a whole page is", lambda folder: "<p>dash dot</p>"),
    ("has_a_title", "no <title>", lambda folder: good_page(folder).replace("Clicks", "")),
    ("says_its_encoding", 'charset="utf-8"', lambda folder: good_page(folder).replace("utf-8", "latin-1")),
    ("is_well_nested", "</div> where <body>", lambda folder: HTML.format("</div>")),
    ("is_well_nested", "do not close in order", lambda folder: HTML.format("<div><b></div></b>")),
    ("shows_without_a_network", "https://x/y.js", lambda folder: HTML.format('<script src="https://x/y.js"></script>')),
    ("the_same_folder_gives_the_same_page", "no dates", lambda folder: HTML.format(time.perf_counter_ns())),
    ("leaves_the_folder_alone", "it writes report.html", writing_page),
]


@pytest.mark.parametrize(("check", "words", "page"), BAD_PAGES, ids=[f"{c}-{w}" for c, w, _ in BAD_PAGES])
def test_a_bad_page_is_caught(check, words, page):
    with pytest.raises(AssertionError) as caught:
        getattr(contract(PageContract, page=page, files={"telegraph.txt": "dash"})(), f"test_{check}")()
    assert words in str(caught.value)


def test_good_pages_pass():
    assert failed(contract(PageContract, page=good_page, files={"telegraph.txt": "dash"})) == []


def test_a_page_of_the_parts_of_mho_lab_passes():
    from mho_lab import report
    from mho_lab.report.blocks import kept_page

    def fill(self, folder):
        blocks = [report.table("Scores", ["chip", "score"], [[0, 0.5], [1, 0.6]]), report.text("It clicks.")]
        report.write_page(folder / "page.html", "Clicks", blocks, keep=True)

    assert failed(contract(PageContract, page=kept_page, fill=fill)) == []


# --- methods of calibration ---
def loudest(array, weight, x, before):
    """Input ranges, well chosen."""
    return torch.maximum(x.abs().transpose(0, 1).flatten(1).quantile(0.99, dim=1, keepdim=True), before)


def in_place(array, weight, x, before):
    return before.mul_(2)


def on_the_chip(array, weight, x, before):
    array.chip.gamma.mul_(2)
    return before


def changes_the_weight(array, weight, x, before):
    weight.mul_(2)
    return before


def changes_state(array, weight, x, before):
    array.step.add_(1)
    return before


def without_a_chip(array, weight, x, before):
    return before / 0 if array.chip is None else before


BAD_METHODS = [
    ("gives_a_range_for_each_place", "[tile, 1]", lambda array, w, x, before: before.squeeze(1)),
    ("ranges_are_positive_and_finite", "inputs that are 0", lambda a, w, x, b: x.abs().amax((0, 2))[:, None]),
    ("ranges_are_positive_and_finite", "NaN or infinity", lambda a, w, x, b: b / 0),
    ("the_same_data_give_the_same_ranges", "other ranges", lambda a, w, x, b: b * (1 + torch.rand_like(b))),
    ("leaves_global_generators_alone", "torch's generator", lambda a, w, x, b: b * (1 + torch.rand_like(b))),
    ("leaves_its_arguments_alone", "it changes before", in_place),
    ("leaves_its_arguments_alone", "it changes weight", changes_the_weight),
    ("leaves_the_chip_alone", "has other digital", on_the_chip),
    ("leaves_the_state_alone", "ranges alone", changes_state),
    ("works_on_one_large_tile", "without a chip", without_a_chip),
]


@pytest.mark.parametrize(("check", "words", "method"), BAD_METHODS, ids=[f"{c}-{w}" for c, w, _ in BAD_METHODS])
def test_a_bad_method_of_calibration_is_caught(check, words, method):
    with pytest.raises(AssertionError) as caught:
        getattr(contract(CalibrationContract, method=method)(), f"test_{check}")()
    assert words in str(caught.value)


def trial(array, weight, x, before):
    """Compares two candidates on a chip of its own."""
    array.program(weight, draws.key("trial", 0))
    seen = array.trace(array.layout.join(x), weight, "trial", 2 * before)
    return before * (2 if seen["outputs"].isfinite().all() else 1)


def test_good_methods_of_calibration_pass():
    from mho_lab.run.search import columns, mse

    for method, argument in ((loudest, "dac"), (trial, "dac"), (mse, "dac"), (columns, "columns")):
        assert failed(contract(CalibrationContract, method=method, argument=argument)) == []


# --- columns of sweeps ---
def cells(task, hw, text):
    """Cells of all tile types in thousands, or of that named by the text."""
    if text and text not in hw.tiles:
        raise MhoError(f"no tile {text!r}")
    n = sum(t.rows * t.columns for name, t in hw.tiles.items() if text in ("", name)) / 1000
    return {"value": n, "low": n, "high": 2 * n, "unit": "k"}


def changed(**more):
    """A column that gives the same but for this."""
    return lambda task, hw, text: {**cells(task, hw, text), **more}


def mute(task, hw, text):
    if text:
        raise MhoError("no")
    return cells(task, hw, text)


BAD_COLUMNS = [
    ("documents_itself", "a docstring", "cells", changed()),
    ("its_name_fits_a_command_line", "expected letters", "all cells:", cells),
    ("gives_a_finite_value", "finite number", "cells", changed(high=float("nan"))),
    ("gives_a_finite_value", "finite number", "cells", changed(value=torch.tensor(1.0))),
    ("gives_a_finite_value", "expected value, and low, high, unit", "cells", changed(std=1.0)),
    ("says_its_unit", "such as 'nJ'", "cells", changed(unit="")),
    ("its_band_holds_the_value", "does not lie between", "cells", changed(low=5.0)),
    ("gives_the_same_again", "the same hardware gives", "cells", lambda *a: cells(*a) | {"high": 1 + float(torch.rand(1))}),
    ("refuses_a_text_that_it_cannot_read", "raises KeyError", "cells", lambda task, hw, text: {"value": hw.tiles[text or "t"]}),
    ("refuses_a_text_that_it_cannot_read", "does not say which", "cells", mute),
]


@pytest.mark.parametrize(("check", "words", "name", "column"), BAD_COLUMNS, ids=[f"{b[0]}-{b[1]}" for b in BAD_COLUMNS])
def test_a_bad_column_is_caught(check, words, name, column):
    with pytest.raises(AssertionError) as caught:
        getattr(contract(ColumnContract, name=name, column=staticmethod(column))(), f"test_{check}")()
    assert words in str(caught.value)


def test_good_columns_pass():
    assert failed(contract(ColumnContract, name="cells", column=cells)) == []


@pytest.mark.parametrize(
    ("kit", "bad"),
    [(TaskContract, BAD_TASKS), (PageContract, BAD_PAGES), (CalibrationContract, BAD_METHODS), (ColumnContract, BAD_COLUMNS)],
)
def test_every_check_catches_something(kit, bad):
    assert {name.removeprefix("test_") for name in kit.names()} == {check for check, *_ in bad}
