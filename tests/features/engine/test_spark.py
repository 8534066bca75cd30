"""Spark writes the same bytes as this process, also if a worker is killed in the middle of a job."""

import shutil
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.scale import write_log
from contracts.params import load_params
from features.terms.params import EngineParams
from orchestration.configure import configure
from tests.clones import ROOT, real_data
from tests.features.engine_run import SAID, Work, finish, outs_of, start_on_spark
from tests.features.planted import clean, write
from tests.features.raw_logs import COLUMNS, SMALL, expectations, limits, source
from tests.features.small_log import history, labels, materialize, request, statistics
from tests.features.spark_cluster import SparkCluster, spark_home

pytestmark = pytest.mark.xdist_group("spark")

LOCAL = EngineParams(name="spark", master="local[2]", options={})
SMALLER = {"request": request(), "history": history(), "expectations": expectations(), "seed": 1}
SMALLER |= {"statistics": statistics(coclick_rank=8, coclick_period_s=86_400)}
SMALLER |= {"audit": load_params(ROOT / "params.yaml")["audit"], "materialize": materialize(), "labels": labels()}
NUM_DAYS, NUM_ROWS, NUM_USERS, NUM_ITEMS = 24, 192_000, 2_000, 300
RANGE_ROWS = 20_000
FIRST_PIECES = 4
PATIENCE_S = 240.0


def same_on_both(root: Path, works: list[Work]) -> str:
    """Run the stages here and on Spark and compare every out and report; returns the log of Spark's process."""
    spark_home()
    process = start_on_spark(root / "spark", works, LOCAL)
    try:
        expected = {work.name: work.run(root / "here") for work in works}
    finally:
        said, reports = finish(process, root / "spark")
    for work in works:
        here, spark = (outs_of(work.data(root / engine)) for engine in ("here", "spark"))
        assert spark == here, work.name
        assert reports[work.name] == expected[work.name]
        assert {"user_histories", "coclicks", "shift_audit", "feature_snapshot"} <= here.keys()
    return said


def arrivals(folder: Path) -> Path:
    """Files of a table, with rows without a valid time, without a user, and repeated ones."""
    rows = [f"{line},r{number}" for number, line in enumerate(clean(24_000))]
    rows = [line.replace("u3,", "u33,", 1) if number % 7 == 0 else line for number, line in enumerate(rows)]
    for name, first in (("a", 0), ("b", 8_000), ("c", 16_000)):
        broken = [
            *rows[first : first + 8_000],
            *rows[first : first + 9],
            "u1,i1,soon,1,x",
            ",i1,2024-01-02T00:00:00Z,1,y",
        ]
        write(folder / f"{name}.csv", broken, "user,item,at,click,event")
    return folder


def test_a_table_and_the_simulator_are_the_same_bytes_on_both_engines(tmp_path: Path) -> None:
    columns = {**COLUMNS, "event_id": "event"}
    table = SMALLER | {"source": source("table", arrivals(tmp_path / "log"), columns), "simulator": SMALL}
    simulated = SMALLER | {"source": source("simulator"), "simulator": SMALL}
    works = [
        Work(name, {**sections, "validate": limits(max_id_length=256)}, range_rows=2_000, chunk_rows=5_000)
        for name, sections in (("table", table), ("simulator", simulated))
    ]
    said = same_on_both(tmp_path, works)
    assert "reading files: 3 tasks on Spark" in said
    assert "judging batches: 1 tasks on Spark" in said
    assert "splitting: 3 tasks on Spark" in said
    assert "histories of ranges of users: " in said
    assert "summing partitions: 2 tasks on Spark" in said
    assert "counting partitions: 3 tasks on Spark" in said
    assert "factors of periods: " in said
    assert "shuffling events: 3 tasks on Spark" in said
    assert "counters by user: 2 tasks on Spark" in said
    assert "snapshot of ranges of users: 3 tasks on Spark" in said


