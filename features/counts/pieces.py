"""Partitions of the log -> partitions of the counters: the files that each is counted from, and its cache key."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from contracts.known_hashes import hash_of
from features.tables.cache import key_of
from features.tables.partitions import Partition
from features.terms.convention import counted_at
from features.terms.known import says_known, times_in

DAY_US = 86_400_000_000


@dataclass(frozen=True)
class CounterPiece:
    """One partition of the counters."""

    partition: Partition  # of the rows' own times
    files: tuple[Path, ...]  # the log's partitions that events of these times may lie in
    key: str  # a hash of everything its bytes depend on, earlier pieces included


def plan(
    files: Mapping[Partition, Path],
    bucket_us: int,
    basis: str,
) -> list[CounterPiece]:
    """The pieces in order of time.

    An event counts from the end of the bucket in which it became known: this may be in a later partition than its own,
    even one for which the log has no file. basis: what every key depends on.
    """
    sources: dict[Partition, list[Partition]] = defaultdict(list)
    for source in files:
        for partition in _stamped_in(source, bucket_us) | _late_in(files[source], source.unit, bucket_us):
            sources[partition].append(source)
    hashes = {partition: hash_of(path) for partition, path in files.items()}
    pieces, before = [], basis
    for partition in sorted(sources):
        before = key_of(before, partition.name, [hashes[source] for source in sources[partition]])
        pieces.append(CounterPiece(partition, tuple(files[source] for source in sources[partition]), before))
    return pieces


def _late_in(path: Path, unit: str, bucket_us: int) -> set[Partition]:
    """The partitions in which a file's rows and clicks are counted, where it says when they were known."""
    if not says_known(path):
        return set()
    times = times_in(pq.read_table(path, columns=["occurred_at", "label", "known_at", "arrived_at"]))
    counted = [counted_at(at, bucket_us).astype("datetime64[us]").astype(f"datetime64[{unit}]") for at in times]
    return {Partition(str(name)) for name in np.unique(np.concatenate(counted))}


def _stamped_in(source: Partition, bucket_us: int) -> set[Partition]:
    """The partitions in which the buckets end that a partition's events may lie in."""
    if not bucket_us:
        return {source}
    first, last = (counted_at(us, bucket_us) for us in (source.first_us, source.last_us))
    # a partition is at least a day long, so steps of a day reach all of them
    ends = [*range(first, last, max(bucket_us, DAY_US)), last]
    return {Partition.at(end, source.unit) for end in ends}
