"""The same sweep on every executor, and through every disaster: the same table, bit for bit."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mho_lab import sweep

from mho.ground import MhoError

pytest.importorskip("joblib")


def draws(count, seconds=0.0):
    return [{"n": n, "seconds": seconds} for n in range(count)]


@pytest.fixture(scope="module")
def undisturbed(measures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    sweep.run(draws(30), measures.draw, folder)
    return sweep.read(folder)


def test_loky_gives_the_same_table(measures, tmp_path, undisturbed):
    records = sweep.run(draws(30), measures.draw, tmp_path, "loky", workers=2)
    assert len(records) == 30 and {r["provenance"]["pid"] for r in records}.isdisjoint({os.getpid()})
    assert sweep.read(tmp_path).to_jsonl() == undisturbed.to_jsonl()


def test_loky_goes_on_after_an_item_that_kills_its_worker(measures, tmp_path):
    records = sweep.run([{"n": n} for n in range(8)], measures.die, tmp_path, "loky", workers=2)
    assert {r["item"]["n"]: r["status"] for r in records} == {n: "worker-died" if n == 2 else "done" for n in range(8)}


@pytest.mark.slow
def test_loky_ends_an_item_that_hangs(measures, tmp_path):
    records = sweep.run([{"n": n} for n in range(4)], measures.hang, tmp_path, "loky", workers=2, timeout=1)
    assert [r["status"] for r in records] == ["done", "done", "timeout", "done"]


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_table(measures, tmp_path, undisturbed):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=2, dashboard_address=None, local_directory=str(tmp_path / "dask")
        ) as cluster,
        distributed.Client(cluster),
    ):
        records = sweep.run(draws(30), measures.draw, tmp_path / "sweep", "dask")
    assert {r["provenance"]["pid"] for r in records}.isdisjoint({os.getpid()})
    assert sweep.read(tmp_path / "sweep").to_jsonl() == undisturbed.to_jsonl()


# -- disasters ------------------------------------------------------------------------------------------------------
DRIVER = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("sweep_measures", sys.argv[1])
sys.modules["sweep_measures"] = measures = importlib.util.module_from_spec(spec)
spec.loader.exec_module(measures)
from mho_lab import sweep
items = json.loads(sys.argv[3])
sweep.run(items, measures.draw, sys.argv[2], sys.argv[4], workers=2)
"""


class Siege:
    """A sweep in a process of its own, whose workers and driver are killed at random moments."""

    def __init__(self, measures, folder, items, executor, seed):
        self.folder, self.random = folder, random.Random(seed)
        self.arguments = [sys.executable, "-c", DRIVER, measures.__file__, str(folder), json.dumps(items), executor]
        self.killed = {"worker": 0, "driver": 0}

    def run(self, workers, drivers, limit=280.0):
        """Until the sweep is complete; the seconds it took."""
        start, plan = time.monotonic(), ["worker"] * workers + ["driver"] * drivers
        self.random.shuffle(plan)
        driver = self.started()
        while driver.poll() is None or driver.returncode != 0:
            assert time.monotonic() - start < limit, f"hangs; killed so far: {self.killed}"
            if driver.poll() is not None:
                driver = self.started()
            if plan and self.kill(plan[0], driver):
                plan.pop(0)
            time.sleep(self.random.uniform(0.05, 0.5))
        assert not plan, f"the sweep was over before everything was killed: {self.killed}"
        return time.monotonic() - start

    def started(self):
        return subprocess.Popen(self.arguments, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})

    def kill(self, whom, driver):
        """Whether there was somebody to kill: the driver, or a process that is measuring."""
        marks = [pid for f in (self.folder / "running").glob("*.json") if (pid := self.pid(f)) and pid != driver.pid]
        if driver.poll() is not None or not marks:  # killed in the middle of things, not while nothing happens
            return False
        try:
            os.kill(driver.pid if whom == "driver" else self.random.choice(marks), signal.SIGKILL)
        except ProcessLookupError:
            return False
        if whom == "driver":
            driver.wait()
        self.killed[whom] += 1
        return True

    @staticmethod
    def pid(file):
        try:
            return json.loads(file.read_text())["pid"]
        except (OSError, ValueError):
            return None


def besieged(measures, folder, items, executor, seed, workers, drivers):
    """The table of a besieged sweep is that of an undisturbed one; the seconds it took."""
    siege = Siege(measures, folder / "besieged", items, executor, seed)
    took = siege.run(workers, drivers)
    sweep.run(items, measures.draw, folder / "quiet")
    (now,) = sweep.status(folder / "besieged")
    assert siege.killed == {"worker": workers, "driver": drivers}
    assert (now.done, now.failed) == (len(items), ())
    assert sweep.read(folder / "besieged").to_jsonl() == sweep.read(folder / "quiet").to_jsonl()
    return took


