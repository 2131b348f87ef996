"""`python benchmarks/large.py [--blocks 22] [--width 2048] [--hidden 5632] [--vocabulary 32000]`: the memory that it takes to
convert a language model whose weights lie in shards, to load it and to use a chip of it. The default has 1.1 billion weights.

The model is made at random, in bf16, one shard for each block; another process, whose memory is looked at, builds it under
`torch.device("meta")`, converts it to `pcm.standard`, loads the shards, programs a lean chip, lets it age and computes with it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import mho

RULES = "layers=[{match: head, tile: digital}]"


class Block(nn.Module):
    """Attention with a quarter of the heads for keys and values, and a gated feed-forward network."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(width, n, bias=False) for n in (width, width // 4, width // 4, width))
        self.gate, self.up, self.down = (nn.Linear(i, o, bias=False) for i, o in ((width, hidden),) * 2 + ((hidden, width),))
        self.before, self.between = nn.RMSNorm(width), nn.RMSNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.before(x)
        q, k, v = (m(y).unflatten(-1, (-1, 32)).transpose(-3, -2) for m in (self.q, self.k, self.v))
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.o(y.transpose(-3, -2).flatten(-2))
        y = self.between(x)
        return x + self.down(nn.functional.silu(self.gate(y)) * self.up(y))


class Model(nn.Module):
    def __init__(self, blocks: int, width: int, hidden: int, vocabulary: int) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(vocabulary, width), nn.Linear(width, vocabulary, bias=False)
        self.blocks = nn.ModuleList(Block(width, hidden) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        x = self.words(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def make(folder: Path, sizes: list[int]) -> int:
    """Write the shards, one after the other. How many bytes they have."""
    with torch.device("meta"):
        model = Model(*sizes)
    where: dict[str, str] = {}
    parts = {**{f"blocks.{n}": block for n, block in enumerate(model.blocks)}, "words": model.words, "head": model.head}
    for name, part in parts.items():
        shard = {f"{name}.{k}": torch.randn(v.shape, dtype=torch.bfloat16).mul_(0.02) for k, v in part.state_dict().items()}
        save_file(shard, folder / f"{name}.safetensors")
        where.update(dict.fromkeys(shard, f"{name}.safetensors"))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return sum(2 * p.numel() for p in model.parameters())


def measured(folder: Path, sizes: list[int], size: int) -> None:
    warnings.simplefilter("ignore")
    start, begun = peak(), time.perf_counter()

    def tell(what: str) -> None:
        own = peak() - start
        print(f"{what:<24} {own / 1e9:6.2f} GB  {own / size:5.2f} x  {time.perf_counter() - begun:6.0f} s", flush=True)

    print(f"model of {size / 1e9:.2f} GB; highest resident memory besides the {start / 1e9:.2f} GB of Python, torch and mho")
    with torch.device("meta"):
        model = Model(*sizes).to(torch.bfloat16)
    net = mho.to_analog(model, mho.load("pcm.standard", set=[RULES])).eval()
    tell("converted on meta")
    mho.load_model(net, folder / "model.safetensors.index.json")
    tell("loaded")
    mho.program(net, seed=0, age="1 h", lean=True)
    tell("chip named")
    with torch.no_grad():
        assert net(torch.arange(16)[None]).isfinite().all()
    tell("programmed in a forward")


def peak() -> int:
    """Of Linux: `ru_maxrss` begins with what the parent had."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(lines["VmHWM"].split()[0])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    for name, number in (("blocks", 22), ("width", 2048), ("hidden", 5632), ("vocabulary", 32000)):
        options.add_argument(f"--{name}", type=int, default=number)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options.add_argument("--size", type=int, help=argparse.SUPPRESS)
    asked = options.parse_args()
    sizes = [asked.blocks, asked.width, asked.hidden, asked.vocabulary]
    if asked.folder:
        mho.to_analog(nn.Linear(2, 2), "pcm.standard")  # whatever is imported
        return measured(asked.folder, sizes, asked.size)
    with tempfile.TemporaryDirectory() as name:
        size = make(Path(name), sizes)
        env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1048576"}  # glibc: what is freed does not stay between small pieces
        subprocess.run([sys.executable, *sys.argv, "--folder", name, "--size", str(size)], check=True, env=env)


if __name__ == "__main__":
    main()
