"""A DuckDB connection for SQL over in-memory tables, in UTC, with the threads and memory of the machine. (duck.py has
the one for Ibis.)

LEITMOTIF_THREADS and LEITMOTIF_MEMORY_MB override both. They are not params of a stage, since its output does not
depend on them.
"""

import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import duckdb

from contracts.errors import InputError

THREADS, MEMORY = "LEITMOTIF_THREADS", "LEITMOTIF_MEMORY_MB"
LEAST_MB = 1000
ONE_IN = 16
"""By default DuckDB gets the machine's memory divided by this; it spills what does not fit to disk."""
MOST_OF = 2
"""The limit: at most the memory divided by this, since a container needs memory for other things too."""
QUOTA = Path("/sys/fs/cgroup/cpu.max")
SESSION = "SET TimeZone = 'UTC'; SET enable_progress_bar = false"
"""What DuckDB forgets from one cursor of a database to the next: there it would be the machine's time zone."""
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


_opened: ContextVar[duckdb.DuckDBPyConnection | None] = ContextVar("opened", default=None)


@contextmanager
def opened(spill: Path) -> Iterator[None]:
    """One database for every `connect` of the block, as to open one takes longer than most queries of a small file.

    spill: the folder for what does not fit into memory.
    """
    with _open(spill) as connection:
        token = _opened.set(connection)
        try:
            yield
        finally:
            _opened.reset(token)


@contextmanager
def at_hand(spill: Path) -> Iterator[None]:
    """As `opened`, unless this runs in a block of it: for a task that may have a process of its own."""
    if _opened.get() is not None:
        yield
        return
    with opened(spill):
        yield


@contextmanager
def connect() -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection of our own, with its own tables, closed at the end of the block."""
    if (database := _opened.get()) is not None:
        with database.cursor() as connection:
            connection.execute(SESSION)
            yield connection
        return
    with _open(Path(tempfile.gettempdir(), f"leitmotif-duckdb-{os.getpid()}")) as connection:
        yield connection


@contextmanager
def _open(spill: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute(
            f"{SESSION}; SET threads = {num_threads()}; SET memory_limit = '{memory_mb()}MB'; "
            f"SET temp_directory = '{spill}'"
        )
        yield connection


def num_threads() -> int:
    """LEITMOTIF_THREADS, or else the processors available to this process and its container. Raises InputError."""
    return _told(THREADS) or min(len(os.sched_getaffinity(0)), _quota())


def memory_mb() -> int:
    """LEITMOTIF_MEMORY_MB, or else a share of the machine's or the container's memory. Raises InputError."""
    megabytes = _machine_bytes() // 1_000_000
    return _told(MEMORY) or max(1, min(max(LEAST_MB, megabytes // ONE_IN), megabytes // MOST_OF))


def _told(name: str) -> int | None:
    text = os.environ.get(name, "").strip()
    if not text:
        return None
    if not text.isdecimal() or not int(text):
        raise InputError(f"{name} is {text!r}, not a whole number of at least 1. Correct it or unset it.")
    return int(text)


def _quota() -> int:
    """The container's CPU quota in whole processors; a large number without a quota."""
    quota, *period = QUOTA.read_text().split() if QUOTA.is_file() else ["max"]
    return max(1, math.ceil(int(quota) / int(period[0]))) if quota.isdecimal() and period else 1 << 16


def _machine_bytes() -> int:
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    told = [path.read_text().strip() for path in LIMITS if path.is_file()]
    return min([whole, *(int(text) for text in told if text.isdecimal())])
