"""How large the error of an analog product is: MVM error (R003 Eq. 20)."""

from __future__ import annotations

from torch import Tensor


def mvm_error(exact: Tensor, analog: Tensor) -> float:
    """R003 Eq. 20: mean_k |y_k - y~_k| / mean_k |y_k| over vectors k, y [vector, out] (R003-40)."""
    error = (exact - analog).detach().double().norm(dim=-1).mean()
    return float(error / exact.detach().double().norm(dim=-1).mean())
