"""`python benchmarks/run.py [SECTION ...] [--threads N] [--rounds N]`: how fast mho is against plain torch, here and now.

Ratios are to the first line of a table. Nothing is asserted: a figure means something only with processor and load.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import mho
import torch
from memory import peak_bytes, saved_bytes
from mho.fused.tier import has_int8, int8_product
from mho.nonideality import Nonideality
from timing import table
from torch import nn

Cases = dict[str, Callable[[], object]]
RANGE = "tiles.pcm.dac.range=1.0"
NO_RAMP = "training.inject.ramp=none"


def hardware(*changes: str) -> mho.Hardware:
    return mho.load("pcm.standard", set=[RANGE, NO_RAMP, *changes])


def tile(n: int, *changes: str) -> mho.Tile:
    return mho.Tile(0.2 * torch.randn(n, n), hardware(*changes))


def quietly(f: Callable[[], object]) -> Callable[[], object]:
    def call() -> object:
        with torch.no_grad():
            return f()

    return call


def baselines(n: int, x: torch.Tensor) -> Cases:
    """Plain products of the same shape."""
    linear = nn.Linear(n, n)
    half, cases = linear.weight.detach().bfloat16(), {}
    cases["nn.Linear fp32"] = quietly(lambda: linear(x))
    cases["bf16 product"] = quietly(lambda: x.bfloat16() @ half.t())
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), len(x))
        cases["oneDNN fp32, packed weight"] = quietly(
            lambda: torch.ops.mkldnn._linear_pointwise(x, packed, linear.bias, "none", [], "")
        )
    except (AttributeError, RuntimeError):
        print("(no packed oneDNN product in this torch)")
    codes = torch.randint(-127, 128, x.shape, dtype=torch.int8)
    planes = torch.randint(-127, 128, (n, n), dtype=torch.int8)
    out = torch.empty(len(x), n, dtype=torch.int32)
    if has_int8():
        cases["int8 product (c)"] = lambda: int8_product(codes, planes, out)
    return cases


def forward(rounds: int) -> None:
    """Full standard model, 2048 x 2048 on tiles of 512 rows."""
    for vectors in (128, 1024):
        x = torch.rand(vectors, 2048) * 2 - 1
        cases = baselines(2048, x)
        for precision in ("auto", "fp32-main", "reference"):
            t = tile(2048, f"precision={precision}").program(seed=0).age("1 h")
            cases[f"mho, precision {precision}"] = quietly(lambda t=t, x=x: t(x))
        for name, f in others(2048, x):
            cases[name] = f
        ratios = table(f"forward 2048 x 2048, {vectors} vectors", cases, rounds)
        c = ratios.get("int8 product (c)")
        print(f"c = {c:.3f}; gate 5c + 0.55 = {5 * c + 0.55:.2f}" if c else "no integer products here")


def others(n: int, x: torch.Tensor) -> Iterator[tuple[str, Callable[[], object]]]:
    """Other simulators, where installed."""
    if importlib.util.find_spec("aihwkit"):
        from aihwkit.nn import AnalogLinear
        from aihwkit.simulator.presets import StandardHWATrainingPreset

        layer = AnalogLinear(n, n, rpu_config=StandardHWATrainingPreset()).eval()
        yield "aihwkit, standard HWA preset", quietly(lambda: layer(x))
    if importlib.util.find_spec("aihwkit_lightning"):
        from aihwkit_lightning.nn import AnalogLinear as Light
        from aihwkit_lightning.simulator.configs import TorchInferenceRPUConfig

        light = Light(n, n, rpu_config=TorchInferenceRPUConfig()).eval()
        yield "aihwkit-lightning, its defaults", quietly(lambda: light(x))


def stepper(layer: nn.Module, x: torch.Tensor, g: torch.Tensor) -> Callable[[], object]:
    def step() -> None:
        for p in (x, *layer.parameters()):
            p.grad = None
        layer(x).backward(g)

    return step


def steps(n: int, vectors: int) -> Cases:
    """One training step of a layer, weight noise drawn anew."""
    x = (torch.rand(vectors, n) * 2 - 1).requires_grad_()
    g = torch.randn(vectors, n)
    cases = {"nn.Linear fp32": stepper(nn.Linear(n, n), x, g)}
    for name, changes in (
        ("mho, through, fp32 backward", ()),
        ("mho, through, bf16 backward", ("training.backward.products=bf16",)),
        ("mho, ste", ("training.backward.mode=ste",)),
        ("mho, reference path", ("precision=reference",)),
        ("mho, autograd through every op", ("training.backward.mode=autograd", "training.backward.rounding=ste")),
    ):
        cases[name] = stepper(tile(n, *changes).train(), x, g)
    return cases


def train(rounds: int) -> None:
    """Hardware-aware training step, 2048 x 2048."""
    for vectors in (128, 1024):
        table(f"training step 2048 x 2048, {vectors} vectors", steps(2048, vectors), rounds)


def memory(rounds: int) -> None:
    """Bytes saved for backward, and the peak of a step, relative to autograd through every op."""
    for vectors in (128, 1024):
        cases = steps(2048, vectors)
        saved = {k: saved_bytes(f) for k, f in cases.items()}
        peak = {k: peak_bytes(f) for k, f in cases.items()}
        base = "mho, autograd through every op"
        print(f"\nmemory of a training step 2048 x 2048, {vectors} vectors (relative to {base})")
        for k in cases:
            print(
                f"{k:46s} saved {saved[k] / 2**20:8.1f} MB {saved[k] / saved[base]:6.3f}   "
                f"peak {peak[k] / 2**20:8.1f} MB {peak[k] / peak[base]:6.3f}"
            )


def networks(rounds: int) -> None:
    """Whole networks on a chip: a 4-layer perceptron and a ResNet-18-shaped CNN."""
    torch.manual_seed(0)
    mlp = nn.Sequential(
        nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 10)
    )  # fmt: skip
    for name, model, x in (
        ("4-layer perceptron, 256 vectors", mlp, torch.rand(256, 784)),
        ("ResNet-18-shaped CNN (width 32), 16 images of 32 x 32", cnn(32), torch.rand(16, 3, 32, 32)),
    ):
        table(name, {"torch fp32": quietly(lambda m=model, x=x: m(x)), **on_chip(model, x)}, rounds)


def on_chip(model: nn.Module, x: Any) -> Cases:
    cases: Cases = {}
    for name, change in (
        ("mho, precision auto", "precision=auto"),
        ("mho, precision auto, compiled", "compile=true"),
        ("mho, precision reference", "precision=reference"),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net = mho.to_analog(model, hardware(change)).eval()
        mho.program(net, seed=0).age("1 h")
        cases[name] = quietly(lambda net=net: net(x))
    return cases


def cnn(width: int) -> nn.Module:
    """Convolutions of ResNet-18 in a row, without the shortcuts."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU()]
    channels = width
    for stage in range(4):
        for k in range(4):
            out = width << stage
            layers += [nn.Conv2d(channels, out, 3, stride=2 if stage and not k else 1, padding=1), nn.ReLU()]
            channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def layers(rounds: int) -> None:
    """Convolutions and an LSTM against torch's."""
    for channels, groups, size, images in (
        (64, 1, 32, 16), (128, 1, 16, 16), (256, 1, 8, 64), (256, 8, 8, 64), (128, 128, 28, 16)
    ):  # fmt: skip
        conv, x = (
            nn.Conv2d(channels, channels, 3, padding=1, groups=groups),
            torch.rand(images, channels, size, size) * 2 - 1,
        )
        cases: Cases = {"conv2d fp32": quietly(lambda c=conv, x=x: c(x)), **on_chip(conv, x)}
        table(f"conv 3 x 3, {channels} channels, {groups} groups, {size} x {size}, {images} images", cases, rounds)
    lstm, x = nn.LSTM(650, 650, batch_first=True), torch.rand(20, 26, 650) * 2 - 1
    table("LSTM 650, 26 steps, batch 20", {"nn.LSTM fp32": quietly(lambda: lstm(x)), **on_chip(lstm, x)}, rounds)


