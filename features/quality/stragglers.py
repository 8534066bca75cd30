"""Partitions of a log -> where the log ends, if a few rows come long after all others: a wrong year, a broken clock.

The newest row is the log's end, from which the service's clock runs and retention counts: a single row of 2099 would
make every history decades old, every trailing count zero and, with serve.retrieval.idle_s, take every item off offer.
"""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq

from features.tables.partitions import Partition

log = logging.getLogger("leitmotif")

SHARE = 0.01
"""So many of all rows, and more, are no stragglers: the log was silent."""


def end_before_stragglers(files: Sequence[Path], max_silence_s: float | None) -> datetime | None:
    """The end of the last partition before stragglers; None if there are none.

    files: interactions by partition, in order of time. Stragglers follow a silence of more than max_silence_s (null:
    there are none), are less than SHARE of the log, and none came live: the service's clock stands for those.
    """
    if max_silence_s is None:
        return None
    partitions, found, after = [Partition(file.stem) for file in files], None, 0
    sizes = [pq.read_metadata(file).num_rows for file in files]
    for place in range(len(files) - 1, 0, -1):
        after += sizes[place]
        if after >= SHARE * sum(sizes) or _came_live(files[place]):
            break
        before = partitions[place - 1]
        if partitions[place].first_us - before.last_us > max_silence_s * 1e6:
            found = before, after
    if found is None:
        return None
    end = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=found[0].last_us)
    log.warning(
        "%s of %s rows come more than %g days after all others, which end by %s, and are held back; "
        "validate.max_silence_s=null lets them set the log's end",
        f"{found[1]:,}",
        f"{sum(sizes):,}",
        max_silence_s / 86_400,
        end.date(),
    )
    return end


def _came_live(file: Path) -> bool:
    """Whether a row of the partition was posted to the service."""
    return pq.read_table(file, columns=["arrived_at"])["arrived_at"].null_count < pq.read_metadata(file).num_rows
