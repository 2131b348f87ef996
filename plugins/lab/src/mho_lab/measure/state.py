"""The folder of a sweep: what is planned, done, failed and running.

plans/MEASURE.json    what was asked for: the measure function, what results depend on, every item with its key
results/KEY.json      one result, written once, whole, by whoever measured it
failed/KEY.json       an item that raised, hung (`timeout`) or killed its process (`worker-died`), and how often
running/KEY.json      somebody is measuring this item, or died of it; KEY.trace says where it hung
"""

import json
import os
import platform
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mho.ground import MhoError, system_error, write_atomically
from mho_lab.measure.identity import differences

Item = dict[str, Any]
Record = dict[str, Any]

# How often an item is tried in all before it counts as failed. A mistake in the user's input is the same every time.
TRIES = {"mistake": 1, "raised": 2, "timeout": 2, "worker-died": 3}


@dataclass(frozen=True)
class State:
    """The files of one sweep folder."""

    folder: Path

    def result(self, key: str) -> Path:
        return self.folder / "results" / f"{key}.json"

    def failure(self, key: str) -> Path:
        return self.folder / "failed" / f"{key}.json"

    def running(self, key: str) -> Path:
        return self.folder / "running" / f"{key}.json"

    def trace(self, key: str) -> Path:
        return self.folder / "running" / f"{key}.trace"

    def plan(self, measure: str) -> Path:
        return self.folder / "plans" / f"{measure.replace(':', '.')}.json"

    # -- results and failures ---------------------------------------------------------------------------------
    def done(self, key: str) -> bool:
        return self.result(key).exists()

    def record(self, key: str) -> Record | None:
        """The result of an item, else its failure, else None."""
        return read_json(self.result(key)) or read_json(self.failure(key))

    def failed(self, key: str) -> Record | None:
        return None if self.done(key) else read_json(self.failure(key))

    def left_behind(self, key: str) -> bool:
        """Whether a process of this machine died while it measured the item. What is marked by a living one, or by another
        machine, may be under way there: another shard, or a cluster."""
        mark = read_json(self.running(key))
        return mark is not None and not self.done(key) and mark["host"] == platform.node() and not _alive(mark["pid"])

    def clear_running(self, key: str) -> None:
        self.running(key).unlink(missing_ok=True)
        self.trace(key).unlink(missing_ok=True)

    def fail(self, key: str, record: Record) -> None:
        """Note one more failure of an item."""
        before = read_json(self.failure(key))
        record = {**record, "attempts": (before["attempts"] if before else 0) + 1}
        write_atomically(self.failure(key), json.dumps(record, indent=1))

    # -- plans ------------------------------------------------------------------------------------------------
    def plans(self) -> list[dict[str, Any]]:
        """Every plan of the folder, in the order in which they were made."""
        found = [p for file in sorted((self.folder / "plans").glob("*.json")) if (p := read_json(file))]
        return sorted(found, key=lambda p: p["number"])

    def add_to_plan(self, plan: dict[str, Any], replace: bool = False) -> None:
        """Merge new items into the plan of this measure function, or put them in place of all that were planned before; a
        plan for other versions of anything is always replaced."""
        file = self.plan(plan["measure"]["name"])
        before, others = read_json(file), self.plans()
        number = before["number"] if before else 1 + max((p["number"] for p in others), default=0)
        changed = differences(before["identity"], plan["identity"]) if before else []
        if before and not changed and not replace:
            plan = {**plan, "items": {**before["items"], **plan["items"]}}
        if changed:
            told = f"{changed[0]}{f' (and {len(changed) - 1} more)' if len(changed) > 1 else ''}"
            warnings.warn(f"{self.folder}: {told}; what depends on it is measured again", stacklevel=2)
        new = {"number": number, **plan}
        if new != before:
            write_atomically(file, json.dumps(new, indent=1))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def read_json(file: Path) -> dict[str, Any] | None:
    """The content of a JSON file, or None where there is none. Raises `MhoError` for anything else."""
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MhoError(f"cannot read {file}: {system_error(error)}") from None
    except (ValueError, TypeError) as error:
        raise MhoError(f"{file} is not what mho wrote: {error}; remove it, and run again") from None


@dataclass(frozen=True)
class Status:
    """How far one plan of a sweep is."""

    measure: str
    planned: int
    done: int
    running: int  # being measured now, or left behind by a process that died
    failed: tuple[Record, ...]
    seconds: float  # that the results took, all together

    @property
    def waiting(self) -> int:
        return self.planned - self.done - self.running - len(self.failed)


def status(folder: str | Path) -> list[Status]:
    """How far every plan of a folder is."""
    return [_status(plan, State(Path(folder))) for plan in need_plans(folder)]


def _status(plan: dict[str, Any], state: State) -> Status:
    keys = list(plan["items"])
    done = [k for k in keys if state.done(k)]
    open_ = [k for k in keys if not state.done(k)]
    failed = [f for k in open_ if (f := state.failed(k))]
    names = {f["key"] for f in failed}
    running = sum(state.running(k).exists() for k in open_ if k not in names)
    seconds = sum(r["provenance"]["seconds"] for k in done if (r := state.record(k)))
    return Status(plan["measure"]["name"], len(keys), len(done), running, tuple(failed), seconds)


def need_plans(folder: str | Path) -> list[dict[str, Any]]:
    """The plans of a folder, or an error that says what it lacks."""
    plans = State(Path(folder)).plans()
    if not plans:
        raise MhoError(f"{folder} holds no sweep; expected a folder that `mho sweep run` or `mho.sweep.run` has written")
    return plans
