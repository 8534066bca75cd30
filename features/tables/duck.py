"""Folders of Parquet -> Ibis tables on DuckDB -> sorted Parquet, the same bytes on every run."""
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend

from features.tables.connection import memory_mb, num_threads
from features.tables.row_groups import ROW_GROUP, row_groups

_opened: ContextVar[Backend | None] = ContextVar("opened", default=None)


@contextmanager
def duckdb(spill: Path) -> Iterator[Backend]:
    """A new in-memory DuckDB connection, UTC, that spills to a folder; threads and memory as in connection.py."""
    connection = ibis.duckdb.connect(
        threads=num_threads(),
        memory_limit=f"{memory_mb()}MB",
        temp_directory=str(spill),
        autoinstall_known_extensions=False,
        preserve_insertion_order=False,
    )
    connection.raw_sql("SET TimeZone = 'UTC'")
    connection.raw_sql("SET enable_progress_bar = false")
    try:
        with warnings.catch_warnings():
            # deprecations between Ibis 12 and DuckDB 2 that we cannot avoid
            warnings.filterwarnings("ignore", "fetch_arrow_table", DeprecationWarning)
            token = _opened.set(connection)
            try:
                yield connection
            finally:
                _opened.reset(token)
    finally:
        connection.disconnect()


@contextmanager
def as_default(spill: Path) -> Iterator[Backend]:
    """As `duckdb`, and Ibis' default backend within the block, through which Feast reads."""
    with duckdb(spill) as connection:
        before = ibis.options.default_backend
        ibis.set_backend(connection)
        try:
            yield connection
        finally:
            ibis.options.default_backend = before


@contextmanager
def at_hand(spill: Path) -> Iterator[Backend]:
    """The connection of the `duckdb` block that this runs in, as to open one takes longer than most queries of a small
    file; in a task of its own process a new one."""
    if (connection := _opened.get()) is not None:
        yield connection
        return
    with duckdb(spill) as connection:
        yield connection


def read(connection: Backend, folder: Path) -> ir.Table:
    """All Parquet files of an output folder as one table."""
    return connection.read_parquet(str(folder / "*.parquet"))


def keep(connection: Backend, name: str, table: ir.Table | pa.Table) -> ir.Table:
    """Compute a table once and store it under a name; replaces an earlier table of that name."""
    # an Arrow table goes in as an expression: Ibis 12 cannot drop the view that it makes of a bare one
    expression = ibis.memtable(table).select(table.schema.names) if isinstance(table, pa.Table) else table
    connection.raw_sql(f"DROP TABLE IF EXISTS {_held(name)}")  # Ibis 12's own drop fails on sqlglot 30
    return connection.create_table(_held(name), expression, temp=True)


def kept(connection: Backend, name: str) -> ir.Table:
    """The table that `keep` stored under a name."""
    return connection.table(_held(name))


def write_sorted(connection: Backend, table: ir.Table, keys: list[str], schema: pa.Schema, path: Path) -> int:
    """Stream a table in the order of its keys, which must be unique, to one Parquet file. Returns its rows."""
    wanted = str(ibis.to_sql(table.order_by(keys).select(*schema.names), dialect="duckdb"))
    num_rows = 0
    with row_groups(path, schema) as append:
        # Ibis 12's to_pyarrow_batches calls what DuckDB 2 no longer has
        for batch in connection.con.sql(wanted).to_arrow_reader(ROW_GROUP):
            append(pa.Table.from_batches([batch]))
            num_rows += batch.num_rows
    return num_rows


def write_arrow(connection: Backend, table: ir.Table, path: Path) -> int:
    """Stream a table in its own order to a file in Arrow's format, which read_arrow maps. Returns its rows."""
    batches = connection.con.sql(str(ibis.to_sql(table, dialect="duckdb"))).to_arrow_reader(ROW_GROUP)
    num_rows = 0
    with pa.ipc.new_file(str(path), batches.schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            num_rows += batch.num_rows
    return num_rows


def write(table: pa.Table, schema: pa.Schema, path: Path) -> None:
    """Write a table that is already sorted."""
    pq.write_table(table.select(schema.names).cast(schema).combine_chunks(), path, compression="zstd")


def _held(name: str) -> str:
    return f"kept_{name}"  # no clash with SQL's words
