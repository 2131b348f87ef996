"""The tables of the page are those of the results, and the results show what they are there to show."""

import importlib.util
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def load(name):
    spec = importlib.util.spec_from_file_location(f"examples_training_{name}", HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


tables = load("tables")


def mean_errors(name):
    """Mean test error of every arm at each time."""
    scores = tables.read(name)["scores"]
    seeds = min(len(v) for v in scores.values())
    return {
        arm: [100 - 100 * sum(c[t] for s in runs[:seeds] for c in s) / sum(len(s) for s in runs[:seeds]) for t in range(4)]
        for arm, runs in scores.items()
    }


def test_the_page_holds_the_tables_of_the_results():
    page = tables.README.read_text()
    assert tables.filled(page) == page


@pytest.mark.parametrize("study", ["ablation-harsh", "ablation-stdlib", "ablation-stdlib-standard"])
def test_full_training_beats_every_ablation_and_all_beat_direct_deployment(study):
    """R003 Table A.2, R003-90: HWA <= ablations <= FP mapped at 1 year, and the gap grows with time."""
    errors = mean_errors(study)
    full, mapped = errors.pop("full HWA"), errors.pop("FP mapped")
    assert all(full[-1] <= e[-1] <= mapped[-1] for e in errors.values())
    assert mapped[-1] - full[-1] > mapped[0] - full[0]


def test_noisy_training_is_more_robust_than_any_quantisation():
    """R002-09: midpoints above 1.5 times those of plain and of every quantisation-aware training, in every training."""
    arms = tables.read("midpoints")["arms"]
    seeds = min(len(v) for v in arms.values())
    others = [a for a in arms if a == "FP" or a.startswith("QAT")]
    for seed in range(seeds):
        best = max(arms[a][seed]["mu"] for a in others)
        assert all(arms[f"noisy, sigma {s}"][seed]["mu"] > 1.5 * best for s in ("0.5", "1", "2"))
        assert arms["noisy, sigma 0.5"][seed]["mu"] < arms["noisy, sigma 1"][seed]["mu"] < arms["noisy, sigma 2"][seed]["mu"]


@pytest.mark.parametrize("study", ["ablation-vowels", "ablation-vowels-standard"])
def test_on_the_larger_network_too_full_training_is_the_best_at_every_time(study):
    errors = mean_errors(study)
    best = errors.pop("full HWA")
    assert all(b < e for other in errors.values() for b, e in zip(best, other))
