"""Products of matrices in fp32, as fast as torch has them; and when private kernels may run at all."""

import functools
from typing import cast

import torch
from torch import Tensor


def transformed() -> bool:
    """Whether a transform of torch.func (vmap, grad) is at work."""
    return torch._C._are_functorch_transforms_active()  # noqa: SLF001 (there is no public name)


def possible() -> bool:
    """A compiler that is at work already takes the formulas as they are; function transforms, and derivatives of a backward
    pass, cannot go through a kernel."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return False
    return not transformed()


def float_product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b; of two matrices in fp32 by oneDNN where torch has it, since MKL takes twice as long on processors of AMD."""
    plain = a.dim() != 2 or a.dtype != torch.float32 or a.device.type != "cpu"
    if plain or not possible() or not has_onednn() or not a.numel() * b.numel():
        return a @ b
    dense = b if b.is_contiguous() or b.t().is_contiguous() else b.contiguous()  # oneDNN has fast code for no other
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(a, dense.t(), None, "none", [], ""))  # noqa: SLF001


@functools.cache
def has_onednn() -> bool:
    """Whether torch multiplies in fp32 by oneDNN: a private name again."""
    a, b = torch.eye(3), torch.arange(6.0).view(3, 2)
    try:
        return torch.equal(torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], ""), b)  # noqa: SLF001
    except (AttributeError, RuntimeError):
        return False
