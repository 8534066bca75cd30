"""An EB-NeRD folder -> its files, and their columns under our names: ids as text, times in microseconds of UTC."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as kinds

from contracts.errors import InputError
from contracts.schema import TIME
from features.sources.files import READ_ERRORS, DataFile, describe, unreadable

PARTS = ("train", "validation")
TEXT, TEXTS, NUMBER, TRUTH = pa.string(), pa.list_(pa.string()), pa.int64(), pa.bool_()
TIMES = pa.list_(TIME)


class Column(NamedTuple):
    """A published column: its name, its type, and whether a file must have it."""

    theirs: str
    kind: pa.DataType
    required: bool = True


BEHAVIORS: Mapping[str, Column] = {
    "impression_id": Column("impression_id", TEXT),
    "user_id": Column("user_id", TEXT),
    "session_id": Column("session_id", TEXT),
    "at_us": Column("impression_time", TIME),
    "shown": Column("article_ids_inview", TEXTS),
    "clicked": Column("article_ids_clicked", TEXTS),
    "device": Column("device_type", TEXT, required=False),
    "is_subscriber": Column("is_subscriber", TRUTH, required=False),
    "reading_item_id": Column("article_id", TEXT, required=False),
}
HISTORY: Mapping[str, Column] = {
    "user_id": Column("user_id", TEXT),
    "item_ids": Column("article_id_fixed", TEXTS),
    "times_us": Column("impression_time_fixed", TIMES),
}
ARTICLES: Mapping[str, Column] = {
    "item_id": Column("article_id", TEXT),
    "title": Column("title", TEXT, required=False),
    "category": Column("category_str", TEXT, required=False),
    "category_id": Column("category", TEXT, required=False),
    "subcategory": Column("subcategory", TEXTS, required=False),
    "topics": Column("topics", TEXTS, required=False),
    "published_us": Column("published_time", TIME, required=False),
}


class NewsFiles(NamedTuple):
    """The files of one bundle."""

    behaviors: list[DataFile]  # train, validation
    history: list[DataFile]
    articles: DataFile | None


def find_ebnerd(folder: str | None) -> NewsFiles:
    """Find the files anywhere below the folder. Raises InputError if one is missing or there are two of it."""
    if not folder:
        raise InputError("source.path is not set. Name EB-NeRD's folder: make run SOURCE=ebnerd DATA=<folder>.")
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise InputError(f"source.path: {folder} is not a folder (seen from {Path.cwd()}). Name EB-NeRD's folder.")
    behaviors, history = ([_one(root, f"{part}/{name}.parquet") for part in PARTS] for name in ("behaviors", "history"))
    articles = _below(root, "articles.parquet")
    return NewsFiles(behaviors, history, _one(root, "articles.parquet") if articles else None)


def read_columns(file: DataFile, columns: Mapping[str, Column]) -> pa.Table:
    """The columns under our names, and each row's file and line (from 1). A time without a zone is UTC.

    Raises InputError if the file cannot be read, lacks a column, or has a column of an unsuitable type.
    """
    try:
        parquet = pq.ParquetFile(file.path)
        names = parquet.schema_arrow.names
        missing = [column.theirs for column in columns.values() if column.required and column.theirs not in names]
        if missing:
            raise InputError(
                f"source.path: {file.name} has no column {', '.join(missing)}. It has: {', '.join(names)}. "
                "For another layout use source.name: table."
            )
        table = parquet.read([column.theirs for column in columns.values() if column.theirs in names])
    except READ_ERRORS as error:
        raise unreadable(file, error) from error
    ours = {name: _typed(file, table, column) for name, column in columns.items()}
    ours["file"] = pa.chunked_array([pa.repeat(file.name, len(table))])
    ours["line"] = pa.chunked_array([pa.array(np.arange(1, len(table) + 1))])
    return pa.table(ours)


def _one(root: Path, name: str) -> DataFile:
    found = _below(root, name)
    if len(found) != 1:
        there = f"{len(found)} times ({', '.join(path.as_posix() for path in found)})" if found else "not there"
        raise InputError(
            f"source.path: {name} is {there} below {root}. A bundle of EB-NeRD has folders train and validation, with "
            "behaviors.parquet and history.parquet in each and perhaps articles.parquet: name the folder of one bundle."
        )
    return describe(root / found[0], found[0].as_posix())


def _below(root: Path, name: str) -> list[Path]:
    """Relative paths of files with this name, except hidden ones and those under __MACOSX."""
    paths = sorted(path.relative_to(root) for path in root.rglob(name) if path.is_file())
    return [path for path in paths if not any(part[0] in "._" for part in path.parts)]


def _typed(file: DataFile, table: pa.Table, column: Column) -> pa.ChunkedArray:
    """The column as text or microseconds, or lists of these; all null if the file lacks an optional column."""
    kind = _in_numbers(column.kind)
    if column.theirs not in table.column_names:
        return pa.chunked_array([pa.nulls(len(table), kind)])
    found = table[column.theirs]
    if not _fits(found.type, column.kind):
        raise InputError(
            f"source.path: {file.name}: column {column.theirs} holds {found.type}, not {column.kind}. "
            "Use the file as published."
        )
    return found.cast(column.kind, safe=False).cast(kind)


def _in_numbers(kind: pa.DataType) -> pa.DataType:
    return {TIME: NUMBER, TIMES: pa.list_(NUMBER)}.get(kind, kind)


def _fits(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whole numbers and text can be ids; only timestamps can be times. A column of nulls can be anything."""
    if kinds.is_null(found):
        return True
    if kinds.is_list(wanted):
        is_list = kinds.is_list(found) or kinds.is_large_list(found)
        return is_list and _fits(found.value_type, wanted.value_type)
    if wanted in (TIME, TRUTH):
        return kinds.is_timestamp(found) if wanted == TIME else kinds.is_boolean(found)
    return kinds.is_integer(found) or kinds.is_string(found) or kinds.is_large_string(found)
