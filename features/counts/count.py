"""Interactions of neighbouring partitions -> their pieces of the counters: a unit of work of an engine.

A chunk is counted by itself; what came before it is read from pieces that the cache has, and from the sums of the
chunks before it in the same run, which another unit has made. So no chunk waits for the one before.
"""
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from contracts import schema
from features.counts.pieces import CounterPiece
from features.tables import duck
from features.tables.cache import PartitionCache, file_name, rename_first
from features.terms.convention import CLICKED, counted_at
from features.terms.known import says_known, times_of

log = logging.getLogger("leitmotif")

TABLES = {"item_counters": ["item_id"], "user_counters": ["user_id"], "user_item_counters": ["user_id", "item_id"]}


@dataclass(frozen=True)
class Chunk:
    """Neighbouring pieces that are counted together."""

    cache: Path
    sums: Path  # a folder of this run, in which every chunk has the folder `number`
    number: int
    pieces: tuple[CounterPiece, ...]
    held: tuple[str, ...]  # keys of all pieces before the first chunk: the cache has them
    bucket_us: int

    @property
    def name(self) -> str:
        return f"{self.pieces[0].partition.name} to {self.pieces[-1].partition.name}"


def sum_up(chunk: Chunk) -> int:
    """Store how often each key was shown and clicked within a chunk; returns its number."""
    log.info("summing %s", chunk.name)
    with _making(chunk.sums) as making, duck.at_hand(making / "spilt") as connection:
        made = making / "sums"
        made.mkdir()
        rows = _rows(connection, chunk)
        for name, keys in TABLES.items():
            shown = _shown(rows, keys)
            sums = {each: shown[each].sum().cast("int64") for each in ("shows", "clicks")}
            connection.to_parquet(shown.group_by(keys).agg(**sums), made / file_name(name))
        rename_first(made, chunk.sums / str(chunk.number))
    return chunk.number


def count(chunk: Chunk) -> list[str]:
    """Count a chunk and put its pieces into the cache; returns their keys. The chunks before it are summed up."""
    log.info("counting %s", chunk.name)
    cache = PartitionCache(chunk.cache)
    num_rows: dict[str, dict[str, int]] = {piece.key: {} for piece in chunk.pieces}
    with cache.making() as making, duck.at_hand(making / "spilt") as connection:
        for piece in chunk.pieces:
            (making / piece.key).mkdir()
        rows = _rows(connection, chunk)
        for name, keys in TABLES.items():
            counted = duck.keep(connection, "counted", cumulative_counts(_shown(rows, keys), keys))
            if (earlier := _before(connection, chunk, name, counted)) is not None:
                counted = duck.keep(connection, "carried", carried_on(counted, earlier, keys))
            for piece in chunk.pieces:
                num_rows[piece.key][name] = duck.write_sorted(
                    connection,
                    counted.filter(_within(counted, piece, piece)),
                    [*keys, "occurred_at"],
                    schema.counters(*keys),
                    making / piece.key / file_name(name),
                )
        for piece in chunk.pieces:
            cache.put(piece.key, making / piece.key, num_rows[piece.key])
    return [piece.key for piece in chunk.pieces]


