"""The sentence encoder of minilm.py as a task: deployed without retraining, judged on pairs of words (WordSim-353).

    mho sweep run examples/minilm/task.py pcm.standard --grid tiles.pcm.adc.bits=6,8 --chips 2 --time "1 year"

It needs the packages that the first lines of minilm.py name.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import minilm
from torch import Tensor, nn

import mho


class MiniLM(mho.Task):
    """all-MiniLM-L6-v2 on single words; the score is Spearman's correlation with what people said, 0 where it is negative."""

    name = "MiniLM"
    epochs = hwa_epochs = 0
    remedies = 0.0  # what `mho.calibrate(method="auto")` chooses, without a digital multiply-add

    @cached_property
    def loaded(self) -> tuple[nn.Module, Any]:
        """Network and tokenizer."""
        return minilm.encoder()

    @cached_property
    def judge(self) -> minilm.Judge:
        return minilm.Judge(self.loaded[1], ["WordSim-353"])

    def model(self) -> nn.Module:
        return minilm.encoder()[0]

    def train_batches(self, seed: int) -> Iterator[Any]:
        """Single words of news, for calibration; nothing is trained."""
        tokenizer = self.loaded[1]
        yield from minilm.batches(tokenizer, minilm.words(tokenizer, 512), 32)

    def predict(self, model: nn.Module, batch: Any) -> Tensor:
        return minilm.embed(model, batch)

    def score(self, model: nn.Module) -> float:
        return max(0.0, self.judge(model)["WordSim-353"])
