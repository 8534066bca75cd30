"""A file (Parquet, Arrow, SQLite, numpy arrays, text) and users -> which of the users it names.

Columns are read by row groups and text in pieces, so that memory does not grow with the file.
"""
# pyright: reportAttributeAccessIssue=false

import gzip
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.live.spellings import NOBODY, TELLING_DIGITS, Traces, Users, Wanted, is_number
from features.sealed.forgotten import fields_of

ENTITY_KEY = "entity_key"
"""Feast's key column, which has the id among other bytes."""
NAME_COLUMN = "impression_id"
"""In logs without requests its values are <user_id>/<ordinal>."""
TEXT_COLUMN = "raw"
BATCH_ROWS = 1 << 16
SAMPLE = 8192
PIECE = 1 << 22
OVERLAP = 1 << 12
"""Bytes that consecutive pieces of a text share, longer than an id in any spelling."""


class _Bytes(Protocol):
    def read(self, size: int, /) -> bytes: ...


def look_into(path: Path, wanted: Wanted) -> Traces | None:
    """The users that the file names or may name; None for kinds that are not searched (such as weights).

    Raises OSError, pa.ArrowException, sqlite3.Error or ValueError for a file that is damaged.
    """
    look = _kind(path)
    return None if look is None else look(path, wanted)


def _kind(path: Path) -> Callable[[Path, Wanted], Traces] | None:
    """The kind of a file by its first bytes, since cached files have no suffix."""
    with path.open("rb") as handle:
        start = handle.read(SAMPLE)
    for magic, look in (
        (b"PAR1", _in_parquet),
        (b"ARROW1", _in_arrow),
        (b"SQLite format 3\0", _in_sqlite),
        (b"\x93NUMPY", _in_arrays),
        (b"PK\x03\x04", _in_arrays),
        (b"\x1f\x8b", _in_gzip),
    ):
        if start.startswith(magic):
            return look
    try:
        start.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(start) - 3:  # else the sample ends within a character
            return None
    return None if b"\0" in start else _in_text


def _is_of_users(column: str) -> bool:
    return column.lower() in ("user", "users", "user_ids") or column.lower().endswith("user_id")


def _in_text(path: Path, wanted: Wanted) -> Traces:
    with path.open("rb") as handle:
        return _in_stream(handle, wanted)


def _in_gzip(path: Path, wanted: Wanted) -> Traces:
    with gzip.open(path) as handle:
        return _in_stream(handle, wanted)


def _in_stream(handle: _Bytes, wanted: Wanted) -> Traces:
    found, rest = Traces(), b""
    while piece := handle.read(PIECE):
        found |= wanted.in_text((rest + piece).decode("utf-8", "replace"))
        rest = (rest + piece)[-OVERLAP:]
    return found


def _in_parquet(path: Path, wanted: Wanted) -> Traces:
    found = Traces()
    with pq.ParquetFile(path) as file:
        names = [field.name for field in file.schema_arrow if _may_hold_ids(field)]
        if not names:
            return found
        for batch in file.iter_batches(BATCH_ROWS, columns=names):
            for name in names:
                found |= _in_column(name, _flat(batch.column(name)), wanted)
            if found.named == wanted.user_ids:
                break
    return found


def _in_arrow(path: Path, wanted: Wanted) -> Traces:
    found = Traces()
    with pa.OSFile(str(path)) as handle:
        reader = pa.ipc.open_file(handle)
        names = [field.name for field in reader.schema if _may_hold_ids(field)]
        for place in range(reader.num_record_batches if names else 0):
            batch = reader.get_batch(place)
            for name in names:
                found |= _in_column(name, _flat(batch.column(name)), wanted)
            if found.named == wanted.user_ids:
                break
    return found


def _may_hold_ids(field: pa.Field) -> bool:
    kind = field.type
    while pa.types.is_dictionary(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return pa.types.is_integer(kind) or _is_text(kind)


def _is_text(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary))


def _flat(column: pa.Array) -> pa.Array:
    """The flattened values of lists and dictionaries."""
    while pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        column = column.flatten()
    return column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column


def _in_column(name: str, column: pa.Array, wanted: Wanted) -> Traces:
    if pa.types.is_integer(column.type):
        return _in_numbers(name, column, wanted)
    texts = _as_text(column)
    held = pc.unique(texts.filter(pc.fill_null(pc.match_substring_regex(texts, wanted.somewhere), False))).to_pylist()
    if name == NAME_COLUMN:
        return Traces(wanted.of_names(held))
    if _is_of_users(name) or name == ENTITY_KEY:
        return Traces(wanted.user_ids & frozenset(held))
    fields = {field for text in held for field in fields_of(text)} if name == TEXT_COLUMN else frozenset()
    return Traces(wanted.user_ids & fields) | wanted.in_column(held)


