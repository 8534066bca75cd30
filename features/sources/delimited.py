"""A file of delimited text -> the wanted columns as text, each row's position in the file, and the malformed rows.

Arrow parses the fields; features/sources/records.py finds the bytes and the line of each row.
"""
# pyright: reportAttributeAccessIssue=false

import codecs
import csv
import io
import logging
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from contracts.errors import InputError
from features.sources.files import READ_ERRORS, DataFile, open_bytes, unreadable
from features.sources.records import Block, Dialect, Int64, escapes, first_record, split

log = logging.getLogger("leitmotif")

BLOCK_BYTES = 1 << 24
HEADER_BYTES = 1 << 20
MAX_RECORD_BYTES = 1 << 26
DELIMITERS = (",", "\t", ";", "|", "::", "\x01")
DOUBLE_COLON, STANDS_FOR_IT = "::", "\x1f"
"""Arrow takes only one character as a delimiter, so "::" is replaced by this one before parsing."""
BOM = codecs.BOM_UTF8
WRONG_FIELDS = "wrong number of fields"


class BadRow(NamedTuple):
    """A row that could not be split into the header's fields."""

    line: int
    raw: str


class Header(NamedTuple):
    """A delimited file's first record that is not empty."""

    names: list[str]
    delimiter: str
    dialect: Dialect
    num_lines: int
    size: int  # bytes up to the next record, without a BOM


class DelimitedRows(NamedTuple):
    """The rows of a delimited file."""

    columns: pa.Table  # the wanted ones, all text
    line: Int64  # on which each row begins; the header's first line is 1
    start: Int64  # byte offset in the file, without a BOM
    end: Int64
    bad: list[BadRow]
    header: Header  # may differ from the one given: escaped quotes are only found while reading


class TextBlock(NamedTuple):
    """The rows of a few megabytes of a delimited file; no row is cut."""

    columns: pa.Table  # as in DelimitedRows
    line: Int64
    start: Int64  # byte offset in the block
    end: Int64
    bad: list[BadRow]
    data: bytes
    offset: int  # of the block in the file, without a BOM
    header: Header

    def texts(self, at: Int64) -> list[str]:
        """The original text of some of its rows. at: row numbers in the block."""
        return [_text(self.data[self.start[n] : self.end[n]], self.header) for n in at.tolist()]


class EscapedQuotes(Exception):
    """The file escapes quotes as \\", which its rows were not split by so far. Read it again with this header."""

    def __init__(self, header: Header) -> None:
        super().__init__("quotes are escaped")
        self.header = header._replace(dialect=header.dialect._replace(escapes=True))


def read_header(file: DataFile, wanted: Sequence[str] = ()) -> Header | None:
    """The header of a file; None if the file is empty. Raises InputError if it is not UTF-8 or cannot be opened.

    wanted: columns expected in the header, which decide between possible delimiters.
    """
    try:
        with open_bytes(file) as handle:
            head = handle.read(HEADER_BYTES).removeprefix(BOM)
        is_last = len(head) < HEADER_BYTES - len(BOM)
        return _header_in(file, head, is_last, wanted)
    except READ_ERRORS as error:
        raise _refusal(file, error) from error


def read_delimited(file: DataFile, header: Header, wanted: Sequence[str]) -> DelimitedRows:
    """Read the whole file; empty lines are not rows.

    Raises InputError if the wanted columns are not UTF-8, the file is truncated or a quote is never closed.
    """
    try:
        return _together(list(read_blocks(file, header, wanted)), header, wanted)
    except EscapedQuotes as escaped:
        return _together(list(read_blocks(file, escaped.header, wanted)), escaped.header, wanted)


def read_blocks(file: DataFile, header: Header, wanted: Sequence[str]) -> Iterator[TextBlock]:
    """As read_delimited, a few megabytes at a time. Raises EscapedQuotes if the file turns out to escape quotes."""
    try:
        yield from _read(file, header, wanted)
    except EscapedQuotes:
        log.info('%s escapes quotes as \\", as Spark does', file.name)
        raise
    except READ_ERRORS as error:
        raise _refusal(file, error) from error


