"""Places (file, line) of a log -> the rows as they stand in its files, as far as these are still there."""

import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from contracts.errors import InputError
from features.sources.files import PARQUET, READ_ERRORS, DataFile, describe, open_bytes
from features.sources.table import cut
from features.terms.params import SourceParams

log = logging.getLogger("leitmotif")

MOST_LINES = 20
"""A row whose quotes hold line ends is followed so far."""
Place = tuple[str, int]


def originals(source: SourceParams, places: Sequence[Place]) -> Mapping[Place, str]:
    """The text of each row that can be found; one whose file is gone, or that came of no file, is left out."""
    wanted: dict[str, set[int]] = defaultdict(set)
    for file, line in places:
        if line > 0:
            wanted[file].add(line)
    found: dict[Place, str] = {}
    for name, lines in sorted(wanted.items()):
        path = _path(source, name)
        if path is None:
            continue
        try:
            file = describe(path, name, source.format if source.name == "table" else "auto")
            texts = _of_parquet(file, lines) if file.kind == PARQUET else _of_text(file, lines)
        except (InputError, *READ_ERRORS) as error:
            log.warning("%s cannot be read again: %s", name, error)
            continue
        found |= {(name, line): cut(text) for line, text in texts.items()}
    return found


def _path(source: SourceParams, name: str) -> Path | None:
    root = Path(source.path).expanduser()
    path = root if root.is_file() and root.name == name else root / name
    return path if path.is_file() else None


def _of_text(file: DataFile, lines: set[int]) -> dict[int, str]:
    """A row begins on its line and ends where its quotes are closed."""
    found: dict[int, str] = {}
    left, open_at = set(lines), 0
    with open_bytes(file) as handle:
        for number, line in enumerate(handle, 1):
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            if number in left:
                left.discard(number)
                found[number] = text
                open_at = number
            elif open_at and number - open_at < MOST_LINES:
                found[open_at] += f"\n{text}"
            if open_at and found[open_at].count('"') % 2 == 0:
                open_at = 0
            if not left and not open_at:
                break
    return found


def _of_parquet(file: DataFile, lines: set[int]) -> dict[int, str]:
    """Row n is line n, from 1; only the row groups that hold one are read."""
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
