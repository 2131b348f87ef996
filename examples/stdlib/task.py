"""A character language model: an LSTM that learns the source code of Python's own standard library.

The text is what the running Python has: the modules that are single files of its library. Each belongs to the training,
validation or test set for good, by a hash of its name, whatever the version of Python.
"""

from __future__ import annotations

import hashlib
import math
import sysconfig
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mho

FIRST, LAST = ord(" "), ord("~")
SYMBOLS = LAST - FIRST + 3  # a line's end, printable ASCII, anything else


class CharacterLstm(nn.Module):
    """Which character comes next, at every position: x [sequence, time] -> [sequence, time, SYMBOLS]."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.embed = nn.Embedding(SYMBOLS, 32)
        self.lstm = nn.LSTM(32, width, batch_first=True)
        self.head = nn.Linear(width, SYMBOLS)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(x))[0])


class Stdlib(mho.Task):
    """The score is the accuracy of the next character; bits per character and perplexity stand beside it.

    An epoch is 30 batches of sequences from random places of the training text.
    """

    name = "stdlib"
    epochs, lr = 66, 5e-3
    hwa_epochs, hwa_lr = 15, 2e-3
    range_cap = 10.0  # Rasch et al. 2023
    steps, sequences, length = 30, 64, 64  # of an epoch; of a batch; characters
    streams, stream_length = 128, 160  # what a score is measured on

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder or sysconfig.get_path("stdlib"))

    @cached_property
    def texts(self) -> dict[str, Tensor]:
        """The symbols of all modules of each set, one after another."""
        files = sorted(f for f in self.folder.glob("*.py") if not f.name.startswith("_sysconfigdata"))
        sets: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
        for file in files:
            sets[part_of(file.stem)].append(file.read_text(encoding="utf-8", errors="replace"))
        if not all(sets.values()):
            raise mho.MhoError(f"too few Python modules in {self.folder} ({len(files)}) to train and to test on")
        return {part: encode("\n".join(texts)) for part, texts in sets.items()}

    @property
    def data_version(self) -> str:
        text = b"".join(part.numpy().tobytes() for part in self.texts.values())
        return hashlib.sha256(text).hexdigest()[:16]

    @property
    def chance(self) -> float:
        """The accuracy of always saying the commonest character of the training text."""
        return float((self.texts["test"] == self.texts["train"].bincount().argmax()).double().mean())

    def model(self) -> nn.Module:
        return CharacterLstm()

    def train_batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        text, draw = self.texts["train"], torch.Generator().manual_seed(seed)
        for _ in range(self.steps):
            start = torch.randint(len(text) - self.length, (self.sequences,), generator=draw)
            x = text[start[:, None] + torch.arange(self.length + 1)].long()
            yield x[:, :-1], x[:, 1:]

    def calibration_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        return islice(self.train_batches(0), 3)

    def loss(self, outputs: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(outputs.flatten(0, 1), batch[1].flatten())

    def score(self, model: nn.Module, part: str = "test") -> mho.Score:
        """On streams from evenly spaced places of the text, each read from an empty state."""
        text = self.texts[part]
        start = torch.linspace(0, len(text) - self.stream_length - 1, self.streams).long()
        x = text[start[:, None] + torch.arange(self.stream_length + 1)].long()
        outputs, following = model(x[:, :-1]), x[:, 1:]
        nats = float(self.loss(outputs, (x, following)))
        right = float((outputs.argmax(-1) == following).double().mean())
        return mho.Score(right, bits_per_character=nats / math.log(2), perplexity=math.exp(nats))


def part_of(module: str) -> str:
    """The set that a module belongs to: one in ten is for tests, one for validation."""
    place = int.from_bytes(hashlib.sha256(module.encode()).digest()[:4], "big") % 10
    return {0: "test", 1: "valid"}.get(place, "train")


def encode(text: str) -> Tensor:
    """Characters as numbers: 0 ends a line, 1 to 95 are printable ASCII, 96 is anything else."""
    code = torch.frombuffer(bytearray(text.encode("utf-32-le", "replace")), dtype=torch.int32)
    printable = (code >= FIRST) & (code <= LAST)
    symbol = torch.where(printable, code - FIRST + 1, SYMBOLS - 1)
    return symbol.masked_fill(code == ord("\n"), 0).to(torch.uint8)
