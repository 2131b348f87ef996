"""The sweep engine: everything is measured once, nothing stops the rest."""

import importlib
import json
import os
import platform
import sys

import pytest
import torch
from mho_lab import sweep

import mho
from mho.ground.errors import MhoError

ITEMS = [{"n": n} for n in range(5)]


def numbers(records):
    """What must not depend on how a sweep was run."""
    return [(r["key"], r["item"], r["status"], r.get("value")) for r in records]


def by_status(records):
    return {r["item"]["n"]: r["status"] for r in records}


def test_every_item_is_measured_once(measures, tmp_path):
    first = sweep.run(ITEMS, measures.count, tmp_path)
    again = sweep.run([*ITEMS, {"n": 9}], measures.count, tmp_path)
    assert [r["value"] for r in first] == ITEMS and again[:5] == first
    assert len(list(tmp_path.glob("call-*"))) == 6


def test_a_key_depends_on_the_item_the_function_and_the_identity(measures):
    base = sweep.key_of({"a": 1, "b": 2}, measures.draw, {"v": 1})
    assert sweep.key_of({"b": 2, "a": 1}, measures.draw, {"v": 1}) == base  # the order of names says nothing
    others = [
        sweep.key_of({"a": 1, "b": 3}, measures.draw, {"v": 1}),
        sweep.key_of({"a": 1, "b": 2}, measures.count, {"v": 1}),
        sweep.key_of({"a": 1, "b": 2}, measures.draw, {"v": 2}),
    ]
    assert len({base, *others}) == 4


def test_the_identity_knows_task_checkpoint_versions_and_plugin_files(tmp_path):
    from mho_lab.run.task import load_task

    file = tmp_path / "net.safetensors"
    file.write_bytes(b"one")
    one = sweep.identity(load_task("digits"), file)
    assert one["fingerprint"] == load_task("digits").fingerprint() and one["versions"]["torch"] == torch.__version__
    file.write_bytes(b"two")
    assert sweep.identity(load_task("digits"), file)["checkpoint"] != one["checkpoint"]
    with pytest.raises(MhoError, match="cannot read"):
        sweep.identity(checkpoint=tmp_path / "gone")


