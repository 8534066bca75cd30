"""A real Spark Connect server on loopback: stages through SPARK_REMOTE make the bytes that this process makes."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.scale import write_log
from features.engine.spark import PYTHON, REMOTE
from features.terms.params import EngineParams
from tests.features.engine_run import Work, finish, outs_of, start_on_spark
from tests.features.redis_server import free_port
from tests.features.small_log import history, request, statistics
from tests.features.spark_cluster import LIMIT_S, environment, spark_home

pytestmark = pytest.mark.xdist_group("spark")

SERVER = "org.apache.spark.sql.connect.service.SparkConnectServer"
NOWHERE = EngineParams(name="spark", master="spark://nowhere:1", options={"spark.sql.shuffle.partitions": "1"})
"""SPARK_REMOTE goes before the master; of the options a server takes those of spark.sql alone."""


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[str]:
    """The address of a server that runs tasks on two threads of its own."""
    home, port = spark_home(), free_port()
    command = ["bash", str(home / "bin" / "spark-submit"), "--class", SERVER, "--master", "local[2]"]
    settings = {"spark.connect.grpc.binding.address": "127.0.0.1", "spark.connect.grpc.binding.port": str(port)}
    settings |= {"spark.ui.enabled": "false", "spark.driver.memory": "512m", "spark.local.dir": str(tmp_path / "local")}
    told = [part for name, value in settings.items() for part in ("--conf", f"{name}={value}")]
    with (tmp_path / "server").open("wb") as log:
        server = subprocess.Popen(
            [*command, *told, "spark-internal"], cwd=tmp_path, env=environment({PYTHON: sys.executable}),
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + LIMIT_S
        while "Spark Connect server started at" not in (said := (tmp_path / "server").read_text()):
            assert server.poll() is None, said[-3000:]
            assert time.monotonic() < deadline, said[-3000:]
            time.sleep(0.1)
        yield f"sc://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


def test_stages_through_a_connect_server_make_the_same_bytes(
    remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections = {"request": request(), "history": history(), "statistics": statistics()}
    work = Work("log", sections, ("histories", "statistics"), range_rows=2_000, chunk_rows=2_000)
    for engine in ("here", "spark"):
        write_log(work.data(tmp_path / engine), 6_000, 3, 100, 50)
    expected = work.run(tmp_path / "here")
    monkeypatch.setenv(REMOTE, remote)
    said, reports = finish(start_on_spark(tmp_path / "spark", [work], NOWHERE), tmp_path / "spark")
    assert f"at {remote} in" in said
    assert "sorting partitions: 3 tasks on Spark" in said
    assert "counting partitions: 3 tasks on Spark" in said
    assert reports == {"log": expected}
    assert outs_of(work.data(tmp_path / "spark")) == outs_of(work.data(tmp_path / "here"))
