"""The files of a table -> their pieces; one that has not changed is not read again (.cache/ingest/<log>)."""

import hashlib
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
from features.engine.engine import Engine
from features.sealed.forgotten import Forgotten
from features.sources.delimited import EscapedQuotes, Header
from features.sources.files import DataFile, unreadable
from features.sources.log import Log
from features.sources.pieces import TABLES, Piece, PieceWriter
from features.sources.rows import file_blocks
from features.sources.table import decided, files_of, mapping_of, told_of, whole_counts, with_whole
from features.sources.tombstones import leave_out
from features.tables.cache import PartitionCache, key_of
from features.tables.connection import at_hand
from features.terms.params import SourceParams

log = logging.getLogger("leitmotif")


@dataclass(frozen=True)
class Arrived:
    """All files of a table."""

    pieces: Sequence[Piece]
    kept: frozenset[str]  # keys of the cache that a later run may need
    num_files: int
    notes: Mapping[str, Any]  # as a Log's


@dataclass(frozen=True)
class Reading:
    """How files are read."""

    source: SourceParams
    mapping: Mapping[str, str]
    forgotten: Forgotten
    basis: str  # a hash of all but the file
    cache: Path


@dataclass(frozen=True)
class Arrival:
    """One file that is to be a piece."""

    key: str
    file: DataFile
    digest: str
    whole: tuple[str, ...] = ()  # columns whose ids are written without decimals


def arrive(cache: PartitionCache, source: SourceParams, forgotten: Forgotten, engine: Engine) -> Arrived:
    """A piece for each file, made where the cache has none of this content, mapping, parameters, users and code.

    Raises InputError for what stops the whole log, naming file and next step.
    """
    mapping = mapping_of(source.columns)
    basis = key_of(code(), mapping, _params(source), sorted(forgotten))
    reading = Reading(source, mapping, forgotten, basis, cache.folder)
    files = [_arrival(reading, file, _hash(file, hash_of)) for file in files_of(source, mapping)]
    made = _pieces(engine, cache, reading, files)
    notes = [piece.notes for piece in made]
    num_whole = decided([{name: tuple(num) for name, num in note["whole"].items()} for note in notes])
    again = [tuple(name for name in num_whole if name in note["whole"]) for note in notes]
    wanted = [_arrival(reading, file.file, file.digest, names) for file, names in zip(files, again, strict=True)]
    pieces = _pieces(engine, cache, reading, wanted) if any(again) else made
    words: Counter[str] = Counter()
    for note in notes:
        words.update(note["null_words"])
    told = told_of(words, sum(note["without_zone"] for note in notes))
    num_empty = sum(not note["num_rows"] for note in notes)
    told |= {"num_empty_files": num_empty, "ids_without_decimals": num_whole}
    return Arrived(pieces, frozenset(piece.key for piece in (*made, *pieces)), len(files), told)


def _arrival(reading: Reading, file: DataFile, digest: str, whole: tuple[str, ...] = ()) -> Arrival:
    key = key_of(reading.basis, file.name, file.kind, file.packer, file.delimiter, digest, whole)
    return Arrival(key, file, digest, whole)


def _pieces(engine: Engine, cache: PartitionCache, reading: Reading, wanted: Sequence[Arrival]) -> list[Piece]:
    missing = {each.key: each for each in wanted if not cache.holds(each.key)}
    cache.came(engine.map(partial(read_file, reading), list(missing.values()), "reading files"))
    pieces = [Piece(cache.file(each.key, TABLES[0]).parent, each.key) for each in wanted]
    for each, piece in zip(wanted, pieces, strict=True):
        if not piece.notes["num_rows"]:
            log.warning("%s has no rows: nothing is taken from it", each.file.name)
    return pieces


def read_file(reading: Reading, arrival: Arrival) -> str:
    """Make its piece in the cache; returns the key."""
    key, file, kept = arrival.key, arrival.file, PartitionCache(reading.cache)
    with kept.making() as making, at_hand(making / "spilt"):
        num_rows = _make(making / key, file, reading, arrival.whole)
        if _hash(file) != arrival.digest:
            raise InputError(
                f"source.path: {file.name} changed while it was being read. Nothing was made; run it again when "
                "whoever writes it is done."
            )
        kept.put(key, making / key, num_rows)
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
    except EscapedQuotes as found:
        writer.close()
        return _make(folder, file, reading, whole, found.header)
    except BaseException:
        writer.close()
        raise
    log.info("read %s rows of %s, %s rejected", f"{num_rows - num_rejected:,}", file.name, f"{num_rejected:,}")
    told = {"null_words": words, "without_zone": without_zone, "num_rows": num_rows, "whole": counts}
    return writer.close(told)


def _params(source: SourceParams) -> list[object]:
    return [source.time_unit, source.label_threshold, list(source.null_words), source.partition]


def _hash(file: DataFile, hashed: Callable[[Path], str] = hash_file) -> str:
    try:
        return hashed(file.path)
    except OSError as error:
        raise unreadable(file, error) from error


@cache
def code() -> list[str]:
    """What else a piece depends on: the code of these rooms and the libraries that parse and write."""
    rooms = [Path(__file__).parent, Path(__file__).parents[1] / "tables", Path(__file__).parents[1] / "terms"]
    files = [*sorted(path for room in rooms for path in room.glob("*.py")), Path(str(schema.__file__))]
    files.append(Path(__file__).parents[1] / "sealed" / "forgotten.py")  # what is left of a row of somebody forgotten
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    return [digest, *(version(name) for name in ("duckdb", "pyarrow", "numpy"))]
