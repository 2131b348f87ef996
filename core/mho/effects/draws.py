"""Random numbers that are pure functions of a key and a position, so nothing random is ever stored.

A draw depends on what it is for (the key: chip or mini-batch, layer, effect, purpose) and on where it stands
(the counter: sample, position, tile, column), never on how often or in which order anything was asked. Results
therefore do not depend on batch splits, thread counts or chip order, and asking again gives the same numbers.

The generator hashes 32-bit counters (an integer finaliser with good avalanche), two words per element for
24-bit uniforms and Box-Muller normals. It is built for simulation, not for cryptography;
`tests/effects/test_draws.py` holds its statistics against exact distributions.
"""

import functools
import hashlib
import math
import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mho.effects.arithmetic import transformed

Word = int | Tensor  # a 32-bit word: a Python int for a chip, a 0-d int32 tensor for a mini-batch


class Key(NamedTuple):
    """64 bits that name a stream. Two Python ints for a programmed chip; two 0-d tensors for a training step,
    so that a training loop never waits for the device."""

    a: Word
    b: Word


def _signed(v: int) -> int:
    v &= 0xFFFFFFFF
    return v - (1 << 32) if v >= (1 << 31) else v


_M1, _M2 = _signed(0x7FEB352D), _signed(0x846CA68B)
_STRIDE = _signed(0x9E3779B9)  # an odd constant spreads neighbouring counters over all bits


def _shift(h: Tensor, n: int) -> Tensor:
    """Logical shift right of int32 (torch's is arithmetic)."""
    return (h >> n).bitwise_and_((1 << (32 - n)) - 1)


def _mix(h: Tensor) -> Tensor:
    """In place."""
    h.bitwise_xor_(_shift(h, 16)).mul_(_M1)
    h.bitwise_xor_(_shift(h, 15)).mul_(_M2)
    return h.bitwise_xor_(_shift(h, 16))


