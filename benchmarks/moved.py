"""A stage -> the bytes that its units of work read from files and wrote into them, and those of the driver.

Units exchange data by files, so on a cluster these are what its network carries, beside what Spark shuffles. Bytes are
those of read and write calls of a process (`/proc/self/io`): what it maps into memory is not counted, and what the
system still has in memory is.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from features.engine import engine as engines
from features.engine import spark

IO = Path("/proc/self/io")


@dataclass
class Moved:
    """Units that have ended, and their bytes; those of this process beside them, once the block has ended."""

    units: int = 0
    read: int = 0
    written: int = 0
    driver_read: int = 0
    driver_written: int = 0


@contextmanager
def counting() -> Iterator[Moved]:
    """Count the units of every engine that this process starts in the block."""
    moved, here, of_before = Moved(), Moved(), (engines.InProcess, spark.SparkEngine)
    engines.InProcess, spark.SparkEngine = _counting(of_before[0], moved, here), _counting(of_before[1], moved)
    began = _bytes()
    try:
        yield moved
    finally:
        engines.InProcess, spark.SparkEngine = of_before
        read, written = _since(began)
        moved.driver_read, moved.driver_written = read - here.read, written - here.written


def _counting(engine: Any, *into: Moved) -> Any:
    class Counting(engine):
        def map(self, function: Callable[[Any], Any], units: Sequence[Any], doing: str) -> Iterator[Any]:
            for result, read, written in super().map(partial(measured, function), units, doing):
                for moved in into:
                    moved.units += 1
                    moved.read += read
                    moved.written += written
                yield result

    return Counting


def measured(function: Callable[[Any], Any], unit: Any) -> tuple[Any, int, int]:
    """The result of a unit, and the bytes that its process read and wrote meanwhile."""
    began = _bytes()
    return function(unit), *_since(began)


def _since(began: tuple[int, int]) -> tuple[int, int]:
    read, written = _bytes()
    return read - began[0], written - began[1]


def _bytes() -> tuple[int, int]:
    fields = dict(line.split(": ") for line in IO.read_text(encoding="utf-8").splitlines())
    return int(fields["rchar"]), int(fields["wchar"])
