"""A real standalone cluster of Spark on loopback: a master and workers of one core each, which are really killed."""

import importlib.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import pytest

from tests.clones import ROOT
from tests.features.redis_server import free_port

LIMIT_S = 120.0
WORKER_MB = 1024
LOCAL = {"SPARK_LOCAL_IP": "127.0.0.1", "SPARK_LOCAL_HOSTNAME": "127.0.0.1"}


def spark_home() -> Path:
    """Where pip put Spark; a skip that says what is missing."""
    found = importlib.util.find_spec("pyspark")
    if found is None or found.origin is None:
        pytest.skip("pyspark is not installed: make spark")
    if shutil.which("java") is None:
        pytest.skip("java is not installed: apt install openjdk-17-jre-headless")
    return Path(found.origin).parent


class SparkCluster:
    """Started on entry, gone on exit."""

    def __init__(self, folder: Path, num_workers: int = 2) -> None:
        self._home, self.folder, self._num_workers = spark_home(), folder, num_workers
        self._port = free_port()
        self._master: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []

    @property
    def address(self) -> str:
        return f"spark://127.0.0.1:{self._port}"

    def __enter__(self) -> "SparkCluster":
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            told = ("--host", "127.0.0.1", "--port", str(self._port), "--webui-port", "0")
            self._master = self._start("master", "org.apache.spark.deploy.master.Master", *told)
            self._wait("master", "I have been elected leader")
            for number in range(self._num_workers):
                told = ("--host", "127.0.0.1", "--cores", "1", "--memory", f"{WORKER_MB}m", "--webui-port", "0")
                told += ("--work-dir", str(self.folder / f"work{number}"), self.address)
                self.workers.append(self._start(f"worker{number}", "org.apache.spark.deploy.worker.Worker", *told))
            for number in range(self._num_workers):
                self._wait(f"worker{number}", "Successfully registered with master")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def kill_worker(self, number: int) -> None:
        """SIGKILL the worker and the executors that it started, as when its machine is gone."""
        worker = self.workers[number]
        of_each_thread = Path(f"/proc/{worker.pid}/task").glob("*/children")
        executors = {int(pid) for path in of_each_thread for pid in path.read_text().split()}
        for pid in (worker.pid, *executors):
            os.kill(pid, signal.SIGKILL)
        worker.wait()

    def _start(self, name: str, program: str, *told: str) -> subprocess.Popen[bytes]:
        environment = os.environ | LOCAL | {"SPARK_HOME": str(self._home), "SPARK_DAEMON_MEMORY": "256m"}
        environment |= {"SPARK_DAEMON_JAVA_OPTS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}
        with (self.folder / f"{name}.log").open("wb") as log:
            command = ["bash", str(self._home / "bin" / "spark-class"), program, *told]
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=self.folder)

    def _wait(self, name: str, words: str) -> None:
        deadline, path = time.monotonic() + LIMIT_S, self.folder / f"{name}.log"
        while words not in path.read_text():
            if time.monotonic() > deadline:
                pytest.fail(f"{name} did not say {words!r} in {LIMIT_S} s: {path.read_text()[-2000:]}")
            time.sleep(0.1)

    def _end(self) -> None:
        for process in [*self.workers, *([self._master] if self._master else [])]:
            if process.poll() is None:
                process.terminate()
        for process in [*self.workers, *([self._master] if self._master else [])]:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a driver on loopback is started with."""
    spark_home()
    return os.environ | LOCAL | {"PYTHONPATH": str(ROOT)} | dict(extra or {})