def chips(rounds: int) -> None:
    """Programming and ageing of 11.2 M weights, and 25 chips over a batch."""
    net = mho.to_analog(nn.Sequential(*[nn.Linear(1058, 1058, bias=False) for _ in range(10)]), hardware())
    made = mho.program(net, seed=0, chips=3)
    count = iter(range(10**9))

    def one() -> None:
        made[next(count) % 3].put_on(net)
        mho.age(net, "1 h")

    weight = torch.randn(11_200_000)
    table(
        "programming and ageing 11.2 M weights, one chip",
        {"copy of them": weight.clone, "mho": one},
        max(3, rounds // 3),
    )
    mlp = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10)).eval()
    for vectors in (128, 1000):
        x = torch.rand(vectors, 784)
        cases = {"25 plain fp32 forwards": quietly(lambda x=x: [mlp(x) for _ in range(25)])}
        for precision in ("auto", "reference"):
            net = mho.to_analog(mlp, hardware(f"precision={precision}")).eval()
            mho.program(net, seed=0)
            cases[f"25 forwards on a chip, {precision}"] = quietly(lambda net=net, x=x: [net(x) for _ in range(25)])
        table(f"25 chips, perceptron, {vectors} vectors", cases, rounds)


def plugins(rounds: int) -> None:
    """20 effects that are installed and not used: they must not cost anything."""
    x = torch.rand(128, 1024) * 2 - 1
    before = tile(1024).program(seed=0)
    for k in range(20):
        mho.register(
            type(f"Idle{k}", (Nonideality,), {"source": "benchmark", "__doc__": "Does nothing."}, kind=f"idle.e{k}")
        )
    after = tile(1024).program(seed=0)
    cases = {"without": quietly(lambda: before(x)), "with 20 idle plugins": quietly(lambda: after(x))}
    table("installed but unused plugins", cases, 3 * rounds)


SECTIONS = {f.__name__: f for f in (forward, train, memory, networks, layers, chips, plugins)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", choices=[[], *SECTIONS], help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", message="training an analog network")
    print(
        f"torch {torch.__version__}, {platform.processor() or platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    )
    for name in args.sections or SECTIONS:
        SECTIONS[name](args.rounds)


if __name__ == "__main__":
    main()
