"""Remedies where they are not needed: a CNN and an LSTM for handwritten digits, on `pcm.standard` with and without each.

    python examples/language_model/small_networks.py --chips 5

Both are trained digitally for a few seconds (the LSTM reads an image row by row). Prints the accuracy after one hour, mean ±
standard error over chips, of input ranges by `mse`, of each remedy alone and of what `auto` chooses.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from mho_lab.run.digits import Digits
from torch import Tensor, nn
from torch.nn import functional as F

import mho

CORRECTIONS = {
    "mse": "",
    "channel scaling": "{kind: digital.channel_scaling, migration: 0.3}",
    "outlier channels": "digital.outlier_channels",
    "gains and offsets": "digital.affine",
    "gains and offsets, rank 8": "{kind: digital.affine, rank: 8}",
    "auto": "",
    "auto, 4 % digital": "",
}
HOW: dict[str, Any] = {"auto": {"method": "auto"}, "auto, 4 % digital": {"method": "auto", "budget": 0.04}}


class Rows(nn.Module):
    """An image as a sequence of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(8, 48, batch_first=True), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(self.lstm(x.squeeze(1))[0][:, -1])
        return y


def trained(model: nn.Module, task: Digits, epochs: int) -> nn.Module:
    """By Adam, as fast as it goes."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(epochs):
        for x, y in task.train_batches(epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model.eval()


def score(task: Digits) -> Callable[[nn.Module], float]:
    """Accuracy on the test images."""
    return lambda net: float(task.score(net))


def main(chips: int) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    task = Digits()
    print("| network | digital |", " | ".join(CORRECTIONS), "|\n|---|---|" + "---|" * len(CORRECTIONS))
    for name, make, epochs in (("CNN", task.model, 15), ("LSTM", Rows, 40)):
        torch.manual_seed(0)
        model = trained(make(), task, epochs)
        cells = [f"{100 * score(task)(model):.1f}"]
        for remedy, text in CORRECTIONS.items():
            net = mho.to_analog(model, mho.load("pcm.standard", set=[f"tiles.pcm.corrections=[{text}]"])).eval()
            mho.calibrate(net, task.calibration_batches(), **HOW.get(remedy, {"dac": "mse"}))
            found = mho.evaluate(net, score(task), ["1 h"], chips)
            cells.append(f"{100 * found.mean[0]:.2f} ± {100 * found.sem[0]:.2f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--chips", type=int, default=5)
    main(parser.parse_args().chips)
