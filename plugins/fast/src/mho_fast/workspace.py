"""Memory that calls share: fresh tensors of many pages cost more than what is written to them."""

import math
import threading
from typing import Any

import torch
from torch import Tensor

_kept = threading.local()


def workspace(name: str, shape: tuple[int, ...], kind: torch.dtype, device: torch.device) -> Tensor:
    """Memory that products, patches and codes of all layers are written to in turn, one of each name per thread and device.
    Whoever reads it is done before the next call; no output or saved tensor of a layer may be a view of it."""
    if torch.compiler.is_compiling():
        return torch.empty(shape, dtype=kind, device=device)
    count = math.prod(shape)
    spaces: dict[Any, Tensor] = _kept.__dict__.setdefault("spaces", {})
    key = (name, kind, device)
    space = spaces.get(key)
    if space is None or space.numel() < count or space.is_inference() != torch.is_inference_mode_enabled():
        space = spaces[key] = torch.empty(count, dtype=kind, device=device)
    return space[:count].view(shape)


def stacked(name: str, parts: list[Tensor], along: int | None = None) -> Tensor:
    """Tensors of one shape one below the other, in a workspace; copied in slices `along` an axis, where that is faster."""
    if torch.compiler.is_compiling():  # a compiler takes `out` for memory in the order of the parts
        return torch.cat(parts)
    first = parts[0]
    place = workspace(name, (len(parts) * len(first), *first.shape[1:]), first.dtype, first.device)
    if along is None:
        return torch.cat(parts, out=place)
    for to, part in zip(place.split(len(first)), parts):
        for a, b in zip(to.unbind(along), part.unbind(along)):
            a.copy_(b)
    return place