def _mix_int(h: int) -> int:
    h &= 0xFFFFFFFF
    h = ((h ^ (h >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return _signed(h ^ (h >> 16))


@torch.compiler.assume_constant_result  # hashing is no tensor code: a compiled graph contains the two words
def words(*parts: object) -> tuple[int, int]:
    """Two 32-bit words that stand for these parts (strings, numbers): the same on every machine."""
    return _words(*(_plain(p) for p in parts))


def _plain(part: object) -> object:
    """numpy's 7 and True are the same parts as 7 and 1: what is equal must hash alike."""
    if isinstance(part, str | tuple):
        return part
    return int(part) if isinstance(part, numbers.Integral) else float(part) if isinstance(part, numbers.Real) else part


@functools.lru_cache(1 << 16)
def _words(*parts: object) -> tuple[int, int]:
    digest = hashlib.blake2s(repr(parts).encode(), digest_size=8).digest()
    return _signed(int.from_bytes(digest[:4], "little")), _signed(int.from_bytes(digest[4:], "little"))


def key(*parts: object) -> Key:
    """The key that these parts name, e.g. `key("chip", seed, 3)`. Never `seed + i`."""
    return Key(*words(*parts))


def fold(base: Key, *parts: object) -> Key:
    """The sub-stream of `base` that `parts` name."""
    return fold_words(base, words(*parts))


def fold_words(base: Key, w: tuple[Word, Word]) -> Key:
    """`fold` with the words already at hand (a layer keeps those of its effects)."""
    if isinstance(base.a, Tensor):
        a = _mix(base.a ^ w[0])
        return Key(a, _mix((base.b ^ w[1]) + a))
    return _folded(base.a, int(base.b), int(w[0]), int(w[1]))


@functools.lru_cache(1 << 14)
def _folded(a: int, b: int, first: int, second: int) -> Key:
    a = _mix_int(a ^ first)
    return Key(a, _mix_int((b ^ second) + a))


def as_numbers(k: Key) -> Key:
    """The same key, to be hashed in a tenth of the time, where nobody waits for the numbers: on a processor, outside graphs and
    transforms."""
    if torch.compiler.is_compiling() or transformed():
        return k
    return Key(int(k.a), int(k.b)) if type(k.a) is Tensor and k.a.device.type == "cpu" else k


def as_tensors(k: Key, device: torch.device | str = "cpu") -> Key:
    """The same key, as an argument of a compiled kernel that serves all chips."""
    return k if isinstance(k.a, Tensor) else Key(*as_tensor(k, torch.device(device)))


def as_tensor(w: Sequence[Any], device: torch.device) -> Tensor:
    """Words as int32 on a device. An accelerator fills them in by itself: it would be waited for to copy them."""
    if device.type == "cpu":
        return torch.tensor(w, dtype=torch.int32)
    return torch.stack([torch.full((), word, dtype=torch.int32, device=device) for word in w])


def fresh(device: torch.device | str = "cpu") -> Key:
    """A new key from torch's default generator of the device: `torch.manual_seed` governs it."""
    bits = torch.randint(-(1 << 31), 1 << 31, (2,), dtype=torch.int64, device=device).to(torch.int32)
    return Key(bits[0], bits[1])


def rows_of(k: Key, *axes: Tensor) -> tuple[Tensor, Tensor]:
    """Two hash words for every index of the leading axes: `axes` are int32 vectors, the result has their outer shape."""
    return rows_at(k, *(axis.view(-1, *[1] * (len(axes) - 1 - n)) for n, axis in enumerate(axes)))


def rows_at(k: Key, *index: Tensor) -> tuple[Tensor, Tensor]:
    """Two hash words for every element of the indices, int32 tensors that are broadcast. Take ranges from `count`."""
    first = index[0] * _STRIDE
    wa, wb = _mix(first ^ k.a), _mix((first + _M2) ^ k.b)
    for other in index[1:]:
        step = other * _STRIDE
        wa, wb = _mix(wa + step), _mix(wb ^ step)
    return wa, wb


def count(n: int, device: torch.device) -> Tensor:
    """0 ... n - 1 in int32, to be hashed."""
    return _opaque_count(n, device) if torch.compiler.is_compiling() else torch.arange(n, dtype=torch.int32, device=device)


@torch.library.custom_op("mho::count", mutates_args=())
def _opaque_count(n: int, device: torch.device) -> Tensor:
    """A range that a compiler does not look into: inductor multiplies one that it knows by the stride of the hash in signed C++
    integers, whose overflow is undefined there; numbers came out wrong, and memory behind the end was written to."""
    return torch.arange(n, dtype=torch.int32, device=device)


@_opaque_count.register_fake
def _(n: int, device: torch.device) -> Tensor:
    return torch.empty(n, dtype=torch.int32, device=device)


def rows_in_front(base: Key, path: tuple[Word, Word], purpose: tuple[object, ...], n: int) -> tuple[Tensor, Tensor]:
    """`rows_of(fold(fold_words(base, path), *purpose), count(n))` for a compiled kernel, hashed in front of it: a compiler would
    do it again for every few numbers of a row, and unfold hashes of hashes, which takes it minutes."""
    a, b = _opaque_rows(base.a, base.b, *path, *words(*purpose), n)
    return a, b


@torch.library.custom_op("mho::rows", mutates_args=())
def _opaque_rows(a: Tensor, b: Tensor, path_a: Tensor, path_b: Tensor, word_a: int, word_b: int, n: int) -> Tensor:
    k = fold_words(fold_words(Key(int(a), int(b)), (int(path_a), int(path_b))), (word_a, word_b))
    return torch.stack(rows_of(k, torch.arange(n, dtype=torch.int32, device=a.device)))


@_opaque_rows.register_fake
def _(a: Tensor, b: Tensor, path_a: Tensor, path_b: Tensor, word_a: int, word_b: int, n: int) -> Tensor:
    return torch.empty(2, n, dtype=torch.int32, device=a.device)


def _columns(n: int, device: torch.device) -> Tensor:
    if not torch.compiler.is_compiling():
        return _kept_columns(n, device)
    return _table_of_columns(max(1 << 16, 1 << n.bit_length()), device)[:n]


@torch.compiler.assume_constant_result  # a graph holds the words themselves (a compiler unfolds a hash of a hash), and one
def _table_of_columns(n: int, device: torch.device) -> Tensor:  # table by this name, however many numbers each draw takes
    return _kept_columns(n, device)


@functools.lru_cache(256)
@torch.inference_mode(False)
def _kept_columns(n: int, device: torch.device) -> Tensor:
    return _mix(torch.arange(n, dtype=torch.int32, device=device) * 2 + 1)


def _hashes(row: tuple[Tensor, Tensor], n: int) -> tuple[Tensor, Tensor]:
    first = _mix(row[0].unsqueeze(-1) ^ _columns(n, row[0].device))
    return first, _mix(first ^ row[1].unsqueeze(-1))


def _unit(h: Tensor) -> Tensor:
    """Uniform in (0, 1), 24 bits, never 0 or 1."""
    return _shift(h, 8).to(torch.float32).add_(0.5).mul_(2.0**-24)


def normal(row: tuple[Tensor, Tensor], columns: int) -> Tensor:
    """Standard normal numbers [..., columns] in float32, by Box and Muller: both branches of one pair of hashes."""
    radius, angle = _polar(row, (columns + 1) // 2)
    return torch.cat([angle.cos().mul_(radius), angle.sin_().mul_(radius)], -1)[..., :columns]


def normal_half(row: tuple[Tensor, Tensor], columns: int, half: int) -> Tensor:
    """The first (0) or second (1) half of `normal(row, 2 * columns)`."""
    radius, angle = _polar(row, columns)
    return radius * (angle.sin() if half else angle.cos())


def _polar(row: tuple[Tensor, Tensor], pairs: int) -> tuple[Tensor, Tensor]:
    first, second = _hashes(row, pairs)
    return _unit(first).log_().mul_(-2.0).sqrt_(), second.to(torch.float32).mul_(math.pi / 2**31)


def uniform(row: tuple[Tensor, Tensor], columns: int) -> Tensor:
    """Uniform numbers in (0, 1), [..., columns] in float32."""
    return _unit(_hashes(row, columns)[1])


# -- quick normal numbers -------------------------------------------------------------------------------------
# Noise that is drawn anew for every product, and weight noise of a mini-batch, are most of what a simulation draws. One
# 64-bit hash gives four 16-bit numbers, and each of them one of 65,536 equally likely quantiles of the normal distribution:
# the distribution function is met to 2^-17, the largest number is 4.3.
LEVELS = 1 << 16
SPREAD = 0.9999898592748739  # standard deviation of the quantiles: less than 1, since they stop at 4.3
# Odd, with well spread bits.
_A, _B, _C, _D = -7046029254386353131, -4658895280553007687, -7723592293110705685, -8796714831421723037


def _logical(h: Tensor, n: int) -> Tensor:
    """Shift right of int64, in place."""
    return (h >> n).bitwise_and_((1 << (64 - n)) - 1)


def _mix64(h: Tensor) -> Tensor:
    """In place: two rounds of an integer finaliser with good avalanche."""
    h.mul_(_A)
    h.bitwise_xor_(_logical(h, 32))
    h.mul_(_B)
    return h.bitwise_xor_(_logical(h, 29))


@functools.lru_cache(256)
@torch.inference_mode(False)
def _columns64(n: int, device: torch.device) -> Tensor:
    return _mix64(torch.arange(n, dtype=torch.int64, device=device) ^ _C)


def odd_words(n: int, device: torch.device) -> Tensor:
    """n odd 64-bit words with well spread bits."""
    return _columns64(n, device) | 1


@functools.lru_cache(8)
@torch.inference_mode(False)
def _quantile_table(device: torch.device) -> Tensor:
    table = torch.special.ndtri((torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS) / SPREAD
    return table.to(device, torch.float32)


@torch.compiler.assume_constant_result  # a graph holds the tables themselves, not how they are made
def _table_of(device: torch.device) -> Tensor:
    return _quantile_table(device)


@torch.compiler.assume_constant_result
def _columns_of(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The word of each column, and by how many bits its own 16 of the hash are shifted."""
    column = torch.arange(n, device=device)
    return _columns64((n + 3) // 4, device)[column // 4], column % 4 * 16


def joined(row: tuple[Any, Any]) -> Tensor:
    """Two 32-bit words as one of 64 bits."""
    return (row[0].to(torch.int64) << 32) ^ (row[1].to(torch.int64) & 0xFFFFFFFF)


def words_at(k: Key, *index: Tensor) -> Tensor:
    """A 64-bit hash word for every element of the indices, int32 tensors that are broadcast, for `quick_normal`: a third of the
    steps of `rows_at`. Take ranges from `count`."""
    word = joined(as_tensors(k, index[0].device))
    for i in index:
        word = _mix64(i.to(torch.int64) * _D ^ word)
    return word


def quick_normal(word: Tensor, columns: int) -> Tensor:
    """Standard normal numbers [..., columns] in float32, from 16 bits each; four times as fast as `normal`. The row [...] they
    belong to is told by its 64-bit `word`.

    A compiler hashes once per number instead of once per four: it has no vector code for 16-bit integers."""
    if torch.compiler.is_compiling():
        own, shift = _columns_of(columns, word.device)
        return _table_of(word.device)[(_mix64(word.unsqueeze(-1) ^ own) >> shift) & (LEVELS - 1)]
    h = _mix64(word.unsqueeze(-1) ^ _columns64((columns + 3) // 4, word.device))
    index = h.view(torch.uint16)[..., :columns].to(torch.int32)
    return _quantile_table(word.device).index_select(0, index.flatten()).view(index.shape)
