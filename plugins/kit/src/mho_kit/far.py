"""A device that no machine has: the whole life of a network on it, without values, on any machine.

Fake tensors (torch's `FakeTensorMode`) know shapes, types and devices. On a made-up device called `far`, whatever mixes devices,
looks at a value, makes a shape of one, or copies from the host raises, as it would stall an accelerator. A device of Python's
making (`torch.utils.backend_registration`, experimental) cannot be taken back, and ends its process badly: a process of its own
has it, for as long as somebody asks.
"""

import atexit
import functools
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import traceback
import unittest
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import mho
from mho.config import Kinded, parse, registry, write
from mho.ground import MhoError
from mho.tile import tile_arrays
from mho.use import age, attach, calibrate, program

FAR = "far"
EPOCH = 5  # optimizer steps
Specimen = tuple[nn.Module, tuple[Any, ...]]  # a converted network in single precision, and its inputs


class Answer(NamedTuple):
    """What goes wrong, or "" if nothing does; or why it cannot be tried."""

    problem: str = ""
    skipped: str = ""


# -- who asks ---------------------------------------------------------------------------------------------------
def answer(make: Callable[..., Specimen], *arguments: Any) -> Answer:
    """What goes wrong on the device with the network that `make(*arguments)` gives: a function at the top level of a module,
    arguments of plain data."""
    request = {"make": _described(make), "arguments": arguments, "plugins": [str(f) for f in registry.default().files]}
    worker = _worker()
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdin.write(json.dumps(request) + "\n")
    worker.stdin.flush()
    if not (line := worker.stdout.readline()):
        _worker.cache_clear()
        raise MhoError("the process of the fake device has died; what it said stands above")
    return Answer(*json.loads(line))


def answer_for(part: Kinded | type, tile: str = "") -> Answer:
    """The same for a part of a plugin in its place, as its contract in the kit makes it."""
    cls = type(part) if isinstance(part, Kinded) else part
    if cls.__module__ not in sys.modules or "<" in cls.__qualname__ or not getattr(sys.modules[cls.__module__], "__file__", None):
        return Answer(skipped=f"{cls.__qualname__} cannot be imported by another process; write it at the top level of a file")
    return answer(specimen_of, _described(cls), part.model_dump(mode="json") if isinstance(part, Kinded) else None, tile)


def _described(thing: Any) -> tuple[str, str, str]:
    file = getattr(sys.modules[thing.__module__], "__file__", None) or ""
    return thing.__module__, str(Path(file).resolve()), thing.__qualname__


@functools.cache
def _worker() -> subprocess.Popen[str]:
    start = [sys.executable, "-c", "from mho_kit.far import serve; serve()"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(start, **pipes, env={**os.environ, "OMP_NUM_THREADS": "1"})  # noqa: S603 (ourselves)
    atexit.register(process.kill)
    return process


# -- who answers ------------------------------------------------------------------------------------------------
def serve() -> None:
    """Answer each line of stdin, a request, with a line."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        warnings.simplefilter("ignore")
        lacking = _missing()
        for line in sys.stdin:
            out.write(json.dumps(_answered(json.loads(line), lacking)) + "\n")
            out.flush()
    os._exit(0)  # threads of the device would outlive Python


def _missing() -> str:
    """Make the device; why that cannot be done here."""
    try:
        from torch.utils.backend_registration import (
            _DummyBackendModule as Module,
            _setup_privateuseone_for_python_backend as register,
        )
    except ImportError as why:
        return f"torch {torch.__version__} makes no device in Python ({why})"

    class Device(Module):
        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16]

    register(FAR, Device())
    return ""


def _answered(request: dict[str, Any], lacking: str) -> Answer:
    if lacking:
        return Answer(skipped=lacking)
    try:
        with registry.using(_with_files(*request["plugins"])):
            return Answer(problem_with(*_found(*request["make"])(*request["arguments"])))
    except (unittest.SkipTest, ImportError) as why:
        return Answer(skipped=str(why))
    except Exception as error:
        return Answer(f"nothing can be tried: its network {_told(error)}")


@functools.cache
def _with_files(*files: str) -> registry.Registry:
    """What is installed and in these files: others, which somebody else has asked about, may provide the same kinds."""
    made = registry.Registry()
    for file in files:
        made.load_file(file)
    return made


def _found(module: str, file: str, name: str) -> Any:
    """What `_described` described; a module that is not on the path of this process comes from its file."""
    try:
        found: Any = importlib.import_module(module)
    except ImportError:
        spec = importlib.util.spec_from_file_location(module, file)
        assert spec is not None and spec.loader is not None
        found = sys.modules[module] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found)
    return functools.reduce(getattr, name.split("."), found)


def specimen_of(described: tuple[str, str, str], values: dict[str, Any] | None, tile: str) -> Specimen:
    """The network of a contract, for the part that has this class and these fields."""
    from mho_kit.outcomes import contract_of

    cls = _found(*described)
    part = cls if values is None else cls.model_validate(parse(write(values), cls.__name__).data)
    made: Specimen = contract_of(part, tile=tile)().specimen()
    return made


# -- a network on the device ------------------------------------------------------------------------------------
class Waits(Exception):  # noqa: N818 (it is what happens)
    """What would stall an accelerator."""


class Watch(TorchDispatchMode):
    """Sees every operation. While it is `strict`, nothing may wait for the device or come from the host; before, a look at a
    value gives 1."""

    strict = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, aten = kwargs or {}, torch.ops.aten
        tensors = tensors_in((args, kwargs))
        if func in (aten._local_scalar_dense.default, aten.allclose.default, aten.equal.default):
            if any(t.device.type == FAR for t in tensors):
                self._refuse("looks at a value (.item(), bool(), float(), allclose, if), so it waits for the device")
            plain = func is aten._local_scalar_dense.default and tensors[0].dtype != torch.bool
            return (1.0 if tensors[0].is_floating_point() else 1) if plain else True
        on = [t.device.type for t in tensors]
        if func is aten._to_copy.default and (to := kwargs.get("device")) is not None:
            on.append(torch.device(to).type)
        moves = func in (aten._to_copy.default, aten.copy_.default, aten.index.Tensor, aten.index_put_.default)
        if moves and FAR in on and "cpu" in on and any(t.dim() for t in tensors if t.device.type == "cpu" or len(on) == 2):
            gone = func is aten._to_copy.default and on[0] == FAR
            self._refuse("copies to the host, so it waits for the device" if gone else "copies from the host")
        if (
            func is aten.index_put_.default
            and args[2].numel() > 1
            and any(t is not None and t.dtype == torch.bool for t in args[1])
        ):
            self._refuse("writes where a mask is true, which counts them on the host; use torch.where")
        return func(*args, **kwargs)

    def _refuse(self, what: str) -> None:
        if self.strict:
            raise Waits(what)


def tensors_in(values: Any) -> list[Tensor]:
    """The tensors among what a layer takes or returns."""
    return [t for t in tree_leaves(values) if isinstance(t, Tensor)]


def problem_with(net: nn.Module, inputs: tuple[Any, ...]) -> str:
    """Calibrate, train, program and age a network on the device, twice; the second time nothing may wait."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    said = "moving"
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), Watch() as watch, _one_net(net):
            on_device = tuple(_moved(i).requires_grad_(i.is_floating_point()) if isinstance(i, Tensor) else i for i in inputs)
            optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
            for watch.strict in (False, True):
                for what, begun in _life(net, on_device, optimizer, first=not watch.strict):
                    said = what
                    begun()
    except Exception as error:
        return f"{said} {_told(error)}"
    return ""


