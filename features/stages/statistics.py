"""Validated interactions -> cumulative shows and clicks per item, per user and per (user, item), read as of t - lag.

A partition is counted once for its content and cached in .cache/statistics/, so that a new day costs one day's work.
Factors of co-clicks, if params ask for them, are computed again for all periods.
"""
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false

import logging
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend

from contracts import schema
from contracts.errors import InputError
from contracts.files import hash_file
from contracts.publish import publish
from contracts.stage import Report, main
from features.counts import pieces as counter_pieces
from features.counts.factors import write_coclicks
from features.counts.pieces import CounterPiece, plan
from features.tables import duck, partitions
from features.tables.cache import PartitionCache, key_of
from features.tables.partitions import check_times, partitions_of
from features.terms import convention, known
from features.terms.convention import CLICKED, counted_at, micros
from features.terms.known import says_known, times_of
from features.terms.params import StatisticsParams

log = logging.getLogger("leitmotif")

TABLES = {"item_counters": ["item_id"], "user_counters": ["user_id"], "user_item_counters": ["user_id", "item_id"]}
ROWS_AT_ONCE = 4_000_000
"""Partitions that are missing are counted together until they hold this many interactions."""


def run(data: Path, statistics: StatisticsParams) -> Report:
    """Count every row as a show, and rows with a label of CLICKED or more as a click too. Raises InputError on an empty
    log.

    Counts of items leave out rows of role history: such rows come without the unclicked shows, and a log may have them
    only for some weeks, so that clicks would mean something else from week to week.
    """
    files = partitions_of(data / "validated_interactions")
    num_rows = {path: pq.read_metadata(path).num_rows for path in files.values()}
    if not sum(num_rows.values()):
        raise InputError(f"{data / 'validated_interactions'} holds no rows: nothing to count. See its quarantine.")
    check_times(files)
    bucket_us = micros(statistics.bucket_s)
    kept = data.parent.parent / ".cache" / "statistics" / data.name
    with PartitionCache.open(kept) as cache, publish(data, *TABLES, "coclicks") as staging:
        (staging / "scratch").mkdir()
        with duck.duckdb(staging / "scratch") as connection:
            basis = key_of(_code(), bucket_us)
            pieces = plan(files, bucket_us, basis)
            for chunk, earlier in _missing(pieces, cache, num_rows):
                _count(connection, cache, chunk, earlier, bucket_us)
            coclicks = _write_coclicks(connection, data, statistics, staging / "coclicks")
        report = _assemble(cache, pieces, staging)
        cache.keep_only({piece.key for piece in pieces})
    return report | coclicks | {"num_interactions": sum(num_rows.values())}


def _write_coclicks(connection: Backend, data: Path, statistics: StatisticsParams, folder: Path) -> dict[str, int]:
    if not statistics.coclick_rank:
        return {}
    rows = duck.read(connection, data / "validated_interactions")
    rows = rows.mutate(occurred_at=times_of(rows)[1])
    return write_coclicks(rows, statistics.coclick_rank, statistics.coclick_period_s, folder)


def increments(rows: ir.Table, is_known: bool) -> ir.Table:
    """Interactions -> (user_id, item_id, role, occurred_at, shows, clicks): what is added to the counts at which time.

    is_known: whether any row states when it or its click became known; if not, each row is one increment at its time.
    """
    clicks, names = (rows.label >= CLICKED).cast("int64"), ("user_id", "item_id", "role")
    if not is_known:
        return rows.select(*names, "occurred_at", shows=ibis.literal(1, "int64"), clicks=clicks)
    row_at, click_at = times_of(rows)
    at_once = ibis.ifelse(click_at == row_at, clicks, 0)
    shown = rows.select(*names, occurred_at=row_at, shows=ibis.literal(1, "int64"), clicks=at_once)
    later = rows.filter(click_at > row_at)
    nothing, click = ibis.literal(0, "int64"), ibis.literal(1, "int64")
    return shown.union(later.select(*names, occurred_at=times_of(later)[1], shows=nothing, clicks=click))


def cumulative_counts(rows: ir.Table, keys: list[str]) -> ir.Table:
    """Running (shows, clicks) of each key: one row per time at which something was counted, this time included.

    rows: as returned by `increments`.
    """
    at_once = rows.group_by([*keys, "occurred_at"]).agg(shows_now=rows.shows.sum(), clicks_now=rows.clicks.sum())
    upto = ibis.cumulative_window(group_by=keys, order_by="occurred_at")
    # whole numbers below 2^53 are exact as doubles, which DuckDB sums 3 times as fast as integers (128 bits there)
    sums = {name: at_once[f"{name}_now"].cast("float64").sum().over(upto).cast("int64") for name in ("shows", "clicks")}
    return at_once.select(*keys, "occurred_at", **sums)


