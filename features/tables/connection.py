"""A DuckDB for SQL over tables in memory: UTC, two threads, no progress bar. Ibis's is in duck.py."""

from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

NUM_THREADS = 2


@contextmanager
def connect() -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection of our own, closed at the end of the block."""
    with duckdb.connect() as connection:
        connection.execute(f"SET TimeZone = 'UTC'; SET threads = {NUM_THREADS}; SET enable_progress_bar = false")
        yield connection
