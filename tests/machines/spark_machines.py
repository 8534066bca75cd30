"""Spark on machines: a master on the first, a worker of one core on each other; drivers on the first."""

import time
from pathlib import Path

import pytest

from features.terms.params import EngineParams
from tests.clones import ROOT
from tests.features.spark_cluster import WORKER_MB, spark_home
from tests.machines.machines import Machine, Machines

PORT = 7077
PATIENCE_S = 120.0
PYTHON = str(ROOT / ".venv" / "bin" / "python")
SMALL = ("SPARK_DAEMON_MEMORY=256m", "SPARK_DAEMON_JAVA_OPTS=-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
NOTICED_S = 15
LOST = {
    "spark.network.timeout": f"{NOTICED_S}s",
    "spark.network.timeoutInterval": "3s",
    "spark.executor.heartbeatInterval": "3s",
}
"""So that a test need not wait for two minutes until Spark gives up a machine that is silent."""


def start_spark(machines: Machines, folder: Path) -> EngineParams:
    """As docs/spark.md has it; returns the engine that names the cluster."""
    home = spark_home()
    master = f"spark://{machines[0].address}:{PORT}"
    told = ("--host", machines[0].address, "--port", str(PORT), "--webui-port", "0")
    _start(machines[0], folder / "master", home, "master.Master", *told)
    _wait(folder / "master", "I have been elected leader")
    told = ("--cores", "1", "--memory", f"{WORKER_MB}m", "--webui-port", "0", "--work-dir", "/var/tmp/work", master)
    for worker in machines.all[1:]:
        _start(worker, folder / worker.name, home, "worker.Worker", *told)
    for worker in machines.all[1:]:
        _wait(folder / worker.name, "Successfully registered with master")
    return EngineParams(name="spark", master=master, options=LOST)


def tasks_of(machine: Machine) -> int:
    """How many tasks the executors of a machine have finished."""
    counted = machine.run("sh", "-c", "cat /var/tmp/work/app-*/*/stderr | grep -c 'Finished task'", check=False)
    return int(counted.split()[-1])


def _start(machine: Machine, said: Path, home: Path, program: str, *words: str) -> None:
    script = str(home / "bin" / "spark-class")
    machine.start(
        said, "env", f"SPARK_HOME={home}", *SMALL, "bash", script, f"org.apache.spark.deploy.{program}", *words
    )


def _wait(said: Path, words: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not said.exists() or words not in said.read_text():
        if time.monotonic() > deadline:
            pytest.fail(f"{said.name} did not say {words!r} in {PATIENCE_S:g} s: {said.read_text()[-2000:]}")
        time.sleep(0.1)
