"""Measure one item, in whatever process: this is what workers run."""

import contextlib
import copy
import faulthandler
import functools
import importlib
import importlib.util
import json
import os
import platform
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mho.ground import MhoError, write_atomically
from mho_lab.measure.state import Item, Record, State

Measure = Callable[[Item], dict[str, Any]]

_ONE = threading.Lock()  # torch has one random generator and one number of threads per process, so one item at a time
_here: Path | None = None
_loaded: set[str] = set()


def folder() -> Path:
    """The folder of the sweep that is measuring now; measure functions keep there what several items share."""
    if _here is None:
        raise MhoError("mho.sweep.folder() is for measure functions, while a sweep runs them")
    return _here


def describe(measure: Measure) -> dict[str, str]:
    """How another process finds a function."""
    module, name = getattr(measure, "__module__", ""), getattr(measure, "__qualname__", "")
    if module in ("", "__main__") or "<" in name or not name:
        raise MhoError(
            f"a sweep's workers import its measure function, and {module}.{name} cannot be imported; "
            "write it at the top level of a module"
        )
    return {"name": f"{module}:{name}", "file": str(Path(sys.modules[module].__file__ or "").resolve())}


def find(described: dict[str, str]) -> Measure:
    """The function that `describe` described."""
    module, _, name = described["name"].partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not (module + ".").startswith(error.name + "."):
            raise  # the module is there, something that it needs is not
        found = _from_file(module, described["file"])
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _from_file(module: str, file: str) -> Any:
    """A module that is not on the path of this process."""
    spec = importlib.util.spec_from_file_location(module, file)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"no module {module} and no file {file}")
    made = importlib.util.module_from_spec(spec)
    sys.modules[module] = made
    spec.loader.exec_module(made)
    return made


def do(task: dict[str, Any]) -> None:
    """Measure the item of a task and write its result, or what it raised. Only the process's death is left unwritten: its
    mark in running/ stays."""
    global _here  # noqa: PLW0603 (what `folder` gives)
    with _ONE:
        if os.getppid() == task["driver"]:  # not the worker of a cluster, which has a life of its own
            follow(task["driver"])
        state, key = State(Path(task["folder"])), task["key"]
        if state.done(key):
            return
        _here = state.folder
        write_atomically(state.running(key), json.dumps({"pid": os.getpid(), "host": platform.node(), "started": _now()}))
        try:
            _measure(task, state)
        finally:
            _here = None
            state.clear_running(key)


def _measure(task: dict[str, Any], state: State) -> None:
    start, began, key = time.perf_counter(), _now(), task["key"]
    record: Record = {"key": key, "measure": task["measure"]["name"], "item": task["item"]}
    try:
        _prepare(task)
        function = find(task["measure"])
        with _same_everywhere(key), _limited(state.trace(key), task["timeout"]):
            value = function(copy.deepcopy(task["item"]))
        record |= {"status": "done", "value": json.loads(json.dumps(value))}
    except (Exception, SystemExit) as error:
        told = {"type": type(error).__name__, "message": str(error), "traceback": traceback.format_exc()}
        record |= {"status": "mistake" if isinstance(error, MhoError) else "raised", "error": told}
    record["provenance"] = {
        "started": began,
        "seconds": time.perf_counter() - start,
        "host": platform.node(),
        "pid": os.getpid(),
        "executor": task["executor"],
        "identity": task["identity"],
    }
    if "error" in record:
        state.fail(key, record)
        return
    write_atomically(state.result(key), json.dumps(record, indent=1), keep=True)
    state.failure(key).unlink(missing_ok=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _prepare(task: dict[str, Any]) -> None:
    """The same search path and plugin files as in the driver."""
    sys.path.extend(p for p in task["path"] if p not in sys.path)
    if os.getpid() == task["driver"]:
        return
    from mho.config import registry
    from mho_lab import devices

    devices.use(task["device"])
    for file in task["plugins"]:
        if file not in _loaded:
            registry.load_file(file)
            _loaded.add(file)


@contextlib.contextmanager
def _same_everywhere(key: str) -> Iterator[None]:
    """One torch thread, and torch's generator seeded by the key: the numbers do not depend on where and in which order an
    item is measured. Threads and generator are as before afterwards."""
    import torch

    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.set_num_threads(1)
        torch.default_generator.manual_seed(int(key[:15], 16))
        try:
            yield
        finally:
            torch.set_num_threads(threads)


@contextlib.contextmanager
def _limited(trace: Path, timeout: float | None) -> Iterator[None]:
    """After `timeout` seconds this process writes where it hangs and ends, even if Python itself hangs. Importing torch and
    the function does not count."""
    if timeout is None:
        yield
        return
    with trace.open("w") as file:
        faulthandler.dump_traceback_later(timeout, exit=True, file=file)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


@functools.cache
def follow(driver: int, folder: str = ".") -> None:
    """Work in the driver's folder, and end this process when it is gone: nobody waits for its results any more."""
    if os.getpid() == driver:
        return
    os.chdir(folder)

    def watch() -> None:
        while os.getppid() == driver:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="mho-sweep-driver").start()


def serve(driver: int) -> None:
    """Answer each line of stdin, a task, with a line once it is done: what went wrong with its folder, or nothing. What tasks
    print goes to stderr."""
    follow(driver)
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        for line in sys.stdin:
            said = ""
            try:
                do(json.loads(line))
            except MhoError as error:
                said = str(error)
            out.write(json.dumps(said) + "\n")
            out.flush()
