"""The sweep engine: measure every item once, and let no item stop the others.

The key of a result is a hash of the item, the measure function and an `identity` (everything else that it depends on).
Each result is one file, written whole; running again measures what has no result yet, and only that.
"""

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mho.config import registry
from mho.ground import MhoError
from mho_lab.devices import asked
from mho_lab.measure import pools, work
from mho_lab.measure.identity import OURS, digest, files_of
from mho_lab.measure.state import TRIES, Item, Record, State, need_plans
from mho_lab.measure.work import Measure

FRUITLESS = 3  # times that workers may die before they have even begun a task


def run(
    items: Iterable[Item],
    measure: Measure,
    folder: str | Path,
    executor: str = "serial",
    *,
    shard: tuple[int, int] | None = None,
    only: Callable[[Item], bool] | None = None,
    identity: dict[str, Any] | None = None,
    workers: int | None = None,
    timeout: float | None = None,
    progress: bool = False,
) -> list[Record]:
    """Measure every item that has no result in `folder` yet, and return the records of all, in order.

    items      dicts of plain data; equal ones are measured once
    measure    a function of an importable module, item -> dict of plain data, that depends on nothing but the item, the
               files it names in `identity`, and itself. Torch has one thread and a generator seeded by the item's key.
    executor   serial    one after the other in this process; a crash ends it, and the next run puts the culprit apart
               process   one after the other in a worker process
               loky      `workers` processes on this machine (needs joblib, the extra `sweep`)
               dask, …   a backend of joblib; `joblib`: whichever joblib.parallel_config has set
    shard      (i, n), i from 1 to n: only the i-th of n parts, e.g. for a job array; the folder collects all parts
    only       which items to measure now, of those that are planned; `status` and `read` know about all
    identity   what results depend on besides the item and the code of `measure` (its module, and what that imports from
               its own folder), see `mho.sweep.identity`
    timeout    seconds after which an item counts as hanging and its process is ended; not in `serial`

    A record is {key, measure, item, status, provenance} with `value`, where status is "done", or with `error` {type,
    message, traceback}, where it is "mistake" (an MhoError), "raised", "timeout" or "worker-died". What failed is tried
    again, in a process of its own, before it counts; then only `retry` measures it again. Tables are the same, bit for bit,
    whatever the executor and however often it was interrupted.
    """
    state = State(Path(folder).resolve())
    job = _Job(state, work.describe(measure), executor, _with_code(identity, measure), workers, timeout)
    keys = {key_of(item, measure, job.identity): item for item in items}
    job.plan(keys)
    mine = {k: keys[k] for k in in_shard(keys, shard) if only is None or only(keys[k])}
    job.measure_all(mine, progress)
    return [r for k in mine if (r := state.record(k))]


def records(items: Iterable[Item], measure: Measure, folder: str | Path, identity: dict[str, Any] | None = None) -> list[Record]:
    """The records that there are of these items, whoever has measured them."""
    state = State(Path(folder).resolve())
    return [r for item in items if (r := state.record(key_of(item, measure, identity)))]


def plan(items: Iterable[Item], measure: Measure, folder: str | Path, identity: dict[str, Any] | None = None) -> None:
    """Note that `folder` is about these items and no others; nothing is measured. What was planned for this function before
    keeps its results, but `read` and `status` no longer tell of them."""
    job = _Job(State(Path(folder).resolve()), work.describe(measure), "serial", _with_code(identity, measure))
    job.plan({key_of(item, measure, identity): item for item in items}, replace=True)


def key_of(item: Item, measure: Measure, identity: dict[str, Any] | None = None) -> str:
    """The name of a result: a hash of everything that it depends on."""
    depends = [item, work.describe(measure)["name"], _with_code(identity, measure)]
    try:
        text = json.dumps(depends, sort_keys=True, separators=(",", ":"))
    except TypeError as error:
        raise MhoError(f"items of a sweep are plain data (numbers, texts, lists, dicts): {error}") from None
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _with_code(identity: dict[str, Any] | None, measure: Measure) -> dict[str, Any]:
    """An identity with the code of a measure function; that of mho's own has a version."""
    module = work.describe(measure)["name"].partition(":")[0]
    if module.partition(".")[0] in OURS:
        return identity or {}
    return {**(identity or {}), "measure": {name: digest(file) for name, file in files_of(sys.modules[module]).items()}}


def in_shard(items: Iterable[Any], shard: tuple[int, int] | None) -> list[Any]:
    """Part i of n of these items; every item is in exactly one, and parts differ by one item at most."""
    i, n = shard or (1, 1)
    if not 1 <= i <= n:
        raise MhoError(f"shard {i}/{n}: shards are counted from 1 to {n}")
    return list(items)[i - 1 :: n]


