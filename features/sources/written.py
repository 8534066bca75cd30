"""Pieces of a log and their settled rows -> interactions and provenance by partition, in order of time.

A partition whose rows have not changed is copied from the cache. A partition is sorted in memory, or by DuckDB on disk
if it is large.
"""
# pyright: reportAttributeAccessIssue=false

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from contracts.schema import INTERACTIONS, PROVENANCE
from features.engine.engine import Engine
from features.sources.arrivals import code
from features.sources.log import EVENTS
from features.sources.order import MOST_IN_MEMORY, ORDER, digest_of, in_order
from features.sources.pieces import Piece
from features.sources.settled import Settled
from features.tables.cache import PartitionCache, key_of
from features.tables.connection import at_hand, connect
from features.tables.row_groups import row_groups

log = logging.getLogger("leitmotif")

ROW_GROUP = 1 << 18
LEAST_KEPT = 5_000
"""A partition with fewer rows is not cached: sorting it takes less time than a lookup."""
TABLES = ("interactions", "provenance")


@dataclass(frozen=True)
class Pieces:
    """All inputs of the partitions."""

    logged: Sequence[Piece]
    settled: Settled
    live: Piece

    @property
    def partitions(self) -> list[str]:
        """In order of time."""
        return sorted(set().union(*(piece.partitions for piece in (*self.logged, *self._added()))))

    def rows(self, partition: str) -> Iterator[pa.Table]:
        """EVENTS of a partition, in no particular order."""
        for piece in self._of(partition):
            yield from self.settled.of(piece, partition)
        for piece in self._added():
            yield from (pa.Table.from_batches([batch]) for batch in piece.events(partition))

    def key(self, partition: str) -> str:
        """The cache key of a partition. Empty: it is not cached, because it is small, a piece of it is not cached, or
        it has too many rewritten and live rows to sort them in memory.

        Rewritten and live rows are sorted before they are hashed, because their order depends on threads.
        """
        of = self._of(partition)
        if not of or not all(piece.key for piece in of) or sum(each.num_of(partition) for each in of) < LEAST_KEPT:
            return ""
        if sum(piece.num_of(partition) for piece in self._added()) > MOST_IN_MEMORY:
            return ""
        rewritten = [each for each in self.settled.rewritten if partition in each.piece.partitions]
        added = sorted(each.digests[partition] for each in rewritten)
        if not all(added):
            return ""
        live = pa.concat_tables(
            [EVENTS.empty_table(), *(pa.Table.from_batches([batch]) for batch in self.live.events(partition))]
        )
        others = (self.settled.changed(of, partition), added, digest_of(live))
        return key_of(code(), partition, [piece.key for piece in of], others)

    def _added(self) -> list[Piece]:
        """Rows that are in no piece of the log as they are."""
        return [*(each.piece for each in self.settled.rewritten), self.live]

    def _of(self, partition: str) -> list[Piece]:
        return [piece for piece in self.logged if partition in piece.partitions]


def write_partitions(pieces: Pieces, cache: PartitionCache, staging: Path, engine: Engine) -> set[str]:
    """Write interactions/<partition>.parquet and provenance/<partition>.parquet; returns their keys in the cache.

    A partition without a row (all were joined to rows of other partitions) is not written.
    """
    keys = {name: pieces.key(name) for name in pieces.partitions}
    missing = [(key, name) for name, key in keys.items() if key and not cache.holds(key)]
    num_new = len(missing)
    made = engine.map(partial(sort_partition, cache.folder, pieces), missing, "sorting partitions")
    cache.came(made, (key for key, _ in missing))
    for name, key in keys.items():
        targets = {table: staging / table / f"{name}.parquet" for table in TABLES}
        if not key:
            num_new += 1
            if not _write(pieces.rows(name), targets):
                for target in targets.values():
                    target.unlink()
        elif cache.num_rows(key)["interactions"]:
            for table, target in targets.items():
                cache.copy_out(key, table, target)
    log.info("wrote %d partitions, %d of them new or changed", len(keys), num_new)
    return {key for key in keys.values() if key}


def sort_partition(cache: Path, pieces: Pieces, named: tuple[str, str]) -> str:
    """Write one partition (its key and name) into the cache; returns its key."""
    (key, name), entries = named, PartitionCache(cache)
    with entries.making() as making, at_hand(making / "spilt"):
        folder = making / key
        folder.mkdir()
        num = _write(pieces.rows(name), {table: folder / f"{table}.parquet" for table in TABLES})
        entries.put(key, folder, dict.fromkeys(TABLES, num))
    return key


def _write(rows: Iterator[pa.Table], paths: Mapping[str, Path]) -> int:
    """Write one partition in order, with the provenance of each row; returns the number of rows."""
    num = 0
    with (
        row_groups(paths["interactions"], INTERACTIONS, ROW_GROUP) as write,
        row_groups(paths["provenance"], PROVENANCE, ROW_GROUP) as append,
    ):
        for table in _in_order(rows):
            num += len(table)
            write(table.select(INTERACTIONS.names))
            append(table.select(PROVENANCE.names))
    return num


def _in_order(rows: Iterator[pa.Table]) -> Iterator[pa.Table]:
    tables: list[pa.Table] = []
    num = 0
    for table in rows:
        tables.append(table)
        num += len(table)
        if num > MOST_IN_MEMORY:
            yield from _sorted_on_disk(tables, rows)
            return
    yield in_order(pa.concat_tables(tables or [EVENTS.empty_table()]))


def _sorted_on_disk(first: list[pa.Table], rest: Iterator[pa.Table]) -> Iterator[pa.Table]:
    def batches() -> Iterator[pa.RecordBatch]:
        while first:
            yield from first.pop(0).to_batches()
        for table in rest:
            yield from table.to_batches()

    order = ", ".join(f"{name} NULLS LAST" for name in ORDER)
    with connect() as connection:
        connection.register("rows", pa.RecordBatchReader.from_batches(EVENTS, batches()))
        for batch in connection.sql(f"SELECT * FROM rows ORDER BY {order}").to_arrow_reader(ROW_GROUP):
            yield pa.Table.from_batches([batch]).cast(EVENTS)
