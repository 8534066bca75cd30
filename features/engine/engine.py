"""Units of work -> their results in order, run in this process or as tasks of Spark: one definition, two engines.

A unit is a small description (names of files, a range of users); what it makes are files, published by rename under a
name that the unit alone has, so that a task that Spark runs twice does no harm. Its result is small too: data never
passes through the driver. Which engine ran them changes no byte, so it is no param of a stage: changing it reruns none.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from features.terms.params import EngineParams

Unit = TypeVar("Unit")
Result = TypeVar("Result")

HERE = EngineParams(name="duckdb", master="", options={})
"""This process, with DuckDB's threads."""


class Engine(Protocol):
    """What runs units of work."""

    def map(self, function: Callable[[Unit], Result], units: Sequence[Unit], doing: str) -> Iterator[Result]:
        """The result of each unit, in order.

        function: of a module that executors can import, or a partial of one. doing: what is said of it in the log.
        What a unit raises is raised here; units after it may have run.
        """
        ...


class InProcess:
    """One unit after the other, each when its result is asked for."""

    def map(self, function: Callable[[Any], Any], units: Sequence[Any], doing: str) -> Iterator[Any]:
        """As Engine has it."""
        return map(function, units)


@contextmanager
def running(params: EngineParams, shared: Path) -> Iterator[Engine]:
    """The engine that params name, until the block ends. Spark is started by the first `map` that has units.

    shared: a folder that exists here; executors must see the same. Raises InputError where pyspark or Java is missing,
    or the master cannot be reached.
    """
    if params.name == "duckdb":
        yield InProcess()
        return
    from features.engine.spark import SparkEngine  # pyspark is an extra

    engine = SparkEngine(params, shared)
    try:
        yield engine
    finally:
        engine.stop()