def retry(folder: str | Path, executor: str = "process", **options: Any) -> list[Record]:
    """Forget the failures of a folder and go on with its plans; `options` as for `run`."""
    forget_failures(folder)
    records = []
    for plan in need_plans(folder):
        for file in plan["plugins"]:
            registry.load_file(file)
        measure = work.find(plan["measure"])
        records += run(plan["items"].values(), measure, folder, executor, identity=plan["identity"], **options)
    return records


def forget_failures(folder: str | Path) -> int:
    """Make every failed item of a folder as if it had never been tried; how many there were."""
    state = State(Path(folder))
    failed = [k for plan in need_plans(folder) for k in plan["items"] if state.failed(k)]
    for key in failed:
        state.failure(key).unlink()
    return len(failed)


@dataclass
class _Job:
    """One call of `run`."""

    state: State
    measure: dict[str, str]
    executor: str
    identity: dict[str, Any]
    workers: int | None = None
    timeout: float | None = None
    plugins: list[str] = field(default_factory=lambda: [str(f) for f in registry.default().files])

    def __post_init__(self) -> None:
        if self.executor == "serial" and self.timeout is not None:
            raise MhoError("executor 'serial' cannot end an item that hangs; use executor 'process', or no timeout")

    def plan(self, keys: dict[str, Item], replace: bool = False) -> None:
        plan = {"measure": self.measure, "identity": self.identity, "plugins": self.plugins, "items": keys}
        self.state.add_to_plan({**plan, "command": sys.argv}, replace)

    def measure_all(self, items: dict[str, Item], progress: bool) -> None:
        """Everything that is open; suspects at the end and apart."""
        suspects = [k for k in items if self.state.left_behind(k)]
        for key in suspects:
            self._note_death(key, items[key])
        to_do = [k for k in items if not self.state.done(k) and not self.state.failed(k)]
        with tqdm(total=len(to_do) + len(suspects), disable=not progress, unit="item", dynamic_ncols=True) as bar:
            self._together({k: items[k] for k in to_do}, bar)
            self._apart({k: items[k] for k in items if self._to_retry(k)}, bar)

    def _to_retry(self, key: str) -> bool:
        failure = self.state.failed(key)
        return failure is not None and failure["attempts"] < TRIES[failure["status"]]

    def _together(self, items: dict[str, Item], bar: tqdm) -> None:
        """Give out all items, and again those that are left when workers have died."""
        fruitless = 0
        while items:
            before = len(items)
            why = self._give_out(items, bar)
            items = {k: i for k, i in items.items() if not self.state.done(k) and not self.state.failed(k)}
            for key in [k for k in items if self.state.running(k).exists()]:
                self._note_death(key, items.pop(key))
            fruitless = fruitless + 1 if len(items) == before else 0
            if fruitless == FRUITLESS:
                raise MhoError(f"the workers of executor {self.executor!r} die before they begin: {why}")

    def _give_out(self, items: dict[str, Item], bar: tqdm) -> str:
        tasks = [self._task(k, item) for k, item in items.items()]
        try:
            match self.executor:
                case "serial":
                    pools.here(tasks, bar.update)
                case "process":
                    pools.in_process(tasks, bar.update)
                case backend:
                    pools.by_joblib(tasks, bar.update, backend, self.workers)
        except pools.PoolError as error:
            return str(error)
        return ""

    def _apart(self, items: dict[str, Item], bar: tqdm) -> None:
        """What failed once, each again in a process that nobody shares, until it is done or has failed often enough."""
        with contextlib.closing(pools.Worker()) as worker:
            for key, item in items.items():
                while self._to_retry(key):
                    if not worker.do(self._task(key, item)):
                        self._note_death(key, item)
                bar.update()

    def _note_death(self, key: str, item: Item) -> None:
        """A process died while measuring: it hung until its time was up, or the item killed it."""
        trace = self.state.trace(key)
        told = trace.read_text(errors="replace") if trace.exists() else ""
        status = "timeout" if told else "worker-died"
        message = f"no result after {self.timeout:g} s" if told and self.timeout else "its process died without a word"
        record = {"key": key, "measure": self.measure["name"], "item": item, "status": status}
        self.state.fail(key, {**record, "error": {"type": status, "message": message, "traceback": told}, "provenance": {}})
        self.state.clear_running(key)

    def _task(self, key: str, item: Item) -> pools.Task:
        return {
            "key": key,
            "item": item,
            "measure": self.measure,
            "folder": str(self.state.folder),
            "identity": self.identity,
            "plugins": self.plugins,
            "device": asked(),
            "path": sys.path,
            "timeout": self.timeout,
            "driver": os.getpid(),
            "executor": self.executor,
        }
