"""Counts of a log's first partitions, and of later ones -> one table, equal to counting all partitions at once.

Partitions are ranges of time, so rows of later partitions have later times; counts are cumulative over all of them.
So when a log grows by a day, a load reads that day's rows and copies the table once.
"""

import numpy as np
import numpy.typing as npt

from features.encoding.as_of import AsOfCounter

Int64 = npt.NDArray[np.int64]


def extended(first: AsOfCounter, later: AsOfCounter) -> AsOfCounter:
    """Both tables merged. No (key, time) may be in both."""
    keys, first_key, later_key = _union(first.keys, later.keys)
    times, first_time, later_time = _union(first.times, later.times)
    radix = len(times) + 1
    packed, added = _packed(first, first_key, first_time, radix), _packed(later, later_key, later_time, radix)
    at = np.searchsorted(packed, added)
    return AsOfCounter(
        keys=keys,
        times=times,
        packed=np.insert(packed, at, added),
        shows=np.insert(first.shows, at, later.shows),
        clicks=np.insert(first.clicks, at, later.clicks),
    )


def _union(first: Int64, later: Int64) -> tuple[Int64, Int64, Int64]:
    """(union, positions of `first` in it, positions of `later` in it). Both inputs ascend."""
    place = np.searchsorted(first, later)
    known = np.zeros(len(later), bool)
    inside = place < len(first)
    known[inside] = first[place[inside]] == later[inside]
    at = place[~known]
    both = np.insert(first, at, later[~known])
    moved = np.repeat(np.arange(len(at) + 1), np.diff(np.r_[0, at, len(first)]))
    return both, np.arange(len(first)) + moved, np.searchsorted(both, later)


def _packed(counter: AsOfCounter, key_rank: Int64, time_rank: Int64, radix: int) -> Int64:
    before = len(counter.times) + 1
    key = counter.packed // before
    if len(key_rank) and key_rank[-1] == len(key_rank) - 1 and time_rank[-1] == len(time_rank) - 1:
        return counter.packed + key * (radix - before)  # ranks did not change
    return key_rank[key] * radix + time_rank[counter.packed - key * before]
