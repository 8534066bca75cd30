"""Units of work as tasks of Spark: mapInArrow over their numbers, one unit a task, small results back in order."""

import importlib
import logging
import os
import pickle
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from contracts.errors import MAX_MESSAGE, InputError, shorten
from features.engine.task import Place, Told, run_unit
from features.terms.params import EngineParams

log = logging.getLogger("leitmotif")

REMOTE = "SPARK_REMOTE"
"""Environment variable: the address of a Spark Connect server (sc://host:port), used in place of engine.master."""
STANDALONE = "spark://"
ANSWERS_S = 5.0
PYTHON = "PYSPARK_PYTHON"
TOKEN = ".shared-"
THREADS, MEMORY = "LEITMOTIF_THREADS", "LEITMOTIF_MEMORY_MB"
JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""It only hands units out: a quick start is worth more than quick bytecode."""
SETTINGS = {
    "spark.app.name": "leitmotif",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.session.timeZone": "UTC",
    "spark.executor.memory": "512m",  # of the JVM, through which no data passes; Python and DuckDB are beside it
    "spark.driver.memory": "512m",
    "spark.driver.extraJavaOptions": JVM,
    "spark.executor.extraJavaOptions": JVM,
    "spark.sql.codegen.wholeStage": "false",
}
"""What engine.options may override."""
TELLS = "number long, told binary"


class SparkEngine:
    """A session of Spark, begun by the first units."""

    def __init__(self, params: EngineParams, shared: Path) -> None:
        self._params, self._shared = params, shared
        self._session: Any = None

    def map(self, function: Callable[[Any], Any], units: Sequence[Any], doing: str) -> Iterator[Any]:
        """As Engine has it: results come when all units have run."""
        if not units:
            return iter(())
        _check_importable(function)
        session = self._started()
        token = self._shared / f"{TOKEN}{uuid.uuid4().hex}"
        token.write_text("seen by the driver and by executors\n", encoding="utf-8")
        began = time.perf_counter()
        try:
            told = _run(session, Place.here(token, self._environment()), function, units)
        finally:
            token.unlink(missing_ok=True)
        log.info("%s: %s tasks on Spark in %.1f s", doing, f"{len(units):,}", time.perf_counter() - began)
        return iter(told)

    def stop(self) -> None:
        """End the session. What runs there still is cancelled."""
        if self._session is not None:
            self._session.stop()
            self._session = None

    def _started(self) -> Any:
        if self._session is None:
            self._session = _start(self._params)
        return self._session

    def _environment(self) -> dict[str, str]:
        """A task has one core unless spark.task.cpus says more."""
        threads = {THREADS: os.environ.get(THREADS) or self._params.options.get("spark.task.cpus", "1")}
        return threads | {name: os.environ[name] for name in (MEMORY,) if name in os.environ}


def _run(session: Any, place: Place, function: Callable[[Any], Any], units: Sequence[Any]) -> list[Any]:
    """The results in order. Raises the first InputError or CheckFailed that a task told."""
    work = partial(run_unit, place, function)
    packed = [pickle.dumps(unit) for unit in units]

    def each(batches: Iterator[Any]) -> Iterator[Any]:
        import pyarrow as pa  # by name here: this function travels to the executors by value

        for batch in batches:
            numbers = batch.column(0).to_pylist()
            told = [work(packed[number]) for number in numbers]
            yield pa.record_batch([pa.array(numbers, pa.int64()), pa.array(told, pa.binary())], ["number", "told"])

    try:
        rows = session.range(0, len(units), 1, len(units)).mapInArrow(each, TELLS).collect()
    except Exception as error:
        raise _explained(error) from error
    found: dict[int, Told] = {row["number"]: pickle.loads(row["told"]) for row in rows}
    if sorted(found) != list(range(len(units))):
        raise RuntimeError(f"Spark gave {len(found)} results of {len(units)} units")
    for told in found.values():
        if told.error is not None:
            raise told.error
    return [found[number].result for number in range(len(units))]


def _check_importable(function: Callable[[Any], Any]) -> None:
    """A function of a stage's own file would travel by value, without what its module knows."""
    inner = function.func if isinstance(function, partial) else function
    assert inner.__module__ != "__main__", inner
    assert "<locals>" not in inner.__qualname__, inner


def _start(params: EngineParams) -> Any:
    """A new session. Raises InputError that says what is missing."""
    remote = os.environ.get(REMOTE, "").strip()
    try:
        builder: Any = importlib.import_module("pyspark.sql").SparkSession.builder  # an extra: pyright may not have it
    except ImportError:
        raise InputError(
            "engine.name is spark, and pyspark is not installed. Install the extra `spark`: "
            "make spark, or set engine.name=duckdb."
        ) from None
    if not remote:
        _check_java()
        _check_answers(params.master)
    os.environ.setdefault(PYTHON, sys.executable)  # else executors take whatever `python3` is there
    settings = SETTINGS | dict(params.options)
    began, where = time.perf_counter(), remote or params.master
    try:
        builder = builder.remote(remote) if remote else builder.master(params.master)
        for name, value in settings.items():
            if not remote or name.startswith("spark.sql."):
                builder = builder.config(name, value)
        session = builder.getOrCreate()
        log.info("Spark %s at %s in %.1f s", session.version, where, time.perf_counter() - began)
    except Exception as error:
        raise InputError(_unreachable(where, _said(error))) from error
    return session


def _check_answers(master: str) -> None:
    """Spark itself would try for a minute, and say so in fifty lines."""
    if not master.startswith(STANDALONE):
        return
    faults = []
    for address in master.removeprefix(STANDALONE).split(","):
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), ANSWERS_S).close()
            return
        except (OSError, ValueError) as error:
            faults.append(f"{address}: {error}")
    raise InputError(_unreachable(master, "; ".join(faults)))


def _unreachable(where: str, why: str) -> str:
    return (
        f"engine: Spark at {where} cannot be reached ({why}). Start it, correct engine.master or {REMOTE}, or set "
        "engine.name=duckdb."
    )


def _check_java() -> None:
    home = os.environ.get("JAVA_HOME")
    if not (home and Path(home, "bin", "java").is_file()) and shutil.which("java") is None:
        raise InputError(
            "engine.name is spark, and there is no java on PATH nor at JAVA_HOME. Install Java 17 "
            "(apt install openjdk-17-jre-headless), or set engine.name=duckdb."
        )


def _explained(error: Exception) -> Exception:
    """A job that Spark gave up: the last lines of what its task said."""
    return RuntimeError(f"Spark gave the work up: {_said(error)}")


def _said(error: Exception) -> str:
    text = " ".join(str(error).split())
    return shorten(text, MAX_MESSAGE)