def _as_text(column: pa.Array) -> pa.Array:
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:  # bytes that are not text
        values = [value for value in column.to_pylist() if value is not None]
        return pa.array([value.decode("utf-8", "replace") for value in values], pa.string())


def _in_numbers(name: str, column: pa.Array, wanted: Wanted) -> Traces:
    """Any number in a column of users, and elsewhere only numbers that are long enough to be ids."""
    sought = wanted.numbers if _is_of_users(name) else wanted.telling
    if not sought:
        return Traces()
    values = column.cast(pa.int64(), safe=False)
    bounds = np.iinfo(np.int64)
    keys = pa.array([number for number in sought if bounds.min <= number <= bounds.max], pa.int64())
    there = pc.unique(values.filter(pc.is_in(values, value_set=keys))).to_pylist()
    users = frozenset(sought[number] for number in there)
    return Traces(users) if _is_of_users(name) else Traces(NOBODY, users)


def _in_arrays(path: Path, wanted: Wanted) -> Traces:
    """numpy's files; numbers in them are not ids."""
    loaded = np.load(path, allow_pickle=False, mmap_mode="r")
    if isinstance(loaded, np.ndarray):
        return Traces(_in_array(loaded, wanted))
    with loaded:
        arrays = (loaded[name] for name in loaded.files)
        return Traces(frozenset().union(*(_in_array(each, wanted) for each in arrays if isinstance(each, np.ndarray))))


def _in_array(values: np.ndarray, wanted: Wanted) -> Users:
    if values.dtype.kind not in "US":
        return frozenset()
    texts = values.astype(str) if values.dtype.kind == "S" else values
    return frozenset(user_id for user_id in wanted.user_ids if (texts == user_id).any())


def _in_sqlite(path: Path, wanted: Wanted) -> Traces:
    """The rows of all tables; deleted rows that SQLite has not overwritten yet are not searched."""
    found = Traces()
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=30)
    try:
        for table, column, is_text in _columns(connection):
            found |= _in_sql_column(connection, table, column, is_text, wanted)
    finally:
        connection.close()
    return found


def _columns(connection: sqlite3.Connection) -> Iterator[tuple[str, str, bool]]:
    """(table, column, whether it is text) of columns of text or bytes, and of users."""
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    for (table,) in tables:
        for _, column, kind, *_ in connection.execute(f"PRAGMA table_info({_name(table)})").fetchall():
            is_text = any(part in kind.upper() for part in ("TEXT", "CHAR", "CLOB", "JSON"))
            if is_text or not kind or "BLOB" in kind.upper() or _is_of_users(column):
                yield table, column, is_text


def _in_sql_column(connection: sqlite3.Connection, table: str, column: str, is_text: bool, wanted: Wanted) -> Traces:
    named, held = set(), []
    select = f"SELECT {_name(column)} FROM {_name(table)} WHERE"
    for user_id in wanted.user_ids:
        forms = (user_id, user_id.encode(), int(user_id) if is_number(user_id) and len(user_id) < 19 else user_id)
        if connection.execute(f"{select} {_name(column)} IN (?, ?, ?) LIMIT 1", forms).fetchone():
            if _is_of_users(column) or not is_number(user_id):
                named.add(user_id)
            elif len(user_id) >= TELLING_DIGITS:
                held.append(user_id)
        elif column == ENTITY_KEY:
            whole = re.compile(rb"(?<![\w\-\x80-\xff])" + re.escape(forms[1]) + rb"(?![\w\-\x80-\xff])")
            rows = connection.execute(f"{select} instr(CAST({_name(column)} AS BLOB), ?)", forms[1:2])
            if any(whole.search(key if isinstance(key, bytes) else key.encode()) for (key,) in rows):
                named.add(user_id)
    found = Traces(frozenset(named), frozenset(held))
    if not is_text or _is_of_users(column):
        return found
    return found | _in_sql_text(connection, select, column, wanted)


def _in_sql_text(connection: sqlite3.Connection, select: str, column: str, wanted: Wanted) -> Traces:
    """The users in the texts of a column, such as messages or JSON."""
    somewhere = re.compile(wanted.somewhere)
    connection.create_function("may_name", 1, lambda text: bool(somewhere.search(str(text))), deterministic=True)
    found, texts = Traces(), connection.execute(f"{select} {_name(column)} IS NOT NULL AND may_name({_name(column)})")
    while rows := texts.fetchmany(1_000):
        found |= wanted.in_column(str(text) for (text,) in rows)
    return found


def _name(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'
