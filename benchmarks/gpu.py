"""`python benchmarks/gpu.py [--device auto] [--size 1024] [--batches 128,1024,8192] [--rounds N]`: forward, training step,
programming and ageing of the full standard model on an accelerator, against `nn.Linear` and, where it is installed,
aihwkit-lightning.

No figure of this table has been measured yet: no accelerator was at hand. Without one it prints what remains to be measured;
`--device cpu --size 64 --batches 32 --rounds 2` tries that the script runs.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
from timing import table
from torch import nn

import mho

CHANGES = ("tiles.pcm.dac.range=1.0", "training.inject.ramp=none")
GOALS = "goals, against nn.Linear fp32: forward at most 1.5, training step at most 1.5; at least twice as fast as lightning"
Case = Callable[[], object]
Layers = dict[str, Callable[[], Callable[[torch.Tensor], torch.Tensor]]]


def ours(size: int, device: torch.device, compiled: bool, precision: str = "fp32") -> Any:
    hardware = mho.load("pcm.standard", set=[*CHANGES, f"precision={precision}"])
    made = mho.Tile(0.2 * torch.randn(size, size, device=device), hardware)
    return torch.compile(made, fullgraph=True) if compiled else made


def layers(size: int, device: torch.device) -> Layers:
    """Name -> what makes the layer, when its turn comes."""
    cases: Layers = {
        "nn.Linear fp32": lambda: nn.Linear(size, size, device=device),
        "nn.Linear TF32": lambda: Tf32(nn.Linear(size, size, device=device)),
        "nn.Linear bf16": lambda: Half(size, device),
        "mho, full model, TF32": lambda: Tf32(ours(size, device, False)),
        **{
            f"mho, full model, {precision}{', torch.compile' * compiled}": lambda p=precision, c=compiled: ours(
                size, device, c, p
            )
            for precision in ("fp32", "int8", "reference")
            for compiled in (False, True)
        },
    }
    if importlib.util.find_spec("aihwkit_lightning"):
        cases |= {
            f"lightning, {name}": lambda t=t: Lightning(size, device, t) for name, t in (("eager", False), ("Triton", True))
        }
    return cases


class Tf32(nn.Module):
    """With TF32 products inside its forward."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            return self.layer(input)
        finally:
            torch.set_float32_matmul_precision(before)


class Half(nn.Linear):
    """In bf16, inputs and outputs in fp32."""

    def __init__(self, size: int, device: torch.device) -> None:
        super().__init__(size, size, device=device, dtype=torch.bfloat16)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input.bfloat16()).float()


class Lightning(nn.Module):
    """Its analog layer with 8-bit inputs and outputs, weight and output noise: fewer effects than ours. Written by its source,
    and not run yet."""

    def __init__(self, size: int, device: torch.device, triton: bool) -> None:
        from aihwkit_lightning.nn import AnalogLinear
        from aihwkit_lightning.simulator.configs import TorchInferenceRPUConfig, WeightModifierType

        super().__init__()
        about = TorchInferenceRPUConfig()
        about.mapping.max_input_size = 512
        about.forward.inp_res = about.forward.out_res = 254
        about.forward.out_bound, about.forward.out_noise = 10.0, 0.04
        about.pre_post.input_range.enable = True
        about.modifier.type, about.modifier.std_dev = WeightModifierType.ADD_NORMAL, 0.023
        self.layer, self.triton = AnalogLinear(size, size, rpu_config=about).to(device), triton

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.triton:
            os.environ["AIHWKIT_USE_TRITON"] = "1"
        try:
            return self.layer(x)
        finally:
            os.environ.pop("AIHWKIT_USE_TRITON", None)


def synced(f: Case, device: torch.device) -> Case:
    """Until the device has done it."""

    def call() -> None:
        f()
        if device.type != "cpu":
            torch.accelerator.synchronize()

    return call


def forward(make: Callable[[], Any], x: torch.Tensor) -> Case:
    layer = make()
    if isinstance(getattr(layer, "_orig_mod", layer), mho.Tile):
        mho.program(getattr(layer, "_orig_mod", layer), seed=0, age="1 h")
    layer.eval()

    def call() -> None:
        with torch.no_grad():
            layer(x)

    return call


def step(make: Callable[[], Any], x: torch.Tensor) -> Case:
    layer, g, x = make().train(), torch.randn_like(x), x.clone().requires_grad_()

    def call() -> None:
        for p in (x, *layer.parameters()):
            p.grad = None
        layer(x).backward(g)

    return call


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--device", default="auto")
    options.add_argument("--size", type=int, default=1024)
    options.add_argument("--batches", default="128,1024,8192")
    options.add_argument("--rounds", type=int, default=20)
    asked = options.parse_args()
    found = torch.accelerator.current_accelerator(check_available=True)
    if asked.device == "auto" and found is None:
        names = ", ".join(layers(asked.size, torch.device("cpu")))
        print(f"not measured: no accelerator here. To be measured: forward and training step of {names}, aihwkit-lightning")
        print(f"at batches {asked.batches}, {asked.size} x {asked.size}; programming and ageing of the chip. {GOALS}")
        return
    device = torch.device(asked.device) if asked.device != "auto" else found
    warnings.simplefilter("ignore")
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name() if device.type == 'cuda' else device}\n{GOALS}")
    made = layers(asked.size, device)
    for batch in map(int, asked.batches.split(",")):
        x = torch.rand(batch, asked.size, device=device) * 2 - 1
        for what, case in (("forward", forward), ("training step", step)):
            cases = {name: synced(case(make, x), device) for name, make in made.items()}
            table(f"{what} {asked.size} x {asked.size}, {batch} vectors", cases, asked.rounds)
    tile = ours(asked.size, device, False)
    chips = {"programming": lambda: mho.program(tile, seed=0), "ageing": lambda: mho.age(tile, "1 h")}
    table("a chip", {name: synced(f, device) for name, f in chips.items()}, asked.rounds)


if __name__ == "__main__":
    main()
