"""Save and load trained networks as safetensors: weights and scales, with the hardware they were trained for."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_model as _save
from torch import Tensor, nn
from torch.nn.modules.module import _IncompatibleKeys
from torch.utils import swap_tensors

import mho
from mho.ground import MhoError, write_atomically
from mho.tile import Layout, TileArray
from mho.use.chip import session_of


def save_model(net: nn.Module, path: str | Path) -> None:
    """Write the state of a network (analog or not) to a safetensors file; the resolved hardware travels as text.
    Raises `MhoError` where it cannot be written; a file that was there stays whole then."""
    hardware = session_of(net).hardware
    about = {"mho": mho.__version__, "hardware": hardware.to_yaml() if hardware is not None else None}
    write_atomically(Path(path), lambda part: _save(net, str(part), metadata={"mho": json.dumps(about)}))


def load_model(net: nn.Module, path: str | Path, device: Any = "cpu") -> nn.Module:
    """Load a file of `save_model`, or any safetensors file of the plain torch model, into `net`. Its hardware stays what it
    is: a checkpoint never changes your configuration. Of a model in several files, `path` is the index
    (`model.safetensors.index.json`); each is let go when its last value is at its place. What lies on `meta` comes to `device`.
    Raises `MhoError` for a file that cannot be read or does not fit, and for what lies on `meta` and is in no file."""
    try:
        state = {name: value for file in _files(Path(path)) for name, value in load_file(str(file)).items()}
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, AttributeError) as e:
        raise MhoError(f"cannot read {path}: {e}") from None
    at = defaultdict[int, set[str]](set)  # names of what shares memory
    for name, value in net.state_dict(keep_vars=True).items():
        at[value.untyped_storage()._cdata if isinstance(value, Tensor) else id(value)].add(name)
    given = {name for names in at.values() if any(n in state for n in names) for name in names}
    _leave_meta(net, given, device)
    missing: list[str] = []
    problems: list[str] = []
    _load(net, state, "", missing, problems)
    problems += [f"it lacks {name}" for name in sorted({*missing} - given)]
    if problems:
        raise MhoError(f"{path} does not fit this {type(net).__name__}: {'; '.join(problems)}")
    return net


def _files(path: Path) -> list[Path]:
    """Those that hold the state; an index says which."""
    if path.suffix != ".json":
        return [path]
    return [path.parent / file for file in sorted(set(json.loads(path.read_text())["weight_map"].values()))]


def _leave_meta(net: nn.Module, given: set[str], device: Any) -> None:
    """Memory on `device` for what lies on `meta`; what is shared stays shared. Raises `MhoError` where no value comes."""
    for module in net.modules():  # what these hold follows from the hardware file
        if isinstance(module, (Layout, TileArray)) and any(b.is_meta for b in module.buffers(recurse=False)):
            module.to_empty(device=device, recurse=False)
    held = [*net.named_parameters(), *net.named_buffers()]
    if lost := [name for name, t in held if t.is_meta and name not in given]:
        raise MhoError(f"no file has a value for {', '.join(lost)}, on meta: make off meta what a model computes itself")
    for t in (t for _, t in held if t.is_meta):
        new = torch.empty_like(t, device=device)
        swap_tensors(t, nn.Parameter(new, t.requires_grad) if isinstance(t, nn.Parameter) else new)


def _load(net: nn.Module, state: dict[str, Tensor], prefix: str, missing: list[str], problems: list[str]) -> None:
    """What `load_state_dict` does, which looks at every name once for each child: here once for each level. Empties `state`."""
    unexpected: list[str] = []
    net._load_from_state_dict(state, prefix, {}, True, missing, unexpected, problems)
    problems += [f"it has no {name}" for name in unexpected]
    of_child = defaultdict[str, dict[str, Tensor]](dict)
    for name in list(state):
        of_child[name.removeprefix(prefix).partition(".")[0]][name] = state.pop(name)
    for name, child in net._modules.items():
        if child is not None:
            _load(child, of_child.pop(name, {}), f"{prefix}{name}.", missing, problems)
    for hook in net._load_state_dict_post_hooks.values():
        hook(net, _IncompatibleKeys(missing, unexpected))