def read_raw(file: DataFile, header: Header, start: Int64, end: Int64) -> list[str]:
    """The original text of rows. start, end: as in DelimitedRows, ascending."""
    texts: list[str] = []
    pending, pending_at = b"", 0
    wanted = list(zip(start.tolist(), end.tolist(), strict=True))
    for chunk in _chunks(file, header.delimiter):
        pending += chunk
        while len(texts) < len(wanted) and wanted[len(texts)][1] <= pending_at + len(pending):
            first, last = wanted[len(texts)]
            texts.append(_text(pending[first - pending_at : last - pending_at], header))
        if len(texts) == len(wanted):
            break
        dropped = min(max(wanted[len(texts)][0] - pending_at, 0), len(pending))
        pending, pending_at = pending[dropped:], pending_at + dropped
    return texts


def _header_in(file: DataFile, head: bytes, is_last: bool, wanted: Sequence[str]) -> Header | None:
    blank = re.match(rb"[\r\n]*", head)
    skipped = blank.end() if blank else 0
    body = head[skipped:]
    if not body:
        return None
    candidates = (file.delimiter,) if file.delimiter else _delimiters_in(body)
    headers = [header for each in candidates if (header := _header(body, each, is_last))]
    if not headers:
        raise InputError(f"source.path: {file.name}: a quote in its header is never closed. Close it.")
    header = max(headers, key=lambda each: len(set(each.names) & set(wanted)))
    before = len(split(head[:skipped], header.dialect, is_last=True).start)
    return header._replace(num_lines=header.num_lines + before, size=header.size + skipped)


def _delimiters_in(body: bytes) -> list[str]:
    """Delimiters in the first line, outside quotes, the most frequent first; a comma if there is none."""
    first = re.split(rb"[\r\n]", re.sub(rb'"(?:[^"]|"")*"', b"", body), maxsplit=1)[0]
    counts = {each: first.count(each.encode()) for each in DELIMITERS}
    return sorted(filter(counts.__getitem__, DELIMITERS), key=counts.__getitem__, reverse=True) or [","]


def _header(body: bytes, delimiter: str, is_last: bool) -> Header | None:
    one = STANDS_FOR_IT if delimiter == DOUBLE_COLON else delimiter
    dialect = Dialect(one.encode(), escapes=False)
    translated = body.replace(delimiter.encode(), dialect.delimiter)
    record = first_record(translated, dialect, is_last)
    if record is None:
        return None
    text = translated[: record[0]].decode()
    names = next(csv.reader(io.StringIO(text, newline=""), delimiter=one), [])
    return Header([name.replace(one, delimiter) for name in names], delimiter, dialect, record[1], record[0])


def _read(file: DataFile, header: Header, wanted: Sequence[str]) -> Iterator[TextBlock]:
    places = [header.names.index(name) for name in wanted]
    offset, line = header.size, header.num_lines + 1
    for data, block in _blocks(file, header):
        table, invalid = _parse(data, block, header, places)
        lines = block.line + line
        good = np.ones(len(block.start), bool)
        good[invalid] = False
        bad = [BadRow(int(lines[at]), _text(data[block.start[at] : block.end[at]], header)) for at in invalid]
        is_row = block.end > block.start
        table = table.filter(pa.array(is_row[good])) if not is_row[good].all() else table
        columns = _with_delimiter(table, header).rename_columns(list(wanted))
        kept = good & is_row
        yield TextBlock(columns, lines[kept], block.start[kept], block.end[kept], bad, data, offset, header)
        offset, line = offset + block.size, line + block.num_lines


def _together(blocks: Sequence[TextBlock], header: Header, wanted: Sequence[str]) -> DelimitedRows:
    tables = [pa.schema([(name, pa.string()) for name in wanted]).empty_table(), *(block.columns for block in blocks)]
    none = np.zeros(0, np.int64)
    lines = np.concatenate([none, *(block.line for block in blocks)])
    starts, ends = (
        np.concatenate([none, *(getattr(block, name) + block.offset for block in blocks)]) for name in ("start", "end")
    )
    return DelimitedRows(
        pa.concat_tables(tables), lines, starts, ends, [row for block in blocks for row in block.bad], header
    )


