"""Training on several ranks (DDP, FSDP2): one weight noise for all, and shards that are changed as whole matrices."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mho.effects.draws import Key


def group_of(net: nn.Module) -> Any:
    """The ranks that train `net` together: those of the DistributedDataParallel whose forward is under way, or all ranks
    where parameters are sharded by FSDP2; None where `net` trains alone."""
    if not (dist.is_available() and dist.is_initialized()) or torch.compiler.is_compiling():
        return None
    from torch.distributed.fsdp import FSDPModule
    from torch.nn.parallel import DistributedDataParallel

    if (wrapper := DistributedDataParallel._get_active_ddp_module()) is not None:
        return wrapper.process_group
    return dist.group.WORLD if any(isinstance(m, FSDPModule) for m in net.modules()) else None


def of_first_rank(key: Key, group: Any) -> Key:
    """The key that the first rank of the group has drawn."""
    words = torch.stack([torch.as_tensor(v) for v in key])
    dist.broadcast(words, group=group, group_src=0)
    return Key(words[0], words[1])


def largest_(tensors: Iterable[Tensor], group: Any) -> None:
    """Replace every tensor by the largest of the ranks, element by element."""
    kept = list(tensors)
    if not kept:
        return
    flat = torch.cat([t.flatten() for t in kept])
    dist.all_reduce(flat, dist.ReduceOp.MAX, group=group)
    for tensor, most in zip(kept, flat.split([t.numel() for t in kept])):
        tensor.copy_(most.view_as(tensor))


@contextlib.contextmanager
def whole(layer: nn.Module) -> Iterator[bool]:
    """Inside, the sharded parameters (FSDP2) of a layer are whole, ordinary ones; what became of them there is what the
    shards hold afterwards. A collective call: every rank has to make it. Unsharded layers are left alone. Gives whether this
    rank is to write files: one of those that share shards is."""
    if not (dist.is_available() and dist.is_initialized()):
        yield True
        return
    from torch.distributed.tensor import DTensor

    named: list[tuple[nn.Module, str, Any]] = [(m, n, p) for m in layer.modules() for n, p in m._parameters.items()]
    shards = [each for each in named if isinstance(each[2], DTensor)]
    full = {id(p): nn.Parameter(p.detach().full_tensor().clone(), requires_grad=p.requires_grad) for _, _, p in shards}
    for module, name, p in shards:
        module._parameters[name] = full[id(p)]
    try:
        yield not shards or dist.get_rank() == 0
    finally:
        for module, name, p in shards:
            module._parameters[name] = p
        _write_back({id(p): p for _, _, p in shards}, full)


@torch.no_grad()
def _write_back(shards: dict[int, Any], full: dict[int, nn.Parameter]) -> None:
    from torch.distributed.tensor import DTensor, Replicate

    for key, p in shards.items():
        mesh = p.device_mesh
        everywhere = DTensor.from_local(full[key].detach(), mesh, [Replicate()] * mesh.ndim, run_check=False)
        p.to_local().copy_(everywhere.redistribute(placements=p.placements).to_local())
