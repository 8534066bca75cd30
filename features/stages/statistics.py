"""Validated interactions -> cumulative shows and clicks per item, per user and per (user, item), read as of t - lag.

A partition is counted once for its content and cached in .cache/statistics/, so that a new day costs one day's work.
Factors of co-clicks, if params ask for them, are computed again for all periods.
"""
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend

from contracts import schema
from contracts.errors import InputError
from contracts.files import hash_file
from contracts.publish import publish
from contracts.stage import Report, main
from features.counts import count as counter_counts
from features.counts import pieces as counter_pieces
from features.counts.count import TABLES, Chunk, count, sum_up
from features.counts.factors import write_coclicks
from features.counts.pieces import CounterPiece, plan
from features.engine.engine import HERE, Engine, running
from features.tables import duck, partitions
from features.tables.cache import PartitionCache, key_of
from features.tables.partitions import check_times, partitions_of
from features.terms import convention, known
from features.terms.convention import micros
from features.terms.known import times_of
from features.terms.params import EngineParams, StatisticsParams

ROWS_AT_ONCE = 4_000_000
"""Partitions that are missing are counted together until they hold this many interactions."""


def run(data: Path, statistics: StatisticsParams, engine: EngineParams = HERE) -> Report:
    """Count every row as a show, and rows with a label of CLICKED or more as a click too. Raises InputError on an empty
    log.

    Counts of items leave out rows of role history: such rows come without the unclicked shows, and a log may have them
    only for some weeks, so that clicks would mean something else from week to week.

    engine: what counts partitions and factorises periods.
    """
    files = partitions_of(data / "validated_interactions")
    num_rows = {path: pq.read_metadata(path).num_rows for path in files.values()}
    if not sum(num_rows.values()):
        raise InputError(f"{data / 'validated_interactions'} holds no rows: nothing to count. See its quarantine.")
    check_times(files)
    bucket_us = micros(statistics.bucket_s)
    kept = data.parent.parent / ".cache" / "statistics" / data.name
    with (
        PartitionCache.open(kept) as cache,
        running(engine, kept) as runner,
        publish(data, *TABLES, "coclicks") as staging,
    ):
        scratch = staging / "scratch"
        scratch.mkdir()
        with duck.duckdb(scratch) as connection:
            pieces = plan(files, bucket_us, key_of(_code(), bucket_us))
            _count(runner, cache, pieces, num_rows, bucket_us)
            coclicks = _write_coclicks(runner, connection, data, statistics, staging / "coclicks", scratch)
        report = _assemble(cache, pieces, staging)
        cache.keep_only({piece.key for piece in pieces})
    return report | coclicks | {"num_interactions": sum(num_rows.values())}


def _write_coclicks(
    engine: Engine, connection: Backend, data: Path, statistics: StatisticsParams, folder: Path, scratch: Path
) -> dict[str, int]:
    if not statistics.coclick_rank:
        return {}
    rows = duck.read(connection, data / "validated_interactions")
    rows = rows.mutate(occurred_at=times_of(rows)[1])
    return write_coclicks(engine, rows, statistics.coclick_rank, statistics.coclick_period_s, folder, scratch)


def _count(
    engine: Engine,
    cache: PartitionCache,
    pieces: Sequence[CounterPiece],
    num_rows: Mapping[Path, int],
    bucket_us: int,
) -> None:
    """Count what the cache lacks. A piece's key depends on all before it, so what follows a missing one is missing."""
    held = next((place for place, piece in enumerate(pieces) if not cache.holds(piece.key)), len(pieces))
    if held == len(pieces):
        return
    keys = tuple(piece.key for piece in pieces[:held])
    with cache.scratch() as sums:
        chunks = [
            Chunk(cache.folder, sums, number, tuple(chunk), keys, bucket_us)
            for number, chunk in enumerate(_chunks(pieces[held:], num_rows))
        ]
        for _ in engine.map(sum_up, chunks[:-1], "summing partitions"):  # nothing comes after the last
            pass
        for made in engine.map(count, chunks, "counting partitions"):
            cache.came(made, (piece.key for piece in pieces[held:]))


def _chunks(pieces: Sequence[CounterPiece], num_rows: Mapping[Path, int]) -> Iterator[list[CounterPiece]]:
    """Neighbours, at most about ROWS_AT_ONCE together."""
    chunk: list[CounterPiece] = []
    for piece in pieces:
        if (
            chunk
            and sum(num_rows[file] for file in {file for each in [*chunk, piece] for file in each.files}) > ROWS_AT_ONCE
        ):
            yield chunk
            chunk = []
        chunk.append(piece)
    yield chunk


def _assemble(cache: PartitionCache, pieces: Sequence[CounterPiece], staging: Path) -> dict[str, int]:
    """Copy the pieces that have rows, as one file per table and piece; returns the number of rows of each table."""
    report = dict.fromkeys((f"num_{name}" for name in TABLES), 0)
    for piece in pieces:
        num_rows = cache.num_rows(piece.key)
        for name in TABLES if any(num_rows.values()) else ():
            cache.copy_out(piece.key, name, staging / name / f"{piece.partition.name}.parquet")
            report[f"num_{name}"] += num_rows[name]
    return report


def _code() -> list[str]:
    """Hashes of the modules that the counts depend on, and versions of the libraries that count and write."""
    modules = (counter_counts, convention, counter_pieces, duck, known, partitions, schema)
    hashes = [hash_file(Path(str(each.__file__))) for each in modules]
    return [*hashes, *(version(name) for name in ("duckdb", "ibis-framework", "pyarrow"))]


if __name__ == "__main__":
    main(run)
