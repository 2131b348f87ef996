"""Where items are measured: here, in a process of our own, or by joblib (its loky, Dask and Ray workers)."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from mho.ground import MhoError, needed
from mho_lab.measure import work

Task = dict[str, Any]
Tick = Callable[[], object]
GRACE = 30.0  # seconds for imports, and for ending itself, after which a worker that is over its time is killed


START = "import sys; from mho_lab.measure.work import serve; serve(int(sys.argv[1]))"  # what a worker process runs


class PoolError(Exception):
    """Workers died, so that the rest of the tasks has to be given out again."""


class Worker:
    """A process that measures tasks one after the other; after a crash the next task gets a new one."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def do(self, task: Task) -> bool:
        """Whether the process lived to the end of the task. Raises `MhoError` where it could not use the folder."""
        process = self._process = self._process or _started()
        assert process.stdin is not None and process.stdout is not None
        late = threading.Timer(task["timeout"] + GRACE, process.kill) if task["timeout"] else None
        try:
            if late:
                late.start()
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        finally:
            if late:
                late.cancel()
        if not answer:
            self.close()
        elif said := json.loads(answer):
            raise MhoError(said)
        return bool(answer)

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]


def _started() -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 (ourselves)
        [sys.executable, "-P", "-c", START, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,  # Ctrl-C is for the driver, which then ends its workers
    )


def here(tasks: Iterable[Task], tick: Tick) -> None:
    """One after the other in this process."""
    for task in tasks:
        work.do(task)
        tick()


def in_process(tasks: Iterable[Task], tick: Tick) -> None:
    """One after the other in a worker process."""
    with contextlib.closing(Worker()) as worker:
        for task in tasks:
            if not worker.do(task):
                raise PoolError("the worker process died")
            tick()


def on_dask(tasks: Sequence[Task], tick: Tick) -> None:
    """On the current client of a Dask cluster; what a dead worker leaves behind does not stop the others."""
    distributed = needed("distributed", "executor 'dask' needs Dask", "distributed")
    try:
        futures = distributed.get_client().map(work.do, tasks, pure=False)
    except ValueError as error:  # no client
        raise MhoError(f"executor 'dask' cannot be used: {error}") from None
    lost = None
    for future in distributed.as_completed(futures):
        error = future.exception()
        if isinstance(error, (MhoError, ImportError)):
            raise error
        lost = error or lost
        tick()
    if lost is not None:
        raise PoolError(f"{type(lost).__name__}: {lost}") from lost


def by_joblib(tasks: Sequence[Task], tick: Tick, backend: str, workers: int | None) -> None:
    """As joblib's backend says; `joblib` itself is whatever `joblib.parallel_config` has set. Its Dask backend waits forever for
    what a dead worker leaves behind, so Dask is used without it."""
    if backend == "dask" or (backend == "joblib" and _is_dask()):
        on_dask(tasks, tick)
        return
    joblib = needed("joblib", f"executor {backend!r} needs joblib", "'mho-lab[sweep]'")
    with _configured(backend, workers) as jobs:
        try:
            parallel = joblib.Parallel(n_jobs=jobs, batch_size=1, return_as="generator_unordered")
            for _ in parallel(joblib.delayed(work.do)(task) for task in tasks):
                tick()
        except (MhoError, ImportError):
            raise
        except Exception as error:  # tasks raise nothing, so it is the pool: every backend has its own words for that
            raise PoolError(f"{type(error).__name__}: {error}") from error


@contextlib.contextmanager
def _configured(backend: str, workers: int | None) -> Iterator[int | None]:
    """The number of jobs to ask for, inside the configuration of a backend."""
    from joblib import parallel_config

    if backend == "joblib":
        yield workers
        return
    loky = {"inner_max_num_threads": 1, "initializer": work.follow, "initargs": (os.getpid(), os.getcwd())}
    own = loky if backend == "loky" else {}
    jobs = workers or (os.cpu_count() or 1 if backend == "loky" else -1)
    try:
        configured = parallel_config(backend=backend, n_jobs=jobs, **own)
    except (ValueError, ImportError) as error:  # no such backend, or no client of a cluster
        raise MhoError(f"executor {backend!r} cannot be used: {error}") from None
    with configured:
        yield jobs


@contextlib.contextmanager
def connected(scheduler: str | None) -> Iterator[None]:
    """A client of the Dask scheduler at this address, which executor `dask` then uses. Raises `MhoError` where there is none."""
    if scheduler is None:
        yield
        return
    distributed = needed("distributed", "this needs Dask", "distributed")
    try:
        client = distributed.Client(scheduler, timeout=10)
    except (OSError, ValueError) as error:
        raise MhoError(f"no Dask scheduler at {scheduler}: {error}") from None
    with client:
        yield


def _is_dask() -> bool:
    """Whether joblib.parallel_config says Dask."""
    backend = needed("joblib.parallel", "executor 'joblib' needs joblib", "'mho-lab[sweep]'").get_active_backend()[0]
    return type(backend).__name__ == "DaskDistributedBackend"