def increments(rows: ir.Table, is_known: bool) -> ir.Table:
    """Interactions -> (user_id, item_id, role, occurred_at, shows, clicks): what is counted from which time on.

    is_known: whether any row says when it or its click was known; else each is one increment, at its own time.
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
    """Running (shows, clicks) of each key, one row a time at which something happened, that time included.

    rows: as increments gives them.
    """
    at_once = rows.group_by([*keys, "occurred_at"]).agg(shows_now=rows.shows.sum(), clicks_now=rows.clicks.sum())
    upto = ibis.cumulative_window(group_by=keys, order_by="occurred_at")
    # whole numbers below 2^53 are exact as doubles, which DuckDB adds up 3x faster than the 128 bits of its integers
    sums = {name: at_once[f"{name}_now"].cast("float64").sum().over(upto).cast("int64") for name in ("shows", "clicks")}
    return at_once.select(*keys, "occurred_at", **sums)


def carried_on(counted: ir.Table, earlier: Sequence[ir.Table], keys: list[str]) -> ir.Table:
    """Running counts of some partitions and the sums of what came before -> the counts from the log's start on.

    earlier: tables with a row a key, (shows, clicks) that add up.
    """
    joined = counted
    for part in earlier:
        before = part.rename({f"{name}_before": name for name in ("shows", "clicks")})
        both = joined.left_join(before, keys)
        sums = {name: both[name] + ibis.coalesce(both[f"{name}_before"], 0) for name in ("shows", "clicks")}
        joined = both.select(*(joined[name] for name in [*keys, "occurred_at"]), **sums)
    return joined


def _before(connection: Backend, chunk: Chunk, name: str, counted: ir.Table) -> list[ir.Table] | None:
    """What the keys of a chunk had before it; None if nothing came before."""
    keys, cache, earlier = TABLES[name], PartitionCache(chunk.cache), []
    if chunk.held:  # counts never fall: the largest are the newest
        held = connection.read_parquet([str(cache.file(key, name)) for key in chunk.held]).semi_join(counted, keys)
        earlier.append(held.group_by(keys).agg(shows=held.shows.max(), clicks=held.clicks.max()))
    if chunk.number:
        files = [str(chunk.sums / str(number) / file_name(name)) for number in range(chunk.number)]
        sums = connection.read_parquet(files).semi_join(counted, keys)
        added = {each: sums[each].sum().cast("int64") for each in ("shows", "clicks")}
        earlier.append(sums.group_by(keys).agg(**added))
    return earlier or None


def _rows(connection: Backend, chunk: Chunk) -> ir.Table:
    """The increments that count within a chunk's partitions, each at the end of its bucket."""
    files = sorted({str(file) for piece in chunk.pieces for file in piece.files})
    counted = increments(connection.read_parquet(files), any(says_known(Path(file)) for file in files))
    rows = stamped_at_bucket_ends(counted, chunk.bucket_us)
    return rows.filter(_within(rows, chunk.pieces[0], chunk.pieces[-1]))


def _shown(rows: ir.Table, keys: list[str]) -> ir.Table:
    """An item's counts leave out rows of role history: those come without the shows that were not clicked, and where a
    log has them for some weeks only, an item's clicks would mean something else from week to week."""
    return rows.filter(rows.role == schema.ROLE_IMPRESSION) if keys == ["item_id"] else rows


def stamped_at_bucket_ends(rows: ir.Table, bucket_us: int) -> ir.Table:
    """Events at the end of their bucket (features.terms.convention.counted_at); 0 keeps every time."""
    if not bucket_us:
        return rows
    return rows.mutate(occurred_at=make_timestamptz(counted_at(epoch_us(rows.occurred_at), bucket_us)))


@ibis.udf.scalar.builtin(signature=((dt.Timestamp(timezone="UTC", scale=6),), dt.int64))
def epoch_us(at) -> int:  # type: ignore[empty-body]
    """DuckDB's own."""


@ibis.udf.scalar.builtin(signature=((dt.int64,), dt.Timestamp(timezone="UTC", scale=6)))
def make_timestamptz(us) -> datetime:  # type: ignore[empty-body]
    """DuckDB's own."""


def _within(rows: ir.Table, first: CounterPiece, last: CounterPiece) -> ir.BooleanValue:
    ends = (_utc(first.partition.first_us), _utc(last.partition.last_us))
    return rows.occurred_at.between(*(ibis.literal(end, type="timestamp('UTC', 6)") for end in ends))


def _utc(us: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)


@contextmanager
def _making(folder: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=".making-", dir=folder, ignore_cleanup_errors=True) as made:
        yield Path(made)
