"""Delimited text or Parquet, plain or packed, file or folder of files, and a mapping of its columns -> a log."""
# pyright: reportAttributeAccessIssue=false

import difflib
import io
import json
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts.errors import InputError
from contracts.schema import ITEMS, REJECTED, ROLE_IMPRESSION, TIME
from features.sealed.forgotten import Forgotten, are_forgotten
from features.sources.delimited import WRONG_FIELDS, DelimitedRows, read_delimited, read_header, read_raw
from features.sources.files import ADVICE, PARQUET, READ_ERRORS, DataFile, find_files, named, open_bytes, unreadable
from features.sources.log import EVENTS, Log
from features.sources.parse import KEYS, WHOLE, parse
from features.tables.connection import connect
from features.terms.params import ColumnParams, SourceParams

log = logging.getLogger("leitmotif")

REQUIRED = ("user_id", "item_id", "occurred_at")
MAX_RAW_CHARACTERS = 10_000
"""A rejected row's raw text is cut here."""
MAX_NAMES_CHARACTERS = 2_000
ABOUT_ITEMS = ("title", "categories", "published_us", "embedding")
FRACTION = r"^-?\d+\.\d*[1-9]\d*$"


class FileRows(NamedTuple):
    """One file, read: its events, its rows that could not be parsed, and what a person should know of it."""

    events: pa.Table  # EVENTS and ABOUT_ITEMS
    rejected: pa.Table  # REJECTED
    num_null_words: Mapping[str, int]
    num_without_zone: int


def read_table(source: SourceParams, forgotten: Forgotten = frozenset()) -> Log:
    """Read every file under source.path. Raises InputError for what stops the whole log, naming file and next step.

    A file without a row is left out with a warning. forgotten: users whose rows say nothing about items.
    """
    mapping = _mapping(source.columns)
    files = _files(source, mapping)
    read = [read_file(file, mapping, source) for file in files]
    for file, rows in zip(files, read, strict=True):
        if not len(rows.events) + len(rows.rejected):
            log.warning("%s has no rows: nothing is taken from it", file.name)
        else:
            log.info("read %s rows of %s, %s rejected", f"{len(rows.events):,}", file.name, f"{len(rows.rejected):,}")
    parsed, num_whole = _whole_ids(pa.concat_tables([rows.events for rows in read]))
    rejected = pa.concat_tables([rows.rejected for rows in read])
    of_others = parsed.filter(pa.array(~are_forgotten(parsed["user_id"], forgotten))) if forgotten else parsed
    events = parsed.select(EVENTS.names).cast(EVENTS)
    num_empty = sum(not len(rows.events) + len(rows.rejected) for rows in read)
    notes = notes_of(read) | {"num_empty_files": num_empty, "ids_without_decimals": num_whole}
    return Log(events, _items(of_others), rejected, len(files), notes=notes)


def notes_of(read: Sequence[FileRows]) -> dict[str, int | dict[str, int]]:
    """Count and log the values that were read as something else than written."""
    words: Counter[str] = Counter()
    for rows in read:
        words.update(rows.num_null_words)
    for name, num in sorted(words.items()):
        log.warning("%s values of %s are words for nothing (source.null_words), and are null", f"{num:,}", name)
    if num := sum(rows.num_without_zone for rows in read):
        log.info("%s times have no zone: taken as UTC. Write their offset if they are of another", f"{num:,}")
    return {"null_words": dict(sorted(words.items())), "times_without_zone": num}


def read_file(file: DataFile, mapping: Mapping[str, str], source: SourceParams) -> FileRows:
    """One file, whose columns must be those of the mapping."""
    text: DelimitedRows | None = None
    if file.kind == PARQUET:
        raw = _read_parquet(file, mapping)
        line = np.arange(1, len(raw) + 1)
    else:
        text = _read_delimited(file, mapping)
        raw = pa.table({ours: pa.array([], pa.string()) for ours in mapping})
        line = np.zeros(0, np.int64)
        if text is not None:
            raw, line = _ours(text.columns, mapping), text.line
    parsed = parse(raw, source.time_unit, source.label_threshold, source.null_words)
    failed = pc.is_valid(parsed.rows["reason"])
    at = np.flatnonzero(failed.to_numpy())
    texts = _texts(raw.take(at)) if text is None else read_raw(file, text.header, text.start[at], text.end[at])
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
    """A rejected row's text, cut to a length that helps to find it."""
    if len(text) <= MAX_RAW_CHARACTERS:
        return text
    return f"{text[:MAX_RAW_CHARACTERS]}... ({len(text):,} characters)"


def _mapping(columns: ColumnParams) -> dict[str, str]:
    """Our name -> theirs. Raises InputError where a column that every log has is not mapped."""
    mapping = {ours: theirs for ours, theirs in columns.model_dump().items() if theirs is not None}
    unmapped = [name for name in REQUIRED if name not in mapping]
    if unmapped:
        raise InputError(
            f"source.columns: {', '.join(unmapped)} not mapped. Name the column of your table that holds it, e.g. "
            f'make set ARGS="source.columns.{unmapped[0]}=<column>".'
        )
    return mapping


