"""Parquet files of one schema -> one file with their row groups in order, of which no row is decoded.

The file has the bytes that one writer would have written: a row group does not depend on those before it, except for
where it lies, which the footer says.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from contracts.errors import InputError
from features.tables.thrift import Elements, Fields, Value, read_struct, write_struct

MAGIC = b"PAR1"
TAIL = 8
"""Bytes after the footer: its length and MAGIC."""
COPIED = 1 << 22
NUM_ROWS, ROW_GROUPS = 3, 4
"""Fields of the footer (FileMetaData in parquet.thrift, like those below)."""
COLUMNS, GROUP_AT, ORDINAL = 1, 5, 7
"""Fields of a row group."""
CHUNK_AT, META = 2, 3
"""Fields of a column chunk."""
PAGES_AT = (9, 10, 11)
"""Fields of a column's metadata: where its data, index and dictionary pages begin."""
APART = {4: "offset index", 6: "column index"}
"""Fields of a column chunk that point behind all row groups."""
BLOOM_AT = 14
ORDINALS = 1 << 16
"""An ordinal has 16 bits; Arrow's writer lets it overflow."""


class PartsWriter:
    """Appends the row groups of Parquet files to one file."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._footer: Fields | None = None
        self.num_rows = 0

    def append(self, part: Path) -> int:
        """Add a file's row groups; returns its rows. Raises InputError where it is no Parquet file or another's."""
        footer, size = _read_footer(part)
        self._footer = self._footer or {**footer, ROW_GROUPS: Value(footer[ROW_GROUPS].kind, Elements((12,), []))}
        if any(footer[number] != self._footer[number] for number in footer if number not in (NUM_ROWS, ROW_GROUPS)):
            raise InputError(f"{part} has other columns than {self._path}, or another writer.")
        groups: list[Fields] = self._footer[ROW_GROUPS].held.values
        by = self._file.tell() - len(MAGIC)
        for number, group in enumerate(footer[ROW_GROUPS].held.values, start=len(groups)):
            groups.append(_moved(group, by, number))
        with part.open("rb") as read:
            read.seek(len(MAGIC))
            _copy(read, self._file, size - len(MAGIC))
        self.num_rows += footer[NUM_ROWS].held
        return footer[NUM_ROWS].held

    def close(self) -> None:
        """Write the footer. At least one file was appended: it has the schema."""
        assert self._footer is not None, self._path
        self._footer[NUM_ROWS] = Value(self._footer[NUM_ROWS].kind, self.num_rows)
        footer = write_struct(self._footer)
        self._file.write(footer + len(footer).to_bytes(4, "little") + MAGIC)


@contextmanager
def joining(path: Path) -> Iterator[PartsWriter]:
    """Open a Parquet file to which files of the same columns are appended; it is whole when the block ends."""
    with path.open("wb") as file:
        file.write(MAGIC)
        writer = PartsWriter(path, file)
        yield writer
        writer.close()


def _read_footer(part: Path) -> tuple[Fields, int]:
    """A file's footer, and where it begins."""
    with part.open("rb") as file:
        end = file.seek(0, 2)
        file.seek(max(0, end - TAIL))
        tail = file.read()
        length = int.from_bytes(tail[:4], "little")
        if len(tail) < TAIL or tail[4:] != MAGIC or length > end - TAIL - len(MAGIC):
            raise InputError(f"{part} is no whole Parquet file: {end:,} bytes. Run the stage again.")
        file.seek(end - TAIL - length)
        try:
            return read_struct(file.read(length)), end - TAIL - length
        except ValueError as error:
            raise InputError(f"{part} is no whole Parquet file: {error}. Run the stage again.") from error


def _moved(group: Fields, by: int, ordinal: int) -> Fields:
    """A row group that lies `by` bytes further on, as number `ordinal`."""
    chunks = [_moved_chunk(chunk, by) for chunk in group[COLUMNS].held.values]
    moved = group | {COLUMNS: group[COLUMNS]._replace(held=Elements((12,), chunks))}
    if GROUP_AT in moved:
        moved[GROUP_AT] = _further(moved[GROUP_AT], by)
    if ORDINAL in moved:
        half = ORDINALS // 2
        moved[ORDINAL] = moved[ORDINAL]._replace(held=(ordinal + half) % ORDINALS - half)
    return moved


def _moved_chunk(chunk: Fields, by: int) -> Fields:
    meta: Fields = chunk[META].held
    for number, name in APART.items():
        assert number not in chunk, name
    assert BLOOM_AT not in meta
    meta = meta | {number: _further(meta[number], by) for number in PAGES_AT if number in meta}
    return chunk | {META: chunk[META]._replace(held=meta), CHUNK_AT: _further(chunk[CHUNK_AT], by)}


def _further(at: Value, by: int) -> Value:
    return at._replace(held=at.held + by) if at.held else at  # 0: it is not said, or there is no page


def _copy(read: BinaryIO, written: BinaryIO, number: int) -> None:
    """Copy so many bytes, from where a file stands."""
    while number:
        piece = read.read(min(number, COPIED))
        if not piece:
            raise InputError(f"A part ended {number:,} bytes early. Run the stage again.")
        written.write(piece)
        number -= len(piece)
