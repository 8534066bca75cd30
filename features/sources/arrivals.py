"""The files of a table -> their pieces. A file that has not changed is not read again (.cache/ingest/<log>)."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from contracts import schema
from contracts.errors import InputError
from contracts.files import hash_file
from contracts.known_hashes import hash_of
from contracts.publish import write_json
from features.engine.engine import Engine
from features.sealed.forgotten import Forgotten
from features.sources.delimited import EscapedQuotes, Header
from features.sources.files import DataFile, unreadable
from features.sources.log import Log
from features.sources.pieces import TABLES, Piece, PieceWriter
from features.sources.rows import file_blocks
from features.sources.table import files_of, mapping_of, reading_notes, whole_columns, whole_counts, with_whole
from features.sources.tombstones import leave_out
from features.tables.cache import PartitionCache, key_of
from features.tables.connection import at_hand
from features.terms.params import SourceParams

log = logging.getLogger("leitmotif")

NOTES = "notes.json"


@dataclass(frozen=True)
class FilesRead:
    """All files of a table, read."""

    pieces: Sequence[Piece]
    cache_keys: frozenset[str]  # of the entries that a later run may need
    num_files: int
    notes: Mapping[str, Any]  # as in a Log


@dataclass(frozen=True)
class Reading:
    """The settings by which files are read."""

    source: SourceParams
    mapping: Mapping[str, str]
    forgotten: Forgotten
    basis: str  # a hash of everything but the file that a piece depends on
    cache: Path


@dataclass(frozen=True)
class FileToRead:
    """One file, which becomes one piece."""

    key: str  # of its piece in the cache
    file: DataFile
    digest: str
    whole: tuple[str, ...] = ()  # columns whose ids are written without ".0"


def read_files(cache: PartitionCache, source: SourceParams, forgotten: Forgotten, engine: Engine) -> FilesRead:
    """One piece per file. A file is read only if the cache has no piece for its content, mapping, params and code.

    Raises InputError, naming the file and the next step, if the log as a whole cannot be read.
    """
    mapping = mapping_of(source.columns)
    basis = key_of(code(), mapping, _params(source), sorted(forgotten))
    reading = Reading(source, mapping, forgotten, basis, cache.folder)
    files = [_to_read(reading, file, _hash(file, hash_of)) for file in files_of(source, mapping)]
    notes = _noted(engine, cache, reading, files)
    num_whole = whole_columns([{name: tuple(num) for name, num in note["whole"].items()} for note in notes])
    whole = [tuple(name for name in num_whole if name in note["whole"]) for note in notes]
    wanted = [_to_read(reading, file.file, file.digest, names) for file, names in zip(files, whole, strict=True)]
    pieces = _pieces(engine, cache, reading, wanted)
    keys = {piece.key for piece in pieces}
    words: Counter[str] = Counter()
    for file, note in zip(files, notes, strict=True):
        words.update(note["null_words"])
        if not note["num_rows"]:
            log.warning("%s has no rows and is ignored", file.file.name)
        if file.key not in keys:
            keys.add(_keep_notes_alone(cache, file, note))
    summary = reading_notes(words, sum(note["without_zone"] for note in notes))
    num_empty = sum(not note["num_rows"] for note in notes)
    summary |= {"num_empty_files": num_empty, "ids_without_decimals": num_whole}
    return FilesRead(pieces, frozenset(keys), len(files), summary)


def _to_read(reading: Reading, file: DataFile, digest: str, whole: tuple[str, ...] = ()) -> FileToRead:
    key = key_of(reading.basis, file.name, file.kind, file.packer, file.delimiter, digest, whole)
    return FileToRead(key, file, digest, whole)


def _noted(
    engine: Engine, cache: PartitionCache, reading: Reading, files: Sequence[FileToRead]
) -> list[Mapping[str, Any]]:
    """The notes on each file with its ids as they stand. A file of which the cache has none is read."""
    beside = {file.key for file in files if not cache.holds(file.key) and cache.holds(_beside(file))}
    pieces = iter(_pieces(engine, cache, reading, [file for file in files if file.key not in beside]))
    return [
        json.loads(cache.file(_beside(file), NOTES).read_text(encoding="utf-8"))
        if file.key in beside
        else next(pieces).notes
        for file in files
    ]


def _keep_notes_alone(cache: PartitionCache, file: FileToRead, notes: Mapping[str, Any]) -> str:
    """Drop the piece of a file whose ids are written otherwise in the end: in it a forgotten user may have another
    name, such as 17850.0. Returns the key of its notes."""
    key = _beside(file)
    if not cache.holds(key):
        with cache.making() as making:
            (making / key).mkdir()
            write_json(making / key / NOTES, notes)
            cache.put(key, making / key, {NOTES: 0})
    cache.drop(file.key)
    return key


def _beside(file: FileToRead) -> str:
    return key_of(file.key, NOTES)


def _pieces(engine: Engine, cache: PartitionCache, reading: Reading, wanted: Sequence[FileToRead]) -> list[Piece]:
    missing = {each.key: each for each in wanted if not cache.holds(each.key)}
    cache.came(engine.map(partial(read_file, reading), list(missing.values()), "reading files"), missing)
    return [Piece(cache.file(each.key, TABLES[0]).parent, each.key) for each in wanted]


def read_file(reading: Reading, wanted: FileToRead) -> str:
    """Read one file and put its piece into the cache; returns the key."""
    key, file, cache = wanted.key, wanted.file, PartitionCache(reading.cache)
    with cache.making() as making, at_hand(making / "spilt"):
        num_rows = _make(making / key, file, reading, wanted.whole)
        if _hash(file) != wanted.digest:
            raise InputError(
                f"source.path: {file.name} changed while it was being read. Nothing was written; run it again when "
                "the file is complete."
            )
        cache.put(key, making / key, num_rows)
    return key


def _make(
    folder: Path, file: DataFile, reading: Reading, whole: Sequence[str], header: Header | None = None
) -> dict[str, int]:
    writer = PieceWriter(folder, reading.source.partition[0].upper())
    words: Counter[str] = Counter()
    num_rows = without_zone = num_rejected = 0
    counts: dict[str, tuple[int, int]] = {}
    try:
        for block in file_blocks(file, reading.mapping, reading.source, header):
            for name, num in whole_counts(block.events).items():
                before = counts.get(name, (0, 0))
                counts[name] = (before[0] + num[0], before[1] + num[1])
            events = with_whole(block.events, whole)
            read = leave_out(Log(events, schema.ITEMS.empty_table(), block.rejected, 1), reading.forgotten)
            writer.add(read.events, read.rejected)
            words.update(block.num_null_words)
            without_zone += block.num_without_zone
            num_rejected += len(block.rejected)
            num_rows += len(block.events) + len(block.rejected)
    except EscapedQuotes as escaped:
        writer.close()
        return _make(folder, file, reading, whole, escaped.header)
    except BaseException:
        writer.close()
        raise
    log.info("read %s rows of %s, %s rejected", f"{num_rows - num_rejected:,}", file.name, f"{num_rejected:,}")
    notes = {"null_words": words, "without_zone": without_zone, "num_rows": num_rows, "whole": counts}
    return writer.close(notes)


def _params(source: SourceParams) -> list[object]:
    return [source.time_unit, source.label_threshold, list(source.null_words), source.partition]


def _hash(file: DataFile, hashed: Callable[[Path], str] = hash_file) -> str:
    try:
        return hashed(file.path)
    except OSError as error:
        raise unreadable(file, error) from error


@cache
def code() -> list[str]:
    """A hash of the code that a piece depends on, and the versions of the libraries that parse and write."""
    rooms = [Path(__file__).parent, Path(__file__).parents[1] / "tables", Path(__file__).parents[1] / "terms"]
    files = [*sorted(path for room in rooms for path in room.glob("*.py")), Path(str(schema.__file__))]
    files.append(Path(__file__).parents[1] / "sealed" / "forgotten.py")  # how rows of forgotten users are found
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    return [digest, *(version(name) for name in ("duckdb", "pyarrow", "numpy"))]