@pytest.mark.slow
def test_workers_and_driver_may_be_killed(measures, tmp_path):
    besieged(measures, tmp_path, draws(12, seconds=0.2), "process", seed=0, workers=1, drivers=1)


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["loky", "process"])
def test_200_tasks_survive_ten_kills_of_a_worker_and_three_of_the_driver(measures, tmp_path, executor):
    took = besieged(measures, tmp_path, draws(200, seconds=0.1), executor, seed=1, workers=10, drivers=3)
    print(f"200 tasks through {executor}, 13 kills: {took:.1f} s")


def relatives(mark):
    """The processes that have this in their environment, a driver and whatever it has started."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            if mark.encode() in (place / "environ").read_bytes() and " Z " not in (place / "stat").read_text():
                found.append(place.name)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("executor", ["loky", "process"])
def test_nothing_is_left_of_a_driver_that_is_killed(measures, tmp_path, executor, how, monkeypatch):
    """Whenever it is killed, and however long items take: workers and their helpers end within seconds."""
    rng = random.Random(f"{executor}{how}")
    for n in range(4):
        monkeypatch.setenv("SIEGE", mark := f"{os.getpid()}-{executor}-{how}-{n}")
        siege = Siege(measures, tmp_path / str(n), draws(100, seconds=rng.choice([0.1, 20.0])), executor, seed=0)
        driver = siege.started()
        while not (siege.folder / "plans").exists():
            time.sleep(0.1)
        time.sleep(rng.uniform(0, 4))
        driver.send_signal(how)
        assert driver.wait(10) == -how
        end = time.monotonic() + 15
        while left := relatives(mark):
            assert time.monotonic() < end, f"{left} live on"
            time.sleep(0.1)


def test_workers_that_die_before_they_begin_are_an_error(measures, tmp_path, monkeypatch):
    from mho_lab.measure import pools

    monkeypatch.setattr(pools, "START", "raise SystemExit(3)")
    with pytest.raises(MhoError, match="die before they begin"):
        sweep.run(draws(2), measures.draw, tmp_path, "process")


@pytest.mark.parametrize("executor", ["serial", "process", "loky"])
def test_a_folder_that_cannot_be_written_ends_the_sweep_with_a_sentence(measures, tmp_path, executor):
    """It is no failure of the items; with room again, the sweep goes on."""
    (tmp_path / "results").write_text("in the way")
    with pytest.raises(MhoError, match=r"cannot write .*results/.*: (File exists|Not a directory); a part of the path is a file"):
        sweep.run(draws(3), measures.draw, tmp_path, executor, workers=2)
    (tmp_path / "results").unlink()
    assert [r["status"] for r in sweep.run(draws(3), measures.draw, tmp_path, executor, workers=2)] == ["done"] * 3


@pytest.mark.slow
def test_loky_dask_and_two_shards_give_identical_tables(measures, tmp_path):
    distributed = pytest.importorskip("distributed")
    items = draws(60, seconds=0.02)
    sweep.run(items, measures.draw, tmp_path / "serial")
    sweep.run(items, measures.draw, tmp_path / "loky", "loky", workers=2)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=str(tmp_path / "scratch")
        ) as cluster,
        distributed.Client(cluster),
    ):
        sweep.run(items, measures.draw, tmp_path / "dask", "dask")
    for i in (1, 2):
        sweep.run(items, measures.draw, tmp_path / "shards", "process", shard=(i, 2))
    tables = {n: sweep.read(tmp_path / n).to_csv() for n in ("serial", "loky", "dask", "shards")}
    assert len(tables["serial"].splitlines()) == 61 and len(set(tables.values())) == 1


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["dask", "joblib"])
def test_a_dask_worker_that_is_killed_by_its_item_is_put_apart(measures, tmp_path, executor):
    """By name, and through joblib's own parallel_config."""
    import joblib

    distributed = pytest.importorskip("distributed")
    dask = pytest.importorskip("dask")
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),  # or it kills four workers before it gives up
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=str(tmp_path / "scratch")
        ) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config(backend="dask") if executor == "joblib" else contextlib.nullcontext(),
    ):
        records = sweep.run([{"n": n} for n in range(6)], measures.die, tmp_path / "sweep", executor)
    assert {r["item"]["n"]: r["status"] for r in records} == {n: "worker-died" if n == 2 else "done" for n in range(6)}
