"""A CSV or TSV file -> wanted columns as text, the line each row began on, and the rows that are no rows.

Quoted fields may hold newlines; line is the physical line in the file, the header counted from 1.
"""
# pyright: reportAttributeAccessIssue=false

import csv
import io
from collections import Counter
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from contracts.errors import InputError
from features.sources.files import READ_ERRORS, DataFile, open_bytes, unreadable

BLOCK_BYTES = 1 << 24
DELIMITERS = ",\t;|"
WRONG_FIELDS = "wrong number of fields"


class BadRow(NamedTuple):
    """A row that could not be split into the header's fields."""

    line: int
    raw: str


class Rows(NamedTuple):
    """A delimited file, read."""

    columns: pa.Table  # the wanted ones, all text
    line: np.ndarray  # int64, where each row begins
    num_lines: np.ndarray  # int64, how many lines it covers
    bad: list[BadRow]


class Header(NamedTuple):
    """A delimited file's first record."""

    names: list[str]
    delimiter: str
    num_lines: int


def read_header(file: DataFile) -> Header:
    """Raises InputError where the file is empty, not UTF-8, or not to be opened."""
    try:
        with io.TextIOWrapper(open_bytes(file), encoding="utf-8-sig", newline="") as text:
            first = text.readline()
            counts = Counter(character for character in first if character in DELIMITERS)
            delimiter = max(DELIMITERS, key=lambda character: counts[character])
            text.seek(0)
            reader = csv.reader(text, delimiter=delimiter, strict=True)
            names = next(reader, [])
    except (*READ_ERRORS, csv.Error) as error:
        raise _refusal(file, error) from error
    if not any(names):
        raise InputError(f"source.path: {file.name} is empty: it has no header line. Export it again, or move it away.")
    return Header(names, delimiter, reader.line_num)


def read_delimited(file: DataFile, header: Header, wanted: Sequence[str]) -> Rows:
    """Split the whole file; lines with nothing in them are not rows.

    Raises InputError where bytes are not UTF-8, the file ends early or a quote is never closed.
    """
    invalid: list[tuple[int, str]] = []

    def skip(row: pyarrow.csv.InvalidRow) -> str:
        invalid.append((row.number, row.text))
        return "skip"

    places = [header.names.index(name) for name in wanted]
    batches, newlines = [], []
    try:
        with open_bytes(file) as handle:
            for batch in _batches(handle, header, skip):
                newlines.append(_newlines(batch))
                batches.append(batch.select([str(place) for place in places]))
    except READ_ERRORS as error:
        raise _refusal(file, error) from error
    schema = pa.schema([(str(place), pa.string()) for place in places])
    columns = pa.Table.from_batches(batches, schema).rename_columns(list(wanted))
    return _number(file, header, columns, np.concatenate([np.zeros(0, np.int64), *newlines]), invalid)


def read_lines(file: DataFile, line: np.ndarray, num_lines: np.ndarray) -> list[str]:
    """The raw text of the rows that begin on the given lines (ascending)."""
    texts: list[str] = []
    wanted = iter(zip(line.tolist(), num_lines.tolist(), strict=True))
    start, count = next(wanted, (0, 0))
    with io.TextIOWrapper(open_bytes(file), encoding="utf-8-sig") as handle:
        kept: list[str] = []
        for number, text in enumerate(handle, 1):
            if start and number >= start:
                kept.append(text)
            if kept and len(kept) == count:
                texts.append("".join(kept).rstrip("\n"))
                kept = []
                start, count = next(wanted, (0, 0))
    return texts


def _refusal(file: DataFile, error: Exception) -> InputError:
    """What to say of a file that its reader gave up on; for other encodings, where they begin."""
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


def _batches(handle: BinaryIO, header: Header, skip: object) -> pyarrow.csv.CSVStreamingReader:
    """One thread: only then does Arrow say on which row it stumbled."""
    names = [str(place) for place in range(len(header.names))]
    return pyarrow.csv.open_csv(
        handle,
        pyarrow.csv.ReadOptions(
            use_threads=False, column_names=names, skip_rows=header.num_lines, block_size=BLOCK_BYTES
        ),
        pyarrow.csv.ParseOptions(
            delimiter=header.delimiter, newlines_in_values=True, ignore_empty_lines=False, invalid_row_handler=skip
        ),
        pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False),
    )


def _newlines(batch: pa.RecordBatch) -> np.ndarray:
    """How many line ends each row holds inside its quotes; -1 where the line was empty."""
    count = np.zeros(len(batch), dtype=np.int64)
    size = np.zeros(len(batch), dtype=np.int64)
    for column in batch.columns:
        size += pc.binary_length(column).to_numpy(zero_copy_only=False)
        count += pc.count_substring(column, "\n").to_numpy(zero_copy_only=False)
        returns = pc.count_substring(column, "\r").to_numpy(zero_copy_only=False)
        if returns.any():
            count += returns - pc.count_substring(column, "\r\n").to_numpy(zero_copy_only=False)
    return np.where(size == 0, -1, count)


def _number(
    file: DataFile, header: Header, columns: pa.Table, newlines: np.ndarray, invalid: list[tuple[int, str]]
) -> Rows:
    """Arrow counts records; turn that into the lines on which they begin."""
    total = len(newlines) + len(invalid)
    at_bad = np.array([number - header.num_lines - 1 for number, _ in invalid], dtype=np.int64)
    extra = np.zeros(total, dtype=np.int64)
    good = np.ones(total, dtype=bool)
    good[at_bad] = False
    extra[good] = np.maximum(newlines, 0)
    extra[at_bad] = [len(text.splitlines()) - 1 for _, text in invalid]
    line = header.num_lines + 1 + np.arange(total) + np.cumsum(extra) - extra
    bad = [BadRow(int(line[place]), text) for place, (_, text) in zip(at_bad, invalid, strict=True)]
    for row in bad:
        if "\n" in row.raw and row.raw.count('"') % 2:
            raise InputError(
                f"source.path: {file.name} line {row.line}: a quote is opened and never closed "
                f"({row.raw[:60]!r}...). Close it, or double a quote that is meant as text."
            )
    rows = newlines >= 0
    return Rows(columns.filter(pa.array(rows)), line[good][rows], 1 + newlines[rows], bad)
