"""Japanese Vowels: who of nine men says /ae/? A transformer encoder over 7 to 29 frames of 12 cepstral coefficients.

270 utterances to train, 370 to test (Kudo, Toyama, Shimbo 1999; UEA archive). The files come with the package `aeon`
(`pip install --no-deps aeon`; its code is not imported), or lie in the folder in $JAPANESE_VOWELS.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

import mho

FRAMES = 29  # of the longest utterance


class Utterances(NamedTuple):
    """x [utterance, frame, 12] and which frames are padding; who speaks."""

    x: Tensor
    padding: Tensor
    speaker: Tensor


class Encoder(nn.Module):
    """Frames -> width, learned positions, two encoder layers, mean over the frames, nine speakers."""

    def __init__(self, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.embed = nn.Linear(12, width)
        self.position = nn.Embedding(FRAMES, width)
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.1, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 9)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        y = self.layers(self.embed(x) + self.position.weight, src_key_padding_mask=padding)
        there = ~padding.unsqueeze(-1)
        return self.head(self.norm((y * there).sum(1) / there.sum(1)))


class Vowels(mho.Task):
    """Every speaker has 30 utterances to train and 24 to 88 to test."""

    name = "vowels"
    chance = 1 / 9
    epochs, lr = 30, 2e-3
    hwa_epochs, hwa_lr = 30, 1e-3
    range_cap = 10.0  # Rasch et al. 2023
    batch_size = 32

    def __init__(self, folder: str | Path | None = None) -> None:
        given = folder or os.environ.get("JAPANESE_VOWELS")
        self.folder = Path(given) if given else None

    @cached_property
    def texts(self) -> tuple[str, str]:
        """The two files."""
        folder = self.folder or packaged()
        try:
            return tuple((folder / f"JapaneseVowels_{part}.ts").read_text() for part in ("TRAIN", "TEST"))
        except OSError as e:
            raise mho.MhoError(f"Japanese Vowels: cannot read {e.filename}") from None

    @cached_property
    def data(self) -> tuple[Utterances, Utterances]:
        """Training and test set, every coefficient scaled to mean 0 and spread 1 of the training frames."""
        train, test = (parse(text) for text in self.texts)
        frames = train.x[~train.padding]
        mean, spread = frames.mean(0), frames.std(0)
        return tuple(u._replace(x=((u.x - mean) / spread) * ~u.padding.unsqueeze(-1)) for u in (train, test))

    @property
    def data_version(self) -> str:
        return hashlib.sha256("".join(self.texts).encode()).hexdigest()[:16]

    def model(self) -> nn.Module:
        return Encoder()

    def train_batches(self, seed: int) -> Iterator[Utterances]:
        train = self.data[0]
        order = torch.randperm(len(train.x), generator=torch.Generator().manual_seed(seed))
        for part in order.split(self.batch_size):
            yield Utterances(*(t[part] for t in train))

    def predict(self, model: nn.Module, batch: Utterances) -> Tensor:
        return model(batch.x, batch.padding)

    def loss(self, outputs: Tensor, batch: Utterances) -> Tensor:
        return nn.functional.cross_entropy(outputs, batch.speaker)

    def score(self, model: nn.Module) -> float:
        test = self.data[1]
        return float((self.predict(model, test).argmax(1) == test.speaker).double().mean())


def packaged() -> Path:
    """The folder inside the package aeon, which is found but not imported."""
    spec = importlib.util.find_spec("aeon")
    if spec is None or spec.origin is None:  # a folder that is merely called aeon has no origin
        raise mho.MhoError(
            "Japanese Vowels: the files come with aeon: pip install --no-deps aeon; "
            "or set JAPANESE_VOWELS to a folder with JapaneseVowels_TRAIN.ts and JapaneseVowels_TEST.ts"
        )
    return Path(spec.origin).parent / "datasets" / "data" / "JapaneseVowels"


def parse(text: str) -> Utterances:
    """A .ts file: after @data one utterance a line, its 12 series and its class set apart by colons."""
    lines = [line.split(":") for line in text.partition("@data")[2].split("\n") if line.strip()]
    series = [torch.tensor([[float(v) for v in s.split(",")] for s in parts[:-1]]).t() for parts in lines]
    lengths = torch.tensor([len(s) for s in series])
    x = torch.stack([nn.functional.pad(s, (0, 0, 0, FRAMES - len(s))) for s in series])
    speaker = torch.tensor([int(parts[-1]) - 1 for parts in lines])
    return Utterances(x, torch.arange(FRAMES) >= lengths[:, None], speaker)
