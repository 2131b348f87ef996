"""Save and load trained networks as safetensors: weights and scales, with the hardware they were trained for."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_model as _save
from torch import Tensor, nn
from torch.utils import swap_tensors

import mho
from mho.ground import MhoError, write_atomically
from mho.tile import Layout, TileArray, parallel
from mho.use.chip import session_of


def save_model(net: nn.Module, path: str | Path) -> None:
    """Write the state of a network (analog or not) to a safetensors file; the resolved hardware travels as text.
    One that is sharded (FSDP2) is gathered, and written by the first rank: every rank calls this.
    Raises `MhoError` where it cannot be written; a file that was there stays whole then."""
    about = {"mho": mho.__version__, "hardware": hw.to_yaml() if (hw := session_of(net).hardware) is not None else None}
    with parallel.whole(net) as mine:
        if mine:
            write_atomically(Path(path), lambda part: _save(net, str(part), metadata={"mho": json.dumps(about)}))


def load_model(net: nn.Module, path: str | Path, device: str | torch.device = "cpu") -> nn.Module:
    """Load a file of `save_model`, or any safetensors file of the plain torch model, into `net`. Its hardware stays what it
    is: a checkpoint never changes your configuration. Of a model in several files, `path` is the index
    (`model.safetensors.index.json`); each is let go when its last value is at its place. What lies on `meta` comes to `device`.
    Raises `MhoError` for a file that cannot be read or does not fit, and for what lies on `meta` and is in no file."""
    path = Path(path)
    try:
        listed = json.loads(path.read_text())["weight_map"].values() if path.suffix == ".json" else [path.name]
        state = {name: value for file in sorted({*listed}) for name, value in load_file(str(path.parent / file)).items()}
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, AttributeError) as e:
        raise MhoError(f"cannot read {path}: {e}") from None
    memory = {name: value.untyped_storage()._cdata for name, value in net.state_dict(keep_vars=True).items()}
    loaded = {memory[name] for name in memory.keys() & state.keys()}  # by one name or another
    for module in net.modules():  # what these hold follows from the hardware file
        if isinstance(module, (Layout, TileArray)) and any(b.is_meta for b in module.buffers(recurse=False)):
            module.to_empty(device=device, recurse=False)
    held = [(name, t) for name, t in (*net.named_parameters(), *net.named_buffers()) if t.is_meta]
    if lost := [name for name, _ in held if memory.get(name) not in loaded]:
        raise MhoError(f"no file has a value for {', '.join(lost)}, on meta: make off meta what a model computes itself")
    for _, t in held:
        new = torch.empty_like(t, device=device)
        swap_tensors(t, nn.Parameter(new, t.requires_grad) if isinstance(t, nn.Parameter) else new)
    found: list[list[str]] = [[], [], []]
    _load(net, state, "", found)
    lacking = [f"it lacks {name}" for name in sorted(found[0]) if memory.get(name) not in loaded]
    if problems := [*(f"it has no {name}" for name in found[1]), *lacking, *found[2]]:
        raise MhoError(f"{path} does not fit this {type(net).__name__}: {'; '.join(problems)}")
    return net


def _load(net: nn.Module, state: dict[str, Tensor], prefix: str, found: list[list[str]]) -> None:
    """What `load_state_dict` does, which looks at every name once for each child: here once for each level. Empties `state`;
    `found` are names that are missing, and too much, and other errors."""
    net._load_from_state_dict(state, prefix, {}, True, *found)
    of_child: dict[str, dict[str, Tensor]] = {}
    for name in list(state):
        of_child.setdefault(name.removeprefix(prefix).partition(".")[0], {})[name] = state.pop(name)
    for name, child in ((n, m) for n, m in net._modules.items() if m is not None):
        _load(child, of_child.pop(name, {}), f"{prefix}{name}.", found)
    for hook in net._load_state_dict_post_hooks.values():
        hook(net, nn.modules.module._IncompatibleKeys(*found[:2]))
