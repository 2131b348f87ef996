"""Where torch computes: one device per process, which networks, batches and chips follow. Tasks need not know of it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mho.ground import MhoError

if TYPE_CHECKING:
    import torch
    from torch import nn

_here: Any = None  # torch.device; None: the processor, and torch need not be imported to say so
_asked = "cpu"


def use(name: str) -> None:
    """Compute on `cpu`, `cuda`, `cuda:1`, `mps`, or on the accelerator that there is (`auto`), in this process. Of several that
    are alike and not numbered, every worker of a sweep and every rank takes its own. Raises `MhoError` for one that is not
    here."""
    global _here, _asked
    _here, _asked = None if name == "cpu" else chosen(name), name


def asked() -> str:
    """What `use` was told, for other processes that work for this one."""
    return _asked


def of_worker(number: int) -> str:
    """What to tell the process that is this one among several: of accelerators that are alike, each takes its own."""
    import torch

    here = current()
    return str(here) if here.type == "cpu" or ":" in _asked else f"{here.type}:{number % torch.accelerator.device_count()}"


def current() -> torch.device:
    """The device of this process."""
    import torch

    return torch.device("cpu") if _here is None else _here


def chosen(name: str) -> torch.device:
    """The device of that name."""
    import torch

    found = torch.accelerator.current_accelerator(check_available=True)
    if name == "auto":
        name = "cpu" if found is None else found.type
    try:
        wanted = torch.device(name)
    except RuntimeError:
        raise MhoError(f"--device {name}: expected cpu, cuda, cuda:N, mps or auto") from None
    if wanted.type == "cpu":
        return torch.device("cpu")
    count = torch.accelerator.device_count() if found is not None and found.type == wanted.type else 0
    if (wanted.index or 0) >= count:
        have = "no accelerator" if found is None else f"{torch.accelerator.device_count()} x {found.type}"
        raise MhoError(f"--device {name}: torch {torch.__version__} finds {have} on this machine; use cpu or auto")
    return wanted if wanted.index is not None or count == 1 else torch.device(wanted.type, _number() % count)


def _number() -> int:
    """Of this process among those that work side by side: a rank of torchrun, a worker of Dask or of joblib."""
    name: Any = os.environ.get("LOCAL_RANK", multiprocessing.current_process().name)  # LokyProcess-3
    if "distributed" in sys.modules:
        from distributed import get_worker

        with contextlib.suppress(ValueError):  # no worker of Dask
            name = get_worker().name
    ending = re.search(r"\d+$", str(name))
    return int(ending.group()) if ending else 0


def moved(batch: Any) -> Any:
    """A batch on the device of this process: whatever has a method `to`, in lists, tuples and mappings."""
    return batch.to(current()) if hasattr(batch, "to") else within(moved, batch)


def within(f: Callable[[Any], Any], batch: Any) -> Any:
    """A list, tuple or mapping with `f` of each of its parts; anything else as it is."""
    if isinstance(batch, Mapping):
        return {k: f(v) for k, v in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*map(f, batch))
    return type(batch)(map(f, batch)) if isinstance(batch, (list, tuple)) else batch


def placed(net: nn.Module) -> nn.Module:
    """A network on the device of this process. It takes inputs from anywhere, and gives its outputs where they came from: a task
    that scores it on the processor need not know."""
    if current().type != "cpu":
        follow = Follow()
        net.to(current()).register_forward_pre_hook(follow.before, prepend=True, with_kwargs=True)
        net.register_forward_hook(follow.after)
    return net


class Follow:
    """Moves what a network is given to the device, and what it returns back."""

    def before(self, net: nn.Module, args: Any, kwargs: Any) -> Any:
        from torch.utils._pytree import tree_leaves

        self.came = next((t.device for t in tree_leaves((args, kwargs)) if hasattr(t, "device")), current())
        return moved(args), moved(kwargs)

    def after(self, net: nn.Module, args: Any, output: Any) -> Any:
        from torch.utils._pytree import tree_map

        return None if self.came == current() else tree_map(lambda t: t.to(self.came) if hasattr(t, "to") else t, output)
