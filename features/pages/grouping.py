"""Many partitions -> at most MOST_POINTS groups of neighbours: counts are added, rates averaged by rows.

Of LARGEST the largest is taken: the users of two days are not those of both together.
"""

from collections.abc import Mapping, Sequence
from typing import Any

MOST_POINTS = 62
ADDED = ("rows_in", "rows_valid", "rows_quarantined", "rows_duplicated", "clicks", "requests", "negative_ids")
LARGEST = (
    "longest_gap_s",
    "longest_gap_share",
    "silent_at_end_s",
    "most_per_minute",
    "busiest_user_share",
    "missing_before",
    "users",
    "items",
)


def grouped(partitions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The partitions themselves if they are few, else groups of neighbours, each named after its first partition."""
    size = -(-len(partitions) // MOST_POINTS)
    if size <= 1:
        return [dict(row) for row in partitions]
    return [_merged(partitions[start : start + size]) for start in range(0, len(partitions), size)]


def _merged(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    merged: dict[str, Any] = {"partition": rows[0]["partition"], "last_at": rows[-1]["last_at"]}
    for name in rows[0]:
        if name in merged or name == "first_at":
            continue
        known = [(row[name], row["rows_in"]) for row in rows if row[name] is not None]
        if name in ADDED:
            merged[name] = sum(value for value, _ in known)
        elif name in LARGEST:
            merged[name] = max((value for value, _ in known), default=None)
        else:
            merged[name] = sum(value * num for value, num in known) / sum(num for _, num in known) if known else None
    return merged
