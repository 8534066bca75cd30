"""Units of work -> their results in order, run in this process or as tasks of Spark: one definition, two engines.

A unit is a small description (names of files, a range of users). It writes files, published by rename under a name that
is unique to the unit, so a task that Spark runs twice does no harm. Its result is small too: data never passes through
the driver. Both engines write the same bytes, so the engine is not a param of a stage: changing it reruns nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

from features.terms.params import EngineParams

Unit = TypeVar("Unit")
Result = TypeVar("Result")

HERE = EngineParams(name="duckdb", master="", options={})
"""In this process, with DuckDB's threads."""


class Engine(Protocol):
    """Runs units of work."""

    def map(self, function: Callable[[Unit], Result], units: Sequence[Unit], doing: str) -> Iterator[Result]:
        """The result of each unit, in order.

        function: of a module that executors can import, or a partial of one. doing: what the log calls this work. An
        error of a unit is raised here; later units may have run.
        """
        ...


class InProcess:
    """Runs one unit after the other, each when its result is requested."""

    def map(self, function: Callable[[Any], Any], units: Sequence[Any], doing: str) -> Iterator[Any]:
        """As Engine has it."""
        return map(function, units)


@contextmanager
def running(params: EngineParams, shared: Path) -> Iterator[Engine]:
    """The engine that params name, until the block ends. Spark starts with the first `map` that has units.

    shared: an existing folder that executors must see too. Raises InputError if pyspark or Java is missing, or the
    master cannot be reached.
    """
    if params.name == "duckdb":
        yield InProcess()
        return
    from features.engine.spark import SparkEngine  # pyspark is an extra

    engine = SparkEngine(params, shared)
    try:
        yield engine
    except BaseException:
        with suppress(Exception):  # a JVM that is gone cannot be stopped, and why it went is what is raised
            engine.stop()
        raise
    engine.stop()
