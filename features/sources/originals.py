"""Places (file, line) in a log -> the original text of the rows, if their files still exist."""

import csv
import io
import json
import logging
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from contracts.errors import InputError
from features.sources.delimited import DOUBLE_COLON, MAX_RECORD_BYTES, Header, read_delimited, read_raw
from features.sources.files import AUTO, PARQUET, READ_ERRORS, DataFile, describe, open_bytes
from features.sources.rows import cut
from features.terms.params import SourceParams

log = logging.getLogger("leitmotif")

MOST_LINES = 20
"""How many lines of a row with line ends inside quotes are read."""
Place = tuple[str, int]


def originals(source: SourceParams, places: Sequence[Place]) -> Mapping[Place, str]:
    """The text of each row that can be found; rows without a file, or whose file is gone, are left out."""
    wanted: dict[str, set[int]] = defaultdict(set)
    for file, line in places:
        if line > 0:
            wanted[file].add(line)
    found: dict[Place, str] = {}
    for name, lines in sorted(wanted.items()):
        try:
            if (file := file_of(source, name)) is None:
                continue
            texts = _of_parquet(file, lines) if file.kind == PARQUET else _of_text(file, lines)
        except (InputError, *READ_ERRORS) as error:
            log.warning("%s cannot be read again: %s", name, error)
            continue
        found |= {(name, line): cut(text) for line, text in texts.items()}
    return found


def file_of(source: SourceParams, name: str) -> DataFile | None:
    """A file of the log by the name its rows give; None if it no longer exists."""
    root = Path(source.path).expanduser()
    path = root if root.is_file() and root.name == name else root / name
    return describe(path, name, source.format if source.name == "table" else AUTO) if path.is_file() else None


def records(file: DataFile, header: Header, lines: Container[int] | None = None) -> dict[int, list[str]]:
    """Line -> the fields of the row that begins on it, split as ingest splits them. lines: which rows; None: all."""
    csv.field_size_limit(MAX_RECORD_BYTES)
    read = read_delimited(file, header, header.names[:1])
    at = np.array([n for n, line in enumerate(read.line.tolist()) if lines is None or line in lines], np.int64)
    texts = dict(zip(read.line[at].tolist(), read_raw(file, read.header, read.start[at], read.end[at]), strict=True))
    texts |= {row.line: row.raw for row in read.bad if lines is None or row.line in lines}
    return {line: _fields(text, read.header) for line, text in sorted(texts.items())}


def _fields(text: str, header: Header) -> list[str]:
    one = header.dialect.delimiter.decode()
    is_double = header.delimiter == DOUBLE_COLON
    text = text.replace(DOUBLE_COLON, one) if is_double else text
    escape = "\\" if header.dialect.escapes else None
    fields = next(csv.reader(io.StringIO(text, newline=""), delimiter=one, escapechar=escape), [])
    return [field.replace(one, DOUBLE_COLON) for field in fields] if is_double else fields


def _of_text(file: DataFile, lines: set[int]) -> dict[int, str]:
    """Line -> the row's text, up to the line on which its quotes are closed."""
    found: dict[int, str] = {}
    wanted, open_at = set(lines), 0
    with open_bytes(file) as handle:
        for number, line in enumerate(handle, 1):
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            if number in wanted:
                wanted.discard(number)
                found[number] = text
                open_at = number
            elif open_at and number - open_at < MOST_LINES:
                found[open_at] += f"\n{text}"
            if open_at and found[open_at].count('"') % 2 == 0:
                open_at = 0
            if not wanted and not open_at:
                break
    return found


def _of_parquet(file: DataFile, lines: set[int]) -> dict[int, str]:
    """Line -> the row as JSON. Row n, from 1, is line n; only row groups with a wanted row are read."""
    found: dict[int, str] = {}
    parquet = pq.ParquetFile(file.path)
    first = 0
    for group in range(parquet.num_row_groups):
        num = parquet.metadata.row_group(group).num_rows
        here = sorted(line for line in lines if first < line <= first + num)
        if here:
            table = parquet.read_row_group(group).take([line - 1 - first for line in here])
            for line, row in zip(here, table.to_pylist(), strict=True):
                found[line] = json.dumps(row, ensure_ascii=False, default=str)
        first += num
    return found
