"""Any CSV, TSV or Parquet, plain or gzipped, file or folder of files, and a mapping of its columns -> a log."""
# pyright: reportAttributeAccessIssue=false

import difflib
import io
import json
import logging
from collections.abc import Mapping, Sequence

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts.errors import InputError
from contracts.schema import ITEMS, REJECTED, ROLE_IMPRESSION, TIME
from features.forgotten import Forgotten, are_forgotten
from features.params import ColumnParams, SourceParams
from features.sources.delimited import WRONG_FIELDS, BadRow, read_delimited, read_header, read_lines
from features.sources.files import PARQUET, READ_ERRORS, DataFile, find_files, open_bytes, unreadable
from features.sources.log import EVENTS, Log
from features.sources.parse import parse

log = logging.getLogger("leitmotif")

REQUIRED = ("user_id", "item_id", "occurred_at")
MAX_RAW_CHARACTERS = 10_000
"""A rejected row's raw text is cut here."""
ABOUT_ITEMS = ("title", "categories", "published_us", "embedding")


def read_table(source: SourceParams, forgotten: Forgotten = frozenset()) -> Log:
    """Read every file under source.path. Raises InputError for what stops the whole log, naming file and next step.

    forgotten: users whose rows say nothing about items.
    """
    files = find_files(source.path)
    mapping = _mapping(source.columns)
    events, rejected = [], []
    for file in files:
        good, bad = read_file(file, mapping, source.time_unit, source.label_threshold)
        if not len(good) + len(bad):
            raise InputError(
                f"source.path: {file.name} has no rows below its header. Export it again, or move it away."
            )
        log.info("read %s rows of %s, %s rejected", f"{len(good):,}", file.name, f"{len(bad):,}")
        events.append(good)
        rejected.append(bad)
    parsed = pa.concat_tables(events)
    of_others = parsed.filter(pa.array(~are_forgotten(parsed["user_id"], forgotten))) if forgotten else parsed
    return Log(parsed.select(EVENTS.names).cast(EVENTS), _items(of_others), pa.concat_tables(rejected), len(files))


def read_file(
    file: DataFile, mapping: Mapping[str, str], time_unit: str, label_threshold: float
) -> tuple[pa.Table, pa.Table]:
    """One file's events (EVENTS, ABOUT_ITEMS) and its rows that could not be parsed (REJECTED)."""
    read = _read_parquet if file.kind in PARQUET else _read_delimited
    raw, line, num_lines, bad = read(file, mapping)
    parsed = parse(raw, time_unit, label_threshold)
    failed = pc.is_valid(parsed["reason"])
    at = np.flatnonzero(failed.to_numpy())
    texts = _texts(raw.take(at)) if num_lines is None else read_lines(file, line[at], num_lines[at]) if len(at) else []
    rejected = pa.table(
        {
            "file": [file.name] * (len(at) + len(bad)),
            "line": [*line[at].tolist(), *(row.line for row in bad)],
            "reason": [*parsed["reason"].filter(failed).to_pylist(), *[WRONG_FIELDS] * len(bad)],
            "raw": [cut(text) for text in (*texts, *(row.raw for row in bad))],
        },
        schema=REJECTED,
    )
    return _events(parsed, file.name, line).filter(pc.invert(failed)), rejected


def cut(text: str) -> str:
    """A rejected row's text, or as much of it as helps to find it."""
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


def _check_columns(file: DataFile, mapping: Mapping[str, str], names: Sequence[str]) -> None:
    for ours, theirs in mapping.items():
        count = list(names).count(theirs)
        if count > 1:
            raise InputError(f"source.columns.{ours}: {file.name} has {count} columns called {theirs!r}. Rename one.")
        if not count:
            close = difflib.get_close_matches(theirs, names, n=1, cutoff=0.5)
            guess = f" Did you mean {close[0]!r}?" if close else ""
            raise InputError(
                f"source.columns.{ours}: {file.name} has no column {theirs!r}. It has: {', '.join(names)}.{guess}"
            )


def _read_delimited(
    file: DataFile, mapping: Mapping[str, str]
) -> tuple[pa.Table, np.ndarray, np.ndarray | None, list[BadRow]]:
    header = read_header(file)
    _check_columns(file, mapping, header.names)
    rows = read_delimited(file, header, list(dict.fromkeys(mapping.values())))
    return _ours(rows.columns, mapping), rows.line, rows.num_lines, rows.bad


def _read_parquet(
    file: DataFile, mapping: Mapping[str, str]
) -> tuple[pa.Table, np.ndarray, np.ndarray | None, list[BadRow]]:
    try:
        with open_bytes(file) as handle:
            parquet = pq.ParquetFile(io.BytesIO(handle.read()) if file.gzipped else handle)
            _check_columns(file, mapping, parquet.schema_arrow.names)
            table = parquet.read(list(dict.fromkeys(mapping.values())))
    except READ_ERRORS as error:
        raise unreadable(file, error) from error
    return _ours(table, mapping), np.arange(1, len(table) + 1), None, []


def _ours(table: pa.Table, mapping: Mapping[str, str]) -> pa.Table:
    columns = {ours: table[theirs] for ours, theirs in mapping.items()}
    return pa.table({name: _decoded(column) for name, column in columns.items()})


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _texts(rows: pa.Table) -> list[str]:
    """A Parquet row has no text of its own: its mapped values as JSON."""
    return [json.dumps(row, default=str, ensure_ascii=False) for row in rows.to_pylist()]


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


def _items(parsed: pa.Table) -> pa.Table:
    """One row an item: the latest of each fact where it was given; the row order does not matter."""
    with duckdb.connect() as connection:
        connection.execute("SET threads = 2")
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
