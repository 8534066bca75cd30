"""Partitions of the log -> the partitions of its counters: which files each is counted from, and the key of both."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from contracts.files import hash_file
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
    key: str  # a hash of all that its bytes depend on, the pieces before it among them


def plan(
    files: Mapping[Partition, Path],
    bucket_us: int,
    basis: str,
) -> list[CounterPiece]:
    """The pieces in order of time.

    An event is counted from when it was known on, and at the end of its bucket: that may lie in a later partition than
    its own, even in one that the log has no file of. basis: what every key depends on.
    """
    sources: dict[Partition, list[Partition]] = defaultdict(list)
    for source in files:
        for partition in _stamped_in(source, bucket_us) | _late_in(files[source], source.unit, bucket_us):
            sources[partition].append(source)
    hashes = {partition: hash_file(path) for partition, path in files.items()}
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
    # no partition is shorter than a day: steps of a day miss none, longer buckets are gone through one by one
    ends = [*range(first, last, max(bucket_us, DAY_US)), last]
    return {Partition.at(end, source.unit) for end in ends}
