"""Functions that sweeps of these tests measure: well-behaved ones and ones that raise, hang or kill their process."""

import os
import signal
import time
from pathlib import Path

import torch
from mho_lab.sweep import folder

from mho.ground.errors import MhoError


def draw(item):
    """Depends on torch's generator, and takes a moment."""
    time.sleep(item.get("seconds", 0))
    x = torch.randn(64, 64)
    return {"threads": torch.get_num_threads(), "mean": float((x @ x).mean()), "square": item["n"] ** 2}


def count(item):
    """Leaves a trace of every call."""
    (folder() / f"call-{item['n']}-{time.time_ns()}").touch()
    return {"n": item["n"]}


def table_of(item):
    return {"kind": "long", "rows": [{"time": t, "score": item["n"] + t} for t in (1.0, 2.0)]}


def raise_sometimes(item):
    if item["n"] == 2:
        raise ValueError("two is too much")
    return {"n": item["n"]}


def raise_once(item):
    """The first call raises, a second one, apart, succeeds."""
    flag = Path(item["flags"]) / f"{item['n']}"
    if not flag.exists():
        flag.touch()
        raise RuntimeError("the first call")
    return {"n": item["n"]}


def refuse(item):
    raise MhoError("no such layer")


def die(item):
    if item["n"] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"n": item["n"]}


def hang(item):
    if item["n"] == 2:
        time.sleep(1000)
    return {"n": item["n"]}


def not_data(item):
    return {"tensor": torch.ones(2)}


def plugin_kinds(item):
    from mho.config import registry

    return {"kinds": sorted(registry.kinds("nonideality"))}
