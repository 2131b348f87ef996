"""What the exact solvers share: the two devices behind a weight, and the precision they are solved in."""

import torch
from torch import Tensor

from mho import Site


def devices(w: Tensor, site: Site) -> tuple[Tensor, Tensor]:
    """Conductances of the two devices of every weight w [tile, out, row], in units of the mapped range.

    They share a bit line; one is fed with +x, the other with -x (R003 Eq. 15). The one that holds nothing sits at g_min.
    """
    idle = site.geometry.idle * site.rows.used.to(w)[:, None, :]
    return w.clamp(min=0) + idle, (-w).clamp(min=0) + idle


def precise(t: Tensor) -> Tensor:
    """In float64; on the CPU where the device has none."""
    return t.to("cpu", torch.float64) if t.device.type == "mps" else t.double()
