"""Nested state (of a training: networks, optimizers, generators) as one safetensors file: tensors, and the rest as JSON."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mho.ground import MhoError, write_atomically

Tensors = dict[str, Tensor]


def keep_state(state: Any, file: Path) -> None:
    """Write dicts, lists, tuples, tensors and plain values. Raises `MhoError` for anything else in them, and where the file
    cannot be written."""
    tensors: Tensors = {}
    text = json.dumps(_packed(state, tensors))
    write_atomically(file, lambda part: save_file(tensors, str(part), metadata={"state": text}))


def kept_state(file: Path) -> Any:
    """What `keep_state` has written, its tensors on the CPU. Raises `MhoError` for any other file."""
    try:
        with safe_open(str(file), "pt") as f:
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 (not a dict)
            return _unpacked(json.loads(f.metadata()["state"]), tensors)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise MhoError(f"cannot go on from {file} ({error}); remove it, and run again") from None


def _packed(value: Any, tensors: Tensors) -> Any:
    """JSON in which a list stands for everything that has parts: its type, then the parts."""
    if isinstance(value, Tensor):
        tensors[name := str(len(tensors))] = value.detach().to("cpu", copy=True).contiguous()
        return ["tensor", name]
    if isinstance(value, dict):
        return ["dict", *([_packed(k, tensors), _packed(v, tensors)] for k, v in value.items())]
    if isinstance(value, (list, tuple)):
        return ["tuple" if isinstance(value, tuple) else "list", *(_packed(v, tensors) for v in value)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise MhoError(f"a training keeps tensors and plain values between epochs, and no {type(value).__name__}: {value!r}")


def _unpacked(value: Any, tensors: Tensors) -> Any:
    if not isinstance(value, list):
        return value
    what, *parts = value
    match what:
        case "tensor":
            return tensors[parts[0]]
        case "dict":
            return {_unpacked(k, tensors): _unpacked(v, tensors) for k, v in parts}
    found = [_unpacked(v, tensors) for v in parts]
    return tuple(found) if what == "tuple" else found
