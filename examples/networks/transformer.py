"""BERT-base (cased) and ALBERT-base of R003 Table 1, with pooler and two classes; ALBERT uses one layer twelve times."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Layer(nn.Module):
    """Self-attention and a two-layer network, each followed by a norm of the sum with its input."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.mix = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = self.norm1(x + self.mix(y))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class Encoder(nn.Module):
    """Tokens [batch, position] -> class scores, from the first position.

    embedding    width of the token embedding; where it differs from `width`, a linear map follows (ALBERT)
    shared       one layer that is used `layers` times: one set of tiles
    """

    def __init__(
        self,
        vocabulary: int,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        embedding: int = 768,
        shared: bool = False,
        positions: int = 512,
        classes: int = 2,
    ) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, embedding)
        self.position = nn.Embedding(positions, embedding)
        self.segment = nn.Embedding(2, embedding)
        self.norm = nn.LayerNorm(embedding)
        self.expand = nn.Identity() if embedding == width else nn.Linear(embedding, width)
        one = Layer(width, heads, 4 * width)
        self.layers = nn.ModuleList([one if shared or not i else Layer(width, heads, 4 * width) for i in range(layers)])
        self.pooler = nn.Linear(width, width)
        self.classifier = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        place = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.token(tokens) + self.position(place) + self.segment(torch.zeros_like(tokens))
        x = self.expand(self.norm(x))
        for layer in self.layers:
            x = layer(x)
        return self.classifier(torch.tanh(self.pooler(x[:, 0])))


def bert_base() -> nn.Module:
    return Encoder(28996)


def albert_base() -> nn.Module:
    return Encoder(30000, embedding=128, shared=True)