def test_a_measure_function_that_was_edited_measures_again(tmp_path, monkeypatch):
    """Its own file, or one beside it that it imports; another file beside it changes nothing."""
    (tmp_path / "edited_measure.py").write_text(
        "import edited_helper\n\ndef f(item):\n    return {'n': item['n'] * edited_helper.K}\n"
    )
    (tmp_path / "edited_helper.py").write_text("K = 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    import edited_measure

    def measured():
        (record,) = sweep.run([{"n": 3}], edited_measure.f, tmp_path / "out")
        return record["key"], record["value"]["n"]

    first = measured()
    (tmp_path / "unrelated.py").write_text("K = 3\n")
    assert measured() == first and first[1] == 6
    (tmp_path / "edited_helper.py").write_text("K = 50\n")
    importlib.reload(sys.modules["edited_helper"])
    with pytest.warns(UserWarning, match="edited_helper.py has changed; what depends on it is measured again"):
        second = measured()
    assert second[1] == 150 and second[0] != first[0]
    text = (tmp_path / "edited_measure.py").read_text().replace("K}", "K + 1}")
    (tmp_path / "edited_measure.py").write_text(text)
    importlib.reload(edited_measure)
    with pytest.warns(UserWarning, match="edited_measure.py has changed"):
        assert measured()[1] == 151
    assert len(sweep.read(tmp_path / "out")) == 1


def test_a_processor_with_other_arithmetic_measures_again_and_a_run_of_it_is_another(tmp_path, monkeypatch):
    """The tier of the simulation is part of what sweeps, studies and run folders compare, in one place."""
    from mho_fast import tier
    from mho_lab.run.job import claim_folder
    from mho_lab.run.task import load_task

    hw, task = mho.load("pcm.standard"), load_task("digits")
    here = sweep.identity(task, hardware=hw)
    claim_folder(tmp_path, task, hw, 0)
    kept = json.loads((tmp_path / "key.json").read_text())
    assert {k: kept[k] for k in ("code", "versions")} == {k: here[k] for k in ("code", "versions")}
    able = tier.has_int8()
    monkeypatch.setattr(tier, "has_int8", lambda: not able)
    assert sweep.identity(task) != here and sweep.identity(task, hardware=hw)["precision"] != here["precision"]
    with pytest.raises(MhoError, match=r"holds another run \(precision\.pcm was "):
        claim_folder(tmp_path, task, hw, 0)


def test_every_item_has_one_thread_and_draws_of_its_own_and_the_users_generator_is_left_alone(measures, tmp_path):
    torch.manual_seed(5)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    forward = sweep.run(ITEMS, measures.draw, tmp_path / "a")
    backward = sweep.run(ITEMS[::-1], measures.draw, tmp_path / "b")
    assert numbers(forward) == numbers(backward[::-1])
    assert {r["value"]["threads"] for r in forward} == {1} and len({r["value"]["mean"] for r in forward}) == 5
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads


def test_shards_are_disjoint_and_together_everything(measures, tmp_path):
    items = [{"n": n} for n in range(20)]
    parts = [sweep.run(items, measures.draw, tmp_path / "parts", shard=(i, 3)) for i in (1, 2, 3)]
    whole = sweep.run(items, measures.draw, tmp_path / "whole")
    assert sorted(len(p) for p in parts) != [0, 0, 20] and sum(len(p) for p in parts) == 20
    assert sweep.read(tmp_path / "parts") == sweep.read(tmp_path / "whole")
    assert sorted([n for p in parts for n in numbers(p)], key=str) == sorted(numbers(whole), key=str)


def test_a_shard_that_does_not_exist_is_refused(measures, tmp_path):
    with pytest.raises(MhoError, match="shard 4/3"):
        sweep.run(ITEMS, measures.draw, tmp_path, shard=(4, 3))


def test_the_process_executor_gives_the_same_table(measures, tmp_path):
    here = sweep.run(ITEMS, measures.draw, tmp_path / "a")
    apart = sweep.run(ITEMS, measures.draw, tmp_path / "b", "process", timeout=60)
    assert numbers(here) == numbers(apart)
    assert {r["provenance"]["pid"] for r in here} == {os.getpid()} and os.getpid() not in {r["provenance"]["pid"] for r in apart}


def test_what_raises_is_recorded_with_its_traceback_and_the_rest_goes_on(measures, tmp_path):
    records = sweep.run(ITEMS, measures.raise_sometimes, tmp_path)
    assert by_status(records) == {0: "done", 1: "done", 2: "raised", 3: "done", 4: "done"}
    error, attempts = records[2]["error"], records[2]["attempts"]
    assert error["type"] == "ValueError" and error["message"] == "two is too much"
    assert "in raise_sometimes" in error["traceback"] and attempts == 2


def test_what_raises_once_succeeds_when_it_is_tried_apart(measures, tmp_path):
    items = [{"n": n, "flags": str(tmp_path)} for n in range(2)]
    records = sweep.run(items, measures.raise_once, tmp_path / "sweep")
    assert by_status(records) == {0: "done", 1: "done"}
    assert not list((tmp_path / "sweep" / "failed").iterdir())


def test_a_users_mistake_is_not_tried_again(measures, tmp_path):
    (record,) = sweep.run(ITEMS[:1], measures.refuse, tmp_path)
    assert record["status"] == "mistake" and record["attempts"] == 1 and record["error"]["message"] == "no such layer"


def test_a_result_that_is_no_plain_data_counts_as_raised(measures, tmp_path):
    (record,) = sweep.run(ITEMS[:1], measures.not_data, tmp_path)
    assert record["status"] == "raised" and "not JSON serializable" in record["error"]["message"]


def test_what_kills_its_process_ends_as_worker_died(measures, tmp_path):
    records = sweep.run(ITEMS, measures.die, tmp_path, "process")
    assert by_status(records) == {0: "done", 1: "done", 2: "worker-died", 3: "done", 4: "done"}
    assert records[2]["attempts"] == 3 and not list((tmp_path / "running").iterdir())


def test_what_hangs_ends_as_timeout_and_says_where(measures, tmp_path):
    records = sweep.run(ITEMS, measures.hang, tmp_path, "process", timeout=1)
    assert by_status(records) == {0: "done", 1: "done", 2: "timeout", 3: "done", 4: "done"}
    assert "in hang" in records[2]["error"]["traceback"] and records[2]["error"]["message"] == "no result after 1 s"


def test_a_timeout_needs_a_process_that_can_be_ended(measures, tmp_path):
    with pytest.raises(MhoError, match="executor 'process'"):
        sweep.run(ITEMS, measures.draw, tmp_path, timeout=1)


def test_failures_stay_until_they_are_retried(measures, tmp_path):
    items = [{"n": n, "flags": str(tmp_path)} for n in range(2)]
    folder = tmp_path / "sweep"
    sweep.run(items, measures.refuse, folder)
    assert [s.failed[0]["status"] for s in sweep.status(folder)] == ["mistake"]
    failed = sweep.run(items, measures.refuse, folder)  # nothing is measured again
    assert failed == sweep.run(items, measures.refuse, folder)
    assert all(r["attempts"] == 1 for r in sweep.retry(folder, "serial"))


def test_an_item_that_somebody_died_of_is_put_apart_by_the_next_run(measures, tmp_path):
    """A serial run has no process to lose but its own: its mark tells the next run."""
    key = sweep.key_of(ITEMS[2], measures.die, {})
    (tmp_path / "running").mkdir()
    (tmp_path / "running" / f"{key}.json").write_text(json.dumps({"pid": 2**22 + 1, "host": platform.node()}))
    records = sweep.run(ITEMS, measures.die, tmp_path)
    assert by_status(records)[2] == "worker-died" and list(by_status(records).values()).count("done") == 4


def test_an_item_under_way_elsewhere_is_no_suspect(measures, tmp_path):
    for n, mark in enumerate([{"pid": os.getpid(), "host": platform.node()}, {"pid": 2**22 + 1, "host": "elsewhere"}]):
        (tmp_path / "running").mkdir(exist_ok=True)
        key = sweep.key_of(ITEMS[n], measures.raise_sometimes, {})
        (tmp_path / "running" / f"{key}.json").write_text(json.dumps(mark))
    records = sweep.run(ITEMS[:2], measures.raise_sometimes, tmp_path)
    assert {r["provenance"]["pid"] for r in records} == {os.getpid()}


def test_only_some_of_the_planned_items_are_measured(measures, tmp_path):
    records = sweep.run(ITEMS, measures.draw, tmp_path, only=lambda item: item["n"] < 2)
    (now,) = sweep.status(tmp_path)
    assert len(records) == 2 and (now.planned, now.done, now.waiting) == (5, 2, 3)


def test_functions_that_no_process_can_import_are_refused(tmp_path):
    with pytest.raises(MhoError, match="cannot be imported"):
        sweep.run(ITEMS, lambda item: item, tmp_path)


def test_items_that_are_no_plain_data_are_refused(measures, tmp_path):
    with pytest.raises(MhoError, match="plain data"):
        sweep.run([{"n": torch.ones(1)}], measures.draw, tmp_path)


def test_a_table_has_a_row_for_every_row_of_a_result(measures, tmp_path):
    sweep.run([{"n": n, "at": {"bits": 4}} for n in range(2)], measures.table_of, tmp_path)
    table = sweep.read(tmp_path)
    assert table.columns == ("n", "at.bits", "kind", "time", "score") and len(table) == 4
    assert [r["score"] for r in table.rows] == [1.0, 2.0, 2.0, 3.0]
    assert table.to_csv().splitlines()[1] == "0,4,long,1.0,1.0"
    assert [json.loads(line) for line in table.to_jsonl().splitlines()] == list(table.rows)


def test_a_table_becomes_a_data_frame(measures, tmp_path):
    pytest.importorskip("pandas")
    sweep.run(ITEMS, measures.table_of, tmp_path)
    frame = sweep.read(tmp_path).to_pandas()
    assert list(frame["score"]) == [n + t for n in range(5) for t in (1.0, 2.0)]


def test_a_plan_grows_and_is_replaced_when_what_results_depend_on_changes(measures, tmp_path):
    sweep.run(ITEMS[:2], measures.draw, tmp_path, identity={"v": 1})
    sweep.run(ITEMS[2:3], measures.draw, tmp_path, identity={"v": 1})
    assert [s.planned for s in sweep.status(tmp_path)] == [3]
    with pytest.warns(UserWarning, match=r"v was 1, is 2; what depends on it is measured again"):
        sweep.run(ITEMS[:1], measures.draw, tmp_path, identity={"v": 2})
    assert [(s.planned, s.done, s.waiting) for s in sweep.status(tmp_path)] == [(1, 1, 0)]


def test_a_folder_without_a_sweep_is_refused(tmp_path):
    for look in (sweep.status, sweep.read, sweep.retry):
        with pytest.raises(MhoError, match="holds no sweep"):
            look(tmp_path)


def test_workers_load_the_same_plugin_files(measures, tmp_path):
    from mho.config import registry

    file = tmp_path / "mine.py"
    file.write_text(
        "from mho import Field, Nonideality, hookimpl\n\n\n"
        'class Extra(Nonideality, kind="sweeptest.extra"):\n'
        '    """Adds nothing."""\n\n    source = "none"\n\n'
        "    def output(self, y, site):\n        return y\n\n\n"
        "@hookimpl\ndef mho_nonidealities():\n    return [Extra]\n"
    )
    registry.load_file(file)
    try:
        (record,) = sweep.run(ITEMS[:1], measures.plugin_kinds, tmp_path / "sweep", "process")
    finally:
        registry.default().files.clear()
    assert "sweeptest.extra" in record["value"]["kinds"]


def test_folder_is_for_measure_functions_only():
    with pytest.raises(MhoError, match="while a sweep runs"):
        sweep.folder()


def test_searching_for_a_measure_does_not_need_the_working_directory(measures):
    from mho_lab.measure import work

    described = work.describe(measures.draw)
    kept = sys.modules.pop("sweep_measures")
    try:
        assert work.find(described)({"n": 3})["square"] == 9
    finally:
        sys.modules["sweep_measures"] = kept
