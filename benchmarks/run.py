"""`python benchmarks/run.py [SECTION ...] [--threads N] [--rounds N]`: how fast mho is against plain torch, here and now.

Ratios are to the first line of a table. Nothing is asserted: a figure means something only with processor and load.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from memory import peak_bytes, saved_bytes
from mho_fast.tier import has_int8, int8_product
from timing import table
from torch import nn

import mho
from mho.effects.nonideality import Nonideality
from mho.tile import Programmed, tile_arrays

Cases = dict[str, Callable[[], object]]
RANGE = "tiles.pcm.dac.range=1.0"
NO_RAMP = "training.inject.ramp=none"
REDUCED = "[pcm.programming_noise, {kind: circuit.output_noise, std: 0.04}]"


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


PATHS = (
    ("mho, precision auto", "precision=auto"),
    ("mho, precision auto, compiled", "compile=true"),
    ("mho, precision fp32-main", "precision=fp32-main"),
    ("mho, precision fp32-main, compiled", "precision=fp32-main", "compile=true"),
    ("mho, reference path", "precision=reference"),
)


def forward(rounds: int) -> None:
    """Full standard model, 2048 x 2048 on tiles of 512 rows."""
    for vectors in (128, 1024):
        x = torch.rand(vectors, 2048) * 2 - 1
        cases = baselines(2048, x)
        for name, *changes in PATHS:
            t = tile(2048, *changes).program(seed=0).age("1 h")
            cases[name] = quietly(lambda t=t, x=x: t(x))
        ratios = table(f"forward 2048 x 2048, {vectors} vectors", cases, rounds)
        c = ratios.get("int8 product (c)")
        print(f"c = {c:.3f}; gate 5c + 0.55 = {5 * c + 0.55:.2f}" if c else "no integer products here")


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
        ("mho, through, fp32 backward, compiled", ("compile=true",)),
        ("mho, through, bf16 backward", ("training.backward.products=bf16",)),
        ("mho, through, bf16 backward, compiled", ("training.backward.products=bf16", "compile=true")),
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


def simulators(rounds: int) -> None:
    """The part of the model that other simulators have too: 8-bit DAC and ADC, output noise, weight noise."""
    for n in (512, 2048):
        x, g = torch.rand(128, n) * 2 - 1, torch.randn(128, n)
        linear, reduced = nn.Linear(n, n), f"tiles.pcm.nonidealities={REDUCED}"
        cases = {"nn.Linear fp32": quietly(lambda f=linear, x=x: f(x))}
        training = {"nn.Linear fp32": stepper(linear, x.clone().requires_grad_(), g)}
        for compiled in ("false", "true"):
            word = ", compiled" * (compiled == "true")
            for name, about in (("full", ()), ("reduced", (reduced,))):
                t = tile(n, *about, f"compile={compiled}").program(seed=0).age("1 h")
                cases[f"mho, {name} model on a chip{word}"] = quietly(lambda t=t, x=x: t(x))
                layer = tile(n, *about, f"compile={compiled}").train()
                training[f"mho, {name} model{word}"] = stepper(layer, x.clone().requires_grad_(), g)
            noisy = tile(n, reduced, f"compile={compiled}").train()
            cases[f"mho, reduced model, weights noisy anew{word}"] = quietly(lambda t=noisy, x=x: t(x))
        for name, layer in others(n):
            evaluated, noisy = copy.deepcopy(layer).eval(), copy.deepcopy(layer).train()
            cases[f"{name}, eval"] = quietly(lambda t=evaluated, x=x: t(x))
            cases[f"{name}, weights noisy anew"] = quietly(lambda t=noisy, x=x: t(x))
            training[name] = stepper(layer.train(), x.clone().requires_grad_(), g)
        table(f"other simulators: forward {n} x {n}, 128 vectors", cases, rounds)
        table(f"other simulators: training step {n} x {n}, 128 vectors", training, rounds)


def others(n: int) -> Iterator[tuple[str, nn.Module]]:
    """Layers of other simulators, where installed (see benchmarks/README.md)."""
    if importlib.util.find_spec("aihwkit_lightning"):
        yield "aihwkit-lightning", lightning(n)
    if importlib.util.find_spec("aihwkit"):
        from aihwkit.nn import AnalogLinear
        from aihwkit.simulator.presets import StandardHWATrainingPreset

        yield "aihwkit, StandardHWATrainingPreset", AnalogLinear(n, n, rpu_config=StandardHWATrainingPreset())


def lightning(n: int) -> nn.Module:
    """8-bit DAC and ADC on tiles of 512 rows, outputs bounded at 10, output noise 0.04 and weight noise 0.04 of a column's
    largest weight. Noise acts in training mode only; its forward leaves out IR-drop and read noise, which it has not."""
    from aihwkit_lightning.nn import AnalogLinear
    from aihwkit_lightning.simulator.configs import TorchInferenceRPUConfig, WeightNoiseInjectionType

    config = TorchInferenceRPUConfig()
    config.mapping.max_input_size = 512
    config.forward.inp_res = config.forward.out_res = 2**8 - 2
    config.forward.out_bound, config.forward.out_noise = 10.0, 0.04
    config.forward.out_noise_per_channel = True
    config.modifier.noise_type = WeightNoiseInjectionType.ADD_NORMAL_PER_CHANNEL
    config.modifier.std_dev = 0.04
    ranges = config.pre_post.input_range
    ranges.enable, ranges.init_value, ranges.init_from_data = True, 1.0, 0
    return AnalogLinear(n, n, rpu_config=config)


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
        # a graph of the CNN takes minutes to compile, and is slower than kernels
        against_torch(name, model, x, rounds=rounds, paths=WHOLE if model is mlp else ALL)


def graph(model: nn.Module) -> Any:
    """The network on a chip, compiled as a whole."""
    net = torch.compile(mho.to_analog(model, hardware()).eval(), fullgraph=True)
    mho.program(net, seed=0, age="1 h")
    return net


FAST = (("mho, precision auto", "precision=auto"), ("mho, precision auto, compiled", "compile=true"))
ALL = (*FAST, ("mho, precision reference", "precision=reference"))
GRAPH = ("mho, one graph", "")
BOTH, WHOLE = (*FAST, GRAPH), (*ALL, GRAPH)


def on_chip(model: nn.Module, *x: Any, paths: Any = ALL) -> Cases:
    """Forwards of the network on a chip, along these paths: names and changes of the hardware."""
    cases: Cases = {}
    for name, change in paths:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net = mho.to_analog(model, hardware(change)).eval() if change else graph(model)
        if change:
            mho.program(net, seed=0, age="1 h")
        cases[name] = quietly(lambda net=net: net(*x))
    return cases


def against_torch(title: str, model: nn.Module, *x: Any, rounds: int, paths: Any = FAST) -> dict[str, float]:
    """A table of a network on a chip beside the same in fp32."""
    cases: Cases = {"torch fp32": quietly(lambda: model(*x)), **on_chip(model, *x, paths=paths)}
    return table(title, cases, rounds)


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


def few(rounds: int) -> None:
    """Few vectors, as when a language model writes one token after the other."""
    for vectors in (1, 2, 4, 8, 16):
        x = torch.rand(vectors, 2048) * 2 - 1
        against_torch(f"forward 2048 x 2048, {vectors} vectors", nn.Linear(2048, 2048), x, rounds=2 * rounds, paths=BOTH)


def calls(rounds: int) -> None:
    """What one call of a small layer takes beyond the digital one, in microseconds of processor time."""
    for vectors in (1, 32, 256):
        chain, x = nn.Sequential(*[nn.Linear(64, 64) for _ in range(8)]), torch.rand(vectors, 64)
        cases = {"torch fp32": quietly(lambda m=chain, x=x: m(x)), **on_chip(chain, x, paths=BOTH)}
        ratios = table(f"8 layers of 64 x 64, {vectors} vectors", cases, 5 * rounds)
        least = processor_time(cases["torch fp32"], 5 * rounds)
        more = {k: f"{(r - 1) * least / 8 * 1e6:.0f}" for k, r in ratios.items()}
        print(f"us per layer call beyond torch: {more}")


def processor_time(f: Callable[[], object], rounds: int = 1) -> float:
    """Seconds of this thread, the least of some rounds."""
    found = []
    for _ in range(rounds):
        start = time.thread_time()
        f()
        found.append(time.thread_time() - start)
    return min(found)


class Block(nn.Module):
    """A transformer block: pre-norm, `heads` of attention over a cache of keys and values, and a gated (or plain) MLP."""

    def __init__(self, width: int, heads: int, kv: int, hidden: int, gated: bool) -> None:
        super().__init__()
        self.heads, self.kv, self.size, self.gated = heads, kv, width // heads, gated
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, kv * self.size), nn.Linear(width, kv * self.size)
        self.out, self.up, self.down = nn.Linear(width, width), nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.gate = nn.Linear(width, hidden) if gated else None

    def forward(self, x: torch.Tensor, past: tuple[torch.Tensor, torch.Tensor] | None = None) -> torch.Tensor:
        h = self.first(x)
        q, k, v = (f(h).unflatten(-1, (-1, self.size)).transpose(1, 2) for f in (self.q, self.k, self.v))
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=self.gated and past is None, enable_gqa=self.kv != self.heads)
        x = x + self.out(a.transpose(1, 2).flatten(2))
        h = self.second(x)
        return x + self.down(F.gelu(self.up(h)) if self.gate is None else F.silu(self.gate(h)) * self.up(h))


class Decoder(nn.Sequential):
    """Blocks of a decoder; with `past`, the keys and values of the tokens before."""

    def forward(self, x: torch.Tensor, past: Any = None) -> torch.Tensor:
        for block in self:
            x = block(x, past)
        return x


def transformers(rounds: int) -> None:
    """An encoder of MiniLM's shape, and 6 of the 30 blocks of a decoder of 135 M parameters."""
    encoder = nn.Sequential(*[Block(384, 12, 12, 1536, gated=False) for _ in range(6)]).eval()
    against_torch("encoder of MiniLM's shape, 8 x 64 tokens", encoder, torch.randn(8, 64, 384), rounds=rounds)
    decoder = Decoder(*[Block(576, 9, 3, 1536, gated=True) for _ in range(6)]).eval()
    past = torch.randn(1, 3, 256, 64), torch.randn(1, 3, 256, 64)
    against_torch("decoder of 135 M (6 of 30 blocks), 256 tokens", decoder, torch.randn(1, 256, 576), rounds=rounds)
    token = torch.randn(1, 1, 576)
    against_torch("the same, one token, 256 in the cache", decoder, token, past, rounds=2 * rounds, paths=BOTH)


