"""Spark makes the same bytes as this process, and a worker that is killed in the middle of a job changes none."""

import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.histories import _surround as surround
from benchmarks.statistics import write_day
from tests.features.engine_run import finish, outs_of, run_stages, start_on_spark
from tests.features.small_log import history, request
from tests.features.spark_cluster import SparkCluster

pytestmark = pytest.mark.xdist_group("spark")

NUM_DAYS, DAY_ROWS, NUM_USERS, NUM_ITEMS = 24, 8_000, 2_000, 300
RANGE_ROWS = 20_000
FIRST_PIECES = 4
PATIENCE_S = 120.0


def write_days(data: Path) -> Path:
    for day in range(NUM_DAYS):
        write_day(data, day, DAY_ROWS, NUM_USERS, NUM_ITEMS)
    surround(data)
    return data


def test_a_worker_killed_in_the_middle_of_a_job_changes_no_byte(tmp_path: Path) -> None:
    sections = {"request": request(), "history": history()}
    here, there = (write_days(tmp_path / name / "data" / "log") for name in ("here", "there"))
    expected = run_stages(here, sections, ("histories",), RANGE_ROWS)
    with SparkCluster(tmp_path / "cluster") as cluster:
        process, said = start_on_spark(there, sections, ("histories",), RANGE_ROWS, cluster.address)
        try:
            deadline = time.monotonic() + PATIENCE_S
            while len(list((tmp_path / "there" / ".cache" / "histories" / "log").glob("*/entry.json"))) < FIRST_PIECES:
                assert time.monotonic() < deadline, said.read_text()[-4000:]
                assert process.poll() is None, said.read_text()[-4000:]
                time.sleep(0.01)
            cluster.kill_worker(0)
        finally:
            text = finish(process, said)
    assert "Lost executor" in text
    assert f"sorting partitions: {NUM_DAYS} tasks on Spark" in text
    assert outs_of(there) == outs_of(here)
    assert expected["histories"]["num_users"] > np.ceil(NUM_USERS / 2)
