"""joblib's Dask backend, which also tells when the worker of a task has died.

joblib 1.6 calls back for tasks that end, also with an exception; one that Dask gives up (`KilledWorker`) ends nowhere, and
`Parallel` waits for it forever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from joblib import register_parallel_backend
from joblib._dask import DaskDistributedBackend


class Lost(NamedTuple):
    """In place of a result: what Dask says about the task."""

    error: BaseException


class DaskBackend(DaskDistributedBackend):
    """On the current `distributed.Client`."""

    def submit(self, func: Any, callback: Callable[[Any], Any] | None = None) -> Any:
        future = super().submit(func, callback)

        def tell(done: Any) -> None:
            if callback is not None and (error := done.exception()) is not None:
                callback(Lost(error))

        future.add_done_callback(tell)
        return future

    def retrieve_result_callback(self, out: Any) -> Any:
        if isinstance(out, Lost):
            raise out.error
        return super().retrieve_result_callback(out)


def register() -> str:
    """Make the backend known to joblib; its name there."""
    register_parallel_backend("mho-dask", DaskBackend)
    return "mho-dask"