def convolutions(rounds: int) -> None:
    """Depth-wise and 1 x 1 convolutions, and the networks that are made of them."""
    for channels, size, images in ((128, 28, 16), (256, 14, 32)):
        x = torch.rand(images, channels, size, size) * 2 - 1
        about = f"{channels} channels, {size} x {size}, {images} images"
        conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        against_torch(f"conv 3 x 3, depth-wise, {about}", conv, x, rounds=rounds)
        against_torch(f"conv 1 x 1, {about}", nn.Conv2d(channels, channels, 1), x, rounds=rounds)
    against_torch("MobileNet-shaped, 4 images of 96 x 96", mobile().eval(), torch.rand(4, 3, 96, 96), rounds=rounds)
    against_torch("ResNet-18-shaped, 4 images of 64 x 64", cnn(64).eval(), torch.rand(4, 3, 64, 64), rounds=rounds)


def mobile() -> nn.Module:
    """Depth-wise and 1 x 1 convolutions in turn, as in MobileNet."""
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.ReLU()]
    channels = 32
    for out, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1), (512, 1)):
        layers += [nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels), nn.ReLU()]
        layers += [nn.Conv2d(channels, out, 1), nn.ReLU()]
        channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def recurrent(rounds: int) -> None:
    """LSTM and GRU: of a language model, and of speech."""
    for name, layer, x in (
        ("LSTM 650, 26 steps, batch 20", nn.LSTM(650, 650, batch_first=True), torch.rand(20, 26, 650) * 2 - 1),
        ("GRU 650, 26 steps, batch 20", nn.GRU(650, 650, batch_first=True), torch.rand(20, 26, 650) * 2 - 1),
        ("LSTM 256, 3 layers, 100 steps, batch 8", nn.LSTM(40, 256, 3, batch_first=True), torch.rand(8, 100, 40) * 2 - 1),
    ):
        against_torch(name, layer, x, rounds=max(5, rounds // 2))


def preparation(rounds: int) -> None:
    """Conversion, programming, ageing and calibration of a network of 210 matrices, and what a chip of it keeps in memory."""
    net = Decoder(*[Block(192, 3, 1, 512, gated=True) for _ in range(30)]).eval()
    weights, x = sum(p.numel() for p in net.parameters() if p.dim() > 1), torch.randn(1, 256, 192)
    digital = quietly(lambda: net(x))
    digital()
    forward = processor_time(digital, 5)
    print(f"\n210 matrices, {weights / 1e6:.1f} M weights; a digital forward of 256 tokens takes {forward * 1e3:.0f} ms")
    for name, change in FAST:
        hw = hardware(change, "tiles.pcm.dac.range=learned")
        takes = {"conversion": processor_time(lambda hw=hw: mho.to_analog(net, hw))}
        converted = mho.to_analog(net, hw)
        mho.program(converted, 0, age="1 h")  # a compiler works here
        made = processor_time(lambda net=converted: mho.program(net, 1, age="1 h"), 3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for method in ("max", "mse"):
                takes[f"calibration, {method}"] = processor_time(lambda net=converted, m=method: mho.calibrate(net, [x], m))
        quietly(lambda net=converted: net(x))()
        print(f"{name:46s} in forwards: " + ", ".join(f"{k} {v / forward:.1f}" for k, v in takes.items()))
        print(f"{'':46s} programming and ageing {made / weights * 1e9:.1f} ns a weight")
        kept = [chip_bytes(converted) / 4 / weights]
        mho.program(converted, 1, age="1 h", lean="codes")
        quietly(lambda net=converted: net(x))()
        kept.append(chip_bytes(converted) / 4 / weights)
        print(f"{'':46s} a chip keeps {kept[0]:.2f} x the bytes of its weights in fp32, with lean='codes' {kept[1]:.2f} x")
        large = mho.to_analog(Decoder(*[Block(576, 9, 3, 1536, gated=True) for _ in range(6)]).eval(), hw)
        count = sum(p.numel() for p in large.parameters() if p.dim() > 1)
        mho.program(large, 0, age="1 h")
        made = processor_time(lambda net=large: mho.program(net, 1, age="1 h"), 3)
        print(f"{'':46s} matrices of 135 M ({count / 1e6:.0f} M of them): {made / count * 1e9:.1f} ns a weight")


def chip_bytes(net: nn.Module) -> int:
    """Bytes of all tensors that the chip on a network holds, each storage once."""
    seen: dict[int, int] = {}

    def look(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            seen[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        elif isinstance(value, (tuple, list)):
            for v in value:
                look(v)
        elif isinstance(value, (dict, Programmed)):
            look(list((value if isinstance(value, dict) else vars(value)).values()))

    for array in tile_arrays(net):
        look(vars(array.chip))
    return sum(seen.values())


def layers(rounds: int) -> None:
    """Convolutions against torch's."""
    for channels, groups, size, images in (
        (64, 1, 32, 16), (128, 1, 16, 16), (256, 1, 8, 64), (256, 8, 8, 64), (128, 128, 28, 16)
    ):  # fmt: skip
        conv, x = (nn.Conv2d(channels, channels, 3, padding=1, groups=groups), torch.rand(images, channels, size, size) * 2 - 1)
        cases: Cases = {"conv2d fp32": quietly(lambda c=conv, x=x: c(x)), **on_chip(conv, x)}
        table(f"conv 3 x 3, {channels} channels, {groups} groups, {size} x {size}, {images} images", cases, rounds)


def ladder(rounds: int) -> None:
    """IR-drop in its fidelities, 512 x 512, 128 vectors; banded solves of 64 of the 65,536 lines."""
    x, w = torch.rand(128, 512) * 2 - 1, 0.246 * torch.randn(512, 512)
    linear = nn.Linear(512, 512)
    cases: Cases = {"nn.Linear fp32": quietly(lambda: linear(x))}
    kinds = {
        "no IR-drop": "[]",
        "circuit.ir_drop": "[circuit.ir_drop]",
        "exact, driven rows": "[{kind: circuit.ir_drop_ladder, input_encoding: driven}]",
        "exact, gated rows": "[circuit.ir_drop_ladder]",
    }
    for name, effects in kinds.items():
        for compiled in ("false", "true"):
            hw = hardware(f"tiles.pcm.nonidealities={effects}", f"compile={compiled}")
            t = mho.Tile(w, hw).program(seed=0)
            cases[name + ", compiled" * (compiled == "true")] = quietly(lambda t=t: t(x))
    cases["64 banded solves (scipy)"] = lambda: banded_solves(x, w, 64)
    table("IR-drop along the bit lines, 512 x 512, 128 vectors", cases, rounds)


def banded_solves(x: torch.Tensor, w: torch.Tensor, count: int) -> None:
    """Kirchhoff's law on `count` gated lines, one after the other (see `IRDropLadder`)."""
    import numpy as np
    from scipy.linalg import solve_banded

    r = 0.35 * 5e-6
    for k in range(count):
        cell = (x[k] * w[k]).double().numpy()
        matrix = np.full((3, len(cell)), -1.0)
        matrix[1] = 2 + r * np.abs(cell)
        matrix[1, -1] -= 1
        solve_banded((1, 1), matrix, r * cell)


def chips(rounds: int) -> None:
    """Programming and ageing of 11.2 M weights, and 25 chips over a batch."""
    plain = nn.Sequential(*[nn.Linear(1058, 1058, bias=False) for _ in range(10)])
    weight, numbers = torch.randn(11_200_000), iter(range(10**9))
    cases: Cases = {"copy of them": weight.clone}
    for name, changes in (("eager", []), ("compiled", ["compile=true"])):
        for more, off in (("", []), (", no compensation", ["tiles.pcm.compensation=none"])):
            net = mho.to_analog(plain, hardware(*changes, *off))
            cases[f"{name}{more}"] = lambda net=net: mho.program(net, 0, index=next(numbers)).age("1 h")
            if off:
                cases[f"{name}{more}, never at age 0 s"] = lambda net=net: mho.program(net, 0, index=next(numbers), age="1 h")
    table("one chip of 11.2 M weights programmed, and aged to 1 h", cases, max(3, rounds // 3))
    mlp = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10)).eval()
    for vectors in (128, 1000):
        x = torch.rand(vectors, 784)
        cases = {"25 plain fp32 forwards": quietly(lambda x=x: [mlp(x) for _ in range(25)])}
        for name, change in (("auto", "precision=auto"), ("compiled", "compile=true"), ("reference", "precision=reference")):
            net = mho.to_analog(mlp, hardware(change)).eval()
            mho.program(net, seed=0)
            cases[f"25 forwards on a chip, {name}"] = quietly(lambda net=net, x=x: [net(x) for _ in range(25)])
        whole = graph(mlp)
        cases["25 forwards on a chip, one graph"] = quietly(lambda net=whole, x=x: [net(x) for _ in range(25)])
        table(f"25 chips, perceptron, {vectors} vectors", cases, rounds)


def plugins(rounds: int) -> None:
    """20 effects that are installed and not used: they must not cost anything."""
    x = torch.rand(128, 1024) * 2 - 1
    before = tile(1024).program(seed=0)
    for k in range(20):
        mho.register(type(f"Idle{k}", (Nonideality,), {"source": "benchmark", "__doc__": "Does nothing."}, kind=f"idle.e{k}"))
    after = tile(1024).program(seed=0)
    cases = {"without": quietly(lambda: before(x)), "with 20 idle plugins": quietly(lambda: after(x))}
    table("installed but unused plugins", cases, 3 * rounds)


SECTIONS = {
    f.__name__: f
    for f in (
        forward, few, calls, train, simulators, memory, networks, layers, convolutions, recurrent, transformers, ladder, chips,
        preparation, plugins,
    )
}  # fmt: skip


def processor() -> str:
    """Its name and model, where Linux says so."""
    try:
        with open("/proc/cpuinfo") as file:
            facts = dict(tuple(v.strip() for v in line.split(":", 1)) for line in file if ":" in line)
    except OSError:
        return platform.processor() or platform.machine()
    return f"{facts.get('model name')} (family {facts.get('cpu family')}, model {facts.get('model')})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", choices=[[], *SECTIONS], help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", message="training an analog network")
    print(f"torch {torch.__version__}, {processor()}, {torch.backends.cpu.get_cpu_capability()}, {args.threads} threads")
    if has_int8():
        cases = baselines(2048, torch.rand(128, 2048))
        least = {k: processor_time(cases[k], 9) for k in ("nn.Linear fp32", "int8 product (c)")}
        print(f"c = {least['int8 product (c)'] / least['nn.Linear fp32']:.3f} (int8 over fp32 product, 2048 x 2048, 128 vectors)")
    for name in args.sections or SECTIONS:
        SECTIONS[name](args.rounds)


if __name__ == "__main__":
    main()
