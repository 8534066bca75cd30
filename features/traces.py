"""A file and some users -> which of them it names, by what the file is: Parquet, SQLite, arrays of text, text.

Columns are read a group of rows at a time, text is searched where it lies; memory does not grow with the file.
"""
# pyright: reportAttributeAccessIssue=false

import json
import mmap
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.forgotten import fields_of

Users = frozenset[str]

USER_COLUMNS = ("user_id", "entity_key")
"""Columns that name users: ours, and Feast's, which holds the id among other bytes."""
NAME_COLUMN = "impression_id"
"""Where a log has no requests they are called <user_id>/<ordinal>."""
TEXT_COLUMN = "raw"
BATCH_ROWS = 1 << 16
SAMPLE = 8192


@dataclass(frozen=True)
class Wanted:
    """Users to look for, in the forms in which files hold them."""

    user_ids: Users

    @cached_property
    def array(self) -> pa.Array:
        """As a column's values."""
        return pa.array(sorted(self.user_ids), pa.string())

    @cached_property
    def patterns(self) -> dict[str, re.Pattern[bytes]]:
        """As text: in quotes, alone or before an ordinal; and, unless it is a number, as a word.

        Numbers are everywhere: 7 in a text is seldom the user 7.
        """
        return {user_id: re.compile(_pattern(user_id), re.DOTALL) for user_id in self.user_ids}

    def in_text(self, text: bytes | mmap.mmap) -> Users:
        """Those whose pattern is found."""
        return frozenset(user_id for user_id, pattern in self.patterns.items() if pattern.search(text))

    def of_names(self, names: Iterable[str]) -> Users:
        """Those whose request one of these names is."""
        parts = (name.rpartition("/") for name in names)
        return self.user_ids & {user for user, slash, ordinal in parts if slash and ordinal.isdigit()}


def users_in(path: Path, wanted: Wanted) -> Users | None:
    """Those of the users that the file names; None where it is of a kind that is not looked into (weights, say).

    Raises OSError, pa.ArrowException, sqlite3.Error or ValueError for a file that is damaged.
    """
    look = _kind(path)
    return None if look is None else look(path, wanted)


def _kind(path: Path) -> Callable[[Path, Wanted], Users] | None:
    """By the first bytes: what lies in a cache has no suffix."""
    with path.open("rb") as handle:
        start = handle.read(SAMPLE)
    for magic, look in (
        (b"PAR1", _in_parquet),
        (b"SQLite format 3\0", _in_sqlite),
        (b"\x93NUMPY", _in_arrays),
        (b"PK\x03\x04", _in_arrays),
    ):
        if start.startswith(magic):
            return look
    try:
        start.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(start) - 3:  # else the sample ends within a character
            return None
    return None if b"\0" in start else _in_text


def _pattern(user_id: str) -> bytes:
    quoted = {json.dumps(user_id), json.dumps(user_id, ensure_ascii=False)}
    inside = b"|".join(re.escape(text[1:-1].encode()) for text in sorted(quoted))
    named = rb'"(?:' + inside + rb')(?:/\d+)?"'
    if user_id.isdigit():
        return named
    word = rb"[\w\-\x80-\xff]"
    return named + rb"|(?<![\w\-.\x80-\xff])" + re.escape(user_id.encode()) + rb"(?!" + word + rb"|\." + word + rb")"


def _in_text(path: Path, wanted: Wanted) -> Users:
    if not path.stat().st_size:
        return frozenset()
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return wanted.in_text(text)


def _in_parquet(path: Path, wanted: Wanted) -> Users:
    found: Users = frozenset()
    with pq.ParquetFile(path) as file:
        names = [name for name in (*USER_COLUMNS, NAME_COLUMN, TEXT_COLUMN) if name in file.schema_arrow.names]
        if not names:
            return found
        for batch in file.iter_batches(BATCH_ROWS, columns=names):
            for name in names:
                found |= _in_column(name, batch.column(name), wanted)
            if found == wanted.user_ids:
                break
    return found


def _in_column(name: str, column: pa.Array, wanted: Wanted) -> Users:
    texts = column.cast(pa.string())
    if name in USER_COLUMNS:
        return frozenset(pc.unique(texts.filter(pc.is_in(texts, value_set=wanted.array))).to_pylist())
    held = [texts.filter(pc.fill_null(pc.match_substring(texts, user), False)).to_pylist() for user in wanted.user_ids]
    if name == NAME_COLUMN:
        return wanted.of_names(text for texts in held for text in texts)
    return wanted.user_ids & {field for texts in held for text in texts for field in fields_of(text)}


def _in_arrays(path: Path, wanted: Wanted) -> Users:
    """numpy's files; numbers are no ids."""
    loaded = np.load(path, allow_pickle=False, mmap_mode="r")
    if isinstance(loaded, np.ndarray):
        return _in_array(loaded, wanted)
    with loaded:
        arrays = (loaded[name] for name in loaded.files)
        return frozenset().union(*(_in_array(each, wanted) for each in arrays if isinstance(each, np.ndarray)))


def _in_array(values: np.ndarray, wanted: Wanted) -> Users:
    if values.dtype.kind not in "US":
        return frozenset()
    texts = values.astype(str) if values.dtype.kind == "S" else values
    return frozenset(user_id for user_id in wanted.user_ids if (texts == user_id).any())


def _in_sqlite(path: Path, wanted: Wanted) -> Users:
    """Tables' rows as they stand; what SQLite has deleted and not yet overwritten is not seen."""
    found: Users = frozenset()
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=30)
    try:
        for table, column in _text_columns(connection):
            found |= _in_sql_column(connection, table, column, wanted)
    finally:
        connection.close()
    return found


def _text_columns(connection: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    for (table,) in tables:
        for _, column, kind, *_ in connection.execute(f"PRAGMA table_info({_name(table)})").fetchall():
            if any(part in kind.upper() for part in ("TEXT", "CHAR", "BLOB")) or not kind:
                yield table, column


def _in_sql_column(connection: sqlite3.Connection, table: str, column: str, wanted: Wanted) -> Users:
    found = set()
    for user_id in wanted.user_ids:
        forms = (user_id, user_id.encode())
        equal = f"SELECT 1 FROM {_name(table)} WHERE {_name(column)} IN (?, ?) LIMIT 1"
        within = f"SELECT {_name(column)} FROM {_name(table)} WHERE instr(CAST({_name(column)} AS BLOB), ?)"
        if connection.execute(equal, forms).fetchone():
            found.add(user_id)
        elif column == "entity_key":
            whole = re.compile(rb"(?<![\w\-\x80-\xff])" + re.escape(forms[1]) + rb"(?![\w\-\x80-\xff])")
            rows = connection.execute(within, forms[1:])
            if any(whole.search(key if isinstance(key, bytes) else key.encode()) for (key,) in rows):
                found.add(user_id)
    return frozenset(found)


def _name(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'
