"""The built-in task: scikit-learn's 1,797 real handwritten digits (8x8 pixels) and a small convolutional network."""

from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor, nn

from mho.ground import needed
from mho_lab.run.task import Task


class Digits(Task):
    """Ten classes, 1,347 images to train, 450 to test (every fourth)."""

    name = "digits"
    chance = 0.1
    epochs = 30
    hwa_epochs = 30
    hwa_lr = 1e-3
    range_cap = 10.0
    batch_size = 64

    @cached_property
    def data(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Training images and labels, test images and labels."""
        raw = needed("sklearn.datasets", "the digits task needs scikit-learn", "'mho-lab[tasks]'").load_digits()
        x = torch.tensor(raw.images, dtype=torch.float32).unsqueeze(1) / 16
        y = torch.tensor(raw.target)
        test = torch.arange(len(x)) % 4 == 0
        return x[~test], y[~test], x[test], y[test]

    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(512, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )

    def train_batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        x, y = self.data[:2]
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        for part in order.split(self.batch_size):
            yield x[part], y[part]

    def score(self, model: nn.Module) -> float:
        _, _, x, y = self.data
        return float((model(x).argmax(1) == y).double().mean())
