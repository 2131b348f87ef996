"""Complex matrices on real arrays: y = W x as [[Re W, -Im W], [Im W, Re W]] [Re x, Im x]. All functions raise `MhoError` for
what is no such matrix or vector."""

import torch
from torch import Tensor

from mho import MhoError


def _needs(right: bool, what: str, got: object) -> None:
    if not right:
        raise MhoError(f"expected {what}, got {got}")


def real_matrix(w: Tensor) -> Tensor:
    """The real matrix [2 out, 2 in] of a complex one [out, in]."""
    _needs(w.is_complex() and w.dim() == 2, "a complex matrix [out, in]", f"{tuple(w.shape)} of {w.dtype}")
    return torch.cat([torch.cat([w.real, -w.imag], 1), torch.cat([w.imag, w.real], 1)])


def real_vectors(x: Tensor) -> Tensor:
    """Its inputs [..., 2 in] for complex x [..., in]."""
    _needs(x.is_complex(), "complex vectors", x.dtype)
    return torch.cat([x.real, x.imag], -1)


def complex_vectors(y: Tensor) -> Tensor:
    """Complex outputs [..., out] of its outputs y [..., 2 out]."""
    _needs(y.shape[-1] % 2 == 0, "as many real as imaginary outputs", f"{y.shape[-1]} outputs")
    return torch.complex(*y.chunk(2, -1))


def fourier(n: int) -> Tensor:
    """The matrix of the discrete Fourier transform, exp(-2 pi i j k/n)."""
    _needs(isinstance(n, int) and n > 0, "a number of samples", n)
    angle = -2 * torch.pi * (torch.outer(torch.arange(n), torch.arange(n)) % n) / n
    return torch.complex(angle.cos(), angle.sin())
