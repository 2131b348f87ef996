"""Several processes that train one network: those that torchrun has started. Each computes its part of every mini-batch of the
task, the first one writes files."""

import contextlib
import inspect
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mho.ground import MhoError
from mho_lab.devices import current, within


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Inside, the processes of torchrun are one training; nothing happens in a process of its own."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    on_cuda = current().type == "cuda"
    if on_cuda:
        torch.cuda.set_device(current())
    dist.init_process_group("nccl" if on_cuda else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def count() -> int:
    """How many train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this one writes files and shows progress."""
    return int(os.environ.get("RANK", "0")) == 0


def meet() -> None:
    """Wait until all are here."""
    if count() > 1:
        dist.barrier()


def together(net: nn.Module) -> nn.Module:
    """What is called in a training of `net`: it averages the gradients of all ranks (DistributedDataParallel)."""
    if count() == 1:
        return net
    wrapper = nn.parallel.DistributedDataParallel
    known = inspect.signature(wrapper).parameters  # an older name of the same
    return wrapper(net, **{"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False})


def part_of(batch: Any) -> tuple[Any, int, float]:
    """Our part of a mini-batch; how many samples stand in front of it; and what to multiply its mean loss by, so that the mean
    over the ranks is that of the whole batch. Where there are fewer samples than ranks, some compute one that does not
    count."""
    if count() == 1:
        return batch, 0, 1.0
    total, rank, ranks = _samples(batch), dist.get_rank(), dist.get_world_size()
    if not total:
        raise MhoError("several processes share a mini-batch along the first axis of its tensors, and this one has none")
    first, last = rank * total // ranks, (rank + 1) * total // ranks
    mine = slice(min(first, total - 1), max(last, min(first, total - 1) + 1))
    return _cut(batch, total, mine), first, (last - first) * ranks / total


def _samples(batch: Any) -> int:
    if isinstance(batch, Tensor):
        return len(batch) if batch.dim() else 0
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (list, tuple)) else ()
    return next(filter(None, map(_samples, parts)), 0)


def _cut(batch: Any, total: int, mine: slice) -> Any:
    """Tensors whose first axis is that of the samples are cut, all else stays whole."""
    if isinstance(batch, Tensor):
        return batch[mine] if batch.dim() and len(batch) == total else batch
    return within(lambda part: _cut(part, total, mine), batch)
