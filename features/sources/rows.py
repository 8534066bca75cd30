"""A data file of a table, a few megabytes at a time -> its events and the rows that could not be parsed.

Memory holds one block, however large the file is, except that a compressed Parquet file is decompressed whole.
"""
# pyright: reportAttributeAccessIssue=false

import difflib
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts.errors import InputError
from contracts.schema import REJECTED, ROLE_IMPRESSION, TIME
from features.sources.delimited import WRONG_FIELDS, EscapedQuotes, Header, TextBlock, read_blocks, read_header
from features.sources.files import PARQUET, READ_ERRORS, DataFile, open_bytes, unreadable
from features.sources.parse import parse
from features.terms.params import SourceParams

MAX_RAW_CHARACTERS = 10_000
"""The raw text of a rejected row is cut to this length."""
MAX_NAMES_CHARACTERS = 2_000
BATCH_ROWS = 1 << 18
"""Rows of Parquet that are read at a time."""


class FileRows(NamedTuple):
    """Rows of a file: its events, rows that could not be parsed, and counts that the report warns about."""

    events: pa.Table  # EVENTS and ABOUT_ITEMS
    rejected: pa.Table  # REJECTED
    num_null_words: Mapping[str, int]
    num_without_zone: int


def read_file(file: DataFile, mapping: Mapping[str, str], source: SourceParams) -> FileRows:
    """Read the whole file. mapping: our column name -> the file's."""
    try:
        blocks = list(file_blocks(file, mapping, source))
    except EscapedQuotes as escaped:
        blocks = list(file_blocks(file, mapping, source, escaped.header))
    words: Counter[str] = Counter()
    for block in blocks:
        words.update(block.num_null_words)
    events = pa.concat_tables([block.events for block in blocks])
    rejected = pa.concat_tables([block.rejected for block in blocks])
    return FileRows(events, rejected, words, sum(block.num_without_zone for block in blocks))


def file_blocks(
    file: DataFile, mapping: Mapping[str, str], source: SourceParams, header: Header | None = None
) -> Iterator[FileRows]:
    """The file block by block; an empty file gives one block without rows.

    header: of a text file, if already known. Raises EscapedQuotes with the header to read the file with again.
    """
    blocks = _of_parquet(file, mapping) if file.kind == PARQUET else _of_text(file, mapping, header)
    is_empty = True
    for raw, line, text in blocks:
        yield _parsed(file, source, raw, line, text)
        is_empty = False
    if is_empty:
        raw = pa.table({ours: pa.array([], pa.string()) for ours in mapping})
        yield _parsed(file, source, raw, np.zeros(0, np.int64), None)


def _parsed(file: DataFile, source: SourceParams, raw: pa.Table, line: np.ndarray, text: TextBlock | None) -> FileRows:
    parsed = parse(raw, source.time_unit, source.label_threshold, source.null_words)
    failed = pc.is_valid(parsed.rows["reason"])
    at = np.flatnonzero(failed.to_numpy())
    texts = _texts(raw.take(at)) if text is None else text.texts(at)
    bad = text.bad if text else []
    rejected = pa.table(
        {
            "file": [file.name] * (len(at) + len(bad)),
            "line": [*line[at].tolist(), *(row.line for row in bad)],
            "reason": [*parsed.rows["reason"].filter(failed).to_pylist(), *[WRONG_FIELDS] * len(bad)],
            "raw": [cut(text) for text in (*texts, *(row.raw for row in bad))],
        },
        schema=REJECTED,
    )
    events = _events(parsed.rows, file.name, line).filter(pc.invert(failed))
    return FileRows(events, rejected, parsed.num_null_words, parsed.num_without_zone)


def cut(text: str) -> str:
    """The text of a rejected row, cut to MAX_RAW_CHARACTERS."""
    if len(text) <= MAX_RAW_CHARACTERS:
        return text
    return f"{text[:MAX_RAW_CHARACTERS]}... ({len(text):,} characters)"


