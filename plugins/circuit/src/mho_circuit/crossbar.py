"""What the exact solvers share: the two devices behind a weight, and the precision they are solved in."""

from __future__ import annotations

import torch
from torch import Tensor

from mho import Site


def devices(w: Tensor, site: Site) -> tuple[Tensor, Tensor]:
    """Conductances of the two devices of every weight w [tile, out, row], in units of the mapped range.

    They share a bit line; one is fed with +x, the other with -x (R003 Eq. 15).
    """
    off = idle(w, site)
    return w.clamp(min=0) + off, (-w).clamp(min=0) + off


def idle(w: Tensor, site: Site) -> Tensor:
    """Conductance [tile, 1, row] of the device of a pair that holds nothing: it sits at g_min."""
    return site.geometry.idle * site.rows.used.to(w)[:, None, :]


def precise(t: Tensor) -> Tensor:
    """In float64; on the CPU where the device has none."""
    return t.to("cpu", torch.float64) if t.device.type == "mps" else t.double()