@pytest.mark.slow
def test_whole_logs_are_the_same_bytes_on_both_engines(tmp_path: Path) -> None:
    works = [Work("simulator", params_of(tmp_path / "simulator.params"), range_rows=50_000, chunk_rows=50_000)]
    for name, folder in (("movielens", "movielens-small"), ("ebnerd", "ebnerd-demo")):
        given = {"source.name": name, "source.path": str(real_data(folder))}
        works.append(Work(name, params_of(tmp_path / f"{name}.params", given), range_rows=50_000, chunk_rows=50_000))
    same_on_both(tmp_path, works)


def params_of(scratch: Path, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """params.yaml with these changes, as `make run` leaves it."""
    shutil.copytree(ROOT / "presets", scratch / "presets")
    shutil.copy(ROOT / "params.yaml", scratch)
    if changes:
        configure(changes, scratch / "params.yaml")
    sections = load_params(scratch / "params.yaml")
    return {name: value for name, value in sections.items() if name != "engine"}


def test_a_driver_whose_jvm_is_killed_says_so_and_keeps_what_was_finished(tmp_path: Path) -> None:
    spark_home()
    work = Work("log", {"request": request(), "history": history()}, ("histories",), RANGE_ROWS)
    write_log(work.data(tmp_path), NUM_ROWS, NUM_DAYS, NUM_USERS, NUM_ITEMS)
    process = start_on_spark(tmp_path, [work], EngineParams(name="spark", master="local[1]", options={}))
    kept, deadline = tmp_path / "log" / ".cache" / "histories" / "log", time.monotonic() + PATIENCE_S
    try:
        while len(list(kept.glob("*/entry.json"))) < FIRST_PIECES:
            assert time.monotonic() < deadline, (tmp_path / SAID).read_text()[-4000:]
            assert process.poll() is None, (tmp_path / SAID).read_text()[-4000:]
            time.sleep(0.01)
        (jvm,) = [each for each in psutil.Process(process.pid).children(recursive=True) if each.name() == "java"]
        jvm.kill()
        assert process.wait(PATIENCE_S) == 1
    finally:
        process.kill()
        process.wait()
    said = (tmp_path / SAID).read_text()
    assert "InputError: engine: Spark ended in the middle of a job" in said.splitlines()[-1]
    assert "run the same command again" in said.splitlines()[-1]
    assert FIRST_PIECES <= len(list(kept.glob("*/entry.json"))) < NUM_DAYS


def test_killing_a_worker_in_the_middle_of_a_job_changes_no_byte(tmp_path: Path) -> None:
    work = Work("log", {"request": request(), "history": history()}, ("histories",), RANGE_ROWS)
    for engine in ("here", "spark"):
        write_log(work.data(tmp_path / engine), NUM_ROWS, NUM_DAYS, NUM_USERS, NUM_ITEMS)
    work.run(tmp_path / "here")
    with SparkCluster(tmp_path / "cluster") as cluster:
        engine = EngineParams(name="spark", master=cluster.address, options={})
        process = start_on_spark(tmp_path / "spark", [work], engine)
        try:
            kept, deadline = tmp_path / "spark" / "log" / ".cache" / "histories" / "log", time.monotonic() + PATIENCE_S
            while len(list(kept.glob("*/entry.json"))) < FIRST_PIECES:
                assert time.monotonic() < deadline, (tmp_path / "spark" / SAID).read_text()[-4000:]
                assert process.poll() is None, (tmp_path / "spark" / SAID).read_text()[-4000:]
                time.sleep(0.01)
            assert len(list(kept.glob("*/entry.json"))) < NUM_DAYS
            cluster.kill_worker(0)
        finally:
            said, _ = finish(process, tmp_path / "spark")
    assert "Lost executor" in said
    assert f"sorting partitions: {NUM_DAYS} tasks on Spark" in said
    assert outs_of(work.data(tmp_path / "spark")) == outs_of(work.data(tmp_path / "here"))
