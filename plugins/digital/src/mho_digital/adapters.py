"""Low-rank digital adapters beside the tiles (AHWA-LoRA): trained on frozen weights, swapped on one chip, merged with PEFT."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mho import AnalogLayer, Correction, Field
from mho.effects import CorrectionModule, Matrix, Outputs
from mho.ground import MhoError, whole
from mho.ground.arguments import number
from mho.tile import TileArray

LORA = "Li et al. 2026 (AHWA-LoRA), after Hu et al. 2022"
PREFIX = "base_model.model."  # of layers in files of PEFT


class Adapter(Correction, kind="digital.adapter"):
    """y + (alpha/r) B A x, with A [r, in] and B [out, r] digital: r (in + out) multiply-adds for every vector.

    B starts at 0, so a new adapter changes nothing; A starts uniform, with variance 1/(3 in) as in PEFT. Training it in the
    loop with a chip or with noise repairs what the tiles miss; `mho.adapt` puts it on layers and freezes all else.
    """

    source = LORA
    rank: int = Field(8, ge=1, unit="1", description="rank r", source=LORA)
    alpha: float = Field(16.0, gt=0, unit="1", description="the branch is multiplied by alpha/r", source=LORA)

    def module(self, matrix: Matrix) -> LowRank:
        return LowRank(self, matrix)


class LowRank(CorrectionModule):
    """`a` [r, in] and `b` [out, r], trained."""

    adds = True
    spec: Adapter

    def __init__(self, spec: Adapter, matrix: Matrix) -> None:
        super().__init__(spec, matrix)
        start = torch.rand(spec.rank, matrix.inputs, generator=torch.Generator().manual_seed(matrix.outputs))
        self.a = nn.Parameter((2 * start - 1) / math.sqrt(matrix.inputs))
        self.b = nn.Parameter(torch.zeros(matrix.outputs, spec.rank))

    def outputs(self, y: Tensor, x: Outputs, w: Tensor) -> Tensor:
        return y + (x().to(self.a.dtype) @ self.a.T @ self.b.T * (self.spec.alpha / self.spec.rank)).to(y.dtype)

    @property
    def operations(self) -> int:
        return self.a.numel() + self.b.numel()


def adapt(
    net: nn.Module, rank: int = 8, layers: str | tuple[str, ...] = "*", *, alpha: float | None = None
) -> list[nn.Parameter]:
    """Put an adapter of this rank beside the tiles of every layer that a shell pattern of `layers` matches, and freeze
    everything else. Returns the parameters to train; `alpha` is 2 r by default.

    Adapters that are there already start anew, so that another task can be learned on the same chip. Train with a chip on
    and `net.eval()` for that chip, or in training mode with the noise of the hardware for any chip. Raises `MhoError` where
    no layer on tiles matches.
    """
    rank = whole("rank", rank, least=1)
    patterns = (layers,) if isinstance(layers, str) else layers
    spec = Adapter(rank=rank, alpha=2.0 * rank if alpha is None else number("alpha", alpha, 0))
    chosen = [m for n, m in net.named_modules() if isinstance(m, AnalogLayer) and any(fnmatchcase(n, p) for p in patterns)]
    if not chosen:
        raise MhoError(f"no layer on tiles is called {', '.join(patterns)}; conversion_report(net) lists them")
    for p in net.parameters():
        p.requires_grad_(False)
    arrays = dict.fromkeys(array for layer in chosen for array in layer.arrays().values())  # those of tied layers once
    return [p for array in arrays for p in _put(array, spec).parameters()]


def _put(array: TileArray, spec: Adapter) -> LowRank:
    """A fresh adapter beside this array, where the one before was: a chip knows corrections by their places."""
    parts = [c for c in array.corrections if not isinstance(c, LowRank)]
    fresh = spec.module(array.matrix).to(array.gamma.device, array.gamma.dtype)
    at = next((k for k, c in enumerate(array.corrections) if isinstance(c, LowRank)), len(parts))
    array.corrections = nn.ModuleList([*parts[:at], fresh, *parts[at:]])
    return fresh


def adapters(net: nn.Module) -> Iterator[tuple[str, LowRank]]:
    """Every adapter, with the name of its weight matrix: that of the layer, and of the matrix where there are several."""
    for name, layer in net.named_modules():
        for matrix, array in matrix_names(name, layer).items() if isinstance(layer, AnalogLayer) else ():
            yield from ((matrix, c) for c in array.corrections if isinstance(c, LowRank))


def matrix_names(name: str, layer: AnalogLayer) -> dict[str, TileArray]:
    """The tile arrays of a layer of that name, by the names of their matrices: of the only one, that of the layer."""
    return {f"{name}.{key}".strip("."): array for key, array in layer.arrays().items()}


def parameters(net: nn.Module) -> dict[str, nn.Parameter]:
    """Those of every adapter, by their names in a file of PEFT."""
    return {f"{PREFIX}{name}.lora_{x}.weight": p for name, c in adapters(net) for x, p in (("A", c.a), ("B", c.b))}


def save_adapters(net: nn.Module, folder: str | Path, base: str = "") -> None:
    """Write the adapters as PEFT's LoRA: adapter_config.json and adapter_model.safetensors. `PeftModel.from_pretrained(model,
    folder)` puts them on the torch model, `merge_and_unload` into its weights. `base` is the name of that model."""
    found = dict(adapters(net))
    if not found:
        raise MhoError("this network has no adapters; mho.adapt puts them on")
    folder, spec = Path(folder), next(iter(found.values())).spec
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: p.detach().clone() for k, p in parameters(net).items()}, str(folder / "adapter_model.safetensors"))
    about = {"peft_type": "LORA", "r": spec.rank, "lora_alpha": spec.alpha, "target_modules": sorted(found)}
    about |= {"base_model_name_or_path": base, "bias": "none", "inference_mode": True}
    about["rank_pattern"] = {n: c.spec.rank for n, c in found.items() if c.spec.rank != spec.rank}
    about["alpha_pattern"] = {n: c.spec.alpha for n, c in found.items() if c.spec.alpha != spec.alpha}
    (folder / "adapter_config.json").write_text(json.dumps(about, indent=1))


@torch.no_grad()
def load_adapters(net: nn.Module, folder: str | Path) -> None:
    """Put adapters of `save_adapters` or of PEFT on the layers that they name, in place of all that are there: those of other
    layers do nothing any more. Weights, scales and the chip stay. Raises `MhoError` for a folder that cannot be read or does not
    fit, or holds more than LoRA; then nothing has changed."""
    folder = Path(folder)
    try:
        about = json.loads((folder / "adapter_config.json").read_text())
        tensors = load_file(str(folder / "adapter_model.safetensors"))
        alpha, alphas = float(about["lora_alpha"]), dict(about.get("alpha_pattern") or {})
    except (OSError, ValueError, KeyError, SafetensorError) as e:
        raise MhoError(f"{folder} holds no adapters ({type(e).__name__}: {e})") from None
    if about.get("peft_type") != "LORA" or about.get("use_dora"):
        raise MhoError(f"{folder}: expected adapters of the type LORA, without use_dora")
    arrays = {n: a for name, m in net.named_modules() if isinstance(m, AnalogLayer) for n, a in matrix_names(name, m).items()}
    found: dict[str, tuple[Adapter, Tensor, Tensor]] = {}
    for name in sorted({k.removeprefix(PREFIX).rpartition(".lora_")[0] for k in tensors}):
        a, b = (tensors.pop(f"{PREFIX}{name}.lora_{x}.weight", torch.empty(0)) for x in "AB")
        shape = (arrays[name].matrix.outputs, arrays[name].matrix.inputs) if name in arrays else None
        if a.dim() != 2 or b.dim() != 2 or (len(b), a.shape[1]) != shape or len(a) != b.shape[1]:
            raise MhoError(f"{folder}: the adapter of {name!r} does not fit this network")
        scale = alphas.get(name, alpha) * (math.sqrt(len(a)) if about.get("use_rslora") else 1)
        found[name] = Adapter(rank=len(a), alpha=scale), a, b
    if tensors or alphas.keys() - found.keys():
        raise MhoError(f"{folder}: expected nothing but LoRA of named layers, got {', '.join(sorted({*tensors, *alphas}))}")
    for _, adapter in adapters(net):
        adapter.b.zero_()
    for name, (spec, a, b) in found.items():
        adapter = _put(arrays[name], spec)
        adapter.a.copy_(a)
        adapter.b.copy_(b)
