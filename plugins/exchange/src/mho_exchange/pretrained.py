"""Networks as folders: safetensors, the hardware file and versions."""

import json
import sys
from functools import reduce
from pathlib import Path
from typing import Any

from torch import nn

import mho
from mho.config import load, registry
from mho.ground import MhoError, write_atomically
from mho.use import load_model, save_model, session_of, to_analog

WEIGHTS, HARDWARE, ABOUT = "model.safetensors", "hardware.yaml", "mho.json"


def save_pretrained(net: nn.Module, folder: str | Path, arguments: dict[str, Any] | None = None) -> Path:
    """Write a network on tiles to a folder that `load_pretrained` makes it of again: model.safetensors, hardware.yaml and
    mho.json (versions; the network's class, and the `arguments` that it is made with, as JSON). Nothing is pickled; a chip
    that is on is not kept (`Chip.save` does). Raises `MhoError` for a network without analog layers."""
    folder, hardware = Path(folder), session_of(net).hardware
    if hardware is None:
        raise MhoError("this network has no analog layers; keep it with mho.save_model")
    versions = {p.distribution: p.version for p in registry.providers() if p.version} | {"mho": mho.__version__}
    about = {"class": [type(net).__module__, type(net).__qualname__], "arguments": arguments or {}, "versions": versions}
    write_atomically(folder / ABOUT, json.dumps(about, indent=1))
    write_atomically(folder / HARDWARE, hardware.to_yaml())
    save_model(net, folder / WEIGHTS)
    return folder


def load_pretrained(folder: str | Path, model: nn.Module | None = None) -> nn.Module:
    """The network on tiles that `save_pretrained` has written, in eval mode: `model`, a torch model of the same
    architecture, or the recorded class with its recorded arguments, on the recorded hardware, with the recorded weights.
    A folder never makes Python import anything: the class must have been imported already. Raises `MhoError` where the class is
    not known or cannot be made like this, or the files are missing, damaged or do not fit."""
    folder = Path(folder)
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        (module, name), arguments, versions = about["class"], about["arguments"], about["versions"]
        cls = model or reduce(lambda at, part: getattr(at, part, None), name.split("."), sys.modules.get(module))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise MhoError(f"{folder} was not written by mho.save_pretrained: {type(e).__name__}: {e}") from None
    if model is None and not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise MhoError(
            f"{folder} holds a {module}.{name}: import {module} first, or give the model: load_pretrained(folder, model)"
        )
    try:
        net = to_analog(cls(**arguments) if model is None else model, load(folder / HARDWARE))
        return load_model(net, folder / WEIGHTS).eval()
    except (MhoError, TypeError) as e:
        raise MhoError(f"{folder}, written with {versions}, as {module}.{name}(**{arguments}): {e}") from None
