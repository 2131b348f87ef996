"""Models of aihwkit and aihwkit-lightning: weights, input ranges and scales of their state dicts, on a network of mho."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mho.ground import MhoError
from mho.layers import AnalogLayer
from mho.tile import TileArray

# How aihwkit calls the weights of one tile, the most direct first.
WEIGHTS = ("tile.weight", "analog_tile_state.analog_tile_weights", "shared_weights", "analog_ctx")
TILE = re.compile(r"analog_module\.(?:array\.(\d+)\.(\d+)\.)?(.+)")  # row tile and tile beside it, of several; what


class Read(NamedTuple):
    """One layer as it was saved: W = w γ s (weights of the tiles, mapping scales, learned output scales)."""

    weight: Tensor  # [out, in] w γ
    bias: Tensor | None
    ranges: Tensor | None  # [tile]
    gamma: Tensor | None  # [tile, out]
    scale: Tensor | None  # [tile, out]


def load_aihwkit(net: nn.Module, source: Mapping[str, Any] | str | Path) -> list[str]:
    """Load a model of aihwkit or aihwkit-lightning into `net`, the same architecture on tiles: weights, biases, input ranges,
    mapping scales and learned output scales, and what is digital. Returns the names of what found no place.

    `source` is a state dict, a .safetensors file, or a file of `torch.save`, of which tensors are read and no code is ever
    unpickled; where an aihwkit checkpoint holds its configuration as objects, that is an error which says how to save
    plain tensors. Raises `MhoError` for a layer on tiles that is missing or does not fit, and for input ranges on other tiles.
    """
    state = _flat(source if isinstance(source, Mapping) else _loaded(Path(source)))
    used: set[str] = set()
    for name, layer in net.named_modules():
        if isinstance(layer, AnalogLayer) and isinstance(layer.tiles, TileArray):
            _put(layer, name, _read(state, f"{name}." if name else "", used, name))
        elif isinstance(layer, AnalogLayer):
            raise MhoError(f"layer {name!r}: {layer.torch_class.__name__} holds several matrices, which this does not read")
    rest = {k: v for k, v in net.state_dict().items() if k in state and k not in used}
    for name, tensor in rest.items():
        if tensor.shape != state[name].shape:
            raise MhoError(f"{name}: {tuple(state[name].shape)} there, {tuple(tensor.shape)} here")
        tensor.copy_(state[name])
    return sorted(state.keys() - used - rest.keys())


def _loaded(file: Path) -> Mapping[str, Any]:
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(str(file))
        found = torch.load(file, weights_only=True, map_location="cpu")
    except Exception as e:
        raise MhoError(
            f"cannot read {file} without running code from it ({str(e).splitlines()[0]}); in aihwkit save plain tensors: "
            "safetensors.torch.save_file({k + ('.analog_tile_weights' if isinstance(v, dict) else ''): "
            "torch.as_tensor(v['analog_tile_weights'] if isinstance(v, dict) else v).clone() "
            "for k, v in model.state_dict().items() if v is not None and not k.endswith('analog_ctx')}, 'model.safetensors')"
        ) from None
    return found if isinstance(found, Mapping) else {}


def _flat(state: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    """All tensors (and arrays) with dotted names."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        elif hasattr(value, "shape"):
            found[f"{prefix}{name}"] = torch.as_tensor(value).detach()
    return found


def _read(state: dict[str, Tensor], prefix: str, used: set[str], name: str) -> Read:
    """The layer under a prefix, in either tool's names; `used` is told what was read."""
    mine = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    used |= {prefix + k for k in mine if k.startswith("analog_module.") or "." not in k}
    if "weight" in mine:  # lightning: a torch layer with input ranges
        return Read(mine["weight"].flatten(1), mine.get("bias"), mine.get("input_range"), None, None)
    tiles: dict[tuple[int, int], dict[str, Tensor]] = {}
    for k, v in mine.items():
        if at := TILE.match(k):
            tiles.setdefault((int(at[1] or 0), int(at[2] or 0)), {})[at[3]] = v
    if not tiles:
        raise MhoError(f"the model there has no layer {name!r}; it has {', '.join(sorted({k.partition('.')[0] for k in state}))}")
    bias = mine.get("bias", mine.get("analog_module.bias"))
    down, across = (1 + max(at[i] for at in tiles) for i in (0, 1))
    rows = [[_tile(tiles.get((i, j), {}), name) for j in range(across)] for i in range(down)]
    if bias is None and down == across == 1:
        bias = tiles[0, 0].get("bias")
    ranges = [torch.stack([t["range"] for t in row]) for row in rows if all(t["range"] is not None for t in row)]
    if any((r != r[0]).any() for r in ranges):
        raise MhoError(f"layer {name!r}: tiles side by side have input ranges of their own there; mho has one for their rows")
    gamma, scale = (torch.stack([torch.cat([t[n] for t in row]) for row in rows]) for n in ("gamma", "scale"))
    weight = torch.cat([torch.cat([t["w"] * t["gamma"][:, None] for t in row]) for row in rows], 1)
    return Read(weight, bias, torch.stack([r[0] for r in ranges]).flatten() if len(ranges) == down else None, gamma, scale)


def _tile(tile: dict[str, Tensor], name: str) -> dict[str, Any]:
    """Weights, scales and input range of one tile."""
    w = next((tile[k] for k in WEIGHTS if k in tile and tile[k].dim() == 2), None)
    if w is None:
        raise MhoError(
            f"layer {name!r}: no weights under any of the names {', '.join(WEIGHTS)}; it has {', '.join(tile) or 'none'}"
        )
    one = torch.ones(len(w))
    gamma, scale = (tile.get(n, one).flatten().expand(len(w)) for n in ("mapping_scales", "out_scaling_alpha"))
    ranges = tile.get("input_range")
    return {"w": w, "gamma": gamma, "scale": scale, "range": None if ranges is None else ranges.flatten()[0]}


@torch.no_grad()
def _put(layer: AnalogLayer, name: str, read: Read) -> None:
    array, shape = layer.tiles, (layer.tiles.layout.out_features, layer.matrix.shape[-1])
    if read.weight.shape != shape:
        said = "; is the bias on the tiles there (digital_bias off)?" if read.weight.shape[1] == shape[1] + 1 else ""
        raise MhoError(f"layer {name!r}: a matrix of {tuple(read.weight.shape)} there, of {shape} here{said}")
    if (read.bias is None) != (layer.bias is None):
        raise MhoError(f"layer {name!r}: a bias {'here only' if read.bias is None else 'there only'}")
    layer.matrix.copy_(read.weight.view_as(layer.matrix))
    if read.bias is not None:
        layer.bias.copy_(read.bias)
    array.remap(layer.matrix)
    array.scale_unit.fill_(1.0)
    array.kappa.copy_(array.kappa_unit)
    ranges = read.ranges if array.learns_range else None
    if read.ranges is not None and ranges is None:
        array.session.say("range", f"layer {name!r} keeps the input range of the hardware file; range: learned loads it")
    for own, theirs in ((array.input_range, ranges), (array.gamma, read.gamma), (array.out_scale, read.scale)):
        if theirs is None:
            continue
        if len(theirs) != len(own):
            raise MhoError(
                f"layer {name!r}: its inputs lie on {len(theirs)} tiles there, on {len(own)} here; give tiles as many rows"
            )
        own.copy_(theirs.reshape(own.shape))
    if array.training_spec.auto_scale:
        array.auto_scale()