def _parse(data: bytes, block: Block, header: Header, places: Sequence[int]) -> tuple[pa.Table, Int64]:
    """(wanted fields of the records, numbers, from 0, of the records with more or fewer fields than the header)."""
    invalid: list[int] = []

    def skip(row: pyarrow.csv.InvalidRow) -> str:
        invalid.append(row.number - 1)
        return "skip"

    names = [str(place) for place in range(len(header.names))]
    table = pyarrow.csv.read_csv(
        pa.BufferReader(memoryview(data)[: block.size]),
        # one thread and one block: only then does Arrow report the number of an invalid row
        pyarrow.csv.ReadOptions(use_threads=False, column_names=names, block_size=block.size + 1),
        pyarrow.csv.ParseOptions(
            delimiter=header.dialect.delimiter.decode(),
            escape_char="\\" if header.dialect.escapes else False,
            newlines_in_values=True,
            ignore_empty_lines=False,
            invalid_row_handler=skip,
        ),
        pyarrow.csv.ConvertOptions(
            include_columns=[str(place) for place in places],
            column_types=dict.fromkeys(names, pa.string()),
            strings_can_be_null=False,
        ),
    )
    assert len(table) + len(invalid) == len(block.start), (len(table), len(invalid), len(block.start))
    return table, np.array(invalid, np.int64)


def _blocks(file: DataFile, header: Header) -> Iterator[tuple[bytes, Block]]:
    """Whole records, a few megabytes at a time."""
    pending, line, skipped = b"", header.num_lines, False
    for chunk, is_last in _and_last(_chunks(file, header.delimiter)):
        data = pending + chunk
        if not skipped:
            if len(data) < header.size and not is_last:
                pending = data
                continue
            data, skipped = data[header.size :], True
        if not header.dialect.escapes and escapes(data, header.dialect.delimiter):
            raise EscapedQuotes(header)
        block = split(data, header.dialect, is_last)
        pending = data[block.size :]
        if pending and (is_last or len(pending) > MAX_RECORD_BYTES):
            raise InputError(
                f"source.path: {file.name} line {line + block.num_lines + 1}: a quote is opened and never closed "
                f"({_text(pending[:60], header)!r}...). Close it, or double it if it is part of the text."
            )
        line += block.num_lines
        if block.size:
            yield data, block


def _chunks(file: DataFile, delimiter: str) -> Iterator[bytes]:
    """The file's bytes without a BOM, with a delimiter of one character."""
    colon, is_first = b"", True
    with open_bytes(file) as handle:
        while chunk := handle.read(BLOCK_BYTES):
            chunk = bytes(chunk).removeprefix(BOM) if is_first else bytes(chunk)
            is_first = False
            if delimiter == DOUBLE_COLON:
                chunk = (colon + chunk).replace(DOUBLE_COLON.encode(), STANDS_FOR_IT.encode())
                colon = b":" if chunk.endswith(b":") else b""
                chunk = chunk.removesuffix(colon)
            yield chunk
    if colon:
        yield colon


def _and_last(chunks: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    before = next(chunks, None)
    while before is not None:
        after = next(chunks, None)
        yield before, after is None
        before = after


def _text(raw: bytes, header: Header) -> str:
    text = raw.decode(errors="replace")
    return text.replace(STANDS_FOR_IT, DOUBLE_COLON) if header.delimiter == DOUBLE_COLON else text


def _with_delimiter(columns: pa.Table, header: Header) -> pa.Table:
    """Restore "::" inside quotes, where it is text and not a delimiter."""
    if header.delimiter != DOUBLE_COLON:
        return columns
    texts = [pc.replace_substring(column, STANDS_FOR_IT, DOUBLE_COLON) for column in columns.columns]
    return pa.table(texts, names=columns.column_names)


def _refusal(file: DataFile, error: Exception) -> InputError:
    """The error for a file that could not be read; if it is not UTF-8, with the position of the first wrong byte."""
    if "utf" in str(error).lower():
        with open_bytes(file) as handle:
            for number, line in enumerate(handle, 1):
                try:
                    line.decode()
                except UnicodeDecodeError as wrong:
                    return InputError(
                        f"source.path: {file.name} line {number} is not UTF-8 text (byte {line[wrong.start]:#x} at "
                        f"{wrong.start}). Save the file as UTF-8."
                    )
    return unreadable(file, error)
