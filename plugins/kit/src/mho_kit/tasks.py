"""The contract of tasks: a network that learns, the same batches for a seed, and a score that is a fraction."""

import copy
from collections.abc import Mapping
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mho.ground import MhoError
from mho.use import to_analog
from mho_kit.bench import seeded
from mho_kit.checks.base import Checks, documented, finite, generators_moved, same, under_two_seeds

BATCHES, STEPS = 2, 10  # of an epoch that are looked at; of the optimizer on one of them


class TaskContract(Checks):
    """Everything a task promises to `mho run` and the studies, as named checks for pytest.

        class TestMorse(TaskContract):
            task = Morse

    The author declares `task`, a subclass of `mho.Task`, and `expected_failed_checks`. Checked are a few batches and steps on
    the CPU: networks are fresh, batches and score follow from the seed and the network alone, the loss is a number that
    training lowers, the score is a fraction that changes no weight, and the fingerprint follows the version of the data.
    Tasks have no schema, so `mho test` leaves them out: this contract is for pytest only.
    """

    task: ClassVar[type[Any]]

    def _batches(self, seed: int = 0) -> list[Any]:
        return list(islice(iter(self.task().train_batches(seed)), BATCHES))

    def _model(self) -> nn.Module:
        with seeded():
            made: nn.Module = self.task().model()
            return made

    def _score(self, net: nn.Module) -> float:
        with torch.no_grad():
            return float(self.task().score(net.eval()))

    # -- checks -----------------------------------------------------------------------------------------------
    def test_documents_itself(self) -> None:
        documented(self.task, "what is to be told from what, and where the data come from")

    def test_its_numbers_make_sense(self) -> None:
        task = self.task()
        assert 0 <= task.chance < 1, f"chance is {task.chance!r}; the score of guessing is a fraction below 1"
        for name in ("epochs", "hwa_epochs"):
            value = getattr(task, name)
            assert isinstance(value, int) and value >= 0, f"{name} is {value!r}; it must be a whole number from 0"
        for name in ("lr", "hwa_lr"):
            assert getattr(task, name) > 0, f"{name} is {getattr(task, name)!r}; it must be above 0"
        assert task.range_cap is None or task.range_cap > 0, f"range_cap is {task.range_cap!r}; it must be above 0, or None"

    def test_makes_a_fresh_network(self) -> None:
        """Its initial weights come from torch's generator, and two trainings share none of them."""
        task = self.task()
        nets = []
        for seed in (0, 0, 1):
            with seeded(seed):
                nets.append(task.model())
        assert isinstance(nets[0], nn.Module), f"model() gives {nets[0]!r}; it must be a torch.nn.Module"
        first, again, other = (dict(net.named_parameters()) for net in nets)
        assert first and nets[0] is not nets[1], "model() must give a new network with parameters on every call"
        shared = [n for n, p in first.items() if p.data_ptr() == again[n].data_ptr() and p.numel()]
        assert not shared, f"two networks share {', '.join(shared)}; make new layers in model()"
        assert all(same(p, again[n]) for n, p in first.items()), "one seed of torch's generator gives two networks"
        assert any(not same(p, other[n]) for n, p in first.items()), (
            "all networks start from the same weights; do not seed generators in model()"
        )

    def test_a_seed_gives_the_same_batches(self) -> None:
        a, b = under_two_seeds(lambda: self._batches(3))
        assert a, "train_batches(seed) gives no batch"
        assert _equal(a, b), "one seed gives two orders of batches; shuffle with torch.Generator().manual_seed(seed)"

    def test_another_seed_gives_other_batches(self) -> None:
        assert not _equal(self._batches(0), self._batches(1)), "two seeds give the same batches; shuffle by seed"

    def test_leaves_global_generators_alone(self) -> None:
        """Data and scores must not move the noise of a training."""
        net = self._model()
        for name, f in (("train_batches", self._batches), ("score", lambda: self._score(net))):
            moved = generators_moved(f)
            assert not moved, f"{name} draws from {moved}; use a torch.Generator of its own"

    def test_the_loss_is_a_finite_number(self) -> None:
        task, net = self.task(), self._model()
        for batch in self._batches():
            value = task.loss(task.predict(net, batch), batch)
            assert isinstance(value, Tensor) and value.numel() == 1, f"loss gives {value!r}; it must be one number, a tensor"
            finite(value, "the loss is")
            assert value.requires_grad, "the loss has no gradient; compute it from what predict returns without detach"

    def test_training_lowers_the_loss(self) -> None:
        """A few steps of its own optimizer on one batch."""
        task, net, batch = self.task(), self._model().train(), self._batches()[0]
        optimizer, losses = task.optimizer(net.parameters(), task.lr), []
        with seeded():
            for _ in range(STEPS):
                loss = task.loss(task.predict(net, batch), batch)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(float(loss.detach()))
        assert losses[-1] < losses[0], (
            f"{STEPS} steps on one batch take the loss from {losses[0]:.4g} to {losses[-1]:.4g}; check its sign, and lr"
        )

    def test_the_score_is_a_fraction(self) -> None:
        value = self._score(self._model())
        assert 0 <= value <= 1, f"score gives {value:.4g}; it must be from 0 to 1, higher is better"

    def test_the_score_follows_from_the_network(self) -> None:
        net = self._model()
        first, other = under_two_seeds(lambda: self._score(net))
        assert first == other, f"one network scores {first:.6g} and {other:.6g}; use the same held-out data in the same way"

    def test_the_score_leaves_the_network_alone(self) -> None:
        net = self._model()
        before = copy.deepcopy(net.state_dict())
        self._score(net)
        changed = [n for n, v in net.state_dict().items() if not same(v, before[n])]
        assert not changed, f"score changes {', '.join(changed)}; it only looks"

    def test_it_runs_on_tiles(self) -> None:
        """Its network has layers that conversion finds, and they can be calibrated with its batches."""
        task, net = self.task(), self._model()
        with seeded():
            try:
                analog = to_analog(net, self.bench.hardware(tile={"rows": 512, "columns": 512})).eval()
            except MhoError as error:
                raise AssertionError(f"its network cannot go on tiles: {error}") from None
        batches = list(islice(task.calibration_batches(), 1))
        assert batches, "calibration_batches() gives no batch"
        with torch.no_grad():
            task.predict(analog, batches[0])
        value = self._score(analog)
        assert 0 <= value <= 1, f"on tiles the score is {value:.4g}"

    def test_its_fingerprint_follows_the_data(self) -> None:
        """It is part of the key of every result."""
        first, again, other = self.task(), self.task(), self.task()
        other.data_version = f"{first.data_version} changed"
        prints = [t.fingerprint() for t in (first, again, other)]
        assert isinstance(prints[0], str) and prints[0] == prints[1], "two tasks of a class have other fingerprints"
        assert prints[0] != prints[2], "another data_version has the same fingerprint; results of old data would be reused"


def _equal(a: Any, b: Any) -> bool:
    """Whether two batches, or lists of them, are the same."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and same(a, b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(_equal(v, b[k]) for k, v in a.items())
    return len(a) == len(b) and all(map(_equal, a, b)) if isinstance(a, (list, tuple)) else bool(a == b)
