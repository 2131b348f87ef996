"""Recurrent networks of R003 Table 1: the PTB language model, the speech network and the RNN transducer."""

import torch
from torch import Tensor, nn


class LanguageModel(nn.Module):
    """Words [batch, time] -> scores of the next word."""

    def __init__(self, words: int = 10_000, width: int = 650, layers: int = 2, dropout: float = 0.5) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.decoder = nn.Linear(width, words)

    def forward(self, words: Tensor) -> Tensor:
        y, _ = self.lstm(self.dropout(self.embedding(words)))
        return self.decoder(self.dropout(y))


class Speech(nn.Module):
    """Frames [batch, time, feature] -> scores of context-dependent phones, through a bidirectional LSTM and a bottleneck."""

    def __init__(
        self, features: int = 140, width: int = 512, layers: int = 4, bottleneck: int = 256, outputs: int = 32_000
    ) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, width, layers, batch_first=True, bidirectional=True)
        self.projection = nn.Linear(2 * width, bottleneck)
        self.output = nn.Linear(bottleneck, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.projection(self.lstm(x)[0]))


class Transducer(nn.Module):
    """Frames and the letters so far -> scores of the next letter or blank for every pair of them, [batch, time, letter, 46].

    The encoder has 6 bidirectional layers, the prediction network one; both are mapped to the joint width and multiplied.
    """

    def __init__(
        self,
        features: int = 340,
        encoder: int = 640,
        layers: int = 6,
        predictor: int = 768,
        embedding: int = 10,
        joint: int = 256,
        letters: int = 46,
    ) -> None:
        super().__init__()
        self.encoder = nn.LSTM(features, encoder, layers, batch_first=True, bidirectional=True)
        self.embedding = nn.Embedding(letters, embedding)
        self.predictor = nn.LSTM(embedding, predictor, batch_first=True)
        self.from_encoder = nn.Linear(2 * encoder, joint)
        self.from_predictor = nn.Linear(predictor, joint)
        self.output = nn.Linear(joint, letters)

    def forward(self, frames: Tensor, letters: Tensor) -> Tensor:
        heard = self.from_encoder(self.encoder(frames)[0])
        written = self.from_predictor(self.predictor(self.embedding(letters))[0])
        return self.output(torch.tanh(heard[:, :, None] * written[:, None]))


def lstm_ptb() -> nn.Module:
    return LanguageModel()


def speech() -> nn.Module:
    return Speech()


def rnn_t() -> nn.Module:
    return Transducer()
