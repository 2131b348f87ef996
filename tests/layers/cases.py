"""Every layer type in its awkward shapes: what the layer tests and the generated table run through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence


class Conv1D(nn.Module):
    """A layer with the interface of transformers.pytorch_utils.Conv1D: y = x W + b with W [in, out]."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.randn(nx, nf) * 0.1)
        self.bias = nn.Parameter(torch.randn(nf))

    def forward(self, x):
        return x @ self.weight + self.bias


class Case(NamedTuple):
    """A layer and arguments for it; the first argument gets a gradient."""

    name: str
    layer: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...]]
    options: Any = ()  # keywords of the call

    def __repr__(self):
        return self.name


def x(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def packed(enforce_sorted):
    lengths = torch.tensor([5, 3, 1]) if enforce_sorted else torch.tensor([2, 5, 3])
    return pack_padded_sequence(x(3, 5, 7), lengths, batch_first=True, enforce_sorted=enforce_sorted)


def _conv(kind, shape, *args, **kwargs):
    text = ",".join([*map(str, args), *(f"{k}={v}" for k, v in kwargs.items())]).replace(" ", "")
    return Case(f"{kind.__name__}({text})", lambda: kind(*args, **kwargs), lambda: (x(*shape),))


def _seq(kind, *args, call=None, **kwargs):
    text = ",".join([*map(str, args), *(f"{k}={v}" for k, v in kwargs.items())])
    return Case(f"{kind.__name__}({text})", lambda: kind(*args, **kwargs), call or (lambda: (x(5, 3, 7),)))


def _attention(label, inputs, options=None, **kwargs):
    return Case(f"MultiheadAttention({label})", lambda: nn.MultiheadAttention(12, 3, **kwargs), inputs, options or ())


CAUSAL = torch.ones(6, 6, dtype=torch.bool).triu(1)
PADDED = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])


def same():
    q = x(2, 6, 12)
    return q, q, q


