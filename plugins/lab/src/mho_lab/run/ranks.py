"""Several processes that train one network: those that torchrun has started. Each computes its part of every mini-batch of the
task, the first one writes files."""

import contextlib
import inspect
import os
from collections import Counter
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


def shard(net: nn.Module) -> None:
    """Every process keeps its part of each parameter only, and an optimizer made later what belongs to it (FSDP2)."""
    from torch.distributed.fsdp import fully_shard

    layers = list(_layers(net))
    users = Counter(id(p) for layer in layers for p in layer.parameters())
    for layer in layers:
        if all(users[id(p)] == 1 for p in layer.parameters()):  # what several layers share is the whole network's
            fully_shard(layer)
    fully_shard(net)


def _layers(net: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules with parameters of their own."""
    for m in net.children():
        yield from _layers(m) if next(m.parameters(recurse=False), None) is None else (m,)


def gathered(state: Any) -> Any:
    """A state whose tensors are whole. A collective call where they are sharded."""
    return state.full_tensor() if hasattr(state, "full_tensor") else within(gathered, state)


def load(part: Any, state: Any) -> None:
    """Give a network, an optimizer or another part of a training its whole state, of which each process keeps what is its own."""
    if isinstance(part, nn.Module):
        now = part.state_dict()
        state = {k: _mine(v, now.get(k)) for k, v in state.items()}
    part.load_state_dict(state)
    if isinstance(part, torch.optim.Optimizer):
        for p, known in part.state.items():
            known.update({k: _mine(v, p) for k, v in known.items()})


def _mine(value: Any, of: Any) -> Any:
    """The shard of a value where it belongs to a sharded tensor of its shape."""
    if not hasattr(of, "full_tensor") or getattr(value, "shape", None) != of.shape:
        return value
    return dist.tensor.distribute_tensor(value.to(of.device), of.device_mesh, of.placements)


def together(net: nn.Module) -> nn.Module:
    """What is called in a training of `net`: it averages the gradients of all ranks (DistributedDataParallel, or FSDP2 where it
    is sharded)."""
    if count() == 1 or hasattr(net, "unshard"):
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