def _files(source: SourceParams, mapping: Mapping[str, str]) -> list[DataFile]:
    """Raises InputError if no file holds data."""
    found = find_files(source.path, source.format)
    wanted = list(mapping.values())
    headers = {file.name: read_header(file, wanted) for file in found.perhaps}
    is_data = {name: header is not None and set(wanted) <= set(header.names) for name, header in headers.items()}
    files = sorted([*found.files, *(file for file in found.perhaps if is_data[file.name])], key=lambda file: file.path)
    others = sorted([*found.others, *(name for name, is_one in is_data.items() if not is_one)])
    if not files:
        there = f" (but {len(others):,} of other kinds: {named(others)})" if others else ""
        raise InputError(
            f"source.path: the folder {source.path} holds no data file{there}. Put .csv or .parquet files in it, texts "
            f"with a header that names {', '.join(wanted)}, or say what they are: {ADVICE}."
        )
    if others:
        log.warning("left out %s files that are neither .csv, .tsv nor .parquet: %s", f"{len(others):,}", named(others))
    return files


def _check_columns(file: DataFile, mapping: Mapping[str, str], names: Sequence[str]) -> None:
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
            header = " Its first line reads like a row: put a header above it, e.g. user,item,time." if is_row else ""
            raise InputError(
                f"source.columns.{ours}: {file.name} has no column {theirs!r}. It has: {there}.{guess}{header}"
            )


def _read_delimited(file: DataFile, mapping: Mapping[str, str]) -> DelimitedRows | None:
    """None where the file is empty."""
    wanted = list(dict.fromkeys(mapping.values()))
    header = read_header(file, wanted)
    if header is None:
        return None
    _check_columns(file, mapping, header.names)
    return read_delimited(file, header, wanted)


def _read_parquet(file: DataFile, mapping: Mapping[str, str]) -> pa.Table:
    if not file.packer and not file.path.stat().st_size:
        return pa.table({ours: pa.array([], pa.string()) for ours in mapping})
    try:
        with open_bytes(file) as handle:
            parquet = pq.ParquetFile(io.BytesIO(handle.read()) if file.packer else handle)
            _check_columns(file, mapping, parquet.schema_arrow.names)
            table = parquet.read(list(dict.fromkeys(mapping.values())))
    except READ_ERRORS as error:
        raise unreadable(file, error) from error
    return _ours(table, mapping)


def _ours(table: pa.Table, mapping: Mapping[str, str]) -> pa.Table:
    columns = {ours: table[theirs] for ours, theirs in mapping.items()}
    return pa.table({name: _decoded(column) for name, column in columns.items()})


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A dictionary's values; views, of which Arrow can neither filter nor compare any, as what they show."""
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
    """A Parquet row has no text of its own: its mapped values as JSON."""
    told = pa.table({name: _told(rows[name]) for name in rows.column_names})
    return [json.dumps(row, default=str, ensure_ascii=False) for row in told.to_pylist()]


def _told(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Times as text: Python knows neither every zone nor any year beyond 9999."""
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


def _whole_ids(events: pa.Table) -> tuple[pa.Table, dict[str, int]]:
    """Ids that a null turned into floats ("17850.0") as Parquet's are read (17850); how many of each column.

    One rule for the whole log: a column in which an id has a true fraction (a version, 1.5) is left as it is.
    """
    counts = {}
    for name in KEYS:
        column = events[name]
        if not pc.any(pc.match_substring(column, ".0")).as_py():
            continue
        is_whole = pc.match_substring_regex(column, r"^-?\d+\.0+$")
        num = pc.sum(is_whole).as_py()
        if not num or pc.any(pc.match_substring_regex(column, FRACTION)).as_py():
            continue
        place = events.column_names.index(name)
        events = events.set_column(
            place, name, pc.if_else(is_whole, pc.replace_substring_regex(column, WHOLE, ""), column)
        )
        counts[name] = num
        log.info("%s values of %s are whole numbers with a decimal point: 17850.0 is 17850", f"{num:,}", name)
    return events, counts


def _items(parsed: pa.Table) -> pa.Table:
    """One row an item: the latest of each fact where it was given; the row order does not matter."""
    with connect() as connection:
        connection.register("parsed", parsed.select(["item_id", "occurred_at", *ABOUT_ITEMS]))
        items = connection.sql("""
            SELECT item_id,
                max_by(title, {'at': occurred_at, 'title': title}) FILTER (title IS NOT NULL) AS title,
                coalesce(max_by(categories, {'at': occurred_at, 'categories': categories})
                    FILTER (len(categories) > 0), []::VARCHAR[]) AS categories,
                max_by(published_us, {'at': occurred_at, 'published': published_us})
                    FILTER (published_us IS NOT NULL) AS published_at,
                max_by(embedding, {'at': occurred_at, 'embedding': embedding})
                    FILTER (embedding IS NOT NULL) AS embedding
            FROM parsed WHERE item_id IS NOT NULL GROUP BY item_id ORDER BY item_id
        """).to_arrow_table()
    published = items["published_at"].cast(TIME)
    return items.set_column(items.column_names.index("published_at"), "published_at", published).cast(ITEMS)
