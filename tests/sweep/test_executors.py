"""The same sweep on every executor, and through every disaster: the same table, bit for bit."""

import os

import pytest
from mho import sweep

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