def carried_on(counted: ir.Table, earlier: ir.Table, keys: list[str]) -> ir.Table:
    """Add the counts of all earlier partitions to running counts of some -> counts since the start of the log."""
    known = earlier.semi_join(counted, keys).group_by(keys)  # counts never fall: the largest are the newest
    before = known.agg(shows_before=earlier.shows.max(), clicks_before=earlier.clicks.max())
    joined = counted.left_join(before, keys)
    return joined.select(
        *(counted[name] for name in [*keys, "occurred_at"]),
        shows=joined.shows + ibis.coalesce(joined.shows_before, 0),
        clicks=joined.clicks + ibis.coalesce(joined.clicks_before, 0),
    )


def stamped_at_bucket_ends(rows: ir.Table, bucket_us: int) -> ir.Table:
    """Move events to the end of their bucket (features.terms.convention.counted_at); 0 leaves times as they are."""
    if not bucket_us:
        return rows
    return rows.mutate(occurred_at=make_timestamptz(counted_at(epoch_us(rows.occurred_at), bucket_us)))


@ibis.udf.scalar.builtin(signature=((dt.Timestamp(timezone="UTC", scale=6),), dt.int64))
def epoch_us(at) -> int:  # type: ignore[empty-body]
    """Built into DuckDB."""


@ibis.udf.scalar.builtin(signature=((dt.int64,), dt.Timestamp(timezone="UTC", scale=6)))
def make_timestamptz(us) -> datetime:  # type: ignore[empty-body]
    """Built into DuckDB."""


def _missing(
    pieces: Sequence[CounterPiece], cache: PartitionCache, num_rows: dict[Path, int]
) -> Iterator[tuple[list[CounterPiece], Sequence[CounterPiece]]]:
    """(neighbouring pieces that the cache lacks, all pieces before them), at most about ROWS_AT_ONCE rows each time."""
    chunk: list[CounterPiece] = []
    for place, piece in enumerate(pieces):
        held = cache.holds(piece.key)
        rows = sum(num_rows[file] for file in {file for each in [*chunk, piece] for file in each.files})
        if chunk and (held or rows > ROWS_AT_ONCE):
            yield chunk, pieces[: place - len(chunk)]
            chunk = []
        if not held:
            chunk.append(piece)
    if chunk:
        yield chunk, pieces[: len(pieces) - len(chunk)]


def _count(
    connection: Backend,
    cache: PartitionCache,
    chunk: Sequence[CounterPiece],
    earlier: Sequence[CounterPiece],
    bucket_us: int,
) -> None:
    """Count neighbouring pieces and put them into the cache."""
    log.info("counting %s to %s", chunk[0].partition.name, chunk[-1].partition.name)
    files = sorted({str(file) for piece in chunk for file in piece.files})
    counted = increments(connection.read_parquet(files), any(says_known(Path(file)) for file in files))
    rows = stamped_at_bucket_ends(counted, bucket_us)
    rows = rows.filter(_within(rows, chunk[0], chunk[-1]))
    num_rows: dict[str, dict[str, int]] = {piece.key: {} for piece in chunk}
    with cache.making() as making:
        for piece in chunk:
            (making / piece.key).mkdir()
        for name, keys in TABLES.items():
            shown = rows.filter(rows.role == schema.ROLE_IMPRESSION) if keys == ["item_id"] else rows
            counted = duck.keep(connection, "counted", cumulative_counts(shown, keys))
            if earlier:
                before = connection.read_parquet([str(cache.file(piece.key, name)) for piece in earlier])
                counted = duck.keep(connection, "carried", carried_on(counted, before, keys))
            for piece in chunk:
                num_rows[piece.key][name] = duck.write_sorted(
                    connection,
                    counted.filter(_within(counted, piece, piece)),
                    [*keys, "occurred_at"],
                    schema.counters(*keys),
                    making / piece.key / f"{name}.parquet",
                )
        for piece in chunk:
            cache.put(piece.key, making / piece.key, num_rows[piece.key])


def _within(rows: ir.Table, first: CounterPiece, last: CounterPiece) -> ir.BooleanValue:
    ends = (_utc(first.partition.first_us), _utc(last.partition.last_us))
    return rows.occurred_at.between(*(ibis.literal(end, type="timestamp('UTC', 6)") for end in ends))


def _utc(us: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)


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
    modules = [
        Path(__file__),
        *(Path(str(each.__file__)) for each in (convention, counter_pieces, duck, known, partitions, schema)),
    ]
    return [*map(hash_file, modules), *(version(name) for name in ("duckdb", "ibis-framework", "pyarrow"))]


if __name__ == "__main__":
    main(run)
