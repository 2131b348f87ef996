"""In which arithmetic a tile is simulated: a function of hardware file, device and processor, never of a timing.

int8        digital inputs are int8 codes, weights two int8 planes (15 bits), side products int8 x int8
fp32-main   the main product in fp32, side products int8 x int8
fp32        all products in fp32
reference   no fused path: stage after stage, in fp32 or fp64
"""

import functools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Precision = Literal["auto", "int8", "fp32-main", "fp32", "reference"]
Tier = Literal["int8", "fp32-main", "fp32", "reference"]

EXACT = 1024  # rows: 1024 * 128 * 128 = 2^24, up to which fp32 holds sums of products of 8-bit numbers
ROW_LIMIT = 1 << 16  # rows of a tile whose products of 8-bit numbers surely fit 32 bits


def chosen_tier(precision: Precision, dac_bits: float, rows: int, accelerator: bool = False) -> tuple[Tier, str]:
    """The tier of a tile on this processor or on an accelerator, and why. `dac_bits` is inf where the inputs are not digital."""
    if precision == "reference":
        return precision, "the hardware file says precision: reference"
    if math.isinf(dac_bits):
        return "reference", "without mho's own DAC the inputs are no integers"
    if precision == "fp32":
        return precision, "the hardware file says precision: fp32"
    if accelerator and precision == "auto":
        return "fp32", "products of an accelerator; 'precision: int8' asks for integers"
    if not (accelerator or (has_int8() if precision == "auto" else is_exact())):
        return "fp32", "this processor or torch has no exact and fast integer products"
    if rows > (limit := EXACT if accelerator else ROW_LIMIT):
        return "fp32", f"sums over more than {limit} rows may not fit {24 if accelerator else 32} bits"
    if precision == "fp32-main":
        return "fp32-main", "the hardware file says precision: fp32-main"
    if dac_bits > 8:
        return "fp32-main", f"inputs of {dac_bits:g} bits do not fit 8"
    return "int8", "inputs of at most 8 bits are int8 codes"


@functools.cache
def has_int8() -> bool:
    """Whether this processor multiplies int8 fast (VNNI or its like), and torch's integer product is right. Without these
    instructions such products are slow, and on some processors they saturate on the way."""
    able: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return is_exact() and any(able.get(n) for n in ("avx512_vnni", "avx_vnni", "amx_int8", "dotprod", "i8mm"))


@functools.cache
def is_exact() -> bool:
    """`torch._int_mm` is a private name: try it on the largest numbers before using it."""
    x = torch.full((3, 515), 127, dtype=torch.int8)[:, 1:]
    w = torch.where(torch.arange(515) % 5 == 0, -128, 127).to(torch.int8).repeat(7, 1)[:, 1:]
    out = torch.empty(3, 7, dtype=torch.int32)
    try:
        int8_product(x, w, out)
    except (AttributeError, RuntimeError):
        return False
    return torch.equal(out.long(), x.long() @ w.long().t())


def int8_product(x: Tensor, w: Tensor, out: Tensor) -> Tensor:
    """x [vector, row] . w [out, row] -> out [vector, out], int8 to int32; x and w may be slices of larger ones. The private
    product of torch leaves memory unwritten where there is one row (tests/test_fused.py tries all small shapes)."""
    if x.shape[1] == 1:
        return torch.mul(x.to(torch.int32), w.t().to(torch.int32), out=out)
    if not fits(x, w):
        return out.copy_(x.to(torch.float32) @ w.t().to(torch.float32))  # exact, see `EXACT`
    return torch._int_mm(x, w.t(), out=out)  # noqa: SLF001


def fits(x: Tensor, w: Tensor) -> bool:
    """Whether `torch._int_mm` takes this product: accelerators ask for more than 16 vectors and whole words."""
    return x.device.type == "cpu" or (len(x) > 16 and not any(n % 16 for n in (*w.shape, x.stride(0), w.stride(0))))


def pack(w: Tensor) -> Tensor:
    """Integers w [out, row] in the order in which `packed_product` reads them, each once."""
    return torch.ops.onednn.qlinear_prepack(w, None)


def packed_product(x: Tensor, packed: Tensor, out: Tensor) -> Tensor:
    """`int8_product` with weights that have been packed, for at most `EXACT` rows: its sums come as fp32."""
    one, zero = _units()
    shifted = x.view(torch.uint8) ^ 128  # as the product wants inputs, 128 of which stand for 0
    return out.copy_(
        torch.ops.onednn.qlinear_pointwise(shifted, 1.0, 128, packed, one, zero, None, 1.0, 0, torch.float32, "none", [], "")
    )


@functools.cache
@torch.inference_mode(False)
def _units() -> tuple[Tensor, Tensor]:
    return torch.ones(1), torch.zeros(1, dtype=torch.int64)


@functools.cache
def has_packed() -> bool:
    """Whether torch multiplies packed integers, exactly: private names again, tried on the largest numbers."""
    x = torch.full((3, EXACT), -127, dtype=torch.int8)
    w = torch.where(torch.arange(EXACT) % 5 == 0, 127, -128).to(torch.int8).repeat(7, 1)
    try:
        found = packed_product(x, pack(w), torch.empty(3, 7, dtype=torch.int32))
    except (AttributeError, RuntimeError):
        return False
    return torch.equal(found.long(), x.long() @ w.long().t())


def int8_products(x: Sequence[Tensor], w: Tensor) -> Tensor:
    """The products of all tiles in a graph: x [vector, row] of every tile, w [tile, out, row] -> [tile, vector, out]."""
    alone = len(x) == 1 and x[0].shape[1] > 1 and fits(x[0], w[0])
    return torch._int_mm(x[0], w[0].t())[None] if alone else _opaque_products(x, w)  # noqa: SLF001


@torch.library.custom_op("mho::int8_products", mutates_args=())
def _opaque_products(x: Sequence[Tensor], w: Tensor) -> Tensor:
    """A compiler would compute every product elsewhere and copy it to its place."""
    out = w.new_empty(len(x), len(x[0]), w.shape[1], dtype=torch.int32)
    for mine, weights, to in zip(x, w, out):
        int8_product(mine, weights[:, : mine.shape[1]], to)
    return out


@_opaque_products.register_fake
def _(x: Sequence[Tensor], w: Tensor) -> Tensor:
    return w.new_empty(len(x), len(x[0]), w.shape[1], dtype=torch.int32)
