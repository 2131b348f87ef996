"""Sweeps from Python: `__init__.py` reads the names here and imports each on first use."""

from mho_lab.measure.engine import in_shard as in_shard, key_of as key_of, retry as retry, run as run
from mho_lab.measure.identity import identity as identity
from mho_lab.measure.state import Status as Status, status as status
from mho_lab.measure.table import Table as Table
from mho_lab.measure.work import folder as folder
from mho_lab.sweep.arms import read as read
