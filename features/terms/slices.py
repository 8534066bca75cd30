"""Slices of flat arrays in time order: the positions they hold, and their ends before a time. numpy."""

from typing import Any

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]


def positions(starts: npt.NDArray[np.integer], counts: npt.NDArray[np.integer]) -> Int64:
    """The positions starts[0], starts[0] + 1, ... (counts[0] of them), then those from starts[1], and so on."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - counts), counts)


def ends_before(occurred_at: npt.NDArray[Any], starts: Int64, ends: Int64, cut: Int64) -> Int64:
    """Move each end back so that all events are strictly before the cut. Costs nothing if ends are already right."""
    nonempty = ends > starts
    late = np.zeros(len(ends), bool)
    late[nonempty] = occurred_at[ends[nonempty] - 1] >= cut[nonempty]
    if not late.any():
        return ends
    low, high = starts[late], ends[late]  # bisect all late rows together
    while (low < high).any():
        middle = (low + high) // 2
        before = (low < high) & (occurred_at[np.minimum(middle, len(occurred_at) - 1)] < cut[late])
        low, high = np.where(before, middle + 1, low), np.where(before, high, middle)
    ends = ends.copy()
    ends[late] = low
    return ends