LINEAR = [
    Case("Linear", lambda: nn.Linear(37, 5), lambda: (x(3, 4, 37),)),
    Case("Linear(bias=False)", lambda: nn.Linear(37, 5, bias=False), lambda: (x(37),)),
    Case("NonDynamicallyQuantizableLinear", lambda: nn.MultiheadAttention(8, 2).out_proj, lambda: (x(2, 8),)),
    Case("Conv1D", lambda: Conv1D(5, 37), lambda: (x(3, 4, 37),)),
]
CONV = [
    _conv(nn.Conv1d, (2, 5, 11), 5, 7, 3),
    _conv(nn.Conv1d, (2, 6, 11), 6, 4, 4, stride=2, padding=3, dilation=2, groups=2),
    _conv(nn.Conv1d, (6, 11), 6, 6, 3, padding="same", groups=6, padding_mode="replicate"),
    _conv(nn.Conv1d, (2, 5, 11), 5, 7, 3, padding=2, padding_mode="circular"),
    _conv(nn.Conv2d, (2, 5, 9, 8), 5, 7, (3, 2), stride=(2, 1), padding=(1, 0)),
    _conv(nn.Conv2d, (2, 6, 9, 8), 6, 9, 3, groups=3, padding=1),
    _conv(nn.Conv2d, (2, 8, 9, 8), 8, 8, 3, groups=8, padding=1, stride=2),
    _conv(nn.Conv2d, (2, 4, 9, 8), 4, 8, 3, groups=4, padding=2, dilation=2, bias=False),
    _conv(nn.Conv2d, (5, 9, 8), 5, 7, 3, padding="same", padding_mode="reflect"),
    _conv(nn.Conv2d, (2, 8, 9, 8), 8, 6, 3, groups=2, padding_mode="circular", padding=(2, 1)),
    _conv(nn.Conv3d, (2, 4, 5, 6, 7), 4, 6, (3, 2, 1), stride=(2, 1, 2), padding=(1, 1, 0), groups=2),
    _conv(nn.Conv3d, (4, 5, 6, 7), 4, 3, 2, dilation=(1, 2, 3), padding=1, padding_mode="replicate"),
    _conv(nn.ConvTranspose1d, (2, 5, 6), 5, 3, 4, stride=3, padding=2, output_padding=1),
    _conv(nn.ConvTranspose1d, (6, 6), 6, 4, 3, stride=2, groups=2, dilation=2, bias=False),
    _conv(nn.ConvTranspose2d, (2, 5, 4, 5), 5, 3, (4, 3), stride=(2, 1), padding=(1, 0)),
    _conv(nn.ConvTranspose2d, (2, 6, 4, 5), 6, 6, 3, stride=2, padding=1, output_padding=1, groups=3),
    _conv(nn.ConvTranspose3d, (2, 4, 3, 4, 2), 4, 3, (2, 3, 1), stride=(2, 1, 3), padding=(1, 0, 0), bias=False),
    _conv(nn.ConvTranspose3d, (4, 3, 2, 3), 4, 6, 3, stride=2, padding=1, output_padding=1, groups=2, dilation=(1, 2, 1)),
]
RECURRENT = [
    *(_seq(kind, 7, 6) for kind in (nn.LSTM, nn.GRU, nn.RNN)),
    _seq(nn.LSTM, 7, 6, num_layers=2, bidirectional=True, batch_first=True),
    _seq(nn.LSTM, 7, 6, num_layers=2, proj_size=4, bidirectional=True, bias=False),
    _seq(nn.LSTM, 7, 6, call=lambda: (x(5, 3, 7), (x(1, 3, 6), x(3, 6)[None]))),
    _seq(nn.LSTM, 7, 6, bidirectional=True, call=lambda: (x(5, 7), (x(2, 6), x(2, 6)))),
    _seq(nn.GRU, 7, 6, num_layers=2, bidirectional=True),
    _seq(nn.GRU, 7, 6, batch_first=True, call=lambda: (x(5, 3, 7), x(1, 5, 6))),
    _seq(nn.RNN, 7, 6, nonlinearity="relu", num_layers=2),
    _seq(nn.LSTM, 7, 6, num_layers=2, bidirectional=True, call=lambda: (packed(True),)),
    _seq(nn.GRU, 7, 6, bidirectional=True, call=lambda: (packed(False), x(2, 3, 6))),
    *(_seq(kind, 7, 6, call=lambda: (x(3, 7),)) for kind in (nn.LSTMCell, nn.GRUCell, nn.RNNCell)),
    _seq(nn.LSTMCell, 7, 6, bias=False, call=lambda: (x(7), (x(6), x(6)))),
    _seq(nn.GRUCell, 7, 6, call=lambda: (x(7), x(6))),
    _seq(nn.RNNCell, 7, 6, nonlinearity="relu", call=lambda: (x(3, 7), x(3, 6))),
]
ATTENTION = [
    _attention("", same),
    _attention("batch_first", same, {"need_weights": False}, batch_first=True),
    _attention("cross", lambda: (x(6, 2, 12), x(5, 2, 12), x(5, 2, 12)), {"average_attn_weights": False}),
    _attention("kdim,vdim", lambda: (x(6, 2, 12), x(5, 2, 7), x(5, 2, 9)), kdim=7, vdim=9, bias=False),
    _attention("masks", same, {"attn_mask": CAUSAL, "key_padding_mask": PADDED}, batch_first=True),
    _attention(
        "masks,need_weights=False",
        same,
        {"attn_mask": CAUSAL, "key_padding_mask": PADDED, "need_weights": False},
        batch_first=True,
    ),
    _attention("is_causal", same, {"attn_mask": CAUSAL, "is_causal": True, "need_weights": False}, batch_first=True),
    _attention("3-D mask", same, {"attn_mask": x(6, 6, 6)}, batch_first=True),
    _attention("unbatched", lambda: (x(6, 12), x(6, 12), x(6, 12)), {"key_padding_mask": PADDED[1]}),
    _attention(
        "add_bias_kv,add_zero_attn",
        same,
        {"attn_mask": CAUSAL, "key_padding_mask": PADDED},
        batch_first=True,
        add_bias_kv=True,
        add_zero_attn=True,
    ),
    Case(
        "TransformerEncoderLayer",
        lambda: nn.TransformerEncoderLayer(12, 2, 20, 0.0, batch_first=True),
        lambda: (x(2, 6, 12),),
        {"src_key_padding_mask": PADDED},
    ),
    Case(
        "TransformerEncoderLayer(norm_first)",
        lambda: nn.TransformerEncoderLayer(12, 2, 20, 0.0, activation="gelu", norm_first=True),
        lambda: (x(6, 2, 12),),
        {"src_mask": CAUSAL, "is_causal": True},
    ),
    Case(
        "TransformerDecoderLayer",
        lambda: nn.TransformerDecoderLayer(12, 2, 20, 0.0, batch_first=True),
        lambda: (x(2, 6, 12), x(2, 5, 12)),
        {"tgt_mask": CAUSAL},
    ),
    Case(
        "TransformerEncoder",
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(12, 2, 20, 0.0, batch_first=True), 2),
        lambda: (x(2, 6, 12),),
        {"src_key_padding_mask": PADDED},
    ),
]
CASES = [*LINEAR, *CONV, *RECURRENT, *ATTENTION]

# What people call it -> one case: the rows of docs/layers.md.
_ROWS = {
    "Linear": LINEAR[0],
    "Linear subclass (NonDynamicallyQuantizableLinear)": LINEAR[2],
    "Conv1D (Hugging Face)": LINEAR[3],
    "Conv1d": CONV[0],
    "Conv2d": CONV[4],
    "Conv2d, groups": CONV[5],
    "Conv2d, depth-wise": CONV[6],
    "Conv3d": CONV[11],
    "ConvTranspose1d": CONV[12],
    "ConvTranspose2d": CONV[14],
    "ConvTranspose3d": CONV[16],
    "LSTM": RECURRENT[3],
    "LSTM, projections": RECURRENT[4],
    "LSTM, packed sequences": RECURRENT[10],
    "GRU": RECURRENT[7],
    "RNN": RECURRENT[9],
    "LSTMCell": RECURRENT[15],
    "GRUCell": RECURRENT[16],
    "RNNCell": RECURRENT[17],
    "MultiheadAttention": ATTENTION[4],
    "MultiheadAttention, kdim and vdim": ATTENTION[3],
    "TransformerEncoderLayer": ATTENTION[10],
    "TransformerDecoderLayer": ATTENTION[12],
    "TransformerEncoder": ATTENTION[13],
}
TYPES = {row: case._replace(name=row) for row, case in _ROWS.items()}


def tensors(value):
    """All tensors in what a layer returns."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [t for v in value for t in tensors(v)]
    return []
