"""Save and load trained networks as safetensors: weights and scales, with the hardware they were trained for."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model as _load, save_model as _save
from torch import nn

import mho
from mho.ground import MhoError, write_atomically
from mho.use.chip import session_of


def save_model(net: nn.Module, path: str | Path) -> None:
    """Write the state of a network (analog or not) to a safetensors file; the resolved hardware travels as text.
    Raises `MhoError` where it cannot be written; a file that was there stays whole then."""
    hardware = session_of(net).hardware
    about = {"mho": mho.__version__, "hardware": hardware.to_yaml() if hardware is not None else None}
    write_atomically(Path(path), lambda part: _save(net, str(part), metadata={"mho": json.dumps(about)}))


def load_model(net: nn.Module, path: str | Path) -> nn.Module:
    """Load a file of `save_model`, or any safetensors file of the plain torch model, into `net`. Its hardware stays what it
    is: a checkpoint never changes your configuration. Raises `MhoError` for a file that cannot be read or does not fit."""
    try:
        with safe_open(str(path), "pt"):
            pass
        _load(net, str(path))
    except (OSError, SafetensorError) as e:
        raise MhoError(f"cannot read {path}: {e}") from None
    except RuntimeError as e:
        raise MhoError(f"{path} does not fit this {type(net).__name__}: {e}") from None
    return net
