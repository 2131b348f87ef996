"""Run by torchrun-like tests: `python ranks.py WHAT FOLDER RANK WORLD` trains on gloo ranks and writes what each ends with."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import mho

FIELDS = [
    "tiles.pcm.rows=8",
    "training.inject.scale=3",
    "training.inject.ramp=4 steps",
    "training.clip=0.5",
    "training.remap=3 steps",
]


def network(mode: str) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 3))
    return mho.to_analog(model, mho.load("pcm.standard", set=[*FIELDS, f"training.backward={mode}"]))


def batches(rank: int, steps: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    g = torch.Generator().manual_seed(100 + rank)
    return [(torch.randn(16, 12, generator=g), torch.randint(3, (16,), generator=g)) for _ in range(steps)]


def train(net: nn.Module, called: nn.Module, rank: int, keys: list[list[int]]) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=2.0)  # large, so that clipping has something to do
    mho.attach(optimizer, net)
    torch.manual_seed(7)  # the same on all ranks, as trainers have it
    called.train()
    for x, y in batches(rank, 7):
        optimizer.zero_grad()
        nn.functional.cross_entropy(called(x), y).backward()
        optimizer.step()
        keys.append([int(w) for w in net[0].tiles.weight_key])


def main(what: str, mode: str, folder: Path, rank: int, world: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    net, keys = network(mode), []
    if what == "ddp":
        train(net, DistributedDataParallel(net), rank, keys)
    else:
        fully_shard(net[0])
        fully_shard(net)
        train(net, net, rank, keys)
    state = {k: getattr(v, "full_tensor", lambda v=v: v)().contiguous() for k, v in net.state_dict().items()}
    chip = mho.program(net, seed=3).age("1 h")
    net.eval()
    with torch.no_grad():
        state["eval"] = net(batches(0, 1)[0][0])
    state["noise"] = torch.rand(1)  # ranks have used their generators alike
    assert chip.time == 3600
    save_file(state, folder / f"{rank}.safetensors")
    (folder / f"{rank}.json").write_text(json.dumps(keys))
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