def check_columns(file: DataFile, mapping: Mapping[str, str], names: Sequence[str]) -> None:
    for ours, theirs in mapping.items():
        count = list(names).count(theirs)
        if count > 1:
            raise InputError(f"source.columns.{ours}: {file.name} has {count} columns called {theirs!r}. Rename one.")
        if not count:
            close = difflib.get_close_matches(theirs, names, n=1, cutoff=0.5)
            guess = f" Did you mean {close[0]!r}?" if close else ""
            there = ", ".join(names)
            there = there if len(there) <= MAX_NAMES_CHARACTERS else f"{there[:MAX_NAMES_CHARACTERS]}..."
            is_row = all(re.fullmatch(r"[\d.:\-]*", name) for name in names)
            header = " Its first line looks like data: add a header line, e.g. user,item,time." if is_row else ""
            raise InputError(
                f"source.columns.{ours}: {file.name} has no column {theirs!r}. It has: {there}."
                f"{_in_folder(file, theirs) or guess}{header}"
            )


def _in_folder(file: DataFile, name: str) -> str:
    """A text if a folder's name has the value of this column, as Hive's partitions do; else empty."""
    parts = [part for part in file.name.split("/")[:-1] if part.startswith(f"{name}=")]
    if not parts:
        return ""
    return (
        f" The folder's name says {parts[0]}; names of folders are not read. Write the column into the files: "
        "in DuckDB, COPY (SELECT * FROM read_parquet('log/**/*.parquet', hive_partitioning = true)) TO 'whole.parquet'."
    )


def _of_text(
    file: DataFile, mapping: Mapping[str, str], header: Header | None
) -> Iterator[tuple[pa.Table, np.ndarray, TextBlock]]:
    wanted = list(dict.fromkeys(mapping.values()))
    header = header or read_header(file, wanted)
    if header is None:  # an empty file
        return
    check_columns(file, mapping, header.names)
    for block in read_blocks(file, header, wanted):
        yield _ours(block.columns, mapping), block.line, block


def _of_parquet(file: DataFile, mapping: Mapping[str, str]) -> Iterator[tuple[pa.Table, np.ndarray, None]]:
    if not file.packer and not file.path.stat().st_size:
        return
    wanted, first = list(dict.fromkeys(mapping.values())), 1
    try:
        with open_bytes(file) as handle:
            parquet = pq.ParquetFile(io.BytesIO(handle.read()) if file.packer else handle)
            check_columns(file, mapping, parquet.schema_arrow.names)
            for batch in parquet.iter_batches(BATCH_ROWS, columns=wanted):
                yield _ours(pa.Table.from_batches([batch]), mapping), np.arange(first, first + len(batch)), None
                first += len(batch)
            if first == 1:
                yield _ours(parquet.schema_arrow.empty_table().select(wanted), mapping), np.arange(0), None
    except READ_ERRORS as error:
        raise unreadable(file, error) from error


def _ours(table: pa.Table, mapping: Mapping[str, str]) -> pa.Table:
    columns = {ours: table[theirs] for ours, theirs in mapping.items()}
    return pa.table({name: _decoded(column) for name, column in columns.items()})


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Dictionaries as their values, and views, which Arrow can neither filter nor compare, as plain types."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    return column.cast(_without_views(kind))


def _without_views(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    for is_list in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list):
        if is_list(kind) and (plain := _without_views(kind.value_type)) != kind.value_type:
            return pa.large_list(plain)
    return kind


def _texts(rows: pa.Table) -> list[str]:
    """The raw text of Parquet rows: their mapped values as JSON."""
    values = pa.table({name: _as_json(rows[name]) for name in rows.column_names})
    return [json.dumps(row, default=str, ensure_ascii=False) for row in values.to_pylist()]


def _as_json(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Times as text, because Python lacks some time zones and all years beyond 9999; other columns unchanged."""
    kind = column.type
    if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        return column
    plain = column.cast(pa.int64()).cast(pa.timestamp(kind.unit)) if pa.types.is_timestamp(kind) else column
    texts = plain.to_numpy().astype(str)
    ends = "Z" if pa.types.is_timestamp(kind) and kind.tz else ""
    return pa.chunked_array([pa.array([f"{text}{ends}" if text != "NaT" else None for text in texts], pa.string())])


def _events(parsed: pa.Table, name: str, line: np.ndarray) -> pa.Table:
    columns = {
        column: parsed[column] for column in parsed.column_names if column not in ("at_us", "known_us", "reason")
    }
    columns["occurred_at"] = parsed["at_us"].cast(TIME)
    columns["role"] = pa.repeat(ROLE_IMPRESSION, len(parsed))
    columns["known_at"] = parsed["known_us"].cast(TIME)
    columns["arrived_at"] = pa.nulls(len(parsed), TIME)
    columns["file"] = pa.repeat(name, len(parsed))
    columns["line"] = pa.array(line, pa.int64())
    return pa.table(columns)
