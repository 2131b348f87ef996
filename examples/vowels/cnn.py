"""Japanese Vowels with a residual CNN of about as many parameters as the transformer of task.py: the same data and
trainings."""

from pathlib import Path

from mho_lab.run.task import load_task
from torch import Tensor, nn
from torch.nn import functional as F

Vowels = type(load_task(Path(__file__).with_name("task.py")))


class Block(nn.Module):
    """Two convolutions over time with batch norm, and a way around them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv1d(width, width, 3, padding=1, bias=False), nn.BatchNorm1d(width)
        self.conv2, self.norm2 = nn.Conv1d(width, width, 3, padding=1, bias=False), nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))) + x)


class Cnn(nn.Module):
    """Convolutions over the frames, the mean over those that are there, nine speakers."""

    def __init__(self, width: int = 72) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(12, width, 3, padding=1, bias=False), nn.BatchNorm1d(width), nn.ReLU())
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.head = nn.Linear(width, 9)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        y = self.blocks(self.stem(x.transpose(1, 2))).transpose(1, 2)
        there = ~padding.unsqueeze(-1)
        return self.head((y * there).sum(1) / there.sum(1))


class VowelsCnn(Vowels):
    name = "vowels-cnn"

    def model(self) -> nn.Module:
        return Cnn()
