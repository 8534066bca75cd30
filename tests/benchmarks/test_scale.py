"""What `benchmarks.scale` says of shuffles, spills and files is what Spark logged and what units really moved."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import moved, scale, spark_events
from features.engine.engine import HERE, running
from tests.clones import ROOT
from tests.features.spark_cluster import environment, spark_home

pytestmark = pytest.mark.xdist_group("spark")
SIZE = 5_000_000
SLACK = 200_000  # what the process of the tests reads and writes itself meanwhile
ROWS, DAYS, USERS, ITEMS = 6_000, 3, 120, 50
SHUFFLES = """
import json, sys
from pyspark.sql import SparkSession
builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
for name, value in json.loads(sys.argv[1]).items():
    builder = builder.config(name, value)
with builder.getOrCreate() as session:
    table = session.range(0, 50_000, 1, 4).selectExpr("id", "hash(id) AS key")
    table.repartition(8, "key").sortWithinPartitions("key").write.format("noop").mode("overwrite").save()
    told = session.sparkContext._jsc.sc().statusStore().executorList(False).head()
    print(json.dumps({"shuffle_read": told.totalShuffleRead(), "shuffle_written": told.totalShuffleWrite()}))
"""


def copy(path: Path) -> int:
    return path.with_suffix(".copy").write_bytes(path.read_bytes())


def test_a_unit_moves_what_it_reads_and_writes_and_not_what_happens_around_it(tmp_path: Path) -> None:
    paths = [tmp_path / "one", tmp_path / "two"]
    with moved.counting() as found, running(HERE, tmp_path) as engine:
        for path in paths:
            path.write_bytes(bytes(SIZE))
        assert list(engine.map(copy, paths, "copying")) == [SIZE, SIZE]
        paths[0].read_bytes()
    assert found.units == 2
    assert 2 * SIZE <= found.read < 2 * SIZE + SLACK
    assert 2 * SIZE <= found.written < 2 * SIZE + SLACK
    assert SIZE <= found.driver_read < SIZE + SLACK
    assert 2 * SIZE <= found.driver_written < 2 * SIZE + SLACK
    with running(HERE, tmp_path) as engine:
        assert list(engine.map(copy, paths[:1], "copying")) == [SIZE]
    assert found.units == 2


def test_temporary_files_of_duckdb_count_and_others_do_not(tmp_path: Path) -> None:
    (tmp_path / "staging").mkdir()
    (tmp_path / "staging" / "duckdb_temp_storage_DEFAULT-0.tmp").write_bytes(bytes(SIZE))
    (tmp_path / "out.parquet").write_bytes(bytes(SIZE))
    assert SIZE <= scale.spilled_bytes(tmp_path) < SIZE + SLACK


def test_a_job_that_shuffles_and_spills_is_counted_as_spark_counts_it(tmp_path: Path) -> None:
    spark_home()
    options = spark_events.settings(tmp_path) | {"spark.shuffle.spill.numElementsForceSpillThreshold": "500"}
    command = [sys.executable, "-c", SHUFFLES, json.dumps(options)]
    done = subprocess.run(command, env=environment(), check=True, stdout=subprocess.PIPE, text=True, timeout=240)
    found = spark_events.counted(tmp_path)
    told = json.loads(done.stdout.splitlines()[-1])
    assert {name: found[name] for name in told} == told
    assert found["shuffle_written"] > 50_000  # an id and a hash, compressed
    assert found["shuffle_read"] == found["shuffle_written"]
    assert found["spilled"] > 0
    assert found["tasks"] >= 4 + 8


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """The figures of histories on both engines, and what is in Spark's event log."""
    spark_home()
    found = {}
    for engine in ("duckdb", "spark"):
        folder = tmp_path_factory.mktemp(engine)
        data, scratch = folder / "data" / "table", folder / "scratch"
        scale.write_log(data, ROWS, DAYS, USERS, ITEMS)
        command = [sys.executable, "-m", "benchmarks.scale", "--once", engine, "histories", str(data), str(scratch)]
        subprocess.run(command, cwd=ROOT, env=environment(), check=True, timeout=240)
        found[engine] = json.loads((scratch / scale.MOVED).read_text())
        found[f"{engine}, outs"] = [scale.digest(data / out) for out in scale.OUTS]
        found[f"{engine}, events"] = [
            json.loads(line) for path in (scratch / "events").iterdir() for line in path.read_text().splitlines()
        ]
    return found


def test_the_stages_shuffle_nothing_since_units_exchange_files(found: dict[str, dict]) -> None:
    ended = [event for event in found["spark, events"] if event["Event"] == "SparkListenerTaskEnd"]
    spark, here = found["spark"], found["duckdb"]
    assert len(ended) == spark["units"] == here["units"] > DAYS
    written = [event["Task Metrics"]["Shuffle Write Metrics"]["Shuffle Bytes Written"] for event in ended]
    assert spark["shuffle_mb"] == sum(written) / scale.MB == 0
    assert spark["spilled_mb"] == 0
    assert here["shuffle_mb"] is here["spilled_mb"] is None
    assert found["duckdb, events"] == []


def test_both_engines_units_write_the_same_files(found: dict[str, dict]) -> None:
    assert found["spark, outs"] == found["duckdb, outs"]
    assert found["spark"]["unit_written_mb"] == pytest.approx(found["duckdb"]["unit_written_mb"], rel=0.05)
    assert found["spark"]["unit_written_mb"] > 0.1
    assert found["spark"]["unit_read_mb"] > 0.1
