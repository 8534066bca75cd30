"""Units of work as tasks of Spark: mapInArrow over their numbers, one unit per task; small results return in order."""

import importlib
import logging
import os
import pickle
import re
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from contracts.errors import MAX_MESSAGE, InputError, shorten
from features.engine.task import Place, TaskResult, run_unit
from features.terms.params import EngineParams

log = logging.getLogger("leitmotif")

REMOTE = "SPARK_REMOTE"
"""Environment variable: the address of a Spark Connect server (sc://host:port), used instead of engine.master."""
STANDALONE = "spark://"
ANSWERS_S = 5.0
MASTER = re.compile(r"local(\[(\d+|\*)(,\s*\d+)?\])?$|local-cluster\[|spark://.|yarn$|k8s://.")
PYTHON = "PYSPARK_PYTHON"
TOKEN = ".shared-"
THREADS, MEMORY = "LEITMOTIF_THREADS", "LEITMOTIF_MEMORY_MB"
JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""The JVM only distributes units, so a fast start matters more than optimised bytecode."""
SETTINGS = {
    "spark.app.name": "leitmotif",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.session.timeZone": "UTC",
    "spark.executor.memory": "512m",  # of the JVM only: no data passes through it; Python and DuckDB use their own
    "spark.driver.memory": "512m",
    "spark.driver.extraJavaOptions": JVM,
    "spark.executor.extraJavaOptions": JVM,
    "spark.sql.codegen.wholeStage": "false",
}
"""Defaults, which engine.options may override."""
RESULTS = "number long, result binary"
"""The schema of what tasks return."""


class SparkEngine:
    """A session of Spark, started by the first units."""

    def __init__(self, params: EngineParams, shared: Path) -> None:
        self._params, self._shared = params, shared
        self._session: Any = None

    def map(self, function: Callable[[Any], Any], units: Sequence[Any], doing: str) -> Iterator[Any]:
        """As Engine.map; results are returned when all units have run."""
        if not units:
            return iter(())
        _check_importable(function)
        session = self._started()
        token = self._shared / f"{TOKEN}{uuid.uuid4().hex}"
        token.write_text("seen by the driver and by executors\n", encoding="utf-8")
        began = time.perf_counter()
        try:
            results = _run(session, Place.here(token, self._environment()), function, units)
        finally:
            token.unlink(missing_ok=True)
        log.info("%s: %s tasks on Spark in %.1f s", doing, f"{len(units):,}", time.perf_counter() - began)
        return iter(results)

    def stop(self) -> None:
        """Stop the session and cancel tasks that still run."""
        if self._session is not None:
            self._session.stop()
            self._session = None

    def _started(self) -> Any:
        if self._session is None:
            self._session = _start(self._params)
        return self._session

    def _environment(self) -> dict[str, str]:
        """Environment variables for executors. A task has one core unless spark.task.cpus is larger."""
        threads = {THREADS: os.environ.get(THREADS) or self._params.options.get("spark.task.cpus", "1")}
        return threads | {name: os.environ[name] for name in (MEMORY,) if name in os.environ}


def _run(session: Any, place: Place, function: Callable[[Any], Any], units: Sequence[Any]) -> list[Any]:
    """The results in order. Raises the first InputError or CheckFailed that a task returned."""
    work = partial(run_unit, place, function)
    packed = [pickle.dumps(unit) for unit in units]

    def each(batches: Iterator[Any]) -> Iterator[Any]:
        import pyarrow as pa  # imported here: this function is pickled by value and sent to the executors

        for batch in batches:
            numbers = batch.column(0).to_pylist()
            results = [work(packed[number]) for number in numbers]
            yield pa.record_batch([pa.array(numbers, pa.int64()), pa.array(results, pa.binary())], ["number", "result"])

    try:
        rows = session.range(0, len(units), 1, len(units)).mapInArrow(each, RESULTS).collect()
    except Exception as error:
        raise _explained(error) from error
    results: dict[int, TaskResult] = {row["number"]: pickle.loads(row["result"]) for row in rows}
    if sorted(results) != list(range(len(units))):
        raise RuntimeError(f"Spark returned {len(results)} results of {len(units)} units")
    for each_result in results.values():
        if each_result.error is not None:
            raise each_result.error
    return [results[number].result for number in range(len(units))]


def _check_importable(function: Callable[[Any], Any]) -> None:
    """A function of __main__ would be pickled by value, without the rest of its module."""
    inner = function.func if isinstance(function, partial) else function
    assert inner.__module__ != "__main__", inner
    assert "<locals>" not in inner.__qualname__, inner


def _start(params: EngineParams) -> Any:
    """Start a session. Raises InputError that says what is missing."""
    remote = os.environ.get(REMOTE, "").strip()
    _check_options(params.options)
    try:
        builder: Any = importlib.import_module("pyspark.sql").SparkSession.builder  # an extra: pyright may lack it
    except ImportError:
        raise InputError(
            "engine.name is spark, but pyspark is not installed. Install the extra `spark`: "
            "make spark, or set engine.name=duckdb."
        ) from None
    if not remote:
        _check_java()
        _check_answers(params.master)
    os.environ.setdefault(PYTHON, sys.executable)  # otherwise executors use whatever `python3` is there
    settings = SETTINGS | dict(params.options)
    began, where = time.perf_counter(), remote or params.master
    try:
        builder = builder.remote(remote) if remote else builder.master(params.master)
        for name, value in settings.items():
            if not remote or name.startswith("spark.sql."):
                builder = builder.config(name, value)
        session = builder.getOrCreate()
        session.conf.get("spark.sql.session.timeZone")  # Spark reads the values of its settings only when it is asked
        log.info("Spark %s at %s in %.1f s", session.version, where, time.perf_counter() - began)
    except Exception as error:
        raise InputError(_not_started(where, params.options, _message(error))) from error
    return session


def _check_options(options: Mapping[str, str]) -> None:
    """Refuse names that Spark ignores, and the one that would override engine.master."""
    for name in options:
        if not name.startswith("spark.") or name == "spark.master":
            better = "it is engine.master" if name == "spark.master" else "their names begin with `spark.`"
            raise InputError(
                f"engine.options: {name!r} is no setting of Spark that is given here: {better}. Correct params.yaml."
            )


def _check_answers(master: str) -> None:
    """Refuse what is no master. Connect to a standalone one first: Spark would try for a minute and log fifty lines."""
    if not MASTER.match(master):
        raise InputError(
            f"engine.master: {master!r} is no master of Spark. Write local[2], spark://host:port, yarn or k8s://..."
        )
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


def _not_started(where: str, options: Mapping[str, str], why: str) -> str:
    given = ", ".join(f"{name}: {value}" for name, value in options.items())
    return (
        f"engine: Spark at {where} did not start ({why}). "
        + (f"Check engine.options ({given}) first. " if given else "")
        + f"Start it if it is away, correct engine.master or {REMOTE}, or set engine.name=duckdb."
    )


def _check_java() -> None:
    home = os.environ.get("JAVA_HOME")
    if not (home and Path(home, "bin", "java").is_file()) and shutil.which("java") is None:
        raise InputError(
            "engine.name is spark, but there is no java on PATH or at JAVA_HOME. Install Java 17 "
            "(apt install openjdk-17-jre-headless), or set engine.name=duckdb."
        )


def _explained(error: Exception) -> Exception:
    """The error of a job that Spark gave up, in one line: of Spark, unless Python code failed in a task."""
    if "PythonException" in type(error).__name__ or "Traceback (most recent call last)" in str(error):
        return RuntimeError(f"Spark gave up a job: {_message(error)}")
    return InputError(
        f"engine: Spark ended in the middle of a job ({type(error).__name__}: {_message(error)}). What was finished is "
        "kept: run the same command again. If it ends again, see Spark's log; memory is set by engine.options, as "
        "spark.driver.memory and spark.executor.memory."
    )


def _message(error: Exception) -> str:
    """What the JVM names as the cause, without its stack; else the error's own words."""
    *_, cause = re.split(r"Caused by: ", str(error))
    text = " ".join(re.split(r"\n\s+at |\nJVM stacktrace", cause)[0].split())
    return shorten(text or type(error).__name__, MAX_MESSAGE)
