"""Analog LSTM, GRU and RNN layers and their cells: matrix products on tiles, gates digital.

Input and recurrent matrices (and an LSTM's projections) are on tile arrays of their own, for every layer and direction;
all time steps of a root forward see the same noisy weights. Inputs are multiplied for all steps at once, recurrent
states step by step. Packed sequences are padded, and finished ones keep their state.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from mho.layers.base import COMPUTED, AnalogLayer

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


GATES = {"LSTM": lstm, "GRU": gru, "RNN_TANH": lambda x, h, _: ((x + h).tanh(),), "RNN_RELU": lambda x, h, _: ((x + h).relu(),)}


class _Recurrent(AnalogLayer):
    """What cells and whole sequences share: parameters `weight_KEY` and `bias_KEY`, with KEY ih, hh or hr and, in sequences,
    the layer and direction behind it; and one step in time."""

    order = "samples"
    mode: str  # of GATES
    hidden_size: int
    proj_size = 0

    @classmethod
    def example(cls) -> tuple[nn.Module, tuple[Any, ...]]:
        return cast(Any, cls.torch_type)(7, 5), (torch.rand(*((3, 6, 7) if issubclass(cls, nn.RNNBase) else (6, 7))),)

    def views(self) -> dict[str, Tensor]:
        return {n: p for n, p in self._parameters.items() if n.startswith("weight") and p is not None}

    @classmethod
    def refuses(cls, layer: Any) -> str | None:
        names = getattr(layer, "_flat_weights_names", ("weight_ih", "weight_hh"))
        return None if set(names) <= set(layer._parameters) else COMPUTED

    def biased(self, key: str) -> bool:
        return bool(self.bias) and not key.startswith("weight_hr")

    def _product(self, key: str, x: Tensor, drawn: Any = None) -> Tensor:
        y: Tensor = self.tiles[f"weight_{key}"](x, self._parameters[f"weight_{key}"], drawn)
        bias = self._parameters.get(f"bias_{key}")
        return y if bias is None else y + bias

    def _step(self, x: Tensor, state: State, suffix: str = "", drawn: Sequence[Any] = (None, None)) -> State:
        """The next state from x, the product with the input [batch, gates * hidden]. `drawn` are the weights of hh and hr
        where many steps share them."""
        new: State = GATES[self.mode](x, self._product(f"hh{suffix}", state[0], drawn[0]), state)
        return (self._product(f"hr{suffix}", new[0], drawn[1]), *new[1:]) if self.proj_size else new

    def _parts(self, hx: Any) -> State:
        return tuple(hx) if self.mode == "LSTM" else (hx,)

    def _whole(self, parts: State) -> Any:
        return parts if self.mode == "LSTM" else parts[0]


class _AnalogSequence(_Recurrent):
    """Whole sequences: x [time, batch, in], [batch, time, in], [time, in] or packed; results as torch gives them."""

    input_size: int
    num_layers: int
    batch_first: bool
    bidirectional: bool
    dropout: float
    check_hidden_size: Any  # torch's

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
        parts = [torch.stack(p) for p in zip(*last)]
        return self._as_given(x, input, lengths, single), self._whole(tuple(p.squeeze(1) if single else p for p in parts))

    def _run(self, x: Tensor, suffix: str, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        """One layer in one direction: x [batch, time, in] -> outputs [batch, time, hidden] and the last state."""
        back = suffix.endswith("_reverse")
        xs = self._product(f"ih{suffix}", _reversed(x, lengths) if back else x).unbind(1)
        looped = [f"weight_{key}{suffix}" for key in (("hh", "hr") if self.proj_size else ("hh",))]
        drawn = [self.tiles[name].draw(self._parameters[name]) for name in looped]
        outputs = []
        for t, step in enumerate(xs):
            new = self._step(step, state, suffix, drawn)
            if lengths is not None:
                running = (lengths > t)[:, None]
                new = tuple(torch.where(running, a, b) for a, b in zip(new, state))
            state = new
            outputs.append(state[0])
        y = torch.stack(outputs, 1)
        return _reversed(y, lengths) if back else y, state

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
        parts = [p.unsqueeze(1) if single else p for p in self._parts(hx)]
        for part, width in zip(parts, widths, strict=True):
            self.check_hidden_size(part, (count, x.shape[0], width))
        return list(zip(*(p.unbind(0) for p in parts)))

    def _as_given(self, y: Tensor, input: Any, lengths: Tensor | None, single: bool) -> Any:
        """The outputs in the layout of the input; padding of packed sequences left out."""
        if lengths is None:
            return y.squeeze(0) if single else y if self.batch_first else y.transpose(0, 1)
        order = input.sorted_indices
        y, lengths = (y, lengths) if order is None else (y[order], lengths[order])
        data = pack_padded_sequence(y, lengths.cpu(), batch_first=True).data
        return PackedSequence(data, input.batch_sizes, order, input.unsorted_indices)


def _reversed(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Every sequence of x [batch, time, ...] from its own end: draws are numbered by step, whatever the padding is."""
    if lengths is None:
        return x.flip(1)
    t = torch.arange(x.shape[1], device=x.device)
    back = lengths[:, None] - 1 - t
    return x.gather(1, torch.where(back >= 0, back, t)[..., None].expand_as(x))


