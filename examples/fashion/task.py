"""Fashion-MNIST (60,000 + 10,000 images of 28 x 28 pixels, 10 classes) and a small residual network with batch norm.

The data are read from the first of these that there is: the folder in $FASHION_MNIST, the Debian package
`dataset-fashion-mnist` (`make system-deps`), ./data as torchvision leaves it. Nothing is downloaded.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mho
from mho.ground import MhoError

FOLDERS = (Path("/usr/share/datasets/fashion-mnist"), Path("data"))
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm, around which a 1x1 convolution leads (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = conv(outputs, outputs, 3), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """28x28 pixels -> 10x10x16 -> 5x5x32 -> 3x3x64 -> 10 classes; 73,338 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(1, 16, 5, 3), nn.BatchNorm2d(16), nn.ReLU())
        self.blocks = nn.Sequential(Block(16, 32, 2), Block(32, 64, 2))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Fashion(mho.Task):
    """Ten kinds of clothes. An epoch is 10,000 images, half of them mirrored, drawn afresh from all 60,000 each time."""

    name = "fashion"
    chance = 0.1
    epochs, lr = 30, 3e-3
    hwa_epochs, hwa_lr = 12, 1e-3
    range_cap = 10.0  # Rasch et al. 2023
    epoch_images = 10_000
    batch_size = 128

    def __init__(self, folder: str | Path | None = None) -> None:
        given = folder or os.environ.get("FASHION_MNIST")
        self.folders = (Path(given),) if given else FOLDERS

    @cached_property
    def raw(self) -> list[Tensor]:
        """Training images and labels, test images and labels, as bytes."""
        return [read_idx(self._file(name)) for name in FILES]

    @cached_property
    def data(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same, ready for the network."""
        x, y, test_x, test_y = self.raw
        return scaled(x), y.long(), scaled(test_x), test_y.long()

    def _file(self, name: str) -> Path:
        inside = ("", "FashionMNIST/raw")  # torchvision puts a root around the files
        tried = [f / i / (name + end) for f in self.folders for i in inside for end in (".gz", "")]
        for file in tried:
            if file.is_file():
                return file
        raise MhoError(
            f"Fashion-MNIST: no {name}[.gz] in {' or '.join(str(f) for f in self.folders)}; "
            "install the Debian package dataset-fashion-mnist, or set FASHION_MNIST to a folder with the four files"
        )

    @property
    def data_version(self) -> str:
        return hashlib.sha256(b"".join(t.numpy().tobytes() for t in self.raw)).hexdigest()[:16]

    def model(self) -> nn.Module:
        return ResNet()

    def train_batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        x, y = self.data[:2]
        draw = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(x), generator=draw)
        for part in order[: self.epoch_images].split(self.batch_size):
            mirrored = torch.rand(len(part), 1, 1, 1, generator=draw) < 0.5
            yield torch.where(mirrored, x[part].flip(-1), x[part]), y[part]

    def score(self, model: nn.Module) -> float:
        _, _, x, y = self.data
        right = [(model(part).argmax(1) == labels).sum() for part, labels in zip(x.split(500), y.split(500))]
        return float(torch.stack(right).sum()) / len(y)


def read_idx(file: Path) -> Tensor:
    """The bytes of an IDX file (big-endian: two zeros, type 8 = unsigned bytes, rank, sizes, values)."""
    raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    rank = raw[3] if raw[:3] == b"\0\0\x08" else 0
    sizes = [int.from_bytes(raw[4 + 4 * k : 8 + 4 * k], "big") for k in range(rank)]
    start = 4 + 4 * rank
    if not rank or len(raw) - start != torch.Size(sizes).numel():
        raise MhoError(f"{file} is not an IDX file of bytes")
    return torch.frombuffer(bytearray(raw[start:]), dtype=torch.uint8).view(sizes)


def scaled(x: Tensor) -> Tensor:
    """Pixels [image, 1, 28, 28] with the mean and spread of the training set at 0 and 1."""
    return ((x / 255 - 0.286) / 0.353).unsqueeze(1)
