"""Japanese Vowels with an LSTM of about as many parameters as the transformer of task.py: the same data and trainings."""

from pathlib import Path

import torch
from mho_lab.run.task import load_task
from torch import Tensor, nn

Vowels = type(load_task(Path(__file__).with_name("task.py")))


class Lstm(nn.Module):
    """The state after the last frame that is there, nine speakers."""

    def __init__(self, width: int = 120) -> None:
        super().__init__()
        self.lstm = nn.LSTM(12, width, batch_first=True)
        self.head = nn.Linear(width, 9)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        last = (~padding).sum(1) - 1
        return self.head(self.lstm(x)[0][torch.arange(len(x)), last])


class VowelsLstm(Vowels):
    name = "vowels-lstm"

    def model(self) -> nn.Module:
        return Lstm()
