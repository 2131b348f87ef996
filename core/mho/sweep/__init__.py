"""Measure many things, on one machine or a cluster, in a folder that survives every interruption.

`run` measures items, `read` gives all results of a folder as a `Table`, `identity` says what results depend on besides the
item; `folder` is for measure functions that share files.
"""

from mho.stale import identity
from mho.sweep.engine import in_shard, key_of, retry, run
from mho.sweep.state import Status, status
from mho.sweep.table import Table, read
from mho.sweep.work import folder

__all__ = ["Status", "Table", "folder", "identity", "in_shard", "key_of", "read", "retry", "run", "status"]