class AnalogLSTM(_AnalogSequence, nn.LSTM):
    """`nn.LSTM` on analog tiles: c' = f c + i g, h' = o tanh(c') with the gates i, f, g, o of W_ih x + b_ih + W_hh h + b_hh.

    x [time, batch, in], [batch, time, in], [time, in] or packed; outputs and states as torch gives them. The gates and
    biases are digital. Raises what torch raises where shapes do not fit.
    """

    torch_type = nn.LSTM


class AnalogGRU(_AnalogSequence, nn.GRU):
    """`nn.GRU` on analog tiles: n = tanh(x_n + r h_n), h' = (1 - z) n + z h; inputs as of `AnalogLSTM`."""

    torch_type = nn.GRU


class AnalogRNN(_AnalogSequence, nn.RNN):
    """`nn.RNN` on analog tiles: h' = tanh (or relu) of W_ih x + b_ih + W_hh h + b_hh; inputs as of `AnalogLSTM`."""

    torch_type = nn.RNN


class _AnalogCell(_Recurrent):
    """One time step; loop over it yourself. x [batch, in] or [in]."""

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        if input.dim() not in (1, 2):
            raise ValueError(f"{type(self).__name__}: expected 1-D or 2-D input, got {input.dim()}-D")
        if hx is None:
            zero = input.new_zeros(*input.shape[:-1], self.hidden_size)
            hx = (zero, zero) if self.mode == "LSTM" else zero
        return self._whole(self._step(self._product("ih", input), self._parts(hx)))


class AnalogLSTMCell(_AnalogCell, nn.LSTMCell):
    """`nn.LSTMCell` on analog tiles: one step of `AnalogLSTM`; x [batch, in] or [in] -> (h, c)."""

    torch_type = nn.LSTMCell
    mode = "LSTM"


class AnalogGRUCell(_AnalogCell, nn.GRUCell):
    """`nn.GRUCell` on analog tiles: one step of `AnalogGRU`; x [batch, in] or [in] -> h."""

    torch_type = nn.GRUCell
    mode = "GRU"


class AnalogRNNCell(_AnalogCell, nn.RNNCell):
    """`nn.RNNCell` on analog tiles: one step of `AnalogRNN`; x [batch, in] or [in] -> h."""

    torch_type = nn.RNNCell

    @property
    def mode(self) -> str:  # type: ignore[override]
        """`RNN_TANH` or `RNN_RELU`, as torch calls it."""
        return f"RNN_{self.nonlinearity.upper()}"
