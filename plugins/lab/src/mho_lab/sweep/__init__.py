"""Measure many things, on one machine or a cluster, in a folder that survives every interruption.

`run` measures items, `read` gives all results of a folder as a `Table`, `identity` says what results depend on besides the
item; `folder` is for measure functions that share files.
"""

from mho_lab.measure.engine import in_shard, key_of, retry, run
from mho_lab.measure.identity import identity
from mho_lab.measure.state import Status, status
from mho_lab.measure.table import Table
from mho_lab.measure.work import folder
from mho_lab.sweep.arms import read

__all__ = ["Status", "Table", "folder", "identity", "in_shard", "key_of", "read", "retry", "run", "status"]
