"""Complex matrices on real arrays: y = W x as [[Re W, -Im W], [Im W, Re W]] [Re x, Im x]."""

from __future__ import annotations

import torch
from torch import Tensor


def real_matrix(w: Tensor) -> Tensor:
    """The real matrix [2 out, 2 in] of a complex one [out, in]."""
    return torch.cat([torch.cat([w.real, -w.imag], 1), torch.cat([w.imag, w.real], 1)])


def real_vectors(x: Tensor) -> Tensor:
    """Its inputs [..., 2 in] for complex x [..., in]."""
    return torch.cat([x.real, x.imag], -1)


def complex_vectors(y: Tensor) -> Tensor:
    """Complex outputs [..., out] of its outputs y [..., 2 out]."""
    return torch.complex(*y.chunk(2, -1))


def fourier(n: int) -> Tensor:
    """The matrix of the discrete Fourier transform, exp(-2 pi i j k/n)."""
    angle = -2 * torch.pi * (torch.outer(torch.arange(n), torch.arange(n)) % n) / n
    return torch.complex(angle.cos(), angle.sin())
