"""One time partition of the log -> a piece: its rows by user, with ids as numbers, cached by content.

A piece is a folder in .cache/histories/: users.parquet and items.parquet (the ids behind the numbers), and tables in
Arrow's file format, any slice of which can be memory-mapped (`contents` of features/history/queries.py):
rows.arrow        item_code, occurred_at, row_at, click_at (features/terms/known.py), label, kind, position, event_key,
                  session_key; by (user, time, item, key)
requests.arrow    named requests: user_code, impression_id, request_at, num_rows, known_at; by (time, user, name)
by_user.arrow     of the same: user_code, place (its row in requests), request_at, name_key; by (user, place)
asked.arrow       rows of the named requests: item_code, label, position, event_key; by (request, position, item, key)
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import ibis
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend

from contracts import schema
from contracts.files import hash_file
from contracts.known_hashes import hash_of
from features.engine.engine import Engine
from features.history import queries as history_queries
from features.tables import duck
from features.tables.arrow_file import read_arrow
from features.tables.cache import PartitionCache, key_of
from features.tables.partitions import Partition
from features.terms import convention, known

log = logging.getLogger("leitmotif")

TABLES = ("users", "items", "rows.arrow", "requests.arrow", "by_user.arrow", "asked.arrow")
BATCH = 1 << 18


@dataclass(frozen=True)
class HistoryPiece:
    """One partition in the cache."""

    partition: Partition
    log_file: Path  # of validated_interactions
    key: str
    num_rows: Mapping[str, int]  # of each of its tables
    files: Mapping[str, Path]

    def table(self, name: str) -> pa.Table:
        """rows, requests, by_user or asked, mapped into memory: nothing is read until it is touched."""
        return read_arrow(self.files[f"{name}.arrow"])


def pieces_of(engine: Engine, kept: PartitionCache, files: Mapping[Partition, Path]) -> list[HistoryPiece]:
    """The pieces in order of time; pieces that the cache lacks are computed, each a unit of the engine."""
    code = _code()
    keys = {partition: key_of(code, partition.name, hash_of(path)) for partition, path in files.items()}
    missing = [
        Missing(kept.folder, keys[partition], partition, path)
        for partition, path in files.items()
        if not kept.holds(keys[partition])
    ]
    kept.came(engine.map(make_piece, missing, "sorting partitions"), keys.values())
    return [
        HistoryPiece(partition, path, key, kept.num_rows(key), {table: kept.file(key, table) for table in TABLES})
        for (partition, path), key in zip(files.items(), keys.values(), strict=True)
    ]


@dataclass(frozen=True)
class Missing:
    """One partition that is to be sorted into the cache."""

    cache: Path
    key: str
    partition: Partition
    log_file: Path


def make_piece(missing: Missing) -> str:
    """Sort it; returns its key."""
    log.info("sorting %s", missing.partition.name)
    kept = PartitionCache(missing.cache)
    with kept.making() as making, duck.at_hand(making / "spilt") as connection:
        _make(connection, kept, making, missing)
    return missing.key


def decode_keys(digits: pa.Array) -> npt.NDArray[np.int64]:
    """Strings of 16 hexadecimal digits -> the big-endian int64 that each writes; 0 for null."""
    if digits.null_count == len(digits):
        return np.zeros(len(digits), np.int64)
    if digits.null_count:
        digits = digits.fill_null("0" * history_queries.HEX_DIGITS)
    first = pa.Array.from_buffers(pa.int32(), len(digits) + 1, [None, digits.buffers()[1]], offset=digits.offset)[0]
    size = len(digits) * history_queries.HEX_DIGITS
    text = np.frombuffer(digits.buffers()[2], np.uint8, size, first.as_py())
    nibbles = _NIBBLES[text].reshape(len(digits), history_queries.HEX_DIGITS)
    return (nibbles[:, 0::2] << 4 | nibbles[:, 1::2]).view(">i8").ravel().astype(np.int64)


_NIBBLES = np.zeros(256, np.uint8)
_NIBBLES[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)


@cache
def _compiled() -> tuple[dict[str, str], dict[str, str]]:
    """The queries as text, once for all partitions: compiling takes longer than a small partition."""
    made = (history_queries.tables(), history_queries.contents())
    held, written = ({name: str(ibis.to_sql(each, dialect="duckdb")) for name, each in of.items()} for of in made)
    return held, written


def _make(connection: Backend, kept: PartitionCache, making: Path, missing: Missing) -> None:
    held, written = _compiled()
    read = str(ibis.to_sql(connection.read_parquet(str(missing.log_file)), dialect="duckdb"))
    for name, query in {history_queries.LOG: read, **held}.items():
        connection.raw_sql(f'CREATE OR REPLACE TEMP TABLE "{name}" AS {query}')
    num_rows, made = {}, making / missing.key
    made.mkdir()
    for name, query in written.items():
        # Ibis 12's to_pyarrow_batches calls what DuckDB 2 no longer has
        batches = connection.con.sql(query).to_arrow_reader(BATCH)
        if name in TABLES:
            num_rows[name] = _write_ids(batches, missing.partition, made / f"{name}.parquet")
        else:
            num_rows[f"{name}.arrow"] = _write_arrow(batches, made / f"{name}.arrow")
    kept.put(missing.key, made, num_rows)
    for name in [history_queries.LOG, *held]:
        connection.raw_sql(f'DROP TABLE "{name}"')


def _write_ids(batches: pa.RecordBatchReader, partition: Partition, path: Path) -> int:
    fields = [*batches.schema, pa.field("partition", pa.string())]
    num_rows = 0
    with pq.ParquetWriter(path, pa.schema(fields), compression="zstd") as writer:
        for batch in batches:
            of = pa.repeat(partition.name, batch.num_rows)
            writer.write_batch(pa.record_batch([*batch.columns, of], schema=pa.schema(fields)))
            num_rows += batch.num_rows
    return num_rows


def _write_arrow(batches: pa.RecordBatchReader, path: Path) -> int:
    """Keys as numbers, times in microseconds, other columns unchanged."""
    fields = [_stored(field) for field in batches.schema]
    num_rows = 0
    with pa.ipc.new_file(str(path), pa.schema(fields)) as writer:
        for batch in batches:
            columns = [
                pa.array(decode_keys(column)) if name.endswith("_hex") else column.cast(field.type)
                for name, column, field in zip(batch.schema.names, batch.columns, fields, strict=True)
            ]
            writer.write_batch(pa.record_batch(columns, schema=pa.schema(fields)))
            num_rows += batch.num_rows
    return num_rows


def _stored(field: pa.Field) -> pa.Field:
    if field.name.endswith("_hex"):
        return pa.field(f"{field.name.removesuffix('_hex')}_key", pa.int64())
    return pa.field(field.name, pa.int64()) if pa.types.is_timestamp(field.type) else field


def _code() -> list[str]:
    """A hash of the code that the bytes depend on: these modules, and the libraries that sort and write."""
    modules = [
        Path(__file__),
        *(Path(str(each.__file__)) for each in (convention, duck, history_queries, known, schema)),
    ]
    return [*map(hash_file, modules), *(version(name) for name in ("duckdb", "ibis-framework", "pyarrow"))]