def _life(
    net: nn.Module, inputs: tuple[Any, ...], optimizer: torch.optim.Optimizer, first: bool
) -> Iterator[tuple[str, Callable[[], Any]]]:
    def loss() -> Tensor:
        found = tensors_in(net(*inputs))
        assert all(t.device.type == FAR for t in found), f"outputs are on {[str(t.device) for t in found]}"
        return torch.stack([t.square().mean() for t in found]).sum()

    if first:
        yield "calibration", lambda: calibrate(net, [inputs], forward=lambda net, batch: net(*batch))
        yield "attach", lambda: attach(optimizer, net, steps_per_epoch=EPOCH)
    net.train()
    yield "a training step's forward", lambda: loss().backward()
    yield "an optimizer step", optimizer.step
    optimizer.zero_grad()
    net.eval()
    yield "a forward", torch.no_grad()(loss)
    yield "programming", lambda: program(net, seed=0)
    yield "a forward on a chip", torch.no_grad()(loss)
    yield "ageing", lambda: age(net, "1 h")
    yield "gradients on a chip", lambda: loss().backward()


@contextmanager
def _one_net(net: nn.Module) -> Iterator[None]:
    """All that a network holds goes to the device; parameters that are shared stay shared."""
    memo: dict[int, tuple[Tensor, Tensor]] = {}
    for module in net.modules():
        for held in (module._parameters, module._buffers, vars(module)):
            for name, t in held.items():
                if isinstance(t, Tensor):
                    _, held[name] = memo.setdefault(id(t), (t, _moved(t)))
    assert all(a.device.type == FAR for a in tile_arrays(net))
    yield


def _moved(t: Tensor) -> Tensor:
    new = t.detach().to(FAR)
    return nn.Parameter(new, t.requires_grad) if isinstance(t, nn.Parameter) else new


def _told(error: Exception) -> str:
    """What an error says, and at which line outside of torch and of here."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_of(torch, f.filename) and f.filename != __file__]
    where = next((f for f in reversed(frames) if not _is_of(mho, f.filename)), frames[-1] if frames else None)
    place = "" if where is None else f" at {Path(where.filename).name}:{where.lineno}, {where.name}: {where.line}"
    if isinstance(error, Waits):
        what = str(error)
    elif type(error).__name__ == "DynamicOutputShapeException":
        what = f"makes a shape of values ({error}), so it waits for the device"
    else:
        what = f"raises {type(error).__name__} ({str(error).splitlines()[0] if str(error) else ''})"
    return what + place


def _is_of(package: ModuleType, file: str) -> bool:
    return Path(package.__file__ or "").parent in Path(file).parents
