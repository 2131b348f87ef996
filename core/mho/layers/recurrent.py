"""Analog LSTM, GRU and RNN layers and their cells: matrix products on tiles, gates digital.

Input and recurrent matrices (and an LSTM's projections) are on tile arrays of their own, for every layer and direction
(R003 Table 1); all time steps of a root forward see the same noisy weights. Inputs are multiplied for all steps at
once, recurrent states step by step. Packed sequences are padded, and finished ones keep their state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from mho.layers.base import COMPUTED, AnalogLayer

if TYPE_CHECKING:
    from mho.config.hardware import Hardware

State = tuple[Tensor, ...]  # (h,), or (h, c) of an LSTM; each [batch, hidden]


def lstm(x: Tensor, h: Tensor, state: State) -> State:
    """i, f, g, o: c' = f c + i g, h' = o tanh(c'). x and h are the products with the input and the state."""
    i, f, g, o = (x + h).chunk(4, -1)
    c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def gru(x: Tensor, h: Tensor, state: State) -> State:
    """r, z, n: n = tanh(x_n + r h_n), h' = (1 - z) n + z h."""
    (xr, xz, xn), (hr, hz, hn) = x.chunk(3, -1), h.chunk(3, -1)
    z = (xz + hz).sigmoid()
    n = (xn + (xr + hr).sigmoid() * hn).tanh()
    return (n + z * (state[0] - n),)


def rnn_tanh(x: Tensor, h: Tensor, state: State) -> State:
    return ((x + h).tanh(),)


def rnn_relu(x: Tensor, h: Tensor, state: State) -> State:
    return ((x + h).relu(),)


GATES = {"LSTM": lstm, "GRU": gru, "RNN_TANH": rnn_tanh, "RNN_RELU": rnn_relu}


class _AnalogRecurrent(AnalogLayer):
    """Whole sequences: x [time, batch, in], [batch, time, in], [time, in] or packed; results as torch gives them."""

    order = "samples"
    mode: str
    input_size: int
    hidden_size: int
    proj_size: int
    num_layers: int
    batch_first: bool
    bidirectional: bool
    dropout: float

    def __init__(self, *args: Any, hw: Hardware, tile: str | None = None, **kwargs: Any) -> None:
        cast(Any, self.torch_type).__init__(self, *args, **kwargs)
        self._place_by_hand(hw, tile)

    @classmethod
    def example(cls) -> tuple[nn.Module, tuple[Any, ...]]:
        return cast(Any, cls.torch_type)(7, 5), (torch.rand(3, 6, 7),)

    def views(self) -> dict[str, Tensor]:
        return {n: p for n, p in self._parameters.items() if n.startswith("weight") and p is not None}

    @classmethod
    def refuses(cls, layer: Any) -> str | None:
        return None if set(layer._flat_weights_names) == set(layer._parameters) else COMPUTED

    def biased(self, key: str) -> bool:
        return bool(self.bias) and not key.startswith("weight_hr")

    def forward(self, input: Any, hx: Any = None) -> Any:
        x, lengths, single = self._batch_major(input)
        start = self._start(x, hx, single)
        last: list[State] = []
        for layer in range(self.num_layers):
            if layer and self.dropout:
                x = F.dropout(x, self.dropout, self.training)
            ends = [""] if not self.bidirectional else ["", "_reverse"]
            runs = [self._run(x, f"_l{layer}{end}", start[len(last) + i], lengths) for i, end in enumerate(ends)]
            x = torch.cat([y for y, _ in runs], -1)
            last += [state for _, state in runs]
        return self._as_given(x, input, lengths, single), self._states(last, single)

    def _run(self, x: Tensor, suffix: str, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        """One layer in one direction: x [batch, time, in] -> outputs [batch, time, hidden] and the last state."""
        back = suffix.endswith("_reverse")
        xs = self._product(f"ih{suffix}", _reversed(x, lengths) if back else x).unbind(1)
        drawn = {
            k: self.tiles[f"weight_{k}{suffix}"].draw(self._parameters[f"weight_{k}{suffix}"]) for k in self._looped
        }
        outputs = []
        for t, step in enumerate(xs):
            new = GATES[self.mode](step, self._product(f"hh{suffix}", state[0], drawn["hh"]), state)
            if self.proj_size:
                new = self._product(f"hr{suffix}", new[0], drawn["hr"]), *new[1:]
            if lengths is not None:
                running = (lengths > t)[:, None]
                new = tuple(torch.where(running, a, b) for a, b in zip(new, state))
            state = new
            outputs.append(state[0])
        y = torch.stack(outputs, 1)
        return _reversed(y, lengths) if back else y, state

    @property
    def _looped(self) -> tuple[str, ...]:
        """The matrices that are used once per time step."""
        return ("hh", "hr") if self.proj_size else ("hh",)

    def _product(self, key: str, x: Tensor, drawn: Any = None) -> Tensor:
        y: Tensor = self.tiles[f"weight_{key}"](x, self._parameters[f"weight_{key}"], drawn)
        bias = self._parameters.get(f"bias_{key}")
        return y if bias is None else y + bias

    def _batch_major(self, input: Any) -> tuple[Tensor, Tensor | None, bool]:
        """[batch, time, in], the lengths of packed sequences, and whether there was no batch axis."""
        if isinstance(input, PackedSequence):
            x, lengths = pad_packed_sequence(input, batch_first=True)
            return x, lengths.to(x.device), False
        if input.dim() not in (2, 3):
            raise ValueError(f"{type(self).__name__}: expected 2-D or 3-D input, got {input.dim()}-D")
        if input.shape[-1] != self.input_size:
            raise RuntimeError(f"input.size(-1) must be equal to input_size: {self.input_size}, got {input.shape[-1]}")
        if input.dim() == 2:
            return input.unsqueeze(0), None, True
        return input if self.batch_first else input.transpose(0, 1), None, False

    def _start(self, x: Tensor, hx: Any, single: bool) -> list[State]:
        """The first state of every layer and direction."""
        count = self.num_layers * (2 if self.bidirectional else 1)
        widths = (self.proj_size or self.hidden_size, self.hidden_size)[: 2 if self.mode == "LSTM" else 1]
        if hx is None:
            return [tuple(x.new_zeros(x.shape[0], w) for w in widths)] * count
        parts = hx if self.mode == "LSTM" else (hx,)
        parts = [p.unsqueeze(1) if single else p for p in parts]
        for part, w in zip(parts, widths, strict=True):
            if part.shape != (count, x.shape[0], w):
                raise RuntimeError(f"Expected hidden size {(count, x.shape[0], w)}, got {list(part.shape)}")
        return list(zip(*(p.unbind(0) for p in parts)))

    def _as_given(self, y: Tensor, input: Any, lengths: Tensor | None, single: bool) -> Any:
        """The outputs in the layout of the input; padding of packed sequences left out."""
        if lengths is None:
            return y.squeeze(0) if single else y if self.batch_first else y.transpose(0, 1)
        order = input.sorted_indices
        y, lengths = (y, lengths) if order is None else (y[order], lengths[order])
        data = pack_padded_sequence(y, lengths.cpu(), batch_first=True).data
        return PackedSequence(data, input.batch_sizes, order, input.unsorted_indices)

    def _states(self, last: list[State], single: bool) -> Any:
        parts = [torch.stack(p) for p in zip(*last)]
        parts = [p.squeeze(1) for p in parts] if single else parts
        return tuple(parts) if self.mode == "LSTM" else parts[0]


def _reversed(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Every sequence of x [batch, time, ...] from its own end: draws are numbered by step, whatever the padding is."""
    if lengths is None:
        return x.flip(1)
    t = torch.arange(x.shape[1], device=x.device)
    back = lengths[:, None] - 1 - t
    return x.gather(1, torch.where(back >= 0, back, t)[..., None].expand_as(x))


class AnalogLSTM(_AnalogRecurrent, nn.LSTM):
    """`nn.LSTM` on analog tiles."""

    torch_type = nn.LSTM


class AnalogGRU(_AnalogRecurrent, nn.GRU):
    """`nn.GRU` on analog tiles."""

    torch_type = nn.GRU


class AnalogRNN(_AnalogRecurrent, nn.RNN):
    """`nn.RNN` on analog tiles."""

    torch_type = nn.RNN


class _AnalogCell(AnalogLayer):
    """One time step; loop over it yourself. x [batch, in] or [in]."""

    hidden_size: int
    bias_ih: Any
    bias_hh: Any

    __init__ = _AnalogRecurrent.__init__

    @classmethod
    def example(cls) -> tuple[nn.Module, tuple[Any, ...]]:
        return cast(Any, cls.torch_type)(7, 5), (torch.rand(6, 7),)

    def views(self) -> dict[str, Tensor]:
        return {n: cast(Tensor, getattr(self, n)) for n in ("weight_ih", "weight_hh")}

    @classmethod
    def refuses(cls, layer: Any) -> str | None:
        return None if {"weight_ih", "weight_hh"} <= set(layer._parameters) else COMPUTED

    def biased(self, key: str) -> bool:
        return bool(self.bias)

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        if input.dim() not in (1, 2):
            raise ValueError(f"{type(self).__name__}: expected 1-D or 2-D input, got {input.dim()}-D")
        pair = isinstance(self, nn.LSTMCell)
        single = input.dim() == 1
        x = input.unsqueeze(0) if single else input
        zeros = x.new_zeros(x.shape[0], self.hidden_size)
        state = (zeros, zeros)[: 1 + pair] if hx is None else tuple(hx) if pair else (hx,)
        state = tuple(s.unsqueeze(0) for s in state) if single and hx is not None else state
        new = self._gates()(self._product("ih", x), self._product("hh", state[0]), state)
        new = tuple(s.squeeze(0) for s in new) if single else new
        return new if pair else new[0]

    def _gates(self) -> Any:
        if isinstance(self, nn.RNNCell):
            return GATES[f"RNN_{self.nonlinearity.upper()}"]
        return lstm if isinstance(self, nn.LSTMCell) else gru

    def _product(self, key: str, x: Tensor) -> Tensor:
        y: Tensor = self.tiles[f"weight_{key}"](x, getattr(self, f"weight_{key}"))
        bias = getattr(self, f"bias_{key}")
        return y if bias is None else y + bias


class AnalogLSTMCell(_AnalogCell, nn.LSTMCell):
    """`nn.LSTMCell` on analog tiles."""

    torch_type = nn.LSTMCell


class AnalogGRUCell(_AnalogCell, nn.GRUCell):
    """`nn.GRUCell` on analog tiles."""

    torch_type = nn.GRUCell


class AnalogRNNCell(_AnalogCell, nn.RNNCell):
    """`nn.RNNCell` on analog tiles."""

    torch_type = nn.RNNCell
